"""Who waits for whom: lanes and slots, from the client's side and from the engine's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from aicockpit.types import Lane
from fake_client import start_fake
from rig import aborted, engine_of, events, running, until


async def test_background_work_waits_for_interactive_work(tmp_path: Path) -> None:
    lane = {"x-aicockpit-lane": "background"}
    with start_fake(tmp_path, "--fake-first-delay", "1.5") as fake:
        async with running(tmp_path, engine_of(fake), background_wait="20", background_queue="2") as rig:
            order: list[str] = []

            async def call(name: str, **extra: Any) -> httpx.Response:
                answer = await rig.chat(**extra)
                order.append(name)
                return answer

            typing = asyncio.create_task(call("interactive"))
            await until(lambda: rig.engines[0].load.interactive == 1)
            waiting = [asyncio.create_task(call(f"background {n}", headers=lane)) for n in range(2)]
            await asyncio.sleep(0.1)
            assert fake.state()["started"] == 1
            full = await rig.chat(headers=lane)
            agent = asyncio.create_task(call("agent", headers={"x-aicockpit-lane": "agent"}))
            await asyncio.gather(typing, agent, *waiting)
            last = json.loads(base64.b64decode(fake.last()["body"]))
            unknown = await rig.chat(headers={"x-aicockpit-lane": "fast"})
    assert full.status_code == 429
    assert order[0] == "interactive"
    assert [name for name in order if name.startswith("back")] == ["background 0", "background 1"]
    assert last["priority"] == Lane.BACKGROUND.priority
    assert (unknown.status_code, "interactive" in unknown.text) == (400, True)


async def test_a_background_client_that_leaves_gives_up_its_place(tmp_path: Path) -> None:
    lane = {"x-aicockpit-lane": "background"}
    with start_fake(tmp_path, "--fake-first-delay", "1.5") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            typing = asyncio.create_task(rig.chat())
            await until(lambda: rig.engines[0].load.interactive == 1)
            first = asyncio.create_task(rig.chat(headers=lane))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(rig.chat(headers=lane))
            await asyncio.sleep(0.05)
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await first
            await typing
            assert (await second).status_code == 200
        assert fake.state()["started"] == 2


async def test_background_work_gives_up_after_its_limit(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--fake-hang") as fake:
        async with running(tmp_path, engine_of(fake), background_wait="0.2") as rig:
            typing = asyncio.create_task(rig.chat())
            await until(lambda: rig.engines[0].load.interactive == 1)
            answer = await rig.chat(headers={"x-aicockpit-lane": "background"})
            typing.cancel()
            await asyncio.gather(typing, return_exceptions=True)
    assert answer.status_code == 429
    assert "AICOCKPIT_BACKGROUND_WAIT" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_newer_request_in_the_slot_cancels_the_older_upstream(tmp_path: Path, stream: bool) -> None:
    slot = {"x-aicockpit-slot": "editor-1"}
    with start_fake(tmp_path, "--fake-token-delay", "0.05") as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            older = asyncio.create_task(rig.chat(headers=slot, stream=stream, max_tokens=400))
            await asyncio.to_thread(fake.wait_state, active=1)
            await asyncio.sleep(0.2)
            newer = await rig.chat(headers=slot, max_tokens=2)
            lost = await older
            await aborted(fake)
            other = await rig.chat(headers={"x-aicockpit-slot": "editor-2"}, max_tokens=1)
            assert len(rig.gateway.slots) == 0
            long = await rig.chat(headers={"x-aicockpit-slot": "s" * 200})
    assert (newer.status_code, other.status_code, long.status_code) == (200, 200, 400)
    if stream:
        assert events(lost.text)[-1]["error"]["code"] == "superseded"
    else:
        assert (lost.status_code, lost.json()["error"]["code"]) == (499, "superseded")
