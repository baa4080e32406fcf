"""One supervised engine: a state machine that one task owns. Everybody else sends it a call and awaits the answer.

| state    | start()                 | stop()                 | restart()            | the engine ends            |
|----------|-------------------------|------------------------|----------------------|----------------------------|
| stopped  | -> starting             | returns                | as start             |                            |
| starting | waits for the outcome   | ends it -> stopped     | ends it -> starting  | -> backoff, or failed      |
| ready    | returns                 | -> stopping            | -> stopping, start   | or hangs: -> backoff       |
| stopping | starts afterwards       | waits                  | starts afterwards    | -> stopped                 |
| sleeping | wakes it -> starting    | ends it -> stopped     | ends it -> starting  | -> stopped                 |
| backoff  | -> starting now         | -> stopped             | as start             |                            |
| failed   | -> starting, new count  | -> stopped             | as start             |                            |

start() returns when the engine is ready: its API answered and a generation succeeded. It raises EngineStartError when
this attempt ended otherwise: the engine exited, `start_wait` passed, stop() was called. Cancelling a call only stops
the waiting; stop() and close() end processes. close() is stop() for good. Cancelling the owner kills the engine.

Any end of a process that should run is a failure, whatever its exit code: vLLM ends with 0 when its core died. A start
that can never work goes to `failed` at once; other failures go to `backoff` (`restart.py`), then `starting` again.
Stopping is a ladder: state `stopping`, so that nothing new is routed here; no request in work, or `drain_wait`;
SIGTERM, `term_wait`; SIGKILL to every descendant, `kill_wait`. A hung engine gets SIGKILL at once. A patient stop has
no `drain_wait` and cuts no request. sleep() is a patient stop that keeps the process if the engine can.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Union

from aicockpit.engines.child import Child
from aicockpit.engines.engine import Engine
from aicockpit.engines.gpus import GpuTurns
from aicockpit.engines.health import Sampler, Verdict
from aicockpit.engines.logs import LogSink
from aicockpit.engines.reasons import Reason
from aicockpit.engines.restart import GiveUp, decide
from aicockpit.engines.starter import Limits, Running, Starter, StartFailed, cancel
from aicockpit.errors import EngineStartError
from aicockpit.types import EngineSpec, EngineState

log = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.05
_GONE = (EngineState.STOPPED, EngineState.FAILED)


class _Verb(Enum):
    START = auto()
    STOP = auto()
    SLEEP = auto()
    RESTART = auto()
    CLOSE = auto()

    @property
    def starts(self) -> bool:
        return self in (_Verb.START, _Verb.RESTART)


@dataclass(slots=True)
class _Call:
    verb: _Verb
    done: asyncio.Future[None]
    patient: bool = False

    def answer(self, error: EngineStartError | None = None) -> None:
        if not self.done.done():  # the caller may have left
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


# One step of the machine: sets a state, waits for what ends it, returns the next step; None at the very end.
_Step = Callable[[], Awaitable[Union["_Step", None]]]


class EngineProcess:
    """Owns `engine`'s state. `environ` is the environment of the child; `on_change` is told of every change."""

    def __init__(
        self,
        engine: Engine,
        spec: EngineSpec,
        limits: Limits,
        sink: LogSink,
        gpus: GpuTurns,
        environ: Mapping[str, str],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine, self.limits, self.sink = engine, limits, sink
        self.error: EngineStartError | None = None  # why the last attempt or run ended; None while ready
        self._on_change = on_change
        self._starter = Starter(engine, spec, limits, sink, gpus, environ, self._set_stage)
        self._inbox: deque[_Call] = deque()
        self._bell: asyncio.Future[None] | None = None
        self._owner: asyncio.Task[None] | None = None
        # Calls answered once the engine is ready, and once it is stopped.
        self._starters: list[_Call] = []
        self._stoppers: list[_Call] = []
        self._again = self._closing = self._patient = self._drowsy = False
        self._attempt: asyncio.Task[Running] | None = None
        self._running: Running | None = None
        self._hurried = False
        self._crashes: deque[float] = deque(maxlen=limits.restart.limit + 1)
        self._failures_in_a_row = 0
        self._delay_s = 0.0

    @property
    def status(self) -> EngineState:
        return self.engine.state

    async def start(self) -> None:
        """Start, and wait until ready. Raises EngineStartError."""
        await self._post(_Verb.START)

    def launch(self) -> None:
        """Start without waiting."""
        self._post(_Verb.START)

    async def stop(self, *, patient: bool = False) -> None:
        """Stop, and wait until every process is gone. `patient`: only once no request is in work."""
        await self._post(_Verb.STOP, patient)

    async def sleep(self) -> None:
        """Give the GPU's memory back once no request is in work, and wait until that is done."""
        await self._post(_Verb.SLEEP, patient=True)

    async def restart(self) -> None:
        """Stop, start, and wait until ready. Raises EngineStartError."""
        await self._post(_Verb.RESTART)

    def respec(self, spec: EngineSpec, environ: Mapping[str, str]) -> None:
        """The next start uses this. Pin and ttl count at once; a process in memory still needs what it needed."""
        self._starter.respec(spec, environ)
        held = self.engine.residence.needs
        self.engine.residence = spec.residence if self.engine.state in _GONE else replace(spec.residence, needs=held)

    async def refresh(self) -> None:
        """Ask again what a ready engine serves. Raises as `Upstream.fetch` does."""
        if self.engine.ready:
            await self._starter.refresh()

    def hurry(self) -> None:
        """Kill what runs, at once; a stop under way then comes to its end."""
        self._hurried = True
        if self._starter.child is not None:
            self._starter.child.kill()

    async def close(self) -> None:
        """Stop for good; later starts are refused."""
        await self._post(_Verb.CLOSE)
        if self._owner is not None:
            await asyncio.wait({self._owner})

    def _post(self, verb: _Verb, patient: bool = False) -> asyncio.Future[None]:
        call = _Call(verb, asyncio.get_running_loop().create_future(), patient)
        # Nobody may be waiting; what went wrong is in `error` and in the log then.
        call.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._owner is None:
            self._owner = asyncio.create_task(self._own(), name=f"engine {self.engine.name}")
        if self._owner.done():
            self._refuse(call)
            return call.done
        self._inbox.append(call)
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)
        return call.done

    def _refuse(self, call: _Call) -> None:
        call.answer(EngineStartError(f"engine {self.engine.name} is closed") if call.verb.starts else None)

    # The owner task. Everything below runs in it, or in a task that it awaits.

    async def _own(self) -> None:
        step: _Step | None = self._stopped
        try:
            while step is not None:
                try:
                    step = await step()
                except Exception as error:  # the owner's edge: a bug in here must leave neither a process nor a waiter
                    log.exception("engine %s: error of the supervisor itself", self.engine.name)
                    await self._end_everything()
                    self._fail(EngineStartError(f"error of the supervisor itself: {error!r}"))
                    step = self._failed
        finally:
            await self._end_everything()
            for call in (*self._starters, *self._stoppers, *self._inbox):
                self._refuse(call)

    async def _next(self, *events: asyncio.Future[Any], limit_s: float | None = None) -> _Call | None:
        """The next call; None when an event came first, or the limit passed."""
        if not self._inbox and not any(event.done() for event in events):
            self._bell = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._bell, *events}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if any(event.done() for event in events) or not self._inbox:
            return None
        return self._inbox.popleft()

    async def _stopped(self) -> _Step | None:
        self.engine.residence = self._starter.spec.residence
        self._set(EngineState.STOPPED, reason="")
        _answer(self._stoppers)
        if self._closing:
            return None
        if self._again:
            self._again = False
            return self._starting
        return await self._at_rest()

    async def _failed(self) -> _Step | None:
        self._set(EngineState.FAILED)
        _answer(self._starters, self.error)
        return await self._at_rest()

    async def _backoff(self) -> _Step | None:
        self._set(EngineState.BACKOFF, stage=self.engine.stage)
        _answer(self._starters, self.error)
        return await self._at_rest(self._delay_s)

    async def _at_rest(self, limit_s: float | None = None) -> _Step | None:
        """No process; until a call comes, or the limit (of the backoff) passes."""
        call = await self._next(limit_s=limit_s)
        if call is None:
            self.engine.restarts += 1
            return self._starting
        if call.verb.starts:
            self._crashes.clear()
            self._failures_in_a_row = 0
            self._starters.append(call)
            return self._starting
        self._heed(call)
        return self._stopped

    async def _starting(self) -> _Step | None:
        return await self._come_up(self._starter.start())

    async def _waking(self) -> _Step | None:
        assert self._running is not None
        return await self._come_up(self._starter.wake(self._running))

    async def _come_up(self, work: Coroutine[None, None, Running]) -> _Step | None:
        self.engine.residence = self._starter.spec.residence
        self._set(EngineState.STARTING, reason="")
        attempt = self._attempt = asyncio.create_task(work)
        began = time.monotonic()
        while (call := await self._next(attempt)) is not None:
            if call.verb is _Verb.START:
                self._starters.append(call)
                continue
            _answer(self._starters, EngineStartError(f"engine {self.engine.name} was stopped while it started"))
            self._heed(call)
            self._set(EngineState.STOPPING)
            await cancel(attempt)
            return self._stopped
        try:
            self._running = attempt.result()
        except StartFailed as error:
            return self._after_failure(error, fatal=error.fatal)
        self.engine.start_s = time.monotonic() - began
        return self._ready

    async def _ready(self) -> _Step | None:
        running = self._running
        assert running is not None
        child = running.child
        self._failures_in_a_row, self.error = 0, None
        self.engine.pid = child.engine_pid
        self.engine.generation += 1
        self.engine.ready_at = self.engine.used = time.monotonic()
        self._set(EngineState.READY)
        _answer(self._starters)
        sampler = Sampler(self.engine, running.canary, self.limits.health, child.guard_pid)
        watch = asyncio.create_task(sampler.until_hung())
        try:
            while (call := await self._next(watch, child.exited)) is not None:
                if call.verb is not _Verb.START:
                    self._heed(call)
                    return self._stopping
                call.answer()
        finally:
            await cancel(watch)
        return await self._lost(child, None if child.exited.done() else watch.result())

    async def _lost(self, child: Child, hang: Verdict | None) -> _Step:
        """A running engine ended, or hangs: it gets no requests from now on."""
        self._set(EngineState.BACKOFF, stage="cleaning up", reason=f"it hung: {hang.reason}" if hang else "it ended")
        await self._starter.end(child, term_wait=0.0)
        reason = Reason(f"it hung: {hang.reason}") if hang else self._starter.explain(child)
        # What started once may start again: nothing is fatal here.
        return self._after_failure(self._starter.failure(reason), fatal=False)

    async def _stopping(self) -> _Step | None:
        assert self._running is not None
        self._set(EngineState.STOPPING)
        ladder = asyncio.create_task(self._descend(self._running))
        try:
            while (call := await self._next(ladder)) is not None:
                self._heed(call)
        finally:
            await cancel(ladder)
        return self._sleeping if ladder.result() else self._stopped

    async def _descend(self, running: Running) -> bool:
        """The ladder of a stop. True when it ends in sleep."""
        child, deadline = running.child, time.monotonic() + self.limits.drain_wait
        sampler = Sampler(self.engine, running.canary, self.limits.health, child.guard_pid)
        watch = asyncio.create_task(sampler.until_hung())  # what hangs finishes nothing: patience has no sense
        try:
            while self.engine.load.total and not (child.exited.done() or watch.done() or self._hurried):
                if not self._patient and time.monotonic() >= deadline:
                    break
                await asyncio.sleep(_DRAIN_POLL_S)
        finally:
            await cancel(watch)
        hung = not watch.cancelled()
        if self._drowsy and not (hung or child.exited.done()) and await self._starter.sleep() and self._drowsy:
            return True  # and nobody has asked for its end meanwhile
        await self._starter.end(child, term_wait=0.0 if hung else self.limits.term_wait)
        return False

    async def _sleeping(self) -> _Step | None:
        assert self._running is not None
        self._set(EngineState.SLEEPING, reason="")
        _answer(self._stoppers)
        if self._again:
            self._again = False
            return self._waking
        child = self._running.child
        call = await self._next(child.exited)
        if call is None:  # nobody misses it: the next request starts it
            await self._starter.end(child, term_wait=0.0)
            return self._stopped
        if call.verb is _Verb.START:
            self._starters.append(call)
            return self._waking
        self._heed(call)
        return self._sleeping if call.verb is _Verb.SLEEP else self._stopping

    def _heed(self, call: _Call) -> None:
        """Note a call that is answered once the engine is stopped, or started again. The last one wins."""
        (self._starters if call.verb.starts else self._stoppers).append(call)
        if call.verb is _Verb.CLOSE:
            self._closing = True
        self._again = call.verb.starts and not self._closing
        if call.verb is not _Verb.START:
            self._patient, self._drowsy = call.patient and not self._closing, call.verb is _Verb.SLEEP
        if not self._again:
            _answer(self._starters, EngineStartError(f"engine {self.engine.name} was stopped"))

    def _after_failure(self, error: EngineStartError, *, fatal: bool) -> _Step:
        """Start again, later, or never."""
        now = time.monotonic()
        self._crashes.append(now)
        self._failures_in_a_row += 1
        self._fail(error)
        log.warning("engine %s: %s", self.engine.name, error)
        if fatal:
            return self._failed
        policy = self.limits.restart
        decision = decide(self._crashes, now, policy, random.random(), self._failures_in_a_row)
        if isinstance(decision, GiveUp):
            self._fail(EngineStartError(f"{decision.sentence}; last reason: {error.reason}", error.fix, error.log_path))
            log.error("engine %s: %s", self.engine.name, decision.sentence)
            return self._failed
        self._delay_s = decision.delay_s
        self.engine.stage = f"restart {decision.number} of {policy.limit} in {decision.delay_s:.1f} s"
        return self._backoff

    async def _end_everything(self) -> None:
        if self._attempt is not None:
            await cancel(self._attempt)
        if self._starter.child is not None:
            await self._starter.end(self._starter.child, term_wait=0.0)

    # What everybody reads.

    def _fail(self, error: EngineStartError) -> None:
        self.error, self.engine.reason = error, error.reason

    def _set_stage(self, stage: str) -> None:
        if self.engine.state is EngineState.STARTING:  # a start that is being cancelled still prints lines
            self._set(EngineState.STARTING, stage=stage)

    def _set(self, state: EngineState, *, stage: str = "", reason: str | None = None) -> None:
        self.engine.state, self.engine.stage = state, stage
        if reason is not None:
            self.engine.reason = reason
        self._on_change()


def _answer(calls: list[_Call], error: EngineStartError | None = None) -> None:
    for call in calls:
        call.answer(error)
    calls.clear()
