"""The judge on made-up samples; the sampler on the fake, stopped and slowed in every way that must be told apart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.engines.health import (
    Canary,
    Health,
    HealthLimits,
    Sample,
    Sampler,
    Verdict,
    find_canary,
    judge,
    served_models,
    token_count,
    tree_cpu,
    until_ready,
)
from aicockpit.types import Address, Lane
from engine_rig import until
from fake_client import FakeVllm, start_fake

LIMITS = HealthLimits(period_s=10, stuck_wait_s=300)


def verdict(*samples: Sample) -> Verdict:
    return judge(samples[:-1], samples[-1], LIMITS)


def still(at: float, cpu_s: float | None = 0.0, tokens: float | None = 5) -> Sample:
    return Sample(at, users=3, tokens=tokens, cpu_s=cpu_s)


def test_the_first_sample_is_fine() -> None:
    assert judge([], still(0), LIMITS) == Verdict(Health.OK)


@pytest.mark.parametrize(
    "now",
    [
        Sample(20, users=4, tokens=5, cpu_s=0),
        Sample(20, users=3, tokens=6, cpu_s=0),
        Sample(20, users=3, tokens=0, cpu_s=0),  # an external engine was restarted
        Sample(20, users=3, tokens=5, cpu_s=0, canary=True),
    ],
)
def test_any_progress_is_fine(now: Sample) -> None:
    assert verdict(still(0), still(10), now).state is Health.OK


def test_one_period_without_progress_is_suspect() -> None:
    assert verdict(still(0), still(10)).state is Health.SUSPECT


def test_two_periods_without_progress_or_work_are_a_hang() -> None:
    found = verdict(still(0), still(10), still(20, cpu_s=0.2))
    assert found == Verdict(Health.HUNG, "it has made no progress for 20.0 s and does not compute")


def test_an_engine_that_computes_is_not_hung() -> None:
    samples = [still(at, cpu_s=9.0) for at in range(0, 290, 10)]
    assert {judge(samples[:n], samples[n], LIMITS).state for n in range(2, len(samples))} == {Health.SUSPECT}


def test_the_spin_of_workers_after_a_step_hides_a_hang_for_no_longer_than_one_period() -> None:
    assert verdict(still(0), still(10, cpu_s=1.1), still(20, cpu_s=0.2)).state is Health.HUNG


def test_one_that_computes_for_ever_is_hung_at_last() -> None:
    assert verdict(*(still(at, cpu_s=10.0) for at in range(0, 301, 10))).state is Health.HUNG
    assert verdict(*(still(at, cpu_s=10.0) for at in range(0, 300, 10))).state is Health.SUSPECT


def test_progress_starts_the_count_anew() -> None:
    moved = Sample(20, users=3, tokens=6, cpu_s=0)
    assert verdict(still(0), still(10), moved, still(30, tokens=6)).state is Health.SUSPECT
    assert verdict(still(0), still(10), moved, still(30, tokens=6), still(40, tokens=6)).state is Health.HUNG


def test_without_a_process_only_the_long_limit_counts() -> None:
    assert verdict(*(still(at, cpu_s=None) for at in range(0, 300, 10))).state is Health.SUSPECT
    assert verdict(*(still(at, cpu_s=None) for at in range(0, 301, 10))).state is Health.HUNG


def test_tokens_are_summed_over_engines_and_kinds() -> None:
    text = b"""# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 10.0
