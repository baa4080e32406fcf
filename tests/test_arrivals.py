"""While a request's prompt is made, no step of warming begins that it would have to wait for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aicockpit.gateway import openai
from fake_client import start_fake
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
