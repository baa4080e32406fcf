"""What the prefetcher decides, without doing it: how long the next step is, what an answer proves, what fits. Pure."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median

from aicockpit.engines.kv import KvInfo

Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A prompt head to keep warm. `key`: (workspace id, model, kind, path or ""). A higher `priority` comes first.

    `cuts`: legal ends inside it, in tokens. `verify`: prove it, once it is there, by one more request.
    """

    key: Key
    tokens: tuple[int, ...]
    cuts: tuple[int, ...] = ()
    priority: float = 0.0
    verify: bool = True

    @property
    def model(self) -> str:
        return str(self.key[1])


class WarmState(StrEnum):
    COLD = "cold"
    WARMING = "warming"
    WARM = "warm"
    STUCK = "stuck"  # given up for now; the reason says why


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the tokens of a head came from, as far as it is warmed: `computed` by its steps, in the engine's own cache
    before (`memory`), taken from its KV `tier`. See `traced` for how sure that is."""

    computed: int = 0
    memory: int = 0
    tier: int = 0

    @property
    def total(self) -> int:
        return self.computed + self.memory + self.tier


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` tokens, whole blocks. `verified_at`: unix seconds. `reason`: why it is not (yet) warm.

    `refused`: not even begun, since the KV cache has no room for it. `origin`: of its last warming, or of the one under
    way; `seconds`: how long the last one took, from its first step on.
    """

    state: WarmState = WarmState.COLD
    done: int = 0
    total: int = 0
    verified_at: float | None = None
    speed_tokens_s: float | None = None
    reason: str = ""
    refused: bool = False
    origin: Origin = field(default_factory=Origin)
    seconds: float | None = None


class Mismatch(StrEnum):
    """A step that found less than the step before it had left."""

    LOST = "lost"
    COLD = "cold"
    UNREPORTED = "unreported"


MEANINGS = {
    Mismatch.LOST: "its blocks were evicted",
    Mismatch.COLD: "the engine keeps nothing: its prefix caching is off, or it does not get the tokens that were sent",
    Mismatch.UNREPORTED: "the engine does not say what it found cached; start it with --enable-prompt-tokens-details",
}


@dataclass(frozen=True, slots=True)
class PrefetchLimits:
    """Waits in seconds, lengths in tokens.

    `step_s`: what one step may cost, which is what an interactive request may have to wait. `tries`: mismatches after
    which a target is given up, for `stuck_retry_s`. `settle_s`: a target evicted sooner after it was warm counts as a
    mismatch. `verify_s`: how often an engine without KV events is asked again. `reserve`: share of the KV cache that
    is left to requests.
    """

    step_s: float = 0.4
    first_step: int = 256
    step_wait: float = 120.0
    growth: float = 4.0
    tries: int = 3
    settle_s: float = 30.0
    verify_s: float = 300.0
    stuck_retry_s: float = 600.0
    reserve: float = 0.25
    poll_s: float = 0.5
    backoff_first_s: float = 0.5
    backoff_most_s: float = 30.0
    event_wait: float = 1.0


@dataclass(slots=True)
class PrefetchCounters:
    """For /metrics. Tokens are prompt tokens of steps and verifications; `found`: of heads, found where nothing was
    known to be, in the engine's memory or in its KV tier."""

    steps: int = 0
    verifications: int = 0
    tokens_prefilled: int = 0
    tokens_resident: int = 0
    tokens_found: int = 0
    superseded: int = 0
    evictions: int = 0
    errors: int = 0
    mismatches: Counter[Mismatch] = field(default_factory=Counter)
    last_save_to_warm_s: float | None = None


# Of what a step aims at, in time of computing, where a request costs more than that by itself.
_LONGEST = 2


@dataclass(slots=True)
class Speed:
    """Prefill speed as measured: the median of the last steps, since one that waited says nothing."""

    samples: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=5))
    empty: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    @property
    def tokens_s(self) -> float | None:
        return median(computed / seconds for computed, seconds in self.samples) if self.samples else None

    def add(self, computed: int, seconds: float) -> None:
        if seconds > 0:
            self.samples.append((computed, seconds))

    def add_empty(self, seconds: float) -> None:
        """Of a request that found everything: what each costs, however short."""
        self.empty.append(seconds)

    def tokens_in(self, seconds: float) -> float | None:
        """Tokens that a step of this length computes, or None before the first.

        Where a request costs most of that by itself, as on a machine that is busy, the step is as long again, at most
        `_LONGEST` times what was asked for: shorter ones would only be more.
        """
        speed = self.tokens_s
        if speed is None or not self.empty:
            return None if speed is None else speed * seconds
        # Waiting for others only adds to it: the least is nearest to what it is.
        cost = min(*self.empty, *(took for _, took in self.samples))
        if cost <= seconds / 2:
            return speed * seconds
        rate = median(computed / max(took - cost, took / 4) for computed, took in self.samples)
        return max(speed * seconds, rate * min(cost, _LONGEST * seconds))


