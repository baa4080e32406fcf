"""The scheduler's side, without vLLM: what of a prompt is on disk, what of it to load, and which blocks to keep."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .chooser import UNKNOWN_S, Choice, choose, patience
from .loader import Load, Piece
from .meter import ComputeRate, LoadRate
from .probe import PROBE_BLOCKS
from .shelf import Shelf

# A block that was kept or touched so lately is not looked at again.
FRESH_S = 300.0
_FRESH_LIMIT = 200_000
# The disk is not asked for its speed again before this.
_PROBE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class State:
    """Of one worker. `answering`: the disk gives blocks."""

    load: LoadRate | None = None
    compute: ComputeRate | None = None
    answering: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """What workers tell the scheduler's side after a step.

    `failed`: requests whose load ended early. `refused`: blocks that were not kept. `states`: by rank, of those that
    have news.
    """

    failed: frozenset[str] = frozenset()
    refused: tuple[bytes, ...] = ()
    states: Mapping[int, State] = field(default_factory=dict)

    def joined(self, other: Report) -> Report:
        """Of several workers."""
        return Report(self.failed | other.failed, self.refused + other.refused, {**self.states, **other.states})


def slowest(states: Collection[State]) -> State:
    """All workers as one: a block is loaded when every one of them has it."""
    loads = [state.load for state in states if state.load]
    computes = [state.compute for state in states if state.compute]
    return State(
        max(loads, key=lambda rate: rate.block_s, default=None),
        computes[0] if computes else None,
        all(state.answering for state in states),
    )


@dataclass(slots=True)
class _Prompt:
    """A request as far as its prompt goes. `kept`: blocks at its front that were already offered to the writers."""

    names: Callable[[], Sequence[bytes]]
    tokens: int
    limit: int | None
    always: bool
    keep: bool
    kept: int = 0
    failed: bool = False
    choice: Choice | None = None
    chosen_at: tuple[int, float] = (-1, 0.0)
    counted: bool = False
    first: int = 0


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A load. `names`: what others may wait for. `due`: when it is to be there as far as one knows, else at once."""

    names: frozenset[bytes]
    count: int
    due: float


@dataclass(slots=True)
class Plan:
    """`loads` and `keeps` of one step, in the order in which they are to be done. `probe`: blocks to measure the disk
    by."""

    loads: list[Load] = field(default_factory=list)
    keeps: list[Piece] = field(default_factory=list)
    probe: tuple[bytes, ...] = ()


