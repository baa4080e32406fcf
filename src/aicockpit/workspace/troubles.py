"""What went wrong in a room or in one of its lanes: how it is told, and when it is tried again. See `room.py`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aicockpit.errors import AicockpitError
from aicockpit.workspace.builds import BuildFailed

# So often the wait after a failure is doubled.
MOST_DOUBLED = 3


@dataclass(slots=True)
class _Trouble:
    fails: int = 0
    at: float = 0.0
    told: str = ""


class Troubles:
    """Failures by what failed, in order of appearance. Times are in seconds, on the owner's clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, _Trouble] = {}

    def fail(self, what: str, why: str, first_s: float) -> str:
        """It failed, again maybe: the wait grows from `first_s` to 8 times that. Returns what is told."""
        one = self._known.setdefault(what, _Trouble())
        wait = first_s * 2 ** min(one.fails, MOST_DOUBLED)
        one.fails, one.at, one.told = one.fails + 1, self._clock() + wait, f"{why}; tried again in {wait:g} s"
        return one.told

    def well(self, what: str) -> None:
        """It did not fail this time."""
        self._known.pop(what, None)

    def clear(self) -> None:
        """Nothing failed this time."""
        self._known.clear()

    def due(self, what: str) -> bool:
        """It did not fail, or the wait is over."""
        return what not in self._known or self._clock() >= self._known[what].at

    def trying(self, what: str) -> None:
        """It is tried again, which takes a while: told on, but nothing is waited for."""
        if what in self._known:
            self._known[what].at = 0.0

    def at(self, what: str) -> float:
        """When it is tried again; 0.0 for nothing to wait for."""
        return self._known[what].at if what in self._known else 0.0

    def waits(self) -> list[float]:
        """When something is to be tried again."""
        return [one.at for one in self._known.values() if one.at]

    def told(self, *among: str) -> str:
        """For people: all of them, or those named; "" for none."""
        return ". ".join(one.told for what, one in self._known.items() if not among or what in among)


async def outcome(work: Coroutine[Any, Any, None], name: str) -> BaseException | None:
    """Run it to its end, in a task of its own: the error that ended it, whatever it is. It is cancelled with us."""
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait([task])
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    return failure(task)


def failure(task: asyncio.Task[Any]) -> BaseException | None:
    """How a task failed that is done. One that was cancelled waited for something that was."""
    return BuildFailed("what it waited for was given up") if task.cancelled() else task.exception()


def foreseen(error: BaseException) -> bool:
    """It was raised on purpose, or comes from the disk; all else is a defect, and its traceback belongs in the log."""
    return isinstance(error, AicockpitError | OSError | sqlite3.Error)


def meaning(error: BaseException) -> str:
    """For people."""
    return str(error) if foreseen(error) else f"a defect: {type(error).__name__}: {error}"
