"""All engines of one server: builds their records, gives each an owner, starts and stops them together.

Used by the CLI (start, progress, stop) and the gateway (records, restart, log). Engines share nothing but the turns on
their GPUs: the crash of one touches no other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

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
        self._version = 0
        self._waiters: set[asyncio.Future[None]] = set()
        for spec in specs:
            self._add_process(spec)
        for number, address in enumerate(external, 1):
            self._add_external(f"external-{number}", address)

    async def start(self) -> None:
        """Launch every engine, without waiting for any."""
        for owner in self._owners.values():
            owner.launch()
        await asyncio.sleep(0)  # each owner takes its first step: from here on no engine is `stopped`

    async def wait_ready(self) -> list[Engine]:
        """Wait until an engine is ready and no other still starts; those that are ready.

        Raises EngineStartError when all have failed.
        """
        while True:
            seen, states = self._version, [engine.state for engine in self.engines]
            if EngineState.READY in states and EngineState.STARTING not in states:
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
        await asyncio.gather(*(owner.close() for owner in self._owners.values()))

    def hurry(self) -> None:
        """Let no engine finish what it does: a stop under way goes to SIGKILL at once."""
        for owner in self._owners.values():
            if isinstance(owner, EngineProcess):
                owner.hurry()

    async def start_engine(self, name: str) -> None:
        """Raises EngineStartError when the engine does not become ready; KeyError for a name that no engine has."""
        await self._owner(name).start()

    async def stop(self, name: str) -> None:
        await self._owner(name).stop()

    async def restart(self, name: str) -> None:
        """Let its requests finish, stop, start. Raises as `start_engine`."""
        await self._owner(name).restart()

    def log_tail(self, name: str, count: int) -> list[str]:
        """The last lines that a supervised engine printed; none for an external one."""
        owner = self._owner(name)
        return owner.sink.tail(count) if isinstance(owner, EngineProcess) else []

    def error(self, name: str) -> EngineStartError | None:
        """Why the engine is not ready, with what to do and where its log is; None when there is nothing to say."""
        return self._owner(name).error

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
            files=spec.model,
            kv_events=spec.kv_events,
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
    """What an engine inherits: everything but our own settings, among which are keys that are none of its business.

    VLLM_API_KEY would lock us out. SPT_NOENV keeps `setproctitle`, which vLLM calls, from overwriting the memory in
    which the mark is found (`orphans.py`).
    """
    ours = ("AICOCKPIT_", "VLLM_API_KEY")
    environ = {name: value for name, value in base.items() if not name.startswith(ours)}
    if settings.hf_token:
        environ["HF_TOKEN"] = settings.hf_token
    return environ | dict(spec.env) | {"SPT_NOENV": "1", MARK: mark(settings.state_dir, spec.name)}
