"""Engines known by URL: fakes that come, go, hang and change."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.engines.external import ExternalEngine, ExternalLimits
from aicockpit.engines.health import HealthLimits
from aicockpit.types import Address, EngineState, Lane
from engine_rig import until
from fake_client import FakeVllm, start_fake

READY, UNREACHABLE, STOPPED = EngineState.READY, EngineState.UNREACHABLE, EngineState.STOPPED
LIMITS = ExternalLimits(HealthLimits(period_s=0.2, stuck_wait_s=2.0), models_wait=1, first_s=0.05, most_s=0.2)


def external_of(address: Address, limits: ExternalLimits = LIMITS) -> ExternalEngine:
    return ExternalEngine(Engine("external-1", address, Upstream(address, 1.0), supervised=False), limits)


@pytest.fixture
async def made() -> AsyncIterator[list[ExternalEngine]]:
    engines: list[ExternalEngine] = []
    yield engines
    for one in engines:
        await one.close()
        assert one.engine.state is STOPPED
        assert one.engine.upstream.open_connections == 0


def launched(made: list[ExternalEngine], address: Address, limits: ExternalLimits = LIMITS) -> ExternalEngine:
    made.append(external_of(address, limits))
    made[-1].launch()
    return made[-1]


async def test_names_come_from_the_engine_itself(tmp_path: Path, made: list[ExternalEngine]) -> None:
    with start_fake(tmp_path, names=("a", "b"), tcp=True) as fake:
        one = launched(made, Address.parse(fake.url))
        assert one.engine.state is UNREACHABLE
        await until(lambda: one.engine.state is READY)
        assert one.engine.served_names == ("a", "b")
        assert one.engine.reason == ""


async def test_it_is_found_when_it_comes_and_missed_when_it_goes(tmp_path: Path, made: list[ExternalEngine]) -> None:
    uds = tmp_path / "fake.sock"
    one = launched(made, Address(uds=str(uds)))
    await until(lambda: "no connection to unix:" in one.engine.reason)
    assert one.error is not None
    with start_fake(tmp_path):
        await until(lambda: one.engine.state is READY)
        assert one.error is None
    uds.unlink(missing_ok=True)
    await until(lambda: one.engine.state is UNREACHABLE)
    with start_fake(tmp_path, names=("other",)):
        await until(lambda: one.engine.state is READY)
        assert one.engine.served_names == ("other",)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "refuses the key (401)"), (404, "answers 404"), (503, "answers 503"), (200, "names no model")],
)
async def test_an_answer_that_is_no_list_of_models_is_told(
    made: list[ExternalEngine], status: int, reason: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}" % status)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        one = launched(made, Address.parse(f"http://:secret-key@127.0.0.1:{port}"))
        await until(lambda: reason in one.engine.reason)
        assert one.engine.state is UNREACHABLE
        assert "secret-key" not in one.engine.reason


async def test_it_is_ready_only_when_it_has_generated(tmp_path: Path, made: list[ExternalEngine]) -> None:
    with start_fake(tmp_path, "--fake-status", "500") as fake:
        one = launched(made, Address(uds=fake.uds or ""))
        await until(lambda: "generates nothing" in one.engine.reason)
        assert one.engine.state is UNREACHABLE
        fake.set(status=0)
        await until(lambda: one.engine.state is READY)


async def test_an_engine_that_never_answers_is_told(made: list[ExternalEngine]) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        limits = ExternalLimits(models_wait=0.2, first_s=0.05, most_s=0.1)
        one = launched(made, Address("127.0.0.1", port), limits)
        await until(lambda: "does not answer within 0.2 s" in one.engine.reason)


def stop_core(fake: FakeVllm, number: signal.Signals) -> None:
    os.kill(fake.state()["core_pid"], number)


async def test_a_hang_is_noticed_and_its_end_too(tmp_path: Path, made: list[ExternalEngine]) -> None:
    with start_fake(tmp_path, "--fake-engine-core") as fake:
        limits = ExternalLimits(LIMITS.health, models_wait=1, generation_wait=1, first_s=0.05, most_s=0.2)
        one = launched(made, Address(uds=fake.uds or ""), limits)
        await until(lambda: one.engine.state is READY)
        stop_core(fake, signal.SIGSTOP)
        await until(lambda: one.engine.state is UNREACHABLE)
        assert one.engine.reason.startswith("it hangs: it has made no progress for 2 s")
        await until(lambda: "it generates nothing" in one.engine.reason)
        stop_core(fake, signal.SIGCONT)
        await until(lambda: one.engine.state is READY)


async def test_a_saturated_engine_stays_ready(tmp_path: Path, made: list[ExternalEngine]) -> None:
    with start_fake(tmp_path, "--fake-slow-steps", "0.5", "--max-num-batched-tokens", "8") as fake:
        seen: list[EngineState] = []
        one = external_of(Address(uds=fake.uds or ""))
        one._on_change = lambda: seen.append(one.engine.state)
        made.append(one)
        one.launch()
        await until(lambda: one.engine.state is READY)
        one.engine.load.add(Lane.AGENT, 1)
        body = b'{"model": "fake", "prompt": "%s", "max_tokens": 4}' % (b"word " * 60)
        status, _ = await one.engine.upstream.fetch("POST", "/v1/completions", body, limit_s=60)
        one.engine.load.add(Lane.AGENT, -1)
        assert status == 200
        assert seen == [UNREACHABLE, READY]


def polls(fake: FakeVllm) -> int:
    paths: dict[str, int] = fake.state()["paths"]
    return paths.get("/metrics", 0)


async def test_an_idle_engine_of_others_gets_few_canaries(tmp_path: Path, made: list[ExternalEngine]) -> None:
    with start_fake(tmp_path) as fake:
        limits = ExternalLimits(HealthLimits(period_s=0.1, canary_period_s=60), first_s=0.05)
        one = launched(made, Address(uds=fake.uds or ""), limits)
        await until(lambda: one.engine.state is READY)
        await asyncio.to_thread(fake.wait_state, started=1)
        await until(lambda: polls(fake) > 10)
        assert fake.state()["started"] <= 2
        assert one.engine.state is READY


async def test_stop_start_restart(tmp_path: Path, made: list[ExternalEngine]) -> None:
    with start_fake(tmp_path) as fake:
        one = launched(made, Address(uds=fake.uds or ""))
        await until(lambda: one.engine.state is READY)
        await one.stop()
        assert one.engine.state is STOPPED
        await one.stop()
        await one.start()
        await until(lambda: one.engine.state is READY)
        await asyncio.gather(one.restart(), one.restart())
        await until(lambda: one.engine.state is READY)
