"""When to look at what events name: soon after a save, once for many at a time, seldom where it never rests.

Pure; `agent.py` feeds it. Times are in seconds on one clock, given by the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aicockpit.indexer.watch import Event


@dataclass(frozen=True, slots=True)
class Pace:
    """How often one path is looked at that is saved again and again.

    Looks with less than `rest_s` between them, waits not counted, are a row. The first `free` of a row come at once;
    then one comes `first_s` after the one before, then twice as late each time, `longest_s` at most. Saves by hand, or
    by an editor every second, are never held back.
    """

    rest_s: float = 0.75
    free: int = 4
    first_s: float = 0.25
    longest_s: float = 3.0

    def wait(self, looks: int) -> float:
        """Seconds from the last of `looks` in a row to the next."""
        return 0.0 if looks < self.free else min(self.longest_s, self.first_s * 2.0 ** min(looks - self.free, 16))

    def row(self, looks: int) -> float:
        """How soon after the last of `looks` the next belongs to the row."""
        return self.wait(looks) + self.rest_s


class Debounce:
    """Many events, few looks.

    A look is due `quiet_s` after the last event, `wait_s` after the first at the latest; ten times that when more than
    `many` paths have changed. A path that is saved again and again is due when its `pace` says so. A file that is open
    for writing is due when it is closed, or after `open_s`; as long as it goes on without a rest, after twice the last
    wait each time, `longest_s` at most.
    """

    def __init__(
        self,
        quiet_s: float = 0.02,
        wait_s: float = 0.1,
        open_s: float = 0.5,
        many: int = 200,
        longest_s: float = 30.0,
        pace: Pace | None = None,
    ) -> None:
        self.quiet_s, self.wait_s, self.open_s, self.many, self.longest_s = quiet_s, wait_s, open_s, many, longest_s
        self.pace = pace or Pace()
        self._settled: set[bytes] = set()
        self._held: dict[bytes, float] = {}  # saved too often: when due
        self._looks: dict[bytes, tuple[float, int]] = {}  # when last looked at, and how many times in a row
        self._open: dict[bytes, tuple[float, float]] = {}  # when due, and the wait that ends then
        self._grew: dict[bytes, tuple[float, float]] = {}  # when last taken while open, and after which wait
        self._first = self._last = 0.0

    def __len__(self) -> int:
        return len(self._settled)

    def add(self, events: Iterable[Event], now: float) -> None:
        for path, soft in events:
            if path in self._held:
                continue
            if soft:
                self._write(path, now)
                continue
            self._open.pop(path, None)
            self._grew.pop(path, None)
            last, looks = self._looks.get(path, (now, 0))
            if (due := last + self.pace.wait(looks)) > now:
                self._held[path] = due
                continue
            if not self._settled:
                self._first = now
            self._settled.add(path)
            self._last = now

    def _write(self, path: bytes, now: float) -> None:
        if path not in self._settled and path not in self._open:
            taken, wait = self._grew.get(path, (now, 0.0))
            wait = min(self.longest_s, 2 * wait) if wait and now - taken <= wait else self.open_s
            self._open[path] = now + wait, wait

    def due(self) -> float | None:
        """When to look; None when there is nothing to look at."""
        times = []
        if self._settled:
            scale = 10 if len(self._settled) > self.many else 1
            times.append(min(self._last + self.quiet_s * scale, self._first + self.wait_s * scale))
        if self._open:
            times.append(min(due for due, _ in self._open.values()))
        if self._held:
            times.append(min(self._held.values()))
        return min(times, default=None)

    def take(self, now: float) -> set[bytes]:
        """The paths to look at now."""
        taken, self._settled = self._settled, set()
        for path in [path for path, due in self._held.items() if due <= now]:
            del self._held[path]
            taken.add(path)
        self._count(taken, now)
        ripe = [(path, wait) for path, (due, wait) in self._open.items() if due <= now]
        for path, wait in ripe:
            del self._open[path]
            self._grew[path] = now, wait
            taken.add(path)
        if ripe:  # what has rested as long as it last had to wait begins anew
            self._grew = {
                path: (at, wait) for path, (at, wait) in self._grew.items() if now - at <= wait or path in self._open
            }
        return taken

    def _count(self, taken: set[bytes], now: float) -> None:
        """Rows go on or begin; those that have ended are forgotten."""
        rows = {path: seen for path, seen in self._looks.items() if now - seen[0] <= self.pace.row(seen[1])}
        self._looks = {**rows, **{path: (now, rows[path][1] + 1 if path in rows else 1) for path in taken}}
