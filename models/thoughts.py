"""Thoughts that come as text: `<think>...</think>` at the very beginning of an answer."""

_OPEN, _CLOSE = "<think>", "</think>"


class Splitter:
    """Tells the thoughts at the beginning of a text from the rest of it, in whichever pieces it comes."""

    def __init__(self) -> None:
        self._held: str | None = ""  # what may become a tag; None in the text itself, which holds nothing back
        self._thinking = self._thought = False  # whether this is a thought, and whether there has been one

    def feed(self, delta: str) -> tuple[str, str]:
        """Return what a piece of the text adds to the thoughts, and to the text."""
        if self._held is None:
            return "", delta
        held = self._held + delta
        if not self._thinking:
            begun = held.lstrip()
            self._thinking = begun.startswith(_OPEN)
            if not self._thinking:
                self._held = held if _OPEN.startswith(begun) else None
                return "", "" if self._held is not None else begun if self._thought else held
            self._thought = True
            held = begun.removeprefix(_OPEN)
        thought, closed, text = held.partition(_CLOSE)
        if closed:
            self._held, self._thinking = "", False
            again, text = self.feed(text)
            return thought + again, text
        kept = max((n for n in range(1, len(_CLOSE)) if held.endswith(_CLOSE[:n])), default=0)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept], ""

    def end(self) -> tuple[str, str]:
        """Return what has been held back, now that nothing follows."""
        held, self._held = self._held or "", None
        return (held, "") if self._thinking else ("", held.lstrip() if self._thought else held)


def split(text: str) -> tuple[str, str]:
    """Return the thoughts at the beginning of a whole text, and the rest of it."""
    splitter = Splitter()
    thoughts, rest = zip(splitter.feed(text), splitter.end(), strict=True)
    return "".join(thoughts), "".join(rest)
