"""What the gateway may do to the engines: one object, there before any of them is. Made and filled by `serve.py`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from aicockpit.adapters import Adapters
from aicockpit.engines.engine import Engine
from aicockpit.engines.supervisor import Supervisor
from aicockpit.engines.swap import HOLDING
from aicockpit.engines.swapper import Swapper
from aicockpit.errors import AicockpitError, EngineStartError, NotReady
from aicockpit.roster import Changes, Roster, told

logger = logging.getLogger(__name__)


@dataclass
class Controls:
    """What the gateway sees of the engines, from before there are any. Filled by `serve`."""

    roster: Roster
    engines: list[Engine] = field(default_factory=list)
    preparing: str = "starting"
    supervisor: Supervisor | None = None
    swapper: Swapper | None = None
    _reloads: set[asyncio.Task[Changes]] = field(default_factory=set)

    async def restart(self, name: str) -> None:
        """Raises EngineStartError, as `start_engine` does."""
        engine = self._engine(name)
        if not engine.supervised or engine.state in HOLDING:
            await self._there().restart(name)
            return
        await self._there().stop(name)  # a sleeping one has a process
        await self.start_engine(name)

    async def stop(self, name: str) -> None:
        await self._there().stop(name)

    async def start_engine(self, name: str) -> None:
        """In the queue of those who need its memory."""
        engine = self._engine(name)
        if self.swapper is None or not engine.supervised or engine.state in HOLDING:
            await self._there().start_engine(name)
            return
        try:
            await self.swapper.bring(engine)
        except NotReady as error:
            raise EngineStartError(error.message) from error

    def log_tail(self, name: str, lines: int) -> list[str]:
        return self._there().log_tail(name, lines)

    async def wake(self, engines: Sequence[Engine]) -> None:
        if self.swapper is None:
            raise _starting()
        await self.swapper.wake(engines)

    async def reload(self) -> Mapping[str, Any]:
        """To its end, also when whoever asked has left: a fleet is not changed by halves."""
        if self.swapper is None:
            raise _starting()
        task = asyncio.create_task(self.roster.reload(self._there(), self.swapper), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return told(await asyncio.shield(task))

    async def close(self) -> None:
        """Change nothing more: reloads are given up, and nobody waits for a model."""
        for task in self._reloads:
            task.cancel()
        await asyncio.gather(*self._reloads, return_exceptions=True)
        if self.swapper is not None:
            await self.swapper.close()
        self.swapper = None

    def adapters(self, model: str) -> list[dict[str, Any]]:
        return self._adapters().of(model)

    async def add_adapter(self, model: str, name: str, path: str) -> None:
        await self._adapters().add(model, name, path)

    async def remove_adapter(self, model: str, name: str) -> None:
        await self._adapters().remove(model, name)

    def _adapters(self) -> Adapters:
        return Adapters(self._there(), self.roster)

    def _engine(self, name: str) -> Engine:
        return next(engine for engine in self._there().engines if engine.name == name)

    def _there(self) -> Supervisor:
        if self.supervisor is None:
            raise _starting()
        return self.supervisor


def _starting() -> NotReady:
    return NotReady("the server is starting, or stopping", code="starting", headers=((b"retry-after", b"5"),))


@contextlib.contextmanager
def reloading(controls: Controls, console: Console) -> Iterator[None]:
    """SIGHUP reads the fleet file again."""
    running: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        try:
            changes = await controls.reload()
        except AicockpitError as error:
            logger.error("the fleet has not changed: %s", error)
            return
        said = "; ".join(f"{what} {', '.join(names)}" for what, names in changes.items() if names)
        console.print(f"Fleet file read again: {said or 'nothing to change'}", highlight=False, markup=False)

    def asked() -> None:
        task = asyncio.create_task(reload(), name="reload")
        running.add(task)
        task.add_done_callback(running.discard)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        for task in running:
            task.cancel()
