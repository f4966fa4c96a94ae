"""Times as they are stored, and dates as a user has them."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo


def utc_now(ago: timedelta = timedelta()) -> str:
    """Return the time, or what it was so long ago: ISO 8601 in UTC, to the microsecond."""
    return (datetime.now(UTC) - ago).isoformat(timespec="microseconds").replace("+00:00", "Z")


def today(timezone: str) -> date:
    """Return the date in a time zone, which `timezone_named` has found good."""
    return datetime.now(ZoneInfo(timezone)).date()


def timezone_named(name: str) -> str:
    """Return the IANA name of a time zone, such as "Europe/Berlin". Raises `ValueError` if there is none like it."""
    with suppress(ValueError, LookupError, OSError):  # such as a folder of zones, or a file that is none
        if re.fullmatch(r"[A-Za-z0-9_+/-]{1,64}", name):
            return ZoneInfo(name).key
    raise ValueError("it must be the IANA name of a time zone, such as Europe/Berlin")


def date_in(text: str) -> str:
    """Return a date as it is stored, "2026-12-01". Raises `ValueError` if the text is none in this form."""
    with suppress(ValueError):  # such as the 30th of February
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return date.fromisoformat(text).isoformat()
    raise ValueError("it must be a date such as 2026-12-01")
