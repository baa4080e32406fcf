"""LoRA adapters that come and go while their model runs. The engines load them; a restart brings them back.

Reached through `Controls` by `gateway/operate.py`; those of the fleet file are flags (`recipes/command.py`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aicockpit.engines.engine import Engine
from aicockpit.engines.supervisor import Supervisor
from aicockpit.errors import AicockpitError, ConnectFailed, NotFound, UpstreamLost, UpstreamTimeout
from aicockpit.recipes import lora
from aicockpit.roster import Roster
from aicockpit.types import EngineState

# An adapter of a large model has some hundred megabytes.
_LOAD_WAIT_S = 120.0


class AdapterRefused(AicockpitError):
    """An adapter cannot be added or taken away; the message says why."""


class Adapters:
    """Changes `roster.specs`, for the next start, and notes it in `roster.adapters`, for the next reload."""

    def __init__(self, supervisor: Supervisor, roster: Roster) -> None:
        self._supervisor, self._roster = supervisor, roster

    def of(self, model: str) -> list[dict[str, Any]]:
        """Name, folder and engines of each. Raises NotFound."""
        found: dict[str, dict[str, Any]] = {}
        for engine in self._engines(model):
            for name, path in lora.modules(self._roster.specs[engine.name].argv).items():
                entry = found.setdefault(name, {"name": name, "path": path, "engines": []})
                if engine.ready and name in engine.served_names:
                    entry["engines"].append(engine.name)
        return list(found.values())

    async def add(self, model: str, name: str, path: str) -> None:
        """On every engine of the model, or on none. Raises AdapterRefused, NotFound."""
        async with self._roster.turn:
            engines = self._engines(model)
            self._check(engines, model, name)
            _settled(engines)
            folder = _folder(path)
            done: list[Engine] = []
            for engine in engines:
                if engine.ready:
                    body = {"lora_name": name, "lora_path": str(folder)}
                    if why := await _ask(engine, "/v1/load_lora_adapter", body):
                        for other in done:
                            await _ask(other, "/v1/unload_lora_adapter", {"lora_name": name})
                        raise AdapterRefused(f"{engine.name} does not load {folder}: {why}")
                    done.append(engine)
            await self._change(engines, name, str(folder))

    async def remove(self, model: str, name: str) -> None:
        """Raises AdapterRefused, NotFound."""
        async with self._roster.turn:
            engines = self._engines(model)
            if not any(name in lora.modules(self._roster.specs[engine.name].argv) for engine in engines):
                raise NotFound(f"{model} has no adapter {name[:128]!r}", code="adapter_not_found")
            _settled(engines)
            for engine in engines:
                has = engine.ready and name in engine.served_names
                if has and (why := await _ask(engine, "/v1/unload_lora_adapter", {"lora_name": name})):
                    raise AdapterRefused(f"{engine.name} does not unload {name}: {why}")
            await self._change(engines, name, None)

    def _engines(self, model: str) -> list[Engine]:
        specs, real = self._roster.specs, self._roster.aliases.get(model, model)
        found = [e for e in self._supervisor.engines if e.name in specs and real in e.served_names]
        if not found:
            raise NotFound(f"no engine of this server serves {model[:200]!r}", code="model_not_found")
        return found

    def _check(self, engines: Sequence[Engine], model: str, name: str) -> None:
        for engine in engines:
            if lora.ENABLE not in self._roster.specs[engine.name].argv:
                raise AdapterRefused(
                    f"{model} was started without adapters: give it `lora: {{}}` in the fleet file and reload"
                )
        taken = name in self._roster.aliases or any(name in one.served_names for one in self._supervisor.engines)
        if taken:
            raise AdapterRefused(f"the name {name!r} is served already")

    async def _change(self, engines: Sequence[Engine], name: str, path: str | None) -> None:
        """For the next start, the next reload, and the list of models."""
        for engine in engines:
            spec = lora.changed(self._roster.specs[engine.name], {name: path})
            self._roster.adapters.setdefault(spec.served_names[0], {})[name] = path
            self._roster.specs[engine.name] = spec
            self._supervisor.respec(spec)
        for engine in engines:
            if (
                engine.state is EngineState.SLEEPING
            ):  # its process would wake with the adapters that it fell asleep with
                await self._supervisor.stop(engine.name)
            with contextlib.suppress(ConnectFailed, UpstreamLost, UpstreamTimeout):  # it has said yes already
                await self._supervisor.refresh(engine.name)


def _settled(engines: Sequence[Engine]) -> None:
    """Raises AdapterRefused while one comes or goes: nobody could say with which adapters."""
    for engine in engines:
        if engine.state in (EngineState.STARTING, EngineState.STOPPING):
            raise AdapterRefused(f"{engine.name} is {engine.state} just now; ask again when that is over")


def _folder(path: str) -> Path:
    """Raises AdapterRefused when it is no adapter."""
    folder = Path(path).expanduser()
    if not folder.is_absolute():
        raise AdapterRefused(f"the adapter's path must be absolute, not {path!r}: it is read by the server")
    if not (folder / "adapter_config.json").is_file():
        raise AdapterRefused(f"{folder} holds no adapter_config.json that this server can read")
    if any(letter.isspace() for letter in str(folder)):
        raise AdapterRefused(f"{folder}: a path with spaces cannot be kept for the next start")
    return folder


async def _ask(engine: Engine, path: str, body: Mapping[str, str]) -> str:
    """Why not, or ""."""
    try:
        status, answer = await engine.upstream.fetch("POST", path, json.dumps(body).encode(), limit_s=_LOAD_WAIT_S)
    except (ConnectFailed, UpstreamLost, UpstreamTimeout) as error:
        return str(error)
    return "" if status < 300 else answer[:500].decode("utf-8", "replace")
