"""A search for text in SQL that both databases understand, whatever the case of the letters."""

import re
from collections.abc import Sequence


def patterns_for(text: str) -> list[str]:
    """Return patterns for LIKE, of which one fits where the text stands.

    SQLite knows the two cases of ASCII letters only, so "über" is searched for as "ÜBER" and "Über", too.
    """
    escaped = re.sub("[!%_]", r"!\g<0>", text)
    return [f"%{text}%" for text in dict.fromkeys([escaped.lower(), escaped.upper(), escaped.capitalize()])]


def like_any(column: str, patterns: Sequence[str]) -> str:
    """Return the condition that one of the patterns, as parameters, fits a column."""
    return " OR ".join([f"LOWER({column}) LIKE ? ESCAPE '!'"] * len(patterns))
