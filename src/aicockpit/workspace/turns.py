"""Who comes first in the engines' caches: the workspace and model asked for last, but nobody takes turns. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

# For so long (seconds) who was asked for stays in front of others: two who type do not change places at each request.
FRONT_S = 5.0

Asked = tuple[int, str]  # workspace, model


class Turns:
    """The line, by last request."""

    def __init__(self) -> None:
        self._line: dict[Asked, float] = {}  # the first one last

    def __iter__(self) -> Iterator[Asked]:
        """The first one first."""
        return reversed(self._line)

    def asked(self, key: Asked, now: float) -> bool:
        """A request: it passes those that were not asked for lately. True when the line changed."""
        line = list(self._line)
        place = line.index(key) if key in self._line else -1
        ahead = line[place + 1 :]
        busy = [one for one in ahead if now < self._line[one] + FRONT_S]
        self._line[key] = now
        if place >= 0 and len(busy) == len(ahead):
            return False
        for one in (key, *busy):
            self._line[one] = self._line.pop(one)
        return True

    def keep(self, workspaces: Collection[int]) -> None:
        """Only these are left."""
        self._line = {key: at for key, at in self._line.items() if key[0] in workspaces}
