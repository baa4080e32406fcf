"""A fake engine, a gate and prompts for the tests of what is warm."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.engines.kv_events import EventLimits
from aicockpit.types import Address, EngineState
from aicockpit.workspace.prefetch import EventSource, Prefetcher, Progress, Target
from aicockpit.workspace.steps import PrefetchLimits
from aicockpit.workspace.warmth import Warmth
from fake_client import FakeVllm, start_fake

BLOCK = 16
SLOW = ("--fake-prefill-delay", "1.0")  # 1,000 tokens a second
LIMITS = PrefetchLimits(
    first_step=64, poll_s=0.02, backoff_first_s=0.05, backoff_most_s=0.2, settle_s=0.5, event_wait=0.5
)
EVENT_LIMITS = EventLimits(replay_wait=2.0, quiet_s=0.2, first_quiet_s=0.05)


def engine_of(fake: FakeVllm, name: str = "fake-0") -> Engine:
    address = Address(uds=fake.uds) if fake.uds else Address.parse(fake.url)
    return Engine(name, address, Upstream(address), ("fake",), state=EngineState.READY)


def tokens(count: int, first: int = 0) -> tuple[int, ...]:
    return tuple(range(1000 * first + 1, 1000 * first + 1 + count))


def target(count: int = 400, name: str = "pack", first: int = 0, priority: float = 0.0, verify: bool = True) -> Target:
    return Target((1, "fake", name, ""), tokens(count, first), (), priority, verify)


def source(tmp_path: Path) -> EventSource:
    return EventSource(f"ipc://{tmp_path}/x", f"ipc://{tmp_path}/y", "kv")


def event_flags(tmp_path: Path, replay: bool = True, **more: object) -> tuple[str, ...]:
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv", **more}
    config |= {"endpoint": f"ipc://{tmp_path}/x"} | ({"replay_endpoint": f"ipc://{tmp_path}/y"} if replay else {})
    return ("--kv-events-config", json.dumps(config))


@contextlib.contextmanager
def fake_engine(tmp_path: Path, *flags: str, blocks: int = 200, details: bool = True) -> Iterator[FakeVllm]:
    size = ("--block-size", str(BLOCK), "--num-gpu-blocks-override", str(blocks))
    with start_fake(tmp_path, *size, *(["--enable-prompt-tokens-details"] if details else []), *flags) as fake:
        yield fake


class Gate:
    """Open unless somebody waits for an answer, as the gateway's is."""

    def __init__(self) -> None:
        self.turns = 0

    @contextlib.asynccontextmanager
    async def turn(self, engine: Engine, /) -> AsyncIterator[None]:
        while engine.load.interactive or engine.load.agent:
            await asyncio.sleep(0.005)
        self.turns += 1
        engine.load.background += 1
        try:
            yield
        finally:
            engine.load.background -= 1


class Bench:
    """A prefetcher on a fake, and every report it made."""

    def __init__(
        self,
        engine: Engine,
        limits: PrefetchLimits = LIMITS,
        events: EventSource | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.engine, self.warmth, self.gate = engine, Warmth(), gate or Gate()
        self.reports: list[tuple[Target, Progress]] = []
        self.prefetcher = Prefetcher(
            engine,
            self.warmth,
            self.gate,
            lambda one, progress: self.reports.append((one, progress)),
            limits=limits,
            events=events,
            event_limits=EVENT_LIMITS,
        )

    def want(self, *targets: Target) -> None:
        self.prefetcher.set_targets(list(targets))

    def state(self, one: Target) -> Progress:
        return self.prefetcher.status(one.key)

    async def until(self, one: Target, state: str, limit_s: float = 20.0) -> Progress:
        async with asyncio.timeout(limit_s):
            while self.state(one).state != state:
                await asyncio.sleep(0.005)
        return self.state(one)


@contextlib.asynccontextmanager
async def bench(engine: Engine, **options: object) -> AsyncIterator[Bench]:
    made = Bench(engine, **options)  # type: ignore[arg-type]
    made.prefetcher.launch()
    try:
        yield made
    finally:
        await made.prefetcher.close()
        engine.upstream.close()


@contextlib.asynccontextmanager
async def running(
    tmp_path: Path, *flags: str, blocks: int = 200, details: bool = True, **options: Any
) -> AsyncIterator[tuple[FakeVllm, Bench]]:
    with fake_engine(tmp_path, *flags, blocks=blocks, details=details) as fake:
        async with bench(engine_of(fake), **options) as made:
            yield fake, made


def asked(fake: FakeVllm) -> list[int]:
    return [one["tokens"] for one in fake.prompts()]


async def complete(made: Bench, ids: tuple[int, ...], model: str = "fake") -> int:
    """A user's completion; the tokens it found cached."""
    made.engine.load.interactive += 1
    try:
        body = json.dumps({"model": model, "prompt": ids, "max_tokens": 2}).encode()
        status, answer = await made.engine.upstream.fetch("POST", "/v1/completions", body, limit_s=20)
    finally:
        made.engine.load.interactive -= 1
    assert status == 200
    cached: int = json.loads(answer)["usage"]["prompt_tokens_details"]["cached_tokens"]
    return cached


async def until(condition: Any, limit_s: float = 15.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)
