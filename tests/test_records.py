"""gateway/records.py: what is kept of a request, and for how many."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aicockpit.types import EngineState
from fake_client import start_fake
from join_rig import HEAD, Warm, joined, warm_head
from rig import engine_of, running

COMPLETION = {"model": "fake", "prompt": "def add(", "max_tokens": 2, "workspace": "proj"}


async def test_every_engine_that_was_weighed_is_told_with_what_came_of_it(tmp_path: Path) -> None:
    with start_fake(tmp_path, "--enable-prompt-tokens-details", "--fake-lie-cached", "144") as fake:
        good, cold = engine_of(fake, "good"), engine_of(fake, "cold")
        down = engine_of("http://127.0.0.1:9", "down")
        async with joined(tmp_path, Warm({"good": warm_head()}), good, cold, down) as rig:
            down.state, down.reason = EngineState.FAILED, "out of memory"
            answer = await rig.client.post("/v1/completions", json=COMPLETION)
            one = (await rig.client.get(f"/api/requests/{answer.headers['x-request-id']}")).json()
            listed = (await rig.client.get("/api/requests?limit=1")).json()["requests"]
    assert one["engine"] == "good"
    assert one["choice"].startswith(f"good: {len(HEAD)} of {len(HEAD)} tokens warm, 0 in work, 0.00 s; cold: 0 of ")
    assert one["candidates"] == [
        {"engine": "good", "state": "ready", "why_not": "", "load": 0, "overlap_tokens": len(HEAD), "cost_s": 0.0},
        {"engine": "cold", "state": "ready", "why_not": "", "load": 0, "overlap_tokens": 0, "cost_s": 0.16},
        {
            "engine": "down",
            "state": "failed",
            "why_not": "failed (out of memory)",
            "load": 0,
            "overlap_tokens": 0,
            "cost_s": None,
        },
    ]
    assert one["context"]["predicted_cached"] == len(HEAD)
    assert one["context"]["cached_tokens"] == 144
    assert listed == [one]


async def test_without_a_workspace_load_and_state_are_told(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake, "a"), engine_of(fake, "b")) as rig:
            rig.engines[0].load.agent = 2
            answer = await rig.chat()
            rig.engines[0].load.agent = 0
            one = (await rig.client.get(f"/api/requests/{answer.headers['x-request-id']}")).json()
    assert (one["engine"], one["choice"]) == ("b", "0 in work, least of 2")
    assert [(two["engine"], two["load"], two["overlap_tokens"]) for two in one["candidates"]] == [
        ("a", 2, None),
        ("b", 0, None),
    ]


async def test_one_that_failed_elsewhere_first_says_so(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of("http://127.0.0.1:9", "gone"), engine_of(fake, "good")) as rig:
            rig.engines[1].load.sent = 5
            answer = await rig.chat()
            one = (await rig.client.get(f"/api/requests/{answer.headers['x-request-id']}")).json()
    assert (one["engine"], one["failed_on"]) == ("good", ["gone"])
    assert [two["why_not"] for two in one["candidates"]] == ["it has just failed this request", ""]


async def test_a_refused_request_is_kept_with_the_engines_that_could_not_take_it(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            rig.engines[0].load.interactive = rig.gateway.forwarder.limits.queue
            answer = await rig.chat()
            rig.engines[0].load.interactive = 0
            one = (await rig.client.get(f"/api/requests/{answer.headers['x-request-id']}")).json()
    assert (answer.status_code, one["status"], one["engine"]) == (429, 429, None)
    assert "as many as it may" in one["candidates"][0]["why_not"]


async def test_warming_that_waits_for_a_quiet_moment_is_seen_and_counted(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            engine, forwarder = rig.engines[0], rig.gateway.forwarder

            async def figure(name: str) -> float:
                page = (await rig.client.get("/metrics")).text
                return float(next(line for line in page.splitlines() if line.startswith(name + "{")).split()[-1])

            assert await figure("aicockpit_prefetch_waiting_seconds") == 0
            engine.load.interactive = 1
            entered = asyncio.Event()

            async def warm() -> None:
                async with forwarder.turn(engine):
                    entered.set()

            steps = [asyncio.create_task(warm()) for _ in range(2)]
            await asyncio.sleep(0.3)
            assert not entered.is_set()
            waits = await figure("aicockpit_prefetch_waiting_seconds")
            assert waits >= 0.25
            assert await figure("aicockpit_prefetch_waited_seconds_total") == 0
            steps[0].cancel()
            await asyncio.gather(steps[0], return_exceptions=True)
            assert await figure("aicockpit_prefetch_waited_seconds_total") >= 0.25
            engine.load.interactive = 0
            forwarder.wake()
            await asyncio.wait_for(entered.wait(), 5)
            await steps[1]
            assert await figure("aicockpit_prefetch_waited_seconds_total") >= 0.5
            assert await figure("aicockpit_prefetch_waiting_seconds") == 0
            assert engine.load.held == []
