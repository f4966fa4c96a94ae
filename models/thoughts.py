"""Thoughts that come as text: `<think>...</think>` at the very beginning of an answer."""

import re

_OPEN, _CLOSE = "<think>", "</think>"
_THOUGHT = re.compile(rf"\s*{_OPEN}(.*?){_CLOSE}", re.DOTALL)
_MOST_SPACE = 1000  # characters before a thought: where there are more, they are held back no longer


class Splitter:
    """Tells the thoughts at the beginning of a text from the rest of it, in whichever pieces it comes."""

    def __init__(self) -> None:
        # What may become a tag, in a thought behind that which opened it; None in the text, which holds nothing back.
        self._held: str | None = ""
        self._thought = False  # whether there has been one

    def feed(self, delta: str) -> tuple[str, str]:
        """Return what a piece of the text adds to the thoughts, and to the text."""
        if self._held is None:
            return "", delta
        text, at = self._held + delta, 0
        thoughts: list[str] = []
        while whole := _THOUGHT.match(text, at):
            thoughts.append(whole[1])
            at = whole.end()
        said, text = text[at:], text[at:].lstrip()
        self._thought = self._thought or at > 0 or text.startswith(_OPEN)
        if text.startswith(_OPEN):
            thought = text.removeprefix(_OPEN)
            kept = max((n for n in range(1, len(_CLOSE)) if thought.endswith(_CLOSE[:n])), default=0)
            self._held = _OPEN + thought[len(thought) - kept :]
            return "".join(thoughts) + thought[: len(thought) - kept], ""
        said = text if self._thought else said
        self._held = said if _OPEN.startswith(text) and len(said) <= _MOST_SPACE else None
        return "".join(thoughts), said if self._held is None else ""

    def end(self) -> tuple[str, str]:
        """Return what has been held back, now that nothing follows."""
        held, self._held = self._held or "", None
        return (held.removeprefix(_OPEN), "") if held.startswith(_OPEN) else ("", held)


def split(text: str) -> tuple[str, str]:
    """Return the thoughts at the beginning of a whole text, and the rest of it."""
    splitter = Splitter()
    thoughts, rest = zip(splitter.feed(text), splitter.end(), strict=True)
    return "".join(thoughts), "".join(rest)