def step_length(tokens: float | None, last: int, block_size: int, limits: PrefetchLimits) -> int:
    """Tokens of the next step, a multiple of the block size, at least one block. `last`: of the step before, or 0.

    `tokens`: what `Speed.tokens_in` makes of `step_s`. A step grows by no more than `growth` times: a short one says
    little about a long one.
    """
    wanted = float(limits.first_step) if tokens is None else tokens
    if last and tokens is not None:
        wanted = min(wanted, last * limits.growth)
    return max(1, int(wanted) // block_size) * block_size


def judge(expected: int, cached: int | None, *, proven: bool, speaks: bool) -> Mismatch | None:
    """What is wrong with an answer that found `cached` tokens where `expected` should have been.

    `proven`: some of them were hit before. `speaks`: this engine has told a number before; then silence is its zero.
    """
    if expected <= 0:
        return None
    if cached is None and not speaks:
        return Mismatch.UNREPORTED
    if (cached or 0) >= expected:
        return None
    return Mismatch.LOST if cached or proven else Mismatch.COLD


def begun(before: Origin, resident: int) -> Origin:
    """Of a head whose steps begin behind its first `resident` tokens. What earlier steps told of these stays."""
    before = before if before.total <= resident else Origin()
    return replace(before, memory=before.memory + resident - before.total)


def traced(before: Origin, end: int, found: int | None, resident: int, *, tier: bool) -> Origin:
    """Of a head after a step, or a proof, that left its first `end` tokens in the cache; `before` is of those in front.

    `found`: tokens that it found cached, None when the engine did not say: then the step counts as computed.
    `resident`: leading tokens known to be in the engine's own memory before. What was found beyond them is the tier's
    where the engine has one, else it was in memory all the same. A step that finds less than was there begins anew.

    Exact with KV events. Without them `resident` is the least there is: what others put into the engine's memory
    without our knowing, or before AiCockpit was started, then counts as the tier's, if there is one. What stands as
    the tier's is what the engine admitted from there: a load that fails afterwards is computed, and is not seen here.
    """
    done = before.total
    if found is None:
        return replace(before, computed=before.computed + max(0, end - done))
    if found < done:
        before, done = Origin(), 0
    there = min(found, end)
    memory = max(0, min(there, resident) - done) if tier else there - done
    return Origin(before.computed + end - there, before.memory + memory, before.tier + there - done - memory)


def explain(kind: Mismatch, expected: int, cached: int | None) -> str:
    """One line for the log and the status page."""
    found = "" if cached is None else f"found {cached} of {expected} tokens that were sent before: "
    return found + MEANINGS[kind]


def room(info: KvInfo, limits: PrefetchLimits) -> int:
    """Blocks that targets may fill."""
    return max(0, info.blocks - 1 - math.ceil(info.blocks * limits.reserve))


def refusals(
    targets: Sequence[Target],
    chain: Callable[[Target], Sequence[bytes]],
    info: KvInfo,
    limits: PrefetchLimits,
) -> dict[Key, tuple[WarmState, str]]:
    """Which targets are left out, and why; `targets` in order of priority. Blocks that targets share count once."""
    budget, size = room(info, limits), info.block_size
    taken: set[bytes] = set()
    out: dict[Key, tuple[WarmState, str]] = {}
    for target in targets:
        blocks = chain(target)
        new = set(blocks) - taken
        if not blocks:
            reason = f"it is shorter than one block of {size} tokens, so there is nothing to keep"
            out[target.key] = WarmState.COLD, reason
        elif len(blocks) > budget:
            reason = (
                f"its {len(target.tokens)} tokens are more than the {budget * size} that the engine's KV cache of "
                f"{info.tokens} has room for beside requests; lower the context budget or give the engine more KV"
            )
            out[target.key] = WarmState.STUCK, reason
        elif len(taken) + len(new) > budget:
            reason = (
                f"the KV cache is full: {len(taken) * size} of {budget * size} tokens go to targets of higher priority"
            )
            out[target.key] = WarmState.COLD, reason
        else:
            taken |= new
    return out
