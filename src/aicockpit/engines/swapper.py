"""Brings engines back that requests ask for, and puts others away: the one owner of who is in memory.

The gateway calls `wake` and waits; `swap.py` decides; the supervisor acts. Nothing that is in work is ever cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aicockpit.engines.engine import Engine
from aicockpit.engines.swap import Action, Plan, Seen, Verb, plan
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
    def start_engine(self, name: str) -> Coroutine[None, None, None]: ...
    def put_away(self, name: str) -> Coroutine[None, None, None]: ...
    @property
    def version(self) -> int: ...
    def changed(self, seen: int | None = None) -> Coroutine[None, None, int]: ...


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request that waits for `engine`, since `since`."""

    engine: Engine
    since: float
    ready: asyncio.Future[None]


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
        self._bell = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._owner: asyncio.Task[None] | None = None

    def launch(self) -> None:
        self._owner = asyncio.create_task(self._run(), name="swapper")

    async def close(self) -> None:
        """Decide nothing more. What is on its way comes to its end with its engine."""
        tasks = [task for task in (self._owner, *self._work) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for ticket in self._tickets:
            _fail(ticket, NotReady("the server is stopping", code="stopping", headers=((b"retry-after", b"10"),)))

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
        engine = min(engines, key=_nearness)
        ticket = _Ticket(engine, self._clock(), asyncio.get_running_loop().create_future())
        self._tickets.append(ticket)
        self._bell.set()
        try:
            async with asyncio.timeout(self._wait_s):
                await ticket.ready
        except TimeoutError as error:
            why = self.waits.get(engine.name) or engine.stage or engine.reason or engine.state.value
            raise NotReady(
                f"the model is not in memory yet after {self._wait_s:g} s: {why}",
                code="loading",
                headers=_retry(engine),
            ) from error
        finally:
            self._tickets.remove(ticket)
            self._bell.set()

    async def _run(self) -> None:
        while True:
            self._bell.clear()
            version = self.houses.version
            self._answer()
            made = self._plan(self._clock())
            if made.waits != self.waits:
                for name, why in made.waits.items():
                    log.info("engine %s is wanted: %s", name, why)
            self.waits = made.waits
            for action in made.actions:
                self._act(action)
            await self._pause(version, made.again_s)

    def _plan(self, now: float) -> Plan:
        wanted = dict.fromkeys(ticket.engine.name for ticket in self._tickets if not ticket.ready.done())
        return plan([_seen(one) for one in self.houses.engines], list(wanted), self.capacity, self._min_resident_s, now)

    def _answer(self) -> None:
        """Let go whose engine is there, or will not come."""
        for ticket in self._tickets:
            if ticket.ready.done():
                continue
            if ticket.engine.ready:
                ticket.ready.set_result(None)
            elif ticket.engine.state is EngineState.FAILED:
                _fail(ticket, NotReady(f"engine {ticket.engine.name} failed: {ticket.engine.reason}"))
            elif ticket.engine not in self.houses.engines:
                _fail(ticket, NotReady("the model has just been taken out of service"))

    def _act(self, action: Action) -> None:
        log.info("engine %s: %s, since %s", action.name, action.verb.value, action.reason)
        call = self.houses.start_engine if action.verb is Verb.BRING else self.houses.put_away
        task = asyncio.create_task(_reported(call(action.name), action), name=f"{action.verb.value} {action.name}")
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _pause(self, version: int, again_s: float | None) -> None:
        """Until a request comes or goes, an engine changes after `version`, or the time is up."""
        changed = asyncio.ensure_future(self.houses.changed(version))
        bell = asyncio.ensure_future(self._bell.wait())
        try:
            await asyncio.wait({changed, bell}, timeout=again_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            bell.cancel()


def _seen(engine: Engine) -> Seen:
    return Seen(engine.name, engine.state, engine.residence, engine.load.total, engine.used, engine.ready_at)


def _nearness(engine: Engine) -> int:
    """Which replica is there first."""
    order = (EngineState.STARTING, EngineState.SLEEPING, EngineState.STOPPED, EngineState.STOPPING)
    return order.index(engine.state) if engine.state in order else len(order)


def _retry(engine: Engine) -> tuple[tuple[bytes, bytes], ...]:
    seconds = _RETRY_S if engine.start_s is None else min(_RETRY_MOST_S, max(1, round(engine.start_s)))
    return ((b"retry-after", b"%d" % seconds),)


def _fail(ticket: _Ticket, error: NotReady) -> None:
    if not ticket.ready.done():
        ticket.ready.set_exception(error)


async def _reported(action: Coroutine[None, None, None], what: Action) -> None:
    """What went wrong is told by the engine's state; nobody waits here. An engine may have been taken out meanwhile."""
    with contextlib.suppress(KeyError):
        try:
            await action
        except EngineStartError as error:
            log.warning("engine %s: %s", what.name, error)
