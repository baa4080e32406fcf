"""All engines of one server: builds their records, gives each an owner, starts and stops them together.

Used by the CLI (start, progress, stop) and the gateway (records, restart, log). Engines share nothing but the turns on
their GPUs: the crash of one touches no other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from itertools import count

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.engines.external import ExternalEngine, ExternalLimits
from aicockpit.engines.gpus import GpuTurns, ReadFree
from aicockpit.engines.health import HealthLimits
from aicockpit.engines.logs import LogSink
from aicockpit.engines.orphans import MARK, mark
from aicockpit.engines.process import EngineProcess
from aicockpit.engines.restart import RestartPolicy
from aicockpit.engines.starter import Limits
from aicockpit.errors import EngineStartError, SettingError
from aicockpit.settings import Settings
from aicockpit.types import Address, EngineSpec, EngineState

# Below this a health check would mostly measure itself.
_SHORTEST_PERIOD_S = 0.1
_EXTERNAL_CANARY_S = 60.0
# How often it is asked whether an external engine that leaves has answered everything.
_LOOK_S = 0.2


def limits_of(settings: Settings) -> Limits:
    """The waits that are settings; the others keep the defaults of their own table."""
    return Limits(
        start_wait=settings.start_wait,
        drain_wait=settings.stop_wait,
        health=HealthLimits(period_s=max(settings.check_period, _SHORTEST_PERIOD_S)),
        restart=RestartPolicy(settings.restarts, settings.restart_window),
    )


class Supervisor:
    """The caller holds the state folder's lock and has swept (`orphans.py`) before `start`."""

    def __init__(
        self,
        specs: Sequence[EngineSpec],
        external: Sequence[Address],
        settings: Settings,
        *,
        read_free: ReadFree | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.engines: list[Engine] = []
        self._settings, self._limits = settings, limits or limits_of(settings)
        self._gpus = GpuTurns(read_free) if read_free else GpuTurns()
        self._owners: dict[str, EngineProcess | ExternalEngine] = {}
        # Taken out of service, by name; they still finish their last answers.
        self._leaving: dict[str, EngineProcess | ExternalEngine] = {}
        self._ends: set[asyncio.Task[None]] = set()
        self._version = 0
        self._waiters: set[asyncio.Future[None]] = set()
        for spec in specs:
            self._add_process(spec)
        for number, address in enumerate(external, 1):
            self._add_external(f"external-{number}", address)

    async def start(self, resting: Collection[str] = ()) -> None:
        """Launch every engine but those `resting`, without waiting for any."""
        for name, owner in self._owners.items():
            if name not in resting:
                owner.launch()
        await asyncio.sleep(0)  # each owner takes its first step: from here on none of them is `stopped`

    async def wait_ready(self) -> list[Engine]:
        """Wait until an engine is ready, or can be woken, and no other still starts; those that are ready.

        Raises EngineStartError when all have failed.
        """
        while True:
            seen, states = self._version, [engine.state for engine in self.engines]
            usable = EngineState.READY in states or any(engine.wakeable for engine in self.engines)
            if usable and EngineState.STARTING not in states:
                return [engine for engine in self.engines if engine.ready]
            if all(state is EngineState.FAILED for state in states):
                if not states:
                    return []
                raise self._all_failed()
            await self.changed(seen)

    @property
    def version(self) -> int:
        """Grows with every change of any engine's state, stage or reason."""
        return self._version

    async def changed(self, seen: int | None = None) -> int:
        """Wait for a change after version `seen` (default: now); the version it led to."""
        if seen is None or seen == self._version:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self._version

    async def close(self) -> None:
        """Stop every engine, all at once, and wait until every process is gone."""
        await asyncio.gather(*(owner.close() for owner in (*self._owners.values(), *self._leaving.values())))
        for task in self._ends:  # what still waits waits for the last answer of an external engine
            task.cancel()
        await asyncio.gather(*self._ends, return_exceptions=True)

    def hurry(self) -> None:
        """Let no engine finish what it does: a stop under way goes to SIGKILL at once."""
        for owner in (*self._owners.values(), *self._leaving.values()):
            if isinstance(owner, EngineProcess):
                owner.hurry()

    async def start_engine(self, name: str) -> None:
        """Raises EngineStartError when the engine does not become ready; KeyError for a name that no engine has."""
        await self._owner(name).start()

    async def stop(self, name: str, *, patient: bool = False) -> None:
        """`patient`: not before the last request in work has its answer."""
        owner = self._owner(name)
        await (owner.stop(patient=patient) if isinstance(owner, EngineProcess) else owner.stop())

    async def put_away(self, name: str) -> None:
        """Give back what a supervised engine holds, once no request is in work: to sleep if it can, else stopped."""
        owner = self._owner(name)
        assert isinstance(owner, EngineProcess)
        await (owner.sleep() if owner.engine.residence.sleeps else owner.stop(patient=True))

    def add(self, spec: EngineSpec) -> None:
        """One engine more; it is not started. Raises SettingError when the name is taken."""
        self._add_process(spec)
        self._notify()

    def reach(self, address: Address) -> None:
        """One external engine more, looked for from now on."""
        taken = self._owners.keys() | self._leaving.keys()
        name = next(name for number in count(1) if (name := f"external-{number}") not in taken)
        self._add_external(name, address)
        self._owners[name].launch()
        self._notify()

    def respec(self, spec: EngineSpec) -> None:
        """The next start of a supervised engine uses this; its names, pin and ttl count at once."""
        owner = self._owner(spec.name)
        assert isinstance(owner, EngineProcess)
        owner.respec(spec, child_environ(os.environ, self._settings, spec))
        self._notify()

    async def refresh(self, name: str) -> None:
        """Ask an engine again what it serves: adapters come and go."""
        owner = self._owner(name)
        assert isinstance(owner, EngineProcess)
        await owner.refresh()
        self._notify()

    @property
    def leaving(self) -> list[Engine]:
        """Engines that take no request any more but still finish some, and hold their memory."""
        return [owner.engine for owner in self._leaving.values()]

    def let_go(self, name: str) -> None:
        """No new request reaches this engine; after its last answer it is stopped and forgotten."""
        owner = self._owners.pop(name)
        self.engines.remove(owner.engine)
        self._leaving[name] = owner
        task = asyncio.create_task(self._end(name, owner), name=f"end {name}")
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        self._notify()

    async def gone(self, names: Collection[str]) -> None:
        """Wait until none of those let go under these names is left."""
        while any(name in self._leaving for name in names):
            await self.changed()

    async def _end(self, name: str, owner: EngineProcess | ExternalEngine) -> None:
        try:
            if isinstance(owner, EngineProcess):
                await owner.stop(patient=True)
            while owner.engine.load.total and owner.engine.ready:  # an external one: its answers go on without us
                await asyncio.sleep(_LOOK_S)
            await owner.close()
        finally:
            del self._leaving[name]
            self._notify()

    async def restart(self, name: str) -> None:
        """Let its requests finish, stop, start. Raises as `start_engine`."""
        await self._owner(name).restart()

    def log_tail(self, name: str, lines: int) -> list[str]:
        """The last lines that a supervised engine printed; none for an external one."""
        owner = self._owner(name)
        return owner.sink.tail(lines) if isinstance(owner, EngineProcess) else []

    def _owner(self, name: str) -> EngineProcess | ExternalEngine:
        return self._owners[name]

    def _add_process(self, spec: EngineSpec) -> None:
        if spec.name in self._owners:
            raise SettingError(f"two engines are named {spec.name!r}")
        settings = self._settings
        address = Address(uds=spec.uds)
        engine = Engine(
            spec.name,
            address,
            Upstream(address, settings.connect_wait),
            spec.served_names,
            role=spec.role,
            files=spec.model,
            kv_events=spec.kv_events,
            residence=spec.residence,
        )
        sink = LogSink(settings.state_dir / "logs", spec.name, secrets=(settings.hf_token, settings.api_key))
        environ = child_environ(os.environ, settings, spec)
        self.engines.append(engine)
        self._owners[spec.name] = EngineProcess(engine, spec, self._limits, sink, self._gpus, environ, self._notify)

    def _add_external(self, name: str, address: Address) -> None:
        health = self._limits.health
        limits = ExternalLimits(
            health=HealthLimits(health.period_s, stuck_wait_s=health.stuck_wait_s, canary_period_s=_EXTERNAL_CANARY_S),
            most_s=max(health.period_s, 0.5),
        )
        engine = Engine(name, address, Upstream(address, self._settings.connect_wait), supervised=False)
        self.engines.append(engine)
        self._owners[name] = ExternalEngine(engine, limits, self._notify)

    def _notify(self) -> None:
        self._version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _all_failed(self) -> EngineStartError:
        errors = [(name, owner.error) for name, owner in self._owners.items() if owner.error is not None]
        if len(errors) == 1:
            return errors[0][1]
        return EngineStartError("no engine started:\n" + "\n".join(f"{name}: {error}" for name, error in errors))


def child_environ(base: Mapping[str, str], settings: Settings, spec: EngineSpec) -> dict[str, str]:
    """What an engine inherits: everything but our own settings and the Hub's tokens, which are none of its business.

    Its files are on disk and it runs offline. VLLM_API_KEY would lock us out. SPT_NOENV keeps `setproctitle`, which
    vLLM calls, from overwriting the memory in which the mark is found (`orphans.py`).
    """
    ours = ("AICOCKPIT_", "VLLM_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    environ = {name: value for name, value in base.items() if not name.startswith(ours)}
    return environ | dict(spec.env) | {"SPT_NOENV": "1", MARK: mark(settings.state_dir, spec.name)}
