"""Brings engines back that requests ask for, and puts others away: the one owner of who is in memory.

The gateway calls `wake` and waits, an operator `bring`; `swap.py` decides; the supervisor acts. Nothing that is in
work is ever cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from aicockpit.engines.engine import Engine
from aicockpit.engines.swap import HOLDING, Action, Plan, Seen, Verb, plan
from aicockpit.errors import EngineStartError, NotReady, Overloaded
from aicockpit.types import EngineState

log = logging.getLogger(__name__)

# What a client is told to wait when nobody knows how long the model takes (seconds).
_RETRY_S = 10
_RETRY_MOST_S = 60


class Houses(Protocol):
    """What is used of the supervisor."""

    @property
    def engines(self) -> Sequence[Engine]: ...
    @property
    def leaving(self) -> Sequence[Engine]: ...
    def start_engine(self, name: str) -> Coroutine[None, None, None]: ...
    def put_away(self, name: str) -> Coroutine[None, None, None]: ...
    def stop(self, name: str, *, patient: bool = False) -> Coroutine[None, None, None]: ...
    @property
    def version(self) -> int: ...
    def changed(self, seen: int | None = None) -> Coroutine[None, None, int]: ...


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request that waits for one of `engines`. `retries`: they had failed before, which ends no wait yet."""

    engines: Sequence[Engine]
    ready: asyncio.Future[None]
    retries: bool = False

    @property
    def engine(self) -> Engine:
        """The one that is there first."""
        return min(self.engines, key=_nearness)


