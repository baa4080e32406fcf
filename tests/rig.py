"""A real gateway on a real port in the test's own event loop, in front of fake engines that are real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from aicockpit import settings as settings_module
from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.gateway.app import Gateway
from aicockpit.gateway.server import Doors, build
from aicockpit.gateway.waking import Waker
from aicockpit.types import Address, EngineState
from fake_client import FakeVllm

KEY = "test-key-of-the-rig"


@dataclass
class Fleet:
    """Stands for the supervisor: engines that run already, and a record of what was asked."""

    engines: list[Engine]
    preparing: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def restart(self, name: str) -> None:
        self.asked.append(("restart", name))

    async def stop(self, name: str) -> None:
        self.asked.append(("stop", name))

    async def start_engine(self, name: str) -> None:
        self.asked.append(("start", name))

    def log_tail(self, name: str, lines: int) -> list[str]:
        return [f"line of {name}"][:lines]


@dataclass
class Rig:
    gateway: Gateway
    client: httpx.AsyncClient
    fleet: Fleet
    doors: Doors
    control: Path

    @property
    def port(self) -> int:
        return self.doors.port

    @property
    def engines(self) -> list[Engine]:
        return self.fleet.engines

    async def chat(
        self, text: str = "hi there", headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=chat_body(text, **fields), headers=headers)

    def raw(self) -> socket.socket:
        """A plain TCP connection, for tests that need the wire itself."""
        return socket.create_connection(("127.0.0.1", self.port), 10)


def chat_body(text: str = "hi there", **fields: Any) -> dict[str, Any]:
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return {**body, **fields}


def engine_of(fake: FakeVllm | str, name: str = "fake-0", names: tuple[str, ...] = ("fake",)) -> Engine:
    if isinstance(fake, str):
        address = Address.parse(fake)
    else:
        address = Address(uds=fake.uds) if fake.uds else Address.parse(fake.url)
    return Engine(name, address, Upstream(address), names, state=EngineState.READY)


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path,
    *engines: Engine,
    aliases: dict[str, str] | None = None,
    used_memory: float | None = None,
    live: list[Engine] | None = None,
    waker: Waker | None = None,
    **values: str,
) -> AsyncIterator[Rig]:
    """`values` are settings without their prefix: `max_body="1MiB"`. `live`: a supervisor's own list of engines."""
    environ = {"AICOCKPIT_STATE_DIR": str(tmp_path / "state"), "AICOCKPIT_PORT": "0"}
    environ |= {f"AICOCKPIT_{name.upper()}": value for name, value in values.items()}
    settings = settings_module.load(environ=environ)
    fleet = Fleet(list(engines) if live is None else live)
    gateway = build(settings, fleet, aliases or {}, (KEY,), lambda: [], lambda: used_memory)
    gateway.forwarder.waker = waker
    control = settings.run_dir / "gateway.sock"
    doors = Doors(gateway, settings.host, settings.port, control, drain_s=1)
    await doors.open()
    headers = {"authorization": f"Bearer {KEY}"}
    base = f"http://127.0.0.1:{doors.port}"
    try:
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30, trust_env=False) as client:
            yield Rig(gateway, client, fleet, doors, control)
    finally:
        for engine in fleet.engines:
            engine.upstream.close()
        doors.hurry()
        await doors.close()


def events(text: str) -> list[Any]:
    """The `data:` payloads of a stream; `[DONE]` stays text."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def until(condition: Any, limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "never happened"
        await asyncio.sleep(0.01)


async def aborted(fake: FakeVllm, count: int = 1) -> dict[str, Any]:
    return await asyncio.to_thread(fake.wait_state, aborted=count)
