"""Keeps prompt heads warm in one engine: sends them in growing prefixes, each step proven by the next.

One task owns the work. It asks for the gate's turn before every request, so none starts while somebody waits for an
answer, and looks at the wish list (`wanted.py`) again once it has the turn: what was superseded is never sent. How long
a step is and what its answer proves is decided in `steps.py`. A restarted engine begins a new life: nothing is known of
its cache, and everything is warmed again in order of priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import zmq

from aicockpit.engines.engine import Engine
from aicockpit.engines.kv import KvInfo, read
from aicockpit.engines.kv_events import Counts, EventLimits, KvEvents, KvIndex
from aicockpit.errors import AicockpitError, UpstreamLost
from aicockpit.workspace.steps import (
    Key,
    Mismatch,
    PrefetchCounters,
    PrefetchLimits,
    Progress,
    Speed,
    Target,
    WarmState,
    begun,
    judge,
    step_length,
    traced,
)
from aicockpit.workspace.wanted import Report, Wanted, Work
from aicockpit.workspace.warmth import Warmth

__all__ = ["EventSource", "Gate", "PrefetchLimits", "Prefetcher", "Progress", "Target", "WarmState"]

log = logging.getLogger(__name__)

# A step of which less was computed measures overhead, not speed.
_TELLING = 0.5
# A proof that computed no larger share than this tells what a request costs by itself.
_EMPTY = 1 / 16
_RETRIED = (408, 425, 429)


class Gate(Protocol):
    def turn(self, engine: Engine, /) -> AbstractAsyncContextManager[object]:
        """Entered when no interactive or agent request is in flight on `engine`; the background lane is ours meanwhile.

        May raise AicockpitError, which is answered by a pause.
        """


@dataclass(frozen=True, slots=True)
class EventSource:
    """Where an engine publishes its KV events, and where it sends missed ones again."""

    endpoint: str
    replay: str | None = None
    topic: str = ""


class Prefetcher:
    """See the module. `report` is told, in the task, of every change of a target's state or reason.

    Several prefetchers share one `warmth`. `counters` and `speed` are for /metrics; `index` is the engine's, if it
    sends KV events.
    """

    def __init__(
        self,
        engine: Engine,
        warmth: Warmth,
        gate: Gate,
        report: Report = lambda target, progress: None,
        *,
        events: EventSource | None = None,
        limits: PrefetchLimits | None = None,
        event_limits: EventLimits | None = None,
    ) -> None:
        self.engine, self.counters, self.speed = engine, PrefetchCounters(), Speed()
        self.index: KvIndex | None = None
        self._warmth, self._gate, self._limits = warmth, gate, limits or PrefetchLimits()
        self._events, self._event_limits, self._counts = events, event_limits, Counts()
        self._wanted = Wanted(
            engine.name, warmth, self._limits, self.counters, self.speed, report, lambda target: self._adapter(target)
        )
        self._task: asyncio.Task[None] | None = None
        self._bell = asyncio.Event()
        self._current: Work | None = None
        self._fails = 0
        self._rest_until = 0.0
        # Has this engine ever said how much it found cached?
        self._speaks = False

    def launch(self) -> None:
        """Begin; the engine need not be ready."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"prefetch {self.engine.name}")
            self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop; a step in flight is aborted."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _ended(self, task: asyncio.Task[None]) -> None:
        """By `close`, or by a defect: that is told, and it begins anew after the longest rest."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        rest = self._limits.backoff_most_s
        log.error(
            "engine %s: warming ended by a defect, and begins anew in %g s", self.engine.name, rest, exc_info=error
        )
        self.counters.errors += 1
        self._wanted.cool(f"a defect: {error!r}; begun anew after {rest:g} s")
        if self._task is task:
            self._task = asyncio.create_task(self._anew(rest), name=f"prefetch {self.engine.name}")
            self._task.add_done_callback(self._ended)

    async def _anew(self, rest: float) -> None:
        await asyncio.sleep(rest)
        await self._run()

    def wake(self) -> None:
        """Something changed (the engine's state, say): look now, not at the next poll."""
        self._bell.set()

    def set_targets(self, targets: Sequence[Target]) -> None:
        """Replace the wish list; what is no longer on it is dropped before the next step."""
        self._wanted.replace(targets)
        self._bell.set()

    def status(self, key: Key) -> Progress:
        """How far a target is; one that is not on the wish list is cold."""
        return self._wanted.status(key)

    def statuses(self) -> dict[Key, Progress]:
        """All targets, in order of priority."""
        return self._wanted.statuses()

    async def _run(self) -> None:
        while True:
            if self.engine.ready:
                await self._life()
            else:
                self._wanted.cool(f"the engine is {self.engine.state}")
                await self._pause()

    def _life_now(self) -> tuple[object, ...]:
        return self.engine.ready, self.engine.generation, self.engine.restarts, self.engine.pid

    async def _life(self) -> None:
        """From ready to not ready, or to another process of the same engine."""
        engine, life = self.engine, self._life_now()
        info = await self._info()
        if info is None or self._life_now() != life:
            await self._pause()
            return
        async with self._listening(info):
            self._warmth.open(engine.name, info, self.index)
            self._fails, self._rest_until, self._speaks = 0, 0.0, False
            self._wanted.begin(info)
            try:
                while self._life_now() == life:
                    await self._turn(life)
            finally:
                self._warmth.forget(engine.name)
                self._wanted.end("the engine was restarted" if engine.ready else f"the engine is {engine.state}")

    async def _info(self) -> KvInfo | None:
        if time.monotonic() < self._rest_until:
            return None
        try:
            info = await read(self.engine.upstream)
            if info is None:
                raise UpstreamLost("its /metrics have no vllm:cache_config_info, so its block size is unknown")
        except AicockpitError as error:
            self._wanted.cool(self._failed(error))
            return None
        return info

    @contextlib.asynccontextmanager
    async def _listening(self, info: KvInfo) -> AsyncIterator[None]:
        """KV events of this life. A new life gets a new index: nothing of the old one leaks into it but its counts."""
        if self._events is None:
            yield
            return
        source, self.index = self._events, KvIndex(info.blocks, self._counts)
        events = KvEvents(source.endpoint, source.replay, self.index, topic=source.topic, limits=self._event_limits)
        try:
            events.launch()
        except zmq.ZMQError as error:
            log.error("engine %s: no KV events from %s: %s", self.engine.name, source.endpoint, error)
        try:
            yield
        finally:
            await events.close()

    async def _turn(self, life: tuple[object, ...]) -> None:
        """One request, or a pause when there is nothing to do."""
        if time.monotonic() < self._rest_until or self._wanted.next() is None:
            await self._pause()
            return
        try:
            async with self._gate.turn(self.engine):
                # Waiting for the turn may have taken long.
                work = self._current = self._wanted.next()
                if work is not None and self._life_now() == life:
                    await self._advance(work)
                    self._fails = 0
        except AicockpitError as error:
            reason = self._failed(error)
            if self._current is not None and self._life_now() == life:
                self._wanted.set(self._current, self._current.state, reason)
        finally:
            self._current = None

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.poll_s):
                await self._bell.wait()
        self._bell.clear()

    def _failed(self, error: AicockpitError) -> str:
        """Rest, longer each time; what to tell."""
        self.counters.errors += 1
        delay = min(self._limits.backoff_first_s * 2**self._fails, self._limits.backoff_most_s)
        self._fails = min(self._fails + 1, 30)
        self._rest_until = time.monotonic() + delay
        if self._fails == 1:
            log.warning("engine %s: prefetch pauses: %s", self.engine.name, error)
        return f"{error}; tried again every {self._limits.backoff_most_s:g} s at the latest"

    async def _advance(self, work: Work) -> None:
        """Send the next step of a target, or the request that proves it, and draw the conclusions."""
        target, info = work.target, self._wanted.info
        assert info is not None
        adapter = self._adapter(target)
        resident = self._warmth.resident(self.engine.name, target.tokens, adapter).tokens
        if work.state is not WarmState.WARM and work.began is None:
            work.began = time.monotonic()
        if work.state is WarmState.COLD:
            work.done = min(resident, work.total)
            # What `Warmth` believes has been hit, or was computed by an engine that is known to keep things.
            work.proven = work.done > 0
            work.origin = begun(work.origin, work.done)
            self._wanted.set(work, WarmState.WARMING, "")
        proof = work.due or work.done >= work.total
        if proof:
            # One token more than is to be hit; any will do when the target has no more.
            end = expected = work.total
            prompt = target.tokens[: end + 1] if len(target.tokens) > end else (*target.tokens, target.tokens[-1])
        else:
            tokens = self.speed.tokens_in(self._limits.step_s)
            step = step_length(tokens, work.last_step, info.block_size, self._limits)
            end, expected = min(work.done + step, work.total), work.done
            # With one token more its last block can be found, in the engine's memory or in its KV tier.
            prompt = target.tokens[: end + 1]
        version, began = self.index.version if self.index else 0, time.monotonic()
        try:
            cached = await self._ask(target.model, prompt)
        except _Refused as error:
            self.counters.errors += 1
            self._wanted.give_up(work, str(error))
            return
        seconds = time.monotonic() - began
        # One line a step, in Unix time: benchmarks/warm.py compares it with the requests of its users.
        log.debug(
            "prefetch step began=%.4f seconds=%.4f tokens=%d cached=%s proof=%d of %s",
            *(time.time() - seconds, seconds, len(prompt), cached, proof, target.key),
        )
        self._measure(work, proof, len(prompt), cached, end, seconds)
        # Of an engine that has told a number before, silence is its zero.
        told = 0 if cached is None and self._speaks else cached
        work.origin = traced(work.origin, end, told, resident, tier=info.tier)
        self._warmth.learn(self.engine.name, prompt, cached, generated=1, adapter=adapter)
        kind = judge(expected, cached, proven=work.proven, speaks=self._speaks)
        if kind is Mismatch.UNREPORTED and await self._shown_by_events(target, expected, adapter):
            kind = None
        work.proven |= bool(cached)
        work.done, work.last_step = end, 0 if proof else end - expected
        shown = proof or (cached or 0) >= work.total
        if kind is not None:
            self._wanted.mismatch(work, kind, expected, cached)
        elif shown or (end >= work.total and not target.verify):
            if shown and cached and not adapter and not await self._shown_by_events(target, work.total, adapter):
                self._warmth.confirm(self.engine.name, target.tokens, version)
            self._wanted.warmed(work, proven=shown)

    def _measure(self, work: Work, proof: bool, length: int, cached: int | None, end: int, seconds: float) -> None:
        counters = self.counters
        counters.verifications += proof
        counters.steps += not proof
        computed = length - (cached or 0)
        counters.tokens_prefilled += computed
        counters.tokens_resident += cached or 0
        if not proof:
            counters.tokens_found += max(0, min(cached or 0, end) - work.done)
        self._speaks |= cached is not None
        if proof and computed <= _EMPTY * length:
            self.speed.add_empty(seconds)
        known = cached is not None or work.done == 0
        if not proof and known and computed >= _TELLING * (end - work.done):
            self.speed.add(computed, seconds)

    async def _shown_by_events(self, target: Target, tokens: int, adapter: str) -> bool:
        """Do the KV events say that the first `tokens` are there? They may come a little after the answer."""
        until = time.monotonic() + self._limits.event_wait
        while True:
            resident = self._warmth.resident(self.engine.name, target.tokens, adapter)
            if resident.exact and resident.tokens >= tokens:
                return True
            if not resident.exact or time.monotonic() >= until:
                return False
            await asyncio.sleep(0.01)

    async def _ask(self, model: str, prompt: tuple[int, ...]) -> int | None:
        """Tokens found cached, None when the engine does not say. Raises AicockpitError; _Refused: never again."""
        question = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        status, body = await self.engine.upstream.fetch(
            "POST", "/v1/completions", msgspec.json.encode(question), limit_s=self._limits.step_wait
        )
        try:
            answer: Any = msgspec.json.decode(body)
        except msgspec.DecodeError:
            answer = None
        if status == 200:
            found = _dig(answer, "usage", "prompt_tokens_details", "cached_tokens")
            return found if isinstance(found, int) else None
        message = f"the engine answered {status} to a prefetch step: {_dig(answer, 'error', 'message') or body[:200]!r}"
        if 400 <= status < 500 and status not in _RETRIED:
            raise _Refused(message)
        raise UpstreamLost(message)

    def _adapter(self, target: Target) -> str:
        """The name of the LoRA module that a target is for; its KV is not the base model's."""
        card = self.engine.cards.get(target.model, {})
        return target.model if card.get("parent") else ""


class _Refused(AicockpitError):
    """The engine will never take this target."""


def _dig(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
