"""Requests whose prompt is being made. `app.py` counts them, `forward.py` begins no step of warming meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


class Arrivals:
    """`empty` is called when the last of them has gone on to an engine, or was refused."""

    def __init__(self, empty: Callable[[], None]) -> None:
        self.count, self._empty = 0, empty

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """What follows it without an await still comes before any step."""
        self.count += 1
        try:
            yield
        finally:
            self._leave()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Within `one`: it waits for a model to come into memory, perhaps for minutes. No step is in its way."""
        self._leave()
        try:
            yield
        finally:
            self.count += 1

    def _leave(self) -> None:
        self.count -= 1
        if not self.count:
            self._empty()
