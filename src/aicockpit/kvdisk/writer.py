"""Blocks become files off the critical path: a step copies them into a bounded buffer, and a thread of its own writes
them.

The worker's side calls `keep` at the end of a step. Whatever does not fit, or what the disk refuses, is not written;
it is told to the scheduler's side, which offers such blocks again when they are next used.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import files
from .ledger import Ledger
from .shelf import Shelf, age_ns, free_bytes
from .stats import Counts
from .threads import stand_back

Copy = Callable[[memoryview], None]
IDLE_S = 20.0
MIB = 1 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """`cap`: bytes of all blocks under `root`. `buffer`: bytes waiting to be written. `reserve`: bytes that stay free
    on the disk for others. `retry_s`: how long storing stays off after a block could not be written."""

    root: str
    cap: int
    buffer: int = 128 * MIB
    reserve: int = 256 * MIB
    retry_s: float = 15.0


@dataclass(slots=True)
class _Waiting:
    name: bytes
    depth: int
    buffer: mmap.mmap


class Writer:
    """`keep` belongs to the engine's thread, everything that touches the disk but `touch` to its own.

    `payload`: bytes of a block. `put` and `clock` are there to be replaced.
    """

    def __init__(
        self,
        shelf: Shelf,
        limits: Limits,
        payload: int,
        counts: Counts,
        *,
        put: files.Write = os.write,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelf = shelf
        self._limits = limits
        self._room = files.room(payload)
        self._ledger = Ledger(limits.root, limits.cap)
        self._counts = counts
        self._put = put
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._names: set[bytes] = set()
        self._spare: list[mmap.mmap] = []
        self._buffers = 0
        # What this engine wrote, and a few of them that are gone again.
        self._own: set[bytes] = set()
        self._own_limit = 2 * (limits.cap // self._room) + 100
        self._off_until: float | None = None
        self._refused: list[bytes] = []
        self._held = False
        self._chore: Callable[[], None] | None = None
        self._stop = False
        self._discard = False
        self._told: set[str] = set()
        self.off_reason: str | None = None
        if self._room > limits.cap:
            self.off_reason = f"{limits.cap} bytes hold no block of {self._room} bytes"
            self._tell(f"stays off: {self.off_reason}")
        counts.set("storing", 0 if self.off_reason else 1)
        self._thread = threading.Thread(target=self._run, name="kvdisk-writer", daemon=True)
        self._thread.start()

    def keep(self, name: bytes, depth: int, copy: Copy) -> None:
        """Have the block on disk, and young: a file is touched, else `copy` fills a buffer that becomes one."""
        if name in self._names or self._shelf.touch(name, depth):
            return
        if self._off():
            self._refuse(name, "disk")
            return
        buffer = self._buffer()
        if buffer is None:
            self._refuse(name, "busy")
            return
        copy(memoryview(buffer)[files.HEADER.size :])
        with self._changed:
            self._names.add(name)
            self._queue.append(_Waiting(name, depth, buffer))
            self._changed.notify_all()

    def hold(self, held: bool) -> None:
        """While a prompt is computed, writing waits, for every core is computing: until half of the buffer is full;
        then it goes past the page cache, which takes less of the processor."""
        if held != self._held:
            with self._changed:
                self._held = held
                self._changed.notify_all()

    def later(self, chore: Callable[[], None]) -> None:
        """Have something small done on this thread, which may wait for the disk; the last one counts."""
        with self._changed:
            self._chore = chore
            self._changed.notify_all()

    def take_refused(self) -> list[bytes]:
        """Names of blocks that are not written, since the last call."""
        if not self._refused:
            return []
        with self._changed:
            refused, self._refused = self._refused, []
        return refused

    def discard(self) -> None:
        """What waits is not written, what this engine wrote goes, and nothing is kept from now on: its weights are
        others. What other engines wrote with the files' weights stays."""
        with self._changed:
            self._discard = True
            self.off_reason, self._off_until = "the weights were changed", None
            self._queue.clear()
            self._names.clear()
            self._changed.notify_all()

    def flush(self, limit_s: float) -> bool:
        """Wait until nothing is waiting; False: it still is after `limit_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._names, limit_s)

    def close(self, limit_s: float = 2.0) -> None:
        """Write what is waiting, for so long, and end the thread."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join(limit_s)

    def _off(self) -> bool:
        if self._discard:
            return True
        with self._changed:  # the engine's thread and the writer's both ask
            if self._off_until is not None and self._clock() >= self._off_until:
                self._off_until = None
                self.off_reason = None
            return self.off_reason is not None

    def _refuse(self, name: bytes, reason: str) -> None:
        self._counts.add("unstored_blocks", 1, reason)
        with self._changed:
            self._refused.append(name)

    def _buffer(self) -> mmap.mmap | None:
        with self._changed:
            if self._spare:
                return self._spare.pop()
            if (self._buffers + 1) * self._room > max(self._limits.buffer, self._room):
                return None
            self._buffers += 1
        return files.aligned(self._room)

    def _run(self) -> None:
        stand_back(5)
        if self.off_reason is None:
            try:
                with self._enter(0):
                    pass
            except OSError as problem:
                self._turn_off(problem)
        self._work()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._stop or self._discard or self._chore) and (not self._queue or self._waits()):
                    if not self._changed.wait(IDLE_S) and not self._queue:
                        self._buffers -= len(self._spare)
                        self._spare.clear()
                if self._discard:
                    break
                chore, self._chore = self._chore, None
                waiting = None if chore or not self._queue else self._queue.popleft()
            if chore is not None:
                chore()
                continue
            if waiting is None:
                return
            written = self._write(waiting)
            with self._changed:
                self._names.discard(waiting.name)
                self._spare.append(waiting.buffer)
                self._changed.notify_all()
            if not written:
                self._refuse(waiting.name, "disk")
        for name in self._own:  # the file that was being written when the weights changed is among them
            self._shelf.drop(name)
        self._counts.set("storing", 0)

    def _waits(self) -> bool:
        return self._held and len(self._queue) * self._room * 2 < self._limits.buffer

    def _write(self, waiting: _Waiting) -> bool:
        if self._off():
            return False
        started = time.perf_counter()
        files.seal(waiting.buffer, self._shelf.key, waiting.name)
        try:
            free = free_bytes(self._limits.root)
            if free is not None and free < self._limits.reserve + self._room:
                raise OSError(errno.ENOSPC, f"less than {self._limits.reserve // MIB} MiB of the disk would be free")
            try:
                self._to_file(waiting)
            except FileNotFoundError:
                self._shelf.make_room_for(waiting.name)
                self._to_file(waiting)
        except OSError as problem:
            self._turn_off(problem)
            return False
        self._remember(waiting.name)
        self._counts.set("storing", 1)
        self._counts.add("stored_blocks", 1)
        self._counts.add("stored_bytes", self._room)
        self._counts.add("store_seconds", time.perf_counter() - started)
        return True

    def _to_file(self, waiting: _Waiting) -> None:
        files.write(
            self._shelf.path(waiting.name),
            waiting.buffer,
            age_ns(waiting.depth),
            uncached=self._held,
            put=self._put,
            enter=self._enter,
        )

    def _remember(self, name: bytes) -> None:
        self._own.add(name)
        if len(self._own) > self._own_limit:
            self._own = {name for name in self._own if self._shelf.has(name)}

    @contextmanager
    def _enter(self, size: int | None = None) -> Iterator[None]:
        """A block, in the ledger."""
        with self._ledger.room_for(self._room if size is None else size) as swept:
            self._counts.set("held_bytes", swept.held)
            if swept.removed:
                self._counts.add("evicted_blocks", swept.removed)
                self._counts.add("evicted_bytes", swept.removed_bytes)
            yield
        if self._ledger.other_cap is not None:
            least = min(self._ledger.other_cap, self._limits.cap)
            self._tell(f"shares {self._limits.root} with an engine of another SIZE; the smaller holds: {least} bytes")

    def _turn_off(self, problem: OSError) -> None:
        reason = problem.strerror or str(problem)
        with self._changed:
            if not self._discard:
                self.off_reason = reason
                self._off_until = self._clock() + self._limits.retry_s
        self._counts.set("storing", 0)
        self._tell(f"stores nothing in {self._limits.root} for now: {reason}")

    def _tell(self, what: str) -> None:
        """Once each; how often, the metrics tell."""
        if what not in self._told:
            self._told.add(what)
            logger.warning("The KV disk tier %s", what)
