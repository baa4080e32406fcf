"""Files become blocks beside the engine's work: a thread reads, checks and puts them in place; the worker's side asks
what is done after each step.

A load never stands in the way for long: it is cut as soon as it falls behind computing, even in the middle of a read,
and it is given up when the disk does not answer. Blocks are read into a buffer first, so that neither damaged bytes nor
late ones ever reach the cache.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from . import files
from .blocks import Blocks
from .meter import LoadMeter
from .probe import PROBE_BLOCKS, as_it_was, some_stored
from .shelf import Shelf
from .stats import Counts
from .threads import stand_back

Failure = files.Flaw | Literal["slow", "stalled", "dropped"]
# A disk that has not given one block in this time is not waited for.
STALL_S = 5.0
# So long does a probe go on with a further block.
_PROBE_S = 0.05


@dataclass(frozen=True, slots=True)
class Piece:
    """One block to load or to keep: its number in the engine's cache, its name on disk, its place in the prefix."""

    block: int
    name: bytes
    depth: int


@dataclass(frozen=True, slots=True)
class Load:
    """A request's prefix, front first. `block_s`: seconds that computing one of its blocks would take, 0: unknown;
    `patience_s`: how far the load may be behind that before what is missing is left to computing; None: not to be
    cut."""

    request: str
    pieces: tuple[Piece, ...]
    block_s: float = 0.0
    patience_s: float | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """`failed`: numbers of the blocks that hold nothing, all behind the first failure; `failure`: why, None if there
    are none."""

    request: str
    failed: tuple[int, ...]
    failure: Failure | None


