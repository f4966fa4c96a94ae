"""A search for text in SQL that both databases understand, whatever the case of the letters."""

import re
from collections.abc import Sequence


def patterns_for(text: str) -> list[str]:
    """Return patterns for LIKE, of which one fits where the text stands.

    The databases know the two cases of ASCII letters only, so "über" is searched for as "ÜBER" and "Über", too.
    """
    escaped = re.sub("[!%_]", r"!\g<0>", text)
    spellings = (escaped, escaped.lower(), escaped.upper(), escaped.capitalize())
    in_small_ascii = (re.sub("[A-Z]", lambda letter: letter[0].lower(), spelling) for spelling in spellings)
    return [f"%{spelling}%" for spelling in dict.fromkeys(in_small_ascii)]


def like_any(column: str, patterns: Sequence[str]) -> str:
    """Return the condition that one of the patterns, as parameters, fits a column."""
    return " OR ".join([f"LOWER({column}) LIKE ? ESCAPE '!'"] * len(patterns))
