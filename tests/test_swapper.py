"""Engines that come and go with the requests for them: the swapper over real processes of the fake vLLM."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from aicockpit.engines.engine import Engine
from aicockpit.engines.supervisor import Supervisor
from aicockpit.engines.swapper import Swapper
from aicockpit.errors import NotReady, Overloaded
from aicockpit.types import EngineSpec, EngineState, Residence
from engine_rig import LIMITS, pids, spec_of, until
from test_supervisor import supervised

ONE = Residence(pinned=False, needs=(("cpu", 1),))
SLEEPY = replace(ONE, sleeps=True)


@contextlib.asynccontextmanager
async def swapping(
    tmp_path: Path, *specs: EngineSpec, room: int = 1, least: float = 0.0, wait_s: float = 20.0, queue: int = 8
) -> AsyncIterator[tuple[Supervisor, Swapper]]:
    async with supervised(tmp_path, *specs, limits=replace(LIMITS, drain_wait=0.1)) as supervisor:
        swapper = Swapper(supervisor, {"cpu": room}, min_resident_s=least, wait_s=wait_s, queue=queue)
        swapper.launch()
        try:
            yield supervisor, swapper
        finally:
            await swapper.close()


def two(tmp_path: Path, *flags: str, residence: Residence = ONE) -> tuple[EngineSpec, EngineSpec]:
    one, other = (spec_of(tmp_path, *flags, name=name, residence=residence) for name in "ab")
    return one, other


async def generate(engine: Engine) -> int:
    status, _ = await engine.upstream.fetch(
        "POST", "/v1/completions", b'{"model": "%s", "prompt": "x", "max_tokens": 2}' % engine.name.encode(), limit_s=9
    )
    return status


async def test_a_request_brings_its_engine_and_another_makes_way(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path)) as (supervisor, swapper):
        a, b = supervisor.engines
        await swapper.wake([a])
        assert (a.state, b.state) == (EngineState.READY, EngineState.STOPPED)
        assert await generate(a) == 200
        await swapper.wake([b])
        assert (a.state, b.state, a.pid) == (EngineState.STOPPED, EngineState.READY, None)
        assert await generate(b) == 200


async def test_what_is_in_work_is_never_cut(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path)) as (supervisor, swapper):
        a, b = supervisor.engines
        await swapper.wake([a])
        a.load.interactive += 1  # an answer that takes longer than `drain_wait`
        waiting = asyncio.create_task(swapper.wake([b]))
        await until(lambda: a.state is EngineState.STOPPING)
        await asyncio.sleep(0.5)
        assert not waiting.done()
        assert await generate(a) == 200
        a.load.interactive -= 1
        await waiting
        assert b.ready


async def test_an_engine_sleeps_and_wakes_without_a_new_process(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path, residence=SLEEPY)) as (supervisor, swapper):
        a, b = supervisor.engines
        await swapper.wake([a])
        pid, generation = a.pid, a.generation
        await swapper.wake([b])
        assert (a.state, a.pid, b.ready) == (EngineState.SLEEPING, pid, True)
        assert await generate(a) == 500
        await swapper.wake([a])
        assert (a.ready, a.pid, b.state) == (True, pid, EngineState.SLEEPING)
        assert a.generation == generation + 1
        assert await generate(a) == 200
        await supervisor.stop("b")
        assert b.state is EngineState.STOPPED


async def test_what_sleeps_ends_when_its_memory_is_wanted_and_ends_at_once_where_it_cannot_sleep(
    tmp_path: Path,
) -> None:
    weighty = replace(SLEEPY, needs=(("0", 1),), asleep=(("cpu", 2),))
    a_spec, b_spec = two(tmp_path, residence=weighty)
    async with swapping(tmp_path, a_spec, b_spec, room=3) as (supervisor, swapper):
        swapper.capacity = {"0": 1, "cpu": 3}
        a, b = supervisor.engines
        await swapper.wake([a])
        await swapper.wake([b])
        assert (a.state, b.ready) == (EngineState.SLEEPING, True)
        await swapper.wake([a])  # whose weights stay in the host's memory: those of `b` find no room beside them
        assert (a.ready, b.state, b.pid) == (True, EngineState.STOPPED, None)
        await swapper.wake([b])
        assert (a.state, b.ready) == (EngineState.SLEEPING, True)
        tiered = replace(weighty, needs=(("cpu", 2),), sleeps=False, asleep=())
        supervisor.add(spec_of(tmp_path, name="c", residence=tiered))
        c = supervisor.engines[-1]
        await swapper.wake([c])
        assert (a.state, b.ready, c.ready) == (EngineState.STOPPED, True, True)


@pytest.mark.parametrize("flag", ["--fake-no-sleep", "--fake-no-wake"])
async def test_an_engine_that_cannot_sleep_or_wake_is_started_again(tmp_path: Path, flag: str) -> None:
    async with swapping(tmp_path, *two(tmp_path, flag, residence=SLEEPY)) as (supervisor, swapper):
        a, b = supervisor.engines
        await swapper.wake([a])
        pid = a.pid
        await swapper.wake([b])
        await swapper.wake([a])
        assert a.pid != pid
        assert await generate(a) == 200


async def test_one_that_dies_in_its_sleep_is_started_by_the_next_request(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path, residence=SLEEPY)) as (supervisor, swapper):
        a, b = supervisor.engines
        await swapper.wake([a])
        await swapper.wake([b])
        await a.upstream.fetch("POST", "/fake/set", b'{"die_after": 0}', limit_s=5)
        with contextlib.suppress(Exception):
            await a.upstream.fetch("POST", "/wake_up", b"", limit_s=5)
        await until(lambda: a.state is EngineState.STOPPED)
        await swapper.wake([a])
        assert await generate(a) == 200


async def test_many_requests_for_two_models_in_turn_all_get_one(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path), least=0.3, queue=64) as (supervisor, swapper):

        async def ask(engine: Engine) -> int:
            while True:
                await swapper.wake([engine])
                if engine.ready:  # as the forwarder does: chosen and counted in one step
                    break
            engine.load.interactive += 1
            try:
                return await generate(engine)
            finally:
                engine.load.interactive -= 1

        asked = [asyncio.create_task(ask(supervisor.engines[number % 2])) for number in range(24)]
        assert await asyncio.gather(*asked) == [200] * 24
        assert sum(engine.generation for engine in supervisor.engines) <= 4


async def test_idle_engines_go_after_their_ttl(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, name="a", residence=replace(ONE, ttl_s=0.2))
    async with swapping(tmp_path, spec) as (supervisor, swapper):
        (a,) = supervisor.engines
        await swapper.wake([a])
        await until(lambda: a.state is EngineState.STOPPED)
        assert a.wakeable


async def test_too_long_and_too_many_are_told_with_what_to_do(tmp_path: Path) -> None:
    pinned = spec_of(tmp_path, name="p", residence=Residence(needs=(("cpu", 1),)))
    wanted = spec_of(tmp_path, name="w", residence=ONE)
    async with swapping(tmp_path, pinned, wanted, wait_s=0.3, queue=1) as (supervisor, swapper):
        await supervisor.start(resting=["w"])
        await supervisor.wait_ready()
        first = asyncio.create_task(swapper.wake([supervisor.engines[1]]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 requests wait"):
            await swapper.wake([supervisor.engines[1]])
        with pytest.raises(NotReady, match=r"not in memory yet after 0.3 s: .* which holds p") as caught:
            await first
        assert caught.value.headers[0][0] == b"retry-after"


async def test_a_model_that_cannot_start_says_so_to_everybody_who_waits(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "--fake-exit-text", "gated", name="bad", residence=ONE)
    async with swapping(tmp_path, spec) as (supervisor, swapper):
        waiting = [asyncio.create_task(swapper.wake(supervisor.engines)) for _ in range(3)]
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, NotReady)
            assert "gated" in str(error)


async def test_one_that_leaves_while_it_waits_is_forgotten(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path), least=60.0) as (supervisor, swapper):
        a, b = supervisor.engines
        await swapper.wake([a])
        waiting = asyncio.create_task(swapper.wake([b]))
        await until(lambda: "b" in swapper.waits)
        waiting.cancel()
        await until(lambda: not swapper.waits)
        assert (a.ready, b.state) == (True, EngineState.STOPPED)


async def test_an_engine_can_be_added_and_taken_out(tmp_path: Path) -> None:
    async with swapping(tmp_path, spec_of(tmp_path, name="a", residence=ONE), room=2) as (supervisor, swapper):
        (a,) = supervisor.engines
        await swapper.wake([a])
        supervisor.add(spec_of(tmp_path, name="b", residence=ONE))
        b = supervisor.engines[1]
        await swapper.wake([b])
        supervisor.let_go("a")
        await supervisor.gone(["a"])
        assert supervisor.engines == [b]
        assert pids(tmp_path, "a") == []
        with pytest.raises(NotReady, match="taken out of service"):
            await swapper.wake([a])