class Planner:
    """One per engine. `shelves`: one per rank; a block is stored when every rank has its part."""

    def __init__(
        self, shelves: Sequence[Shelf], block_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shelves = tuple(shelves)
        self._block_tokens = block_tokens
        self._clock = clock
        self._prompts: dict[str, _Prompt] = {}
        self._fresh: dict[bytes, float] = {}
        self._states: dict[int, State] = {}
        self._state = State()
        self._loads: list[Load] = []
        self._under_way: dict[str, _UnderWay] = {}
        self._probe: tuple[bytes, ...] = ()
        self._probed_at = -_PROBE_EVERY_S
        self.choices: Counter[str] = Counter()

    def admit(
        self,
        request: str,
        names: Callable[[], Sequence[bytes]],
        tokens: int,
        *,
        limit_tokens: int | None = None,
        always: bool = False,
        keep: bool = True,
    ) -> None:
        """A request with a prompt of `tokens` tokens. `names`: its whole blocks' names so far. Others pass by
        unnoticed."""
        limit = None if limit_tokens is None else limit_tokens // self._block_tokens
        self._prompts[request] = _Prompt(names, tokens, limit, always, keep)

    def forget(self, request: str) -> None:
        """It is over. What is still being loaded for it never becomes anybody else's."""
        self._prompts.pop(request, None)
        if request in self._under_way:
            self._under_way[request] = replace(self._under_way[request], names=frozenset())

    def matched(self, request: str, computed_tokens: int) -> int | None:
        """Tokens to load after the `computed_tokens` that the engine has itself; None: ask again later, what comes next
        is being loaded for another request and is the engine's own then. May be asked again and again."""
        prompt = self._prompts.get(request)
        if prompt is None or prompt.failed or not self._state.answering:
            return 0
        first, now = computed_tokens // self._block_tokens, self._clock()
        if self._comes(request, prompt, first, now):
            return None
        if prompt.choice is None or prompt.chosen_at[0] != first or now - prompt.chosen_at[1] > 1.0:
            prompt.choice = choose(
                self._stored(prompt, first),
                first_token=computed_tokens,
                block_tokens=self._block_tokens,
                load=self._state.load,
                compute=self._state.compute,
                now=now,
                queued=self._queued,
                limit=prompt.limit,
                always=prompt.always,
            )
            prompt.chosen_at = (first, now)
            if prompt.choice.probe and now - self._probed_at >= _PROBE_EVERY_S:
                self._probe, self._probed_at = self._some(prompt, first), now
        return prompt.choice.blocks * self._block_tokens

    def allocated(self, request: str, blocks: Sequence[int], tokens: int) -> None:
        """The engine made room: `tokens` are to be loaded into its `blocks`, behind what it has."""
        prompt = self._prompts.get(request)
        if prompt is None or prompt.choice is None:
            return
        if not prompt.counted and prompt.choice.reason != "nothing stored":
            self.choices[prompt.choice.reason] += 1
            prompt.counted = True
        count = tokens // self._block_tokens
        if count == 0:
            return
        first, names = prompt.chosen_at[0], prompt.names()
        pieces = tuple(Piece(blocks[at], names[at], at) for at in range(first, first + count))
        start, compute = first * self._block_tokens, self._state.compute
        block_s, patience_s = patience(self._block_tokens, count, start, self._state.load, compute)
        self._loads.append(Load(request, pieces, block_s, None if prompt.always else patience_s))
        load = self._state.load
        due = self._clock() + (0.0 if load is None else load.block_s * (self._queued + count))
        self._under_way[request] = _UnderWay(frozenset(piece.name for piece in pieces), count, due)

    def step(self, scheduled: Sequence[tuple[str, int, Callable[[], Sequence[int]]]]) -> Plan:
        """What this step asks of the workers. `scheduled`: request, tokens it will have computed after the step, its
        blocks."""
        plan = Plan(self._loads, probe=self._probe)
        self._loads, self._probe = [], ()
        now = self._clock()
        for request, computed_tokens, blocks in scheduled:
            prompt = self._prompts.get(request)
            if prompt is None or not prompt.keep:
                continue
            end = min(computed_tokens, prompt.tokens) // self._block_tokens
            if end <= prompt.kept:
                continue
            names, numbers = prompt.names(), blocks()
            end = min(end, len(names), len(numbers))
            for at in range(prompt.kept, end):
                if now - self._fresh.get(names[at], -FRESH_S) >= FRESH_S:
                    self._fresh[names[at]] = now
                    plan.keeps.append(Piece(numbers[at], names[at], at))
            prompt.kept = max(prompt.kept, end)
        if len(self._fresh) > _FRESH_LIMIT:
            self._fresh = {name: at for name, at in self._fresh.items() if now - at < FRESH_S / 2}
        return plan

    def landed(self, requests: Collection[str]) -> None:
        """Their loads have ended, well or not."""
        for request in requests:
            self._under_way.pop(request, None)

    def heard(self, report: Report) -> None:
        """A worker's report, before the next step is planned."""
        for request in report.failed:
            prompt = self._prompts.get(request)
            if prompt is not None:
                prompt.failed = True
                prompt.choice = None
                prompt.kept = 0
                for name in prompt.names():
                    self._fresh.pop(name, None)
        for name in report.refused:
            self._fresh.pop(name, None)
        if report.states:
            self._states.update(report.states)
            self._state = slowest(self._states.values())

    @property
    def _queued(self) -> int:
        return sum(load.count for load in self._under_way.values())

    def _comes(self, request: str, prompt: _Prompt, first: int, now: float) -> bool:
        """Is the next block being loaded for another request, and worth waiting for? Not where computing what both
        share is over sooner, and not when it is late by as much."""
        names, limit = prompt.names(), prompt.limit
        last = min((prompt.tokens - 1) // self._block_tokens, len(names))
        if limit is not None:
            last = min(last, first + limit)
        for other, load in self._under_way.items():
            if other == request or first >= last or names[first] not in load.names:
                continue
            if prompt.always:
                return True
            compute, shared = self._state.compute, sum(name in load.names for name in names[first:last])
            if compute is None:
                return now <= load.due + UNKNOWN_S
            start = first * self._block_tokens
            return abs(load.due - now) <= compute.seconds(start, start + shared * self._block_tokens)
        return False

    def _some(self, prompt: _Prompt, first: int) -> tuple[bytes, ...]:
        """A few blocks of what is stored of it, at most one load's measurement."""
        stored = self._stored(prompt, first)
        return tuple(random.sample(prompt.names()[first : first + stored], min(stored, PROBE_BLOCKS)))

    def _stored(self, prompt: _Prompt, first: int) -> int:
        # The last token is always computed: it is what the first new one is sampled from.
        names = prompt.names()
        last = min((prompt.tokens - 1) // self._block_tokens, len(names))
        if prompt.limit is not None:
            last = min(last, first + prompt.limit)
        at = first
        while at < last and all(shelf.has(names[at]) for shelf in self._shelves):
            at += 1
        # Kept once and gone since: what is computed now is to be kept again.
        for name in names[at:]:
            self._fresh.pop(name, None)
        return at - first
