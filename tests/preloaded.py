"""What servers of the tests are forked from: all that they import, and all that a process builds in its first turn."""

import pytest  # noqa: F401  (multiprocessing imports it in each process, as the tests' own main program)
import serving  # noqa: F401

from todochat.serve import warm_up

warm_up()