class Swapper:
    """See the module. `capacity`: bytes by device. A request waits `wait_s` at most, and `queue` requests at once."""

    def __init__(
        self,
        houses: Houses,
        capacity: Mapping[str, int],
        *,
        min_resident_s: float,
        wait_s: float | None,
        queue: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.houses, self.capacity = houses, capacity
        self.waits: Mapping[str, str] = {}
        self._min_resident_s, self._wait_s, self._queue, self._clock = min_resident_s, wait_s, queue, clock
        self._tickets: list[_Ticket] = []
        self._offers: set[str] = set()
        self._bell = asyncio.Event()
        # What was begun and has not come to its end: an engine takes a moment to show it in its state.
        self._doing: dict[str, Action] = {}
        # The last process of an engine that was seen asleep: it keeps host memory when it wakes.
        self._slept: dict[str, int | None] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._owner: asyncio.Task[None] | None = None
        self._closed = False

    def launch(self) -> None:
        self._owner = asyncio.create_task(self._run(), name="swapper")

    async def close(self) -> None:
        """Decide nothing more, and let nobody wait. What is on its way comes to its end with its engine."""
        self._closed = True
        for ticket in self._tickets:
            _fail(ticket, _stopping())
        tasks = [task for task in (self._owner, *self._work) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def wake(self, engines: Sequence[Engine]) -> None:
        """Wait until one of these engines is ready, which may mean that another one has to go first.

        Raises NotReady (with Retry-After) when it takes too long or fails, Overloaded when too many wait already.
        """
        if any(engine.ready for engine in engines):
            return
        if len(self._tickets) >= self._queue:
            raise Overloaded(
                f"{self._queue} requests wait for a model to be loaded", headers=((b"retry-after", b"10"),)
            )
        try:
            async with asyncio.timeout(self._wait_s):
                await self._wait(engines)
        except TimeoutError as error:
            engine = min(engines, key=_nearness)
            why = self.waits.get(engine.name) or engine.stage or engine.reason or engine.state.value
            raise NotReady(
                f"the model is not in memory yet after {self._wait_s:g} s: {why}",
                code="loading",
                headers=_retry(engine),
            ) from error

    async def bring(self, engine: Engine) -> None:
        """For an operator: as `wake`, in the same queue but for as long as it takes, also for one that had failed."""
        if not engine.ready:
            await self._wait([engine])

    def offer(self, names: Iterable[str]) -> None:
        """Bring these if they fit beside what is there; else the first request for them does."""
        self._offers.update(names)
        self._bell.set()

    async def _wait(self, engines: Sequence[Engine]) -> None:
        if self._closed:
            raise _stopping()
        ready = asyncio.get_running_loop().create_future()
        ticket = _Ticket(engines, ready, all(engine.state is EngineState.FAILED for engine in engines))
        self._tickets.append(ticket)
        self._bell.set()
        try:
            await ready
        finally:
            self._tickets.remove(ticket)
            self._bell.set()

    async def _run(self) -> None:
        while True:
            self._bell.clear()
            version = self.houses.version
            self._answer()
            made = self._plan(self._clock())
            self._tell(made.waits)
            for action in made.actions:
                self._act(action)
            await self._pause(version, made.again_s)

    def _plan(self, now: float) -> Plan:
        waiting = [ticket for ticket in self._tickets if not ticket.ready.done()]
        wanted = dict.fromkeys(ticket.engine.name for ticket in waiting)
        spare = dict.fromkeys(engine.name for ticket in waiting for engine in ticket.engines)
        spare |= dict.fromkeys(sorted(self._offers))
        self._offers.clear()
        seen = [self._seen(one) for one in self.houses.engines]
        seen += [_left(one) for one in self.houses.leaving]
        return plan(seen, list(wanted), self.capacity, self._min_resident_s, now, list(spare))

    def _seen(self, engine: Engine) -> Seen:
        """With what was begun already."""
        state, doing = engine.state, self._doing.get(engine.name)
        if state is EngineState.SLEEPING:
            self._slept[engine.name] = engine.pid
        slept = engine.pid is not None and self._slept.get(engine.name) == engine.pid
        verb = doing.verb if doing is not None else None
        if verb is Verb.BRING and state not in HOLDING:
            state = EngineState.STARTING
        elif state in {Verb.PUT_AWAY: HOLDING, Verb.END: (*HOLDING, EngineState.SLEEPING)}.get(verb or Verb.BRING, ()):
            state = EngineState.STOPPING
        ends = state is EngineState.STOPPING and verb is not Verb.PUT_AWAY
        return Seen(
            *(engine.name, state, engine.residence, engine.load.users, engine.used, engine.ready_at), ends, slept
        )

    def _tell(self, waits: Mapping[str, str]) -> None:
        """Why engines that are wanted are not there: for everybody who looks at them, and once for the log."""
        for name, why in waits.items():
            if name not in self.waits:
                log.info("engine %s is wanted: %s", name, why)
        self.waits = waits
        count = Counter(ticket.engine.name for ticket in self._tickets if not ticket.ready.done())
        for engine in self.houses.engines:
            engine.waits, engine.waiting = waits.get(engine.name, ""), count[engine.name]

    def _answer(self) -> None:
        """Let go whose engine is there, or will not come."""
        for ticket in self._tickets:
            there = [engine for engine in ticket.engines if engine in self.houses.engines]
            if ticket.ready.done():
                continue
            if any(engine.ready for engine in there):
                ticket.ready.set_result(None)
            elif not there:
                _fail(ticket, NotReady("the model has just been taken out of service"))
            elif all(engine.state is EngineState.FAILED for engine in there) and not ticket.retries:
                told = "; ".join(f"engine {engine.name} failed: {engine.reason}" for engine in there)
                _fail(ticket, NotReady(told, code="engine_failed"))
            else:
                ticket.engines = there

    def _act(self, action: Action) -> None:
        log.info("engine %s: %s, since %s", action.name, action.verb.value, action.reason)
        self._doing[action.name] = action
        work = self._reported(self._call(action.verb), action)
        task = asyncio.create_task(work, name=f"{action.verb.value} {action.name}")
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def _call(self, verb: Verb) -> Callable[[str], Coroutine[None, None, None]]:
        if verb is Verb.END:
            return partial(self.houses.stop, patient=True)
        return self.houses.start_engine if verb is Verb.BRING else self.houses.put_away

    async def _reported(self, call: Callable[[str], Coroutine[None, None, None]], what: Action) -> None:
        """What went wrong is told by the engine's state. An engine may have been taken out meanwhile."""
        try:
            with contextlib.suppress(KeyError):
                await call(what.name)
        except EngineStartError as error:
            log.warning("engine %s: %s", what.name, error)
            for ticket in self._tickets:
                if any(engine.name == what.name for engine in ticket.engines):
                    ticket.retries = False
        finally:
            if self._doing.get(what.name) is what:
                del self._doing[what.name]
            self._bell.set()

    async def _pause(self, version: int, again_s: float | None) -> None:
        """Until a request comes or goes, an engine changes after `version`, or the time is up."""
        changed = asyncio.ensure_future(self.houses.changed(version))
        bell = asyncio.ensure_future(self._bell.wait())
        try:
            await asyncio.wait({changed, bell}, timeout=again_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            bell.cancel()


def _left(engine: Engine) -> Seen:
    """One that was taken out of service holds its memory until its process is gone."""
    there = engine.state in (*HOLDING, EngineState.SLEEPING)
    return Seen(engine.name, EngineState.STOPPING if there else engine.state, engine.residence, ends=True)


def _nearness(engine: Engine) -> int:
    """Which replica is there first."""
    order = (
        *(EngineState.READY, EngineState.STARTING, EngineState.SLEEPING, EngineState.BACKOFF),
        *(EngineState.STOPPED, EngineState.STOPPING),
    )
    return order.index(engine.state) if engine.state in order else len(order)


def _retry(engine: Engine) -> tuple[tuple[bytes, bytes], ...]:
    seconds = _RETRY_S if engine.start_s is None else min(_RETRY_MOST_S, max(1, round(engine.start_s)))
    return ((b"retry-after", b"%d" % seconds),)


def _stopping() -> NotReady:
    return NotReady("the server is stopping", code="stopping", headers=((b"retry-after", b"10"),))


def _fail(ticket: _Ticket, error: NotReady) -> None:
    if not ticket.ready.done():
        ticket.ready.set_exception(error)
