"""Which engine gets a request: pure, values in, a choice with its reason out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import msgspec

from aicockpit.engines.engine import Engine
from aicockpit.types import EngineState, Lane

# Candidates named in a reason.
_TOLD = 16


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
    """What of a request's context is in which engine's KV cache: tokens by engine name; prefill in tokens/s."""

    tokens: Mapping[str, int]
    speed: float


class Choice(msgspec.Struct, frozen=True, eq=False):
    verdict: Verdict
    engine: Engine | None
    reason: str


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
    prefill speed, and its work in flight at its own pace. `engines` serve the model; `tried` have just failed this
    request; `now` is the breakers' monotonic clock.
    """
    ready = [engine for engine in engines if engine.state is EngineState.READY and engine not in tried]
    closed = [engine for engine in ready if engine.breaker.allows(now)]
    if not closed:
        return _none(engines, ready, tried)
    if lane is Lane.BACKGROUND:
        free = [e for e in closed if not e.load.interactive and e.load.background < limits.background]
        if not free:
            return Choice(Verdict.WAIT, None, "interactive work is in flight, or the background slots are taken")
    else:
        free = [engine for engine in closed if engine.load.total < limits.queue]
        if not free:
            return Choice(Verdict.FULL, None, f"every ready engine has {limits.queue} requests in work")
    if warm is not None:
        return _warmest(free, warm)
    best = free[0] if len(free) == 1 else min(free, key=_work)
    return Choice(Verdict.SEND, best, f"{best.load.total} in work, least of {len(free)}")


def _warmest(free: Sequence[Engine], warm: Warm) -> Choice:
    most = max(warm.tokens.get(engine.name, 0) for engine in free)

    def wait(engine: Engine) -> float:
        """Seconds until the first token, as far as context and load decide it."""
        return (most - warm.tokens.get(engine.name, 0)) / warm.speed + engine.load.total * engine.pace

    best = min(free, key=lambda engine: (wait(engine), *_work(engine)))
    told = "; ".join(
        f"{engine.name}: {warm.tokens.get(engine.name, 0)} of {most} tokens warm, {engine.load.total} in work, "
        f"{wait(engine):.2f} s"
        for engine in free[:_TOLD]
    )
    return Choice(Verdict.SEND, best, told)


def _work(engine: Engine) -> tuple[int, int]:
    return engine.load.total, engine.load.sent


def _none(engines: Sequence[Engine], ready: Sequence[Engine], tried: Collection[Engine]) -> Choice:
    if ready:
        return Choice(Verdict.DOWN, None, "; ".join(describe(engine) for engine in ready))
    starting = [e for e in engines if e.state in (EngineState.STARTING, EngineState.BACKOFF)]
    verdict = Verdict.STARTING if starting else Verdict.DOWN
    shown = starting or [engine for engine in engines if engine not in tried] or engines
    return Choice(verdict, None, "; ".join(describe(engine) for engine in shown))


def describe(engine: Engine) -> str:
    """Why an engine takes no request, in one phrase."""
    if engine.state is EngineState.READY:
        return f"{engine.name}: circuit open after failures"
    detail = engine.stage if engine.state is EngineState.STARTING else engine.reason
    return f"{engine.name} is {engine.state}" + f" ({detail})" * bool(detail)
