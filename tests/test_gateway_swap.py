"""More models than memory behind one gateway: what clients see while models come and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from aicockpit.engines.engine import Engine
from aicockpit.engines.swap import HOLDING
from aicockpit.types import EngineState, Lane
from engine_rig import spec_of
from rig import KEY, Rig, chat_body, events, running, until
from test_swapper import ONE, swapping


@contextlib.asynccontextmanager
async def gateway_of(
    tmp_path: Path,
    *flags: str,
    wait_s: float = 20.0,
    least: float = 0.0,
    names: str = "ab",
    room: int = 1,
    queue: int = 64,
) -> AsyncIterator[tuple[Rig, list[Engine]]]:
    """One engine per letter of `names`, of which `room` fit in memory."""
    specs = [spec_of(tmp_path / "engines", *flags, name=name, residence=ONE) for name in names]
    engines = swapping(tmp_path / "engines", *specs, room=room, least=least, wait_s=wait_s, queue=queue)
    async with (
        engines as (supervisor, swapper),
        running(tmp_path, live=supervisor.engines, waker=swapper) as rig,
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
        assert (await ask(rig, "a")).status_code == 502  # cut by the crash itself
        await until(lambda: not a.ready)
        assert (await ask(rig, "a")).status_code == 200  # waits for the restart
        assert a.restarts == 1


async def test_a_request_between_a_crash_and_its_notice_waits_for_the_engine(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (rig, (a, _)):
        assert (await ask(rig, "a")).status_code == 200
        a.breaker.failures, a.breaker.open_until = a.breaker.threshold, float("inf")
        waiting = asyncio.create_task(ask(rig, "a"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert a.pid is not None
        os.kill(a.pid, signal.SIGKILL)
        assert (await waiting).status_code == 200
        a.breaker.failures, a.breaker.open_until = a.breaker.threshold, float("inf")
        refused = await ask(rig, "a")  # it lives: its failures are its own
        assert (refused.status_code, "circuit open" in refused.text) == (503, True)


async def test_prefetch_is_no_use_and_does_not_keep_a_model_in_memory(tmp_path: Path) -> None:
    async with gateway_of(tmp_path) as (rig, (a, _)):
        assert (await ask(rig, "a")).status_code == 200
        used = a.used
        async with rig.gateway.forwarder.turn(a):
            assert (a.load.total, a.load.users) == (1, 0)
        assert (a.load.total, a.load.prefetch, a.used) == (0, 0, used)
        with rig.gateway.forwarder.occupied(a, Lane.INTERACTIVE):  # a WebSocket
            assert a.load.users == 1
        assert a.used > used


async def test_who_waits_and_why_is_shown(tmp_path: Path) -> None:
    async with gateway_of(tmp_path, least=60, wait_s=3) as (rig, (_, b)):
        assert (await ask(rig, "a")).status_code == 200
        waiting = [asyncio.create_task(ask(rig, "b")) for _ in range(3)]
        await until(lambda: b.waiting == 3)
        shown = (await rig.client.get("/api/engines/b")).json()
        assert shown["waiting"] == 3
        assert shown["waits"].startswith("a has just been loaded and stays for")
        for answer in await asyncio.gather(*waiting):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        await until(lambda: (b.waiting, b.waits) == (0, ""))


async def test_a_full_queue_is_a_429_with_retry_after(tmp_path: Path) -> None:
    async with gateway_of(tmp_path, "--fake-start-delay", "1", queue=2) as (rig, _):
        answers = await asyncio.gather(*(ask(rig, "a") for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
        for answer in answers:
            assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1


async def test_a_storm_with_crashes_loses_only_what_a_crash_cut(tmp_path: Path) -> None:
    """Four models in room for two; whatever was not in work on an engine when that was killed gets its answer."""
    dice = random.Random(7)
    flags = ("--fake-token-delay", "0.01")
    async with gateway_of(tmp_path, *flags, least=0.2, wait_s=50, names="abcd", room=2, queue=400) as (rig, engines):
        kills: list[tuple[str, int]] = []

        async def kill() -> None:
            while len(kills) < 6:
                await asyncio.sleep(dice.uniform(0.3, 0.8))
                often = Counter(name for name, _ in kills)
                there = [one for one in engines if one.ready and one.pid is not None and often[one.name] < 2]
                if there:
                    victim = dice.choice(there)
                    assert victim.pid is not None
                    os.kill(victim.pid, signal.SIGKILL)
                    kills.append((victim.name, victim.load.total))

        async def client(number: int) -> list[tuple[str, int, bool]]:
            seen = []
            for _ in range(12):
                name, stream = dice.choice("abcd"), dice.random() < 0.5
                answer = await ask(rig, name, stream=stream, max_tokens=6)
                whole = answer.text.rstrip().endswith("[DONE]") if stream else "choices" in answer.json()
                seen.append((name, answer.status_code, whole))
            return seen

        async def watch() -> None:
            while True:
                there = [one for one in engines if one.state in HOLDING]
                assert len(there) <= 2, [(one.name, one.state) for one in engines]
                await asyncio.sleep(0.005)

        helpers = [asyncio.create_task(kill()), asyncio.create_task(watch())]
        try:
            found = [one for many in await asyncio.gather(*(client(n) for n in range(25))) for one in many]
        finally:
            for task in helpers:
                task.cancel()
            ends = await asyncio.gather(*helpers, return_exceptions=True)
        assert not [end for end in ends if isinstance(end, Exception)], ends
        assert len(found) == 300
        lost = [one for one in found if one[1:] != (200, True)]
        assert {name for name, _, _ in lost} <= {name for name, _ in kills}
        assert all(status in (200, 502) for _, status, _ in lost), lost  # 200: a stream that ends with an error event
        # A few more may have come before the end of a process was noticed.
        assert len(lost) <= sum(in_work + 3 for _, in_work in kills), (lost, kills)
        assert sum(engine.load.total for engine in engines) == 0
