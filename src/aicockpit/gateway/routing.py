"""Which engine gets a request: pure, values in, a choice with its reason out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import msgspec

from aicockpit.engines.engine import Engine
from aicockpit.types import EngineState, Lane

# Candidates named in a reason, and characters of why one was none.
_TOLD = 16
_WHY = 200


class Verdict(Enum):
    SEND = auto()
    WAIT = auto()  # background only: interactive work is in flight, or its slots are taken
    FULL = auto()  # every ready engine has as much work as it may have
    STARTING = auto()  # none is ready, one is on its way
    DOWN = auto()  # none is ready, none is on its way


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests in work at once on one engine: all lanes, and the background lane."""

    queue: int
    background: int


@dataclass(frozen=True, slots=True)
class Warm:
    """What of a request's context is in which engine's KV cache: tokens by engine name; prefill in tokens/s.

    `last`: the engine that had the last request for the same file, which still holds most of this one's own part.
    """

    tokens: Mapping[str, int]
    speed: float
    last: str = ""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One engine as it stood when the choice was made. `why_not`: "" if it could have been chosen.

    `load`: requests in work there, all lanes. `overlap_tokens`: of the request's context, predicted to be cached there;
    `cost_s`: predicted seconds until the first token, less what is the same everywhere; None where neither is known.
    """

    engine: str
    state: str
    why_not: str
    load: int
    overlap_tokens: int | None = None
    cost_s: float | None = None


class Choice(msgspec.Struct, frozen=True, eq=False):
    """`candidates`: what was weighed, in the order of the engines; at most 16, the chosen one always among them."""

    verdict: Verdict
    engine: Engine | None
    reason: str
    candidates: tuple[Candidate, ...] = ()


def choose(
    engines: Sequence[Engine],
    lane: Lane,
    limits: Limits,
    now: float,
    tried: Collection[Engine] = (),
    warm: Warm | None = None,
) -> Choice:
    """The ready engine with the least work in flight; of equals, the one that was sent the fewest requests.

    With `warm`, the engine on which the request is predicted to start first: the context it lacks at the measured
    prefill speed, and its work in flight at its own pace; of equals, the one that had the same file's last request.
    `engines` serve the model; `tried` have just failed this request; `now` is the breakers' monotonic clock.
    """
    closed = [engine for engine in engines if engine.ready and engine not in tried and engine.breaker.allows(now)]
    free = [engine for engine in closed if not _busy(engine, lane, limits)]
    best: Engine | None = None
    most = 0
    if not closed:
        verdict, reason = _none(engines, tried)
    elif not free and lane is Lane.BACKGROUND:
        verdict, reason = Verdict.WAIT, "interactive work is in flight, or the background slots are taken"
    elif not free:
        verdict, reason = Verdict.FULL, f"every ready engine has {limits.queue} requests in work"
    elif warm is None:
        verdict, best = Verdict.SEND, free[0] if len(free) == 1 else min(free, key=_work)
        reason = f"{best.load.total} in work, least of {len(free)}"
    else:
        most = max(_overlap(engine, warm) for engine in free)
        verdict, best = Verdict.SEND, min(free, key=lambda engine: _rank(engine, warm, most))
        reason = "; ".join(
            f"{engine.name}: {_overlap(engine, warm)} of {most} tokens warm, {engine.load.total} in work, "
            f"{_cost(engine, warm, most):.2f} s"
            for engine in _first(free, best)
        )
    told = []
    for engine in _first(engines, best):
        why_not = "" if engine in free else _busy(engine, lane, limits) if engine in closed else _out(engine, tried)
        told.append(_candidate(engine, why_not, warm, most))
    return Choice(verdict, best, reason, tuple(told))


def _busy(engine: Engine, lane: Lane, limits: Limits) -> str:
    """Why a ready engine takes none of this lane now, "" if it does."""
    load = engine.load
    if lane is not Lane.BACKGROUND:
        return f"it has {load.total} requests in work, as many as it may" if load.total >= limits.queue else ""
    if load.interactive:
        return "interactive work is in flight there"
    return "its background slots are taken" if load.background >= limits.background else ""


def _overlap(engine: Engine, warm: Warm) -> int:
    return warm.tokens.get(engine.name, 0)


def _cost(engine: Engine, warm: Warm, most: int) -> float:
    """Seconds until the first token, as far as context and load decide it."""
    return (most - _overlap(engine, warm)) / warm.speed + engine.load.total * engine.pace


def _rank(engine: Engine, warm: Warm, most: int) -> tuple[float, int, bool, int]:
    # The tail of a file is computed anew on an engine that did not have its last request: turns only among strangers.
    return _cost(engine, warm, most), engine.load.total, engine.name != warm.last, engine.load.sent


def _work(engine: Engine) -> tuple[int, int]:
    return engine.load.total, engine.load.sent


def _candidate(engine: Engine, why_not: str, warm: Warm | None, most: int) -> Candidate:
    overlap = None if warm is None else _overlap(engine, warm)
    cost = None if warm is None or why_not else round(_cost(engine, warm, most), 4)
    return Candidate(engine.name, engine.state.value, why_not[:_WHY], engine.load.total, overlap, cost)


def _first(engines: Sequence[Engine], best: Engine | None) -> Sequence[Engine]:
    """As many as are told, the best among them."""
    told = engines[:_TOLD]
    return told if best is None or best in told else [*told[:-1], best]


def _out(engine: Engine, tried: Collection[Engine]) -> str:
    """Why an engine takes nothing at all, whatever its load."""
    return "it has just failed this request" if engine in tried else _phrase(engine)


def _none(engines: Sequence[Engine], tried: Collection[Engine]) -> tuple[Verdict, str]:
    untried = [engine for engine in engines if engine not in tried]
    ready = [engine for engine in untried if engine.ready]
    starting = [e for e in engines if e.state in (EngineState.STARTING, EngineState.BACKOFF)]
    verdict = Verdict.STARTING if starting and not ready else Verdict.DOWN
    return verdict, "; ".join(describe(engine) for engine in ready or starting or untried or engines)


def describe(engine: Engine) -> str:
    """Why an engine takes no request, in one phrase."""
    return f"{engine.name}: {_phrase(engine)}" if engine.ready else f"{engine.name} is {_phrase(engine)}"


def _phrase(engine: Engine) -> str:
    if engine.ready:
        return "circuit open after failures"
    detail = engine.stage if engine.state is EngineState.STARTING else engine.reason
    return f"{engine.state}" + f" ({detail})" * bool(detail)
