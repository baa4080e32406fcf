"""The worker's side, without vLLM: one step's loads and keeps on a rank's memory, and what is told back."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from .blocks import Blocks
from .config import Options
from .loader import Load, Loader, Piece
from .meter import MIN_TOKENS, ComputeMeter, ComputeRate, LoadMeter, LoadRate, remember, remembered
from .plan import Report, State
from .shelf import Shelf
from .stats import Counts, Data, of_part, off
from .writer import MIB, Limits, Writer

# How long a step that computes nothing waits for a load, so that an idle engine does not spin.
IDLE_WAIT_S = 0.02
_REMEMBER_EVERY_S = 10.0
_LARGEST_BUFFER = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Work:
    """One step. `probe`: blocks to measure the disk by. `prompt_tokens` around `mean_position` are computed, and
    `other_tokens` of decoding. `discard`: the weights are others than before; what was kept and what is under way is of
    no use."""

    loads: tuple[Load, ...] = ()
    keeps: tuple[Piece, ...] = ()
    probe: tuple[bytes, ...] = ()
    prompt_tokens: int = 0
    mean_position: float = 0.0
    other_tokens: int = 0
    discard: bool = False

    @property
    def idle(self) -> bool:
        return self.prompt_tokens + self.other_tokens == 0


@dataclass(frozen=True, slots=True)
class Done:
    """`received`: requests whose load has ended; `failed`: numbers of blocks among theirs that hold nothing."""

    received: frozenset[str]
    failed: frozenset[int]


class Worker(Protocol):
    """What the connector needs of a worker's side."""

    def begin(self, work: Work) -> None: ...
    def end(self, work: Work) -> None: ...
    def done(self, idle: bool) -> Done: ...
    def report(self) -> Report | None: ...
    def stats(self) -> Data: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Absent:
    """A worker whose side is off while the engine's may be on: what it is asked to load, it tells as failed at once, so
    that it is computed, and that it is not to be asked again."""

    number: int = 0
    _asked: list[Load] = field(default_factory=list)
    _failed: set[str] = field(default_factory=set)
    _told: bool = False
    _shown: bool = False

    def begin(self, work: Work) -> None:
        self._asked += work.loads

    def end(self, work: Work) -> None:
        return

    def done(self, idle: bool) -> Done:
        asked, self._asked = self._asked, []
        self._failed |= {load.request for load in asked}
        return Done(
            frozenset(load.request for load in asked),
            frozenset(piece.block for load in asked for piece in load.pieces),
        )

    def report(self) -> Report | None:
        failed, self._failed = frozenset(self._failed), set()
        if self._told and not failed:
            return None
        self._told = True
        return Report(failed, states={self.number: State(answering=False)})

    def stats(self) -> Data:
        if self._shown:
            return {}
        self._shown = True
        return off(str(self.number))

    def close(self) -> None:
        return


class Rank:
    """Called by the engine's thread only, in the order begin, end, done, report. `step_tokens`: at most so many a
    step. `number`: of this rank."""

    def __init__(
        self, shelf: Shelf, blocks: Blocks, options: Options, block_tokens: int, step_tokens: int, number: int = 0
    ) -> None:
        self._blocks, self._number = blocks, number
        self._counts = Counts()
        self._memory = os.path.join(shelf.folder, "speed.json")
        self._loads = LoadMeter()
        self._computes = ComputeMeter(found := remembered(self._memory))
        step = (step_tokens // block_tokens + 1) * (blocks.payload + 256)
        limits = Limits(
            root=options.folder,
            cap=options.cap,
            buffer=options.buffer or min(max(128 * MIB, step), _LARGEST_BUFFER),
            reserve=options.reserve,
            retry_s=options.retry_s,
        )
        self._writer = Writer(shelf, limits, blocks.payload, self._counts)
        self._loader = Loader(
            shelf, blocks, self._loads, self._counts, bytes_per_s=options.throttle, stall_s=options.stall_s
        )
        self._failed: set[str] = set()
        self._told: State | None = None
        self._shown: tuple[LoadRate | None, ComputeRate | None] = (None, None)
        self._begun = 0.0
        self._remembered = found
        self._remembered_at = time.monotonic()

    def begin(self, work: Work) -> None:
        """Before the model runs: loads start, so that they overlap with it."""
        self._begun = time.perf_counter()
        if work.discard:
            self._loader.drop()
            self._writer.discard()
        self._writer.hold(work.prompt_tokens >= MIN_TOKENS)
        for load in work.loads:
            self._loader.start(load)
        if work.probe:
            self._loader.probe(work.probe)

    def end(self, work: Work) -> None:
        """After the model ran: its blocks are copied away."""
        started = time.perf_counter()
        if not work.idle:
            self._computes.add(work.prompt_tokens, work.mean_position, work.other_tokens, started - self._begun)
            self._remember(_REMEMBER_EVERY_S)
        if work.keeps and self._loader.answering:
            for piece in work.keeps:
                self._writer.keep(piece.name, piece.depth, partial(self._blocks.copy_out, piece.block))
            self._counts.add("copy_seconds", time.perf_counter() - started)
        self._writer.hold(False)

    def done(self, idle: bool) -> Done:
        """Which loads have ended."""
        if idle:
            self._loader.wait(IDLE_WAIT_S)
        ended = self._loader.take()
        self._failed |= {loaded.request for loaded in ended if loaded.failed}
        return Done(
            frozenset(loaded.request for loaded in ended),
            frozenset(block for loaded in ended for block in loaded.failed),
        )

    def report(self) -> Report | None:
        """News for the scheduler's side; None: there are none."""
        failed, refused = frozenset(self._failed), tuple(self._writer.take_refused())
        self._failed.clear()
        state = State(self._loads.rate, self._computes.rate, self._loader.answering)
        if state == self._told and not failed and not refused:
            return None
        self._told = state
        return Report(failed, refused, {self._number: state})

    def stats(self) -> Data:
        """Counters since the last call."""
        data, rates = self._counts.take(), (self._loads.rate, self._computes.rate)
        if rates != self._shown:
            self._shown = rates
            load, compute = rates
            if load is not None:
                data["load_bytes_per_second"] = self._blocks.payload / load.block_s
            if compute is not None:
                data["prefill_tokens_per_second"] = 1000 / compute.seconds(0, 1000)
        return of_part(data, str(self._number))

    def _remember(self, every_s: float) -> None:
        """Leave the speed of computing to the next engine: at once when it is first known, and then from time to time,
        on the thread that may wait for the disk."""
        rate, now = self._computes.rate, time.monotonic()
        if rate is None or rate == self._remembered or (self._remembered and now - self._remembered_at < every_s):
            return
        self._remembered, self._remembered_at = rate, now
        self._writer.later(partial(remember, self._memory, rate))

    def close(self) -> None:
        """Write what is waiting, and end the threads."""
        self._remember(0)
        self._loader.close()
        self._writer.close()
