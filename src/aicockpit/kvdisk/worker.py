"""The worker's side, without vLLM: one step's loads and keeps on a rank's memory, and what is told back."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial

from .blocks import Blocks
from .config import Options
from .loader import Load, Loader, Piece
from .meter import MIN_TOKENS, ComputeMeter, ComputeRate, LoadMeter, LoadRate, remember, remembered
from .plan import Report, State
from .shelf import Shelf
from .stats import Counts, Data
from .writer import MIB, Limits, Writer

# How long a step that computes nothing waits for a load, so that an idle engine does not spin.
IDLE_WAIT_S = 0.02
_REMEMBER_EVERY_S = 60.0
_LARGEST_BUFFER = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Work:
    """One step. `prompt_tokens` around `mean_position` are computed, and `other_tokens` of decoding. `discard`: the
    weights are others than before; what was kept and what is under way is of no use."""

    loads: tuple[Load, ...] = ()
    keeps: tuple[Piece, ...] = ()
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
        self._computes = ComputeMeter(remembered(self._memory))
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

    def end(self, work: Work) -> None:
        """After the model ran: its blocks are copied away."""
        started = time.perf_counter()
        if not work.idle:
            self._computes.add(work.prompt_tokens, work.mean_position, work.other_tokens, started - self._begun)
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
        if state.compute is not None and time.monotonic() - self._remembered_at > _REMEMBER_EVERY_S:
            self._remembered_at = time.monotonic()
            remember(self._memory, state.compute)
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
        return data

    def close(self) -> None:
        """Write what is waiting, and end the threads."""
        if self._computes.rate is not None:
            remember(self._memory, self._computes.rate)
        self._loader.close()
        self._writer.close()