vllm:generation_tokens_total{engine="0",model_name="m"} 2.5e+01
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 7.0
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 125.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 9.0
vllm:prompt_tokens_total broken
"""
    assert token_count(text) == 260.0
    assert token_count(b"vllm:num_requests_running 1\n") is None
    assert token_count(b"\xff") is None


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeVllm]:
    with start_fake(tmp_path, "--fake-engine-core", "--max-num-batched-tokens", "8") as one:
        yield one
        with contextlib.suppress(OSError):
            os.kill(one.process.pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def upstream_of(fake: FakeVllm) -> AsyncIterator[Upstream]:
    upstream = Upstream(Address(uds=fake.uds or ""))
    try:
        yield upstream
    finally:
        upstream.close()


@contextlib.asynccontextmanager
async def watched(
    fake: FakeVllm, period_s: float = 0.5, stuck_wait_s: float = 300.0
) -> AsyncIterator[tuple[Engine, asyncio.Task[Verdict]]]:
    """The fake under watch, as if this process were its guard."""
    async with upstream_of(fake) as upstream:
        engine = Engine("e", upstream.address, upstream)
        canary = await find_canary(upstream, "fake", 10)
        assert canary is not None
        health = HealthLimits(period_s=period_s, stuck_wait_s=stuck_wait_s)
        task = asyncio.create_task(Sampler(engine, canary, health, os.getpid()).until_hung())
        try:
            yield engine, task
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_the_canary_finds_its_kind(tmp_path: Path) -> None:
    with start_fake(tmp_path) as text, start_fake(tmp_path, "--fake-embedding-model", name="embed") as embed:
        async with upstream_of(text) as upstream:
            assert await served_models(upstream, 10) == (200, {"fake": ANY})
            found = await find_canary(upstream, "fake", 10)
            assert found is not None
            assert found.path == "/v1/completions"
            assert await found.sings(10)
        async with upstream_of(embed) as upstream:
            found = await find_canary(upstream, "fake", 10)
            assert found is not None
            assert found.path == "/v1/embeddings"
            assert await found.sings(10)


async def test_an_error_of_the_engine_is_no_song(fake: FakeVllm) -> None:
    async with upstream_of(fake) as upstream:
        found = await find_canary(upstream, "fake", 10)
        assert found is not None
        fake.set(status=500)
        assert not await found.sings(10)
        assert await find_canary(upstream, "fake", 10) is None
        assert not await Canary(upstream).sings(10)


async def test_ready_means_that_a_generation_succeeded(fake: FakeVllm) -> None:
    fake.set(status=503)
    async with upstream_of(fake) as upstream:
        waits = asyncio.create_task(until_ready(upstream, poll_s=0.05, models_wait=5, generation_wait=5))
        await asyncio.to_thread(fake.wait_state, started=3)
        assert not waits.done()
        fake.set(status=0)
        canary, cards = await waits
        assert canary.path == "/v1/completions"
        assert list(cards) == ["fake"]


async def test_a_stopped_core_is_noticed_while_idle(fake: FakeVllm) -> None:
    async with watched(fake) as (_, task):
        os.kill(fake.state()["core_pid"], signal.SIGSTOP)
        assert (await task).state is Health.HUNG


async def test_a_stopped_core_is_noticed_while_users_wait(fake: FakeVllm) -> None:
    fake.set(token_delay=0.05)
    async with watched(fake) as (engine, task):
        engine.load.add(Lane.INTERACTIVE, 1)
        body = b'{"model": "fake", "prompt": "a", "max_tokens": 1000, "stream": true}'
        request = asyncio.create_task(engine.upstream.fetch("POST", "/v1/completions", body, limit_s=60))
        await asyncio.to_thread(fake.wait_state, active=1)
        os.kill(fake.state()["core_pid"], signal.SIGSTOP)
        assert (await task).state is Health.HUNG
        request.cancel()
        await asyncio.wait({request})


async def test_a_wholly_stopped_engine_is_noticed(fake: FakeVllm) -> None:
    async with watched(fake) as (_, task):
        core = fake.state()["core_pid"]
        for pid in (fake.process.pid, core):
            os.kill(pid, signal.SIGSTOP)
        assert (await task).state is Health.HUNG
        assert len([*Path("/proc").glob(f"{core}/stat")]) == 1


async def test_it_takes_two_periods(fake: FakeVllm) -> None:
    async with watched(fake) as (_, task):
        os.kill(fake.state()["core_pid"], signal.SIGSTOP)
        before = fake.state()["started"]
        await task
        # One canary per period: two unanswered, perhaps one that was just under way, and more on a busy machine.
        assert fake.state()["started"] - before <= 8


async def test_a_saturated_engine_is_never_called_hung(fake: FakeVllm) -> None:
    """Every step ends late and the probes with it: the canary gets no answer, but tokens move."""
    fake.set(slow_steps=0.4)
    async with watched(fake, period_s=0.3) as (engine, task):
        engine.load.add(Lane.AGENT, 1)
        prompt = "word " * 60
        body = f'{{"model": "fake", "prompt": "{prompt}", "max_tokens": 5}}'.encode()
        request = asyncio.create_task(engine.upstream.fetch("POST", "/v1/completions", body, limit_s=60))
        await asyncio.wait({request, task}, return_when=asyncio.FIRST_COMPLETED)
        assert not task.done()
        assert request.result()[0] == 200


async def test_a_client_that_does_not_read_is_no_hang(fake: FakeVllm) -> None:
    """A request in work without any progress: the canary is asked after all, and answers."""
    async with watched(fake, period_s=0.3) as (engine, task):
        engine.load.add(Lane.INTERACTIVE, 1)
        before = fake.state()["started"]
        await asyncio.to_thread(fake.wait_state, started=before + 3)
        assert not task.done()


async def test_an_engine_that_computes_a_long_step_is_no_hang(fake: FakeVllm) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            async with watched(fake, period_s=0.4) as (_, task):
                os.kill(fake.state()["core_pid"], signal.SIGSTOP)
                await asyncio.wait({task}, timeout=3)
                assert not task.done()
        finally:
            busy.kill()


async def test_a_spinning_deadlock_is_found_by_the_long_limit(fake: FakeVllm) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            async with watched(fake, period_s=0.3, stuck_wait_s=2.0) as (_, task):
                os.kill(fake.state()["core_pid"], signal.SIGSTOP)
                assert (await task).reason.startswith("it has made no progress for 2 s")
        finally:
            busy.kill()


async def test_probes_touch_no_user_counts(fake: FakeVllm) -> None:
    async with watched(fake, period_s=0.2) as (engine, _):
        await asyncio.to_thread(fake.wait_state, started=4)
        assert engine.load.total == 0
        assert engine.progress == 0
        assert engine.breaker.failures == 0


async def test_an_engine_without_any_generation_is_judged_by_its_api() -> None:
    """Say, a transcription model: nothing generic makes it work."""
    answers = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        await reader.readuntil(b"\r\n\r\n")
        answers += 1
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with await asyncio.start_server(answer, sock=listener.dup()):
            upstream = Upstream(Address("127.0.0.1", port))
            canary = await find_canary(upstream, "m", 10)
            assert canary is not None
            assert canary.path == ""
            engine = Engine("e", upstream.address, upstream)
            task = asyncio.create_task(Sampler(engine, canary, HealthLimits(period_s=0.1), os.getpid()).until_hung())
            seen = answers
            await until(lambda: answers > seen + 5)
            assert not task.done()
        listener.close()
        assert (await task).state is Health.HUNG
        upstream.close()


def test_processor_time_of_descendants() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "sum(range(10**7)); print(1, flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert tree_cpu(os.getpid())[child.pid] > 0
        child.communicate(b"\n")
    assert tree_cpu(2**22 + 1) == {}