@dataclass(slots=True)
class _Job:
    load: Load
    done: int = 0
    failure: Failure | None = None
    ended: bool = False
    began: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Loader:
    """`start`, `wait` and `take` belong to the engine's thread. `bytes_per_s`: an artificial limit, for
    demonstrations."""

    def __init__(
        self,
        shelf: Shelf,
        blocks: Blocks,
        meter: LoadMeter,
        counts: Counts,
        *,
        bytes_per_s: float | None = None,
        stall_s: float = STALL_S,
        get: files.Read | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._shelf = shelf
        self._blocks = blocks
        self._meter = meter
        self._counts = counts
        self._limit = bytes_per_s
        self._stall_s = stall_s
        self._get = get
        self._sleep = sleep
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._current: _Job | None = None
        self._results: list[Loaded] = []
        self._probe: Sequence[bytes] = ()
        # The thread is at something, a load, a probe or the touching of files; it last got on with that at `_progress`.
        self._busy, self._progress = True, time.monotonic()
        self._stop = False
        # The thread was given up, wherever it hangs, and has not come round since.
        self._silent = False
        self._thread = threading.Thread(target=self._run, name="kvdisk-loader", daemon=True)
        self._thread.start()

    @property
    def answering(self) -> bool:
        """False while the disk hangs and a load was given up for it."""
        return not self._silent

    def start(self, load: Load) -> None:
        with self._changed:
            if not self._busy:
                self._progress = time.monotonic()
            self._jobs.append(_Job(load, began=time.perf_counter()))
            self._changed.notify_all()

    def probe(self, names: Sequence[bytes]) -> None:
        """Measure the disk by these blocks, when no load is under way."""
        with self._changed:
            self._probe = names
            self._changed.notify_all()

    def wait(self, limit_s: float) -> None:
        """Until a load has ended, or is to be cut, if one is under way: an engine that has nothing else to do need not
        spin."""
        with self._changed:
            first = self._current or (self._jobs[0] if self._jobs else None)
            if first is not None and not first.ended and first.load.patience_s is not None:
                limit_s = min(limit_s, max(-_behind(first, time.perf_counter()), 0.0) + 0.001)
            self._changed.wait_for(
                lambda: self._results or not (self._jobs or (self._current and not self._current.ended)), limit_s
            )

    def take(self) -> list[Loaded]:
        """The loads that have ended since the last call; what comes too late is cut here, and what a silent disk holds
        up is ended."""
        with self._changed:
            self._cut(time.perf_counter())
            if (self._jobs or self._busy) and time.monotonic() - self._progress > self._stall_s:
                current = self._current
                for job in [*([current] if current else []), *self._jobs]:
                    self._end(job, "stalled")
                self._jobs.clear()
                self._silent = True
                self._counts.set("loading", 0)
            results, self._results = self._results, []
        return results

    def drop(self) -> None:
        """End every load: from now on nothing is put into the cache by those that were started."""
        with self._changed:
            for job in [*([self._current] if self._current else []), *self._jobs]:
                self._end(job, "dropped")
            self._jobs.clear()

    def close(self, limit_s: float = 1.0) -> None:
        """Afterwards the engine's memory is not touched any more, even where a read still hangs."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self.drop()
        self._thread.join(limit_s)

    def _run(self) -> None:
        stand_back()
        buffer = bytearray(files.room(self._blocks.payload))
        job: _Job | None
        if self._meter.stale:
            self._measure(some_stored(self._shelf.folder), buffer)
        while True:
            with self._changed:
                self._silent = False
                self._counts.set("loading", 1)
                self._busy = False
                self._changed.wait_for(lambda: self._jobs or self._stop or self._probe)
                if self._stop:
                    return
                self._busy, self._progress = True, time.monotonic()
                names, self._probe = self._probe, ()
                if self._jobs:
                    self._current = job = self._jobs.popleft()
                    job.began = time.perf_counter()
                else:
                    job = None
            if job is None:
                self._measure(names, buffer)
                continue
            failure = self._work(job, buffer)
            with self._changed:
                self._current = None
                self._end(job, failure)
                for waiting in self._jobs:  # what they waited for is over
                    waiting.began = time.perf_counter()
                self._changed.notify_all()
            self._touch(job)

    def _work(self, job: _Job, buffer: bytearray) -> Failure | None:
        started = job.began
        pieces = job.load.pieces
        failure: Failure | None = None
        count = 0
        for piece in pieces:
            try:
                payload = files.read(self._shelf.path(piece.name), self._shelf.key, piece.name, buffer, get=self._get)
            except files.UnusableError as problem:
                failure = problem.flaw
                if problem.spoilt:
                    # Damage comes in numbers, and all behind the first is computed, so also written, anew.
                    for behind in pieces[count:]:
                        self._shelf.drop(behind.name)
                break
            with job.lock:
                if not job.ended:  # else its result was told already
                    self._blocks.put(piece.block, payload)
                    job.done += 1
            count += 1
            self._hold_back(count, started)
            self._progress = time.monotonic()
            if job.ended:
                break
            if job.done < len(pieces) and _behind(job, time.perf_counter()) > 0:
                failure = "slow"
                break
        spent = time.perf_counter() - started
        self._meter.add(count, spent)
        self._counts.add("load_seconds", spent)
        self._counts.add("loaded_blocks", job.done)
        self._counts.add("loaded_bytes", job.done * len(buffer))
        return failure

    def _hold_back(self, blocks: int, started: float) -> None:
        if self._limit:
            due = started + blocks * files.room(self._blocks.payload) / self._limit
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                self._sleep(wait_s)

    def _measure(self, names: Sequence[bytes], buffer: bytearray) -> None:
        """Read blocks that nobody waits for; a load that comes meanwhile waits for one of them at most."""
        started, count = time.perf_counter(), 0
        for name in names[:PROBE_BLOCKS]:
            path = self._shelf.path(name)
            with suppress(files.UnusableError), as_it_was(path):
                files.read(path, self._shelf.key, name, buffer, get=self._get)
                count += 1
                self._hold_back(count, started)
            self._progress = time.monotonic()
            if self._jobs or self._stop or time.perf_counter() - started > _PROBE_S:
                break
        self._meter.add(count, time.perf_counter() - started)

    def _cut(self, now: float) -> None:
        """End the load that has fallen behind computing, and those behind it that would, at this one's pace."""
        current = self._current
        if current is None:  # a probe, or a file is touched
            for job in [job for job in self._jobs if _behind(job, now) > 0]:
                self._end(job, "slow")
                self._jobs.remove(job)
            return
        ahead = len(current.load.pieces) - current.done
        if not current.ended and ahead and _behind(current, now) > 0:
            self._meter.at_least((now - current.began) / (current.done + 1))
            self._end(current, "slow")
        if current.ended:
            ahead = 1
        for job in list(self._jobs):
            patience, count = job.load.patience_s, len(job.load.pieces)
            if patience is not None:
                block_s = max(now - current.began - patience, 0.0) / (current.done + 1)
                if block_s * (ahead + count) > job.load.block_s * count + patience:
                    self._end(job, "slow")
                    self._jobs.remove(job)
                    continue
            ahead += count

    def _end(self, job: _Job, failure: Failure | None) -> None:
        with job.lock:
            if job.ended:
                return
            job.ended = True
            job.failure = failure
            failed = tuple(piece.block for piece in job.load.pieces[job.done :])
        if failure is not None:
            self._counts.add("load_failures", len(failed), failure)
        self._results.append(Loaded(job.load.request, failed, failure))

    def _touch(self, job: _Job) -> None:
        for piece in job.load.pieces[: job.done]:
            self._shelf.touch(piece.name, piece.depth)
            self._progress = time.monotonic()


def _behind(job: _Job, now: float) -> float:
    """Seconds by which a load under way is later than it may be; computing would have begun when it did."""
    if job.load.patience_s is None:
        return -1.0
    return now - job.began - job.done * job.load.block_s - job.load.patience_s
