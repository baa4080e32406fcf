"""An engine that somebody else runs, known by URL only: is it there, which models does it serve, does it work.

unreachable   asked again and again, at growing intervals, until it names a model and has generated a token
ready         watched as a supervised engine is, but without a process to look at: only `stuck_wait_s` without any
              progress is a hang, and the canary is sent once a minute, since the engine's time is not ours
stopped       stop() was called: not watched, not used
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from aicockpit.engines.engine import Engine
from aicockpit.engines.health import Canary, Cards, Health, HealthLimits, Sampler, find_canary, judge, served_models
from aicockpit.engines.starter import cancel
from aicockpit.errors import ConnectFailed, EngineStartError, UpstreamLost, UpstreamTimeout
from aicockpit.types import EngineState

log = logging.getLogger(__name__)

# So many polls in a row that meet no engine (refused, 5xx) mean that it is gone; a slow answer is not one of them.
_MISSES = 2


@dataclass(frozen=True, slots=True)
class ExternalLimits:
    """`first_s` to `most_s`: between two looks at an engine that does not answer."""

    health: HealthLimits = field(default_factory=lambda: HealthLimits(canary_period_s=60.0))
    models_wait: float = 5.0
    generation_wait: float = 60.0
    first_s: float = 0.5
    most_s: float = 10.0


class ExternalEngine:
    """Owns `engine`'s state by one task. The calls are those of EngineProcess."""

    def __init__(self, engine: Engine, limits: ExternalLimits, on_change: Callable[[], None] = lambda: None) -> None:
        self.engine, self.limits = engine, limits
        self.error: EngineStartError | None = None
        self._on_change = on_change
        self._owner: asyncio.Task[None] | None = None

    def launch(self) -> None:
        """Look for the engine from now on."""
        if self._owner is None or self._owner.done():
            self._set(EngineState.UNREACHABLE, "not asked yet")
            self._owner = asyncio.create_task(self._watch(), name=f"engine {self.engine.name}")

    async def start(self) -> None:
        """As `launch`: whether it answers is not ours to bring about."""
        self.launch()

    async def stop(self) -> None:
        """Leave it alone: no polls, no requests."""
        owner, self._owner = self._owner, None
        # First: a cancelled owner sets nothing any more, and a start() during the wait below must win.
        self._set(EngineState.STOPPED, "")
        if owner is not None:
            await cancel(owner)

    async def restart(self) -> None:
        """Forget what is known and look again, at once."""
        await self.stop()
        self.launch()

    async def close(self) -> None:
        await self.stop()
        self.engine.upstream.close()

    async def _watch(self) -> None:
        while True:
            canary = await self._until_works()
            self.error = None
            self.engine.answers = canary.path
            self.engine.generation += 1
            self.engine.breaker.succeeded()
            self._set(EngineState.READY, "")
            reason = await self._until_lost(canary)
            log.warning("engine %s: %s", self.engine.name, reason)
            self._unreachable(reason)

    async def _until_works(self) -> Canary:
        """Poll until it has generated: an API also answers in front of an engine that hangs."""
        delay = self.limits.first_s
        while True:
            reason, cards = await self._look()
            if cards:
                self.engine.cards, self.engine.served_names = cards, tuple(cards)
                canary = await self._find_canary()
                if canary is not None:
                    return canary
                reason = "its API answers, but it generates nothing"
            self._unreachable(reason)
            await asyncio.sleep(delay)
            delay = min(delay * 2, self.limits.most_s)

    async def _until_lost(self, canary: Canary) -> str:
        """Why it counts as gone."""
        limits = self.limits.health
        clock = asyncio.get_running_loop().time
        sampler = Sampler(self.engine, canary, limits)
        samples = [await sampler.sample(ask=False)]
        misses = 0
        while True:
            due = clock() + limits.period_s
            reason, cards = await self._look()
            misses = misses + 1 if reason and not cards else 0
            if misses >= _MISSES:
                return reason
            if cards and tuple(cards) != self.engine.served_names:  # their `created` is always now
                self.engine.cards, self.engine.served_names = cards, tuple(cards)
                self._on_change()
            now = await sampler.sample(suspect=len(samples) > 1)
            verdict = judge(samples, now, limits)
            if verdict.state is Health.HUNG:
                return f"it hangs: {verdict.reason}"
            samples = [now] if verdict.state is Health.OK else [*samples, now]
            await asyncio.sleep(max(0.0, due - clock()))

    async def _look(self) -> tuple[str, Cards]:
        """What /v1/models says: a reason against the engine, or its models; neither when it is only slow."""
        url = self.engine.address.url
        try:
            status, cards = await served_models(self.engine.upstream, self.limits.models_wait)
        except (ConnectFailed, UpstreamLost) as error:
            return str(error), {}
        except UpstreamTimeout:
            return "", {}
        if cards:
            return "", cards
        if status in (401, 403):
            return f"{url} refuses the key ({status}); write it into the URL: https://:KEY@host", {}
        if status == 200:
            return f"{url}/v1/models names no model", {}
        return f"{url}/v1/models answers {status}", {}

    async def _find_canary(self) -> Canary | None:
        try:
            return await find_canary(self.engine.upstream, self.engine.served_names[0], self.limits.generation_wait)
        except (ConnectFailed, UpstreamLost, UpstreamTimeout):
            return None

    def _unreachable(self, reason: str) -> None:
        reason = reason or f"{self.engine.address.url} does not answer within {self.limits.models_wait:g} s"
        self.error = EngineStartError(reason)
        self._set(EngineState.UNREACHABLE, reason)

    def _set(self, state: EngineState, reason: str) -> None:
        if (self.engine.state, self.engine.reason) != (state, reason):
            self.engine.state, self.engine.reason = state, reason
            self._on_change()
