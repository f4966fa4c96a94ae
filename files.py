"""Files beside the database, in a folder where other users of the machine may be able to write."""

import errno
import os
import stat


def open_own(path: str, flags: int) -> int:
    """Open (or create, for its owner only) a file and return its descriptor.

    Raises `OSError`, whose `strerror` goes into a sentence, also if it is a link, no file, or somebody else's.
    """
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "it is a symbolic link", path) from None
        raise
    found = os.fstat(descriptor)
    wrong = "" if stat.S_ISREG(found.st_mode) else "it is not a file"
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        wrong = "it belongs to another user"
    if wrong:
        os.close(descriptor)
        raise OSError(errno.EPERM, wrong, path)
    return descriptor
