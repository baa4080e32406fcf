"""A loader whose reads the test can hold up: what the tests of loader.py share."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from aicockpit.kvdisk import files
from aicockpit.kvdisk.loader import Load, Loaded, Loader, Piece
from aicockpit.kvdisk.meter import LoadMeter
from aicockpit.kvdisk.shelf import Shelf
from kvdisk_rig import PAYLOAD, Counted, Memory, name_of, shelf_in, store, until

SIZE = files.room(PAYLOAD)


class Rig(Counted):
    """Thirty stored blocks and a loader, whose reads the test can hold up."""

    def __init__(self, root: Path, *, bytes_per_s: float | None = None, stall_s: float = 5.0) -> None:
        super().__init__()
        self.shelf: Shelf = shelf_in(root)
        self.memory = Memory()
        self.meter = LoadMeter()
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()
        self.problems: list[int | None] = []  # of the reads to come
        self.loader = Loader(
            self.shelf,
            self.memory.blocks,
            self.meter,
            self.counts,
            bytes_per_s=bytes_per_s,
            stall_s=stall_s,
            get=self._get,
        )
        # A loader that finds blocks measures by them: these come when it has looked.
        until(lambda: self.told("loading") == 1)
        for number in range(30):
            store(self.shelf, name_of(number), depth=number, now=1000)

    def _get(self, handle: int, into: list[memoryview]) -> int:
        self.reading.set()
        assert self.gate.wait(20)
        if self.problems and (problem := self.problems.pop(0)) is not None:
            raise OSError(problem, os.strerror(problem))
        return os.readv(handle, into)

    def start(self, request: str, numbers: range, block_s: float = 0.0, patience_s: float | None = None) -> None:
        pieces = tuple(Piece(number + 10, name_of(number), number) for number in numbers)
        self.loader.start(Load(request, pieces, block_s, patience_s))

    def ended(self, count: int = 1) -> list[Loaded]:
        found: list[Loaded] = []
        end = time.monotonic() + 10
        while len(found) < count and time.monotonic() < end:
            self.loader.wait(0.05)
            found += self.loader.take()
        return found
