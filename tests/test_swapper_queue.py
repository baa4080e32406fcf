"""The queue of the swapper: replicas, operators, crashes, shutdown, and memory that is still held."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.engines.swapper import Swapper
from aicockpit.errors import NotReady
from aicockpit.types import Address, EngineState, Residence
from engine_rig import spec_of, until
from test_swapper import ONE, generate, swapping, two

PINNED = Residence(needs=(("cpu", 1),))


class Slow:
    """Engines that show only when told what was asked of them."""

    version = 0
    leaving: tuple[Engine, ...] = ()

    def __init__(self, *names: str) -> None:
        address = Address(uds="/nowhere")
        self.engines = [Engine(name, address, Upstream(address), (name,), residence=ONE) for name in names]
        self.asked: list[tuple[str, str]] = []
        self.done = asyncio.Event()

    async def start_engine(self, name: str) -> None:
        self.asked.append(("start", name))
        await self.done.wait()

    async def put_away(self, name: str) -> None:
        self.asked.append(("put away", name))
        await self.done.wait()

    async def stop(self, name: str, *, patient: bool = False) -> None:
        self.asked.append(("end", name))
        await self.done.wait()

    async def changed(self, seen: int | None = None) -> int:
        await asyncio.Event().wait()
        return 0


def swapper_of(houses: Slow) -> Swapper:
    return Swapper(houses, {"cpu": 1}, min_resident_s=0, wait_s=None, queue=9)


async def test_what_was_begun_counts_before_the_engine_shows_it() -> None:
    houses = Slow("a", "b")
    swapper = swapper_of(houses)
    swapper.launch()
    leaves = asyncio.create_task(swapper.wake(houses.engines[:1]))
    await until(lambda: houses.asked == [("start", "a")])
    leaves.cancel()
    stays = asyncio.create_task(swapper.wake(houses.engines[1:]))
    await asyncio.sleep(0.05)
    assert houses.asked == [("start", "a")]
    houses.done.set()
    await until(lambda: ("start", "b") in houses.asked)
    await swapper.close()
    assert isinstance((await asyncio.gather(stays, return_exceptions=True))[0], NotReady)


async def test_at_the_end_nobody_waits_and_nobody_may_begin_to() -> None:
    houses = Slow("a")
    swapper = swapper_of(houses)
    swapper.launch()
    waiting = asyncio.create_task(swapper.wake(houses.engines))
    await until(lambda: houses.asked)
    assert (houses.engines[0].waiting, houses.engines[0].waits) == (1, "")
    await swapper.close()
    for call in (waiting, swapper.wake(houses.engines)):
        with pytest.raises(NotReady, match="the server is stopping"):
            await call


async def test_all_replicas_come_if_there_is_room_and_one_that_fails_takes_no_request_along(tmp_path: Path) -> None:
    good, bad = spec_of(tmp_path, name="a", residence=ONE), spec_of(tmp_path, name="b", residence=ONE)
    bad = replace(bad, argv=spec_of(tmp_path, "--fake-exit-text", "gated", name="b").argv)
    other = spec_of(tmp_path, "--fake-start-delay", "1", name="c", residence=ONE)
    async with swapping(tmp_path, bad, good, other, room=3) as (supervisor, swapper):
        await swapper.wake(supervisor.engines)
        assert supervisor.engines[1].ready
        await until(lambda: supervisor.engines[0].state is EngineState.FAILED)
        await until(lambda: supervisor.engines[2].ready)


async def test_a_start_by_an_operator_waits_for_its_memory_too(tmp_path: Path) -> None:
    pinned, other = two(tmp_path)
    async with swapping(tmp_path, replace(pinned, residence=PINNED), other) as (supervisor, swapper):
        a, b = supervisor.engines
        await swapper.wake([b])
        b.load.interactive += 1
        starting = asyncio.create_task(swapper.bring(a))
        await until(lambda: b.state is EngineState.STOPPING)
        await asyncio.sleep(0.3)
        assert a.state is EngineState.STOPPED
        b.load.interactive -= 1
        await starting
        assert (a.ready, b.state) == (True, EngineState.STOPPED)


async def test_one_that_failed_is_tried_again_for_an_operator(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "--fake-exit-text", "gated", name="a", residence=ONE)
    async with swapping(tmp_path, spec) as (supervisor, swapper):
        (a,) = supervisor.engines
        for _ in range(2):
            with pytest.raises(NotReady, match="gated"):
                await swapper.bring(a)
            assert a.state is EngineState.FAILED
        supervisor.respec(spec_of(tmp_path, name="a", residence=ONE))
        await swapper.bring(a)
        assert await generate(a) == 200


async def test_one_that_was_taken_out_holds_its_memory_until_its_last_answer(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path)) as (supervisor, swapper):
        a, b = supervisor.engines
        await swapper.wake([a])
        a.load.interactive += 1
        supervisor.let_go("a")
        waiting = asyncio.create_task(swapper.wake([b]))
        await asyncio.sleep(0.5)  # longer than `drain_wait`
        assert (supervisor.engines, b.state, await generate(a)) == ([b], EngineState.STOPPED, 200)
        assert "which holds a" in b.waits or "makes way" in b.waits
        a.load.interactive -= 1
        await waiting
        assert b.ready


async def test_what_is_offered_comes_only_where_there_is_room(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path)) as (supervisor, swapper):
        a, b = supervisor.engines
        swapper.offer(["a"])
        await until(lambda: a.ready)
        swapper.offer(["b"])
        await asyncio.sleep(0.3)
        assert (a.ready, b.state) == (True, EngineState.STOPPED)


async def test_a_start_that_crashed_is_waited_for_and_is_in_nobodys_way(tmp_path: Path) -> None:
    async with swapping(tmp_path, *two(tmp_path)) as (supervisor, swapper):
        a, b = supervisor.engines
        supervisor.respec(spec_of(tmp_path, "--fake-exit-text", "port", name="a", residence=ONE))
        waiting = asyncio.create_task(swapper.wake([a]))
        await until(lambda: a.state is EngineState.BACKOFF)
        assert a.coming_back
        assert not a.wakeable
        waiting.cancel()
        await swapper.wake([b])
        assert b.ready
