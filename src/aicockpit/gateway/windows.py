"""The window around each cursor, from one keystroke to the next: it moves in steps, and the suffix is held."""

from __future__ import annotations

from collections import OrderedDict

from aicockpit.prompts.tail import TailLimits, first_line, hold, window

_KEPT = 1024
Key = tuple[str, str, str]


class Window:
    """What was last sent of one file by one key."""

    __slots__ = ("_line", "_suffix")

    def __init__(self) -> None:
        self._line: int | None = None
        self._suffix = ""

    def move(self, prefix: str, suffix: str, limits: TailLimits) -> tuple[str, str]:
        """What to send of the text before and behind the cursor."""
        line = first_line(prefix, limits, self._line)
        prefix, suffix = window(prefix, suffix, limits, self._line)
        self._line, self._suffix = line, hold(self._suffix, suffix)
        return prefix, self._suffix


class Windows:
    """Windows by (key id, workspace, path); of too many the one used longest ago is forgotten."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._known: OrderedDict[Key, Window] = OrderedDict()
        self._kept = kept

    def of(self, key: Key) -> Window:
        found = self._known.pop(key, None) or Window()
        self._known[key] = found
        if len(self._known) > self._kept:
            self._known.popitem(last=False)
        return found
