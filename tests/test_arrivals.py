"""While a request's prompt is made, no step of warming begins that it would have to wait for.

A request that waits for a model to come into memory holds up nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aicockpit.engines.engine import Engine
from aicockpit.errors import NotReady
from aicockpit.gateway import openai
from aicockpit.gateway.join import Joiner
from aicockpit.types import EngineState, Residence
from fake_client import start_fake
from join_rig import Warm, joined
from rig import engine_of, running, until


async def test_a_step_waits_for_a_prompt_that_is_being_made(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            forwarder, began = rig.gateway.forwarder, asyncio.Event()

            async def step() -> None:
                async with forwarder.turn(rig.engines[0]):
                    began.set()

            with forwarder.arrivals.one():
                with forwarder.arrivals.one():
                    task = asyncio.create_task(step())
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.02)
                assert not began.is_set()
            await asyncio.wait_for(task, 5)
            assert began.is_set()


async def test_each_request_is_counted_until_it_is_an_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    made = openai.exchange

    async def exchange(*values: Any) -> Any:
        await asyncio.sleep(0.01)
        seen.append((rig.gateway.forwarder.arrivals.count, rig.engines[0].load.total))
        return await made(*values)

    monkeypatch.setattr(openai, "exchange", exchange)
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            assert (await rig.chat()).status_code == 200
            assert (await rig.chat(model="unknown")).status_code == 404
            await until(lambda: rig.gateway.forwarder.arrivals.count == 0)
    assert seen == [(1, 0), (1, 0)]


class Sleepy:
    """Brings a model back when the test says so, or fails to."""

    def __init__(self) -> None:
        self.asked, self.go, self.works = asyncio.Event(), asyncio.Event(), True

    async def wake(self, engines: Sequence[Engine], /) -> None:
        self.asked.set()
        await self.go.wait()
        if not self.works:
            raise NotReady("it did not come back", code="loading")
        for engine in engines:
            engine.state = EngineState.READY


@pytest.mark.parametrize("works", [True, False])
async def test_a_request_for_a_model_that_sleeps_holds_up_no_warming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    join = Joiner.join
    counts: list[int] = []

    async def counted(*values: Any, **fields: Any) -> Any:
        counts.append(rig.gateway.forwarder.arrivals.count)
        return await join(*values, **fields)

    monkeypatch.setattr(Joiner, "join", counted)
    with start_fake(tmp_path) as fake:
        there, away = engine_of(fake, "there-0", ("there",)), engine_of(fake)
        away.state, away.residence = EngineState.SLEEPING, Residence(pinned=False)
        async with joined(tmp_path, Warm(), there, away) as rig:
            forwarder, waker = rig.gateway.forwarder, Sleepy()
            assert rig.gateway.joiner is not None
            rig.gateway.joiner.waker = forwarder.waker = waker
            waker.works = works
            request = asyncio.create_task(rig.chat(model="fake@proj"))
            await asyncio.wait_for(waker.asked.wait(), 5)
            async with asyncio.timeout(5):
                async with forwarder.turn(there):
                    assert not request.done()
            assert there.load.held_s < 1
            waker.go.set()
            assert (await request).status_code == (200 if works else 503)
            assert counts == ([1] if works else []), "it is counted again as soon as its prompt is made"
            await until(lambda: forwarder.arrivals.count == 0)
