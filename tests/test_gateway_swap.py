"""More models than memory behind one gateway: what clients see while models come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from aicockpit.engines.engine import Engine
from aicockpit.types import EngineState
from engine_rig import spec_of
from rig import KEY, Rig, chat_body, events, running, until
from test_swapper import ONE, swapping


@contextlib.asynccontextmanager
async def gateway_of(
    tmp_path: Path, *flags: str, wait_s: float = 20.0, least: float = 0.0, names: str = "ab", **settings: str
) -> AsyncIterator[tuple[Rig, list[Engine]]]:
    """One engine per letter of `names`, of which one fits in memory."""
    specs = [spec_of(tmp_path / "engines", *flags, name=name, residence=ONE) for name in names]
    engines = swapping(tmp_path / "engines", *specs, least=least, wait_s=wait_s, queue=64)
    async with (
        engines as (supervisor, swapper),
        running(tmp_path, live=supervisor.engines, waker=swapper, **settings) as rig,
    ):
        yield rig, supervisor.engines


async def ask(rig: Rig, model: str, **fields: Any) -> httpx.Response:
    return await rig.chat(model=model, **fields)


async def test_a_model_that_is_not_in_memory_answers_after_it_was_loaded(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (rig, (a, b)):
        for name, there, gone in (("a", a, b), ("b", b, a)):
            answer = await ask(rig, name)
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == name
            assert (there.state, gone.state) == (EngineState.READY, EngineState.STOPPED)
        assert (await rig.client.get("/ready")).status_code == 200
        cards = (await rig.client.get("/v1/models")).json()["data"]
        assert {card["id"]: card["ready"] for card in cards} == {"a": False, "b": True}


async def test_nothing_is_lost_while_models_swap_under_load(tmp_path: Path) -> None:
    async with gateway_of(tmp_path, "--fake-token-delay", "0.02", least=0.2) as (rig, engines):

        async def client(number: int) -> list[tuple[int, bool]]:
            seen = []
            for turn in range(4):
                stream = (number + turn) % 3 == 0
                answer = await ask(rig, "ab"[(number + turn) % 2], stream=stream, max_tokens=8)
                whole = events(answer.text)[-1] == "[DONE]" if stream else bool(answer.json().get("choices"))
                seen.append((answer.status_code, whole))
            return seen

        answers = await asyncio.gather(*(client(number) for number in range(12)))
        assert [one for many in answers for one in many] == [(200, True)] * 48
        assert all(engine.generation >= 1 for engine in engines)
        assert sum(engine.restarts for engine in engines) == 0


async def test_background_work_wakes_a_model_too(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (rig, _):
        answer = await rig.chat(model="b", headers={"x-aicockpit-lane": "background"})
        assert answer.status_code == 200


async def test_a_wait_that_is_too_long_is_a_503_that_clients_survive(tmp_path: Path) -> None:
    async with gateway_of(tmp_path, "--fake-start-delay", "2", wait_s=0.5) as (rig, _):
        answer = await ask(rig, "a")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "loading"
        client = openai.AsyncOpenAI(api_key=KEY, base_url=f"http://127.0.0.1:{rig.port}/v1", max_retries=8)
        async with client:
            made = await client.chat.completions.create(**chat_body(model="a"))
        assert made.choices[0].message.content


async def test_a_client_that_leaves_while_it_waits_brings_no_model(tmp_path: Path) -> None:
    async with gateway_of(tmp_path, least=60) as (rig, (a, b)):
        assert (await ask(rig, "a")).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            await rig.client.post("/v1/chat/completions", json=chat_body(model="b"), timeout=0.3)
        await until(lambda: rig.gateway.inflight == 0)
        assert (a.state, b.state) == (EngineState.READY, EngineState.STOPPED)


async def test_a_newer_request_in_the_slot_takes_the_place_of_one_that_waits(tmp_path: Path) -> None:
    async with gateway_of(tmp_path, "--fake-start-delay", "0.5") as (rig, _):
        slot = {"x-aicockpit-slot": "cursor"}
        first = asyncio.create_task(rig.chat(model="a", headers=slot))
        await until(lambda: rig.gateway.inflight == 1)
        await asyncio.sleep(0.05)
        second = await rig.chat(model="a", headers=slot)
        assert (await first).status_code == 499
        assert second.status_code == 200


async def test_a_model_that_crashes_while_others_wait_for_it_comes_back(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (rig, (a, _)):
        assert (await ask(rig, "a")).status_code == 200
        await a.upstream.fetch("POST", "/fake/set", b'{"die_after": 0}', limit_s=5)
        statuses = {(await ask(rig, "a")).status_code}
        await until(lambda: a.restarts == 1 and a.ready, 20)
        statuses.add((await ask(rig, "a")).status_code)
        assert statuses <= {200, 502, 503}
        assert 200 in statuses
