"""The engine's own metrics through the gateway, and its preemptions: counted, shown, with what to do about them."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.console import detail
from aicockpit.errors import BadGateway, GatewayTimeout, NotReady
from aicockpit.gateway import admin, engine_page
from aicockpit.gateway.auth import KeyStore
from aicockpit.gateway.metrics import engine_counts
from aicockpit.gateway.pressure import WINDOW_S, Pressure, Told, advice
from aicockpit.types import EngineState
from fake_client import FakeVllm, start_fake
from rig import engine_of, running

DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def engines(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await client.get("/api/engines")
    return list(answer.json()["engines"])


async def test_the_engine_s_own_page_passes_unchanged(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        fake.set(preemptions=3)
        async with running(tmp_path, engine_of(fake)) as rig:
            answer = await rig.client.get("/api/engines/fake-0/metrics")
            direct = await engine_of(fake).upstream.fetch("GET", "/metrics", limit_s=5)
    assert answer.status_code == 200
    assert answer.content == direct[1]
    assert answer.headers["content-type"].startswith("text/plain")
    assert "vllm:kv_cache_usage_perc{" in answer.text
    counts = engine_counts(answer.text)
    assert counts is not None
    assert counts.preempted == 3


async def test_only_an_admin_reads_it(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            path = "/api/engines/fake-0/metrics"
            store = KeyStore(tmp_path / "state")
            user, admin = store.create("laptop"), store.create("operator", admin=True)
            refused = await rig.client.get(path, headers={"authorization": f"Bearer {user}"})
            taken = await rig.client.get(path, headers={"authorization": f"Bearer {admin}"})
            bare = await rig.client.get(path, headers={"authorization": ""})
    assert code(refused) == (403, "forbidden")
    assert "keys create NAME --admin" in refused.json()["error"]["message"]
    assert (taken.status_code, bare.status_code) == (200, 401)


async def test_an_engine_that_is_not_there_or_not_ready_is_told(tmp_path: Path) -> None:
    away = engine_of("http://127.0.0.1:9", "away-0")
    off = engine_of("http://127.0.0.1:9", "off-0")
    off.state, off.reason = EngineState.STOPPED, "stopped by an operator"
    async with running(tmp_path, away, off) as rig:
        unknown = await rig.client.get("/api/engines/nope/metrics")
        stopped = await rig.client.get("/api/engines/off-0/metrics")
        silent = await rig.client.get("/api/engines/away-0/metrics")
    assert code(unknown) == (404, "engine_not_found")
    assert (code(stopped), code(silent)) == ((503, "engine_not_ready"), (503, "engine_not_ready"))
    assert "off-0 is stopped (stopped by an operator)" in stopped.json()["error"]["message"]
    assert stopped.headers["retry-after"] == "5"


@asynccontextmanager
async def server(answer: bytes, *, endless: bool = False) -> AsyncIterator[int]:
    """An engine that says that to everything, and then, if endless, the same word for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            while endless:
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    door = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with door:
        yield door.sockets[0].getsockname()[1]


async def test_a_page_is_bounded_in_size_and_time() -> None:
    endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with server(endless, endless=True) as port:
        engine = engine_of(f"http://127.0.0.1:{port}")
        with pytest.raises(BadGateway, match="larger than 65536 bytes"):
            await engine_page.page(engine, limit=1 << 16)
        engine.upstream.close()
    async with server(b"") as port:
        engine = engine_of(f"http://127.0.0.1:{port}")
        with pytest.raises(GatewayTimeout, match=r"within 0\.1 s"):
            await engine_page.page(engine, wait_s=0.1)
        engine.upstream.close()
    async with server(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n") as port:
        engine = engine_of(f"http://127.0.0.1:{port}")
        with pytest.raises(BadGateway, match="status 404"):
            await engine_page.page(engine)
        engine.upstream.close()
    with pytest.raises(NotReady, match="does not answer"):
        await engine_page.page(engine_of(f"http://127.0.0.1:{port}"))


async def test_preemptions_are_counted_over_all_lives_and_told_with_advice(tmp_path: Path) -> None:
    def life(name: str) -> AbstractContextManager[FakeVllm]:
        (tmp_path / name).mkdir()
        return start_fake(tmp_path / name)

    with life("one") as one, life("two") as two:
        engine = engine_of(one)
        async with running(tmp_path, engine) as rig:
            await rig.chat("one two three " * 40)
            one.set(preemptions=2)
            (first,) = await engines(rig.client)
            one.set(preemptions=5)
            page = (await rig.client.get("/metrics")).text
            (told,) = await engines(rig.client)
            other = engine_of(two)  # it was started again, and counts from 0
            engine.address, engine.upstream = other.address, other.upstream
            two.set(preemptions=1)
            after = (await rig.client.get("/metrics")).text
            alone = (await rig.client.get("/api/engines/fake-0")).json()
    assert first["preemptions"] == {"total": 2, "recent": None, "over_seconds": None}
    assert first["advice"] == ""
    assert 'aicockpit_preemptions_total{engine="fake-0"} 5.0' in page
    assert (told["preemptions"]["total"], told["preemptions"]["recent"]) == (5, 3)
    assert told["advice"].startswith("3 requests were preempted in the last 1 min: the KV cache does not hold")
    assert "lower --max-num-seqs" in detail({**told, "waiting": 0})
    assert 'aicockpit_preemptions_total{engine="fake-0"} 6.0' in after
    assert alone["preemptions"]["total"] == 6


async def test_an_engine_that_counts_none_gets_no_figure_and_no_advice(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake), engine_of("http://127.0.0.1:9", "away-0")) as rig:
            for _ in range(2):
                page = (await rig.client.get("/metrics")).text
            here, away = await engines(rig.client)
    assert here["preemptions"]["total"] == here["preemptions"]["recent"] == 0
    assert here["advice"] == away["advice"] == ""
    assert away["preemptions"]["total"] is None
    assert 'aicockpit_preemptions_total{engine="away-0"}' not in page


def test_an_engine_that_began_lately_counts_from_its_start() -> None:
    pressure = Pressure()
    pressure.note(4, 1_120.0, 1_000.0)
    assert pressure.told(1_120.0) == Told(4, 4, 120.0)
    assert pressure.told(1_121.0 + WINDOW_S) == Told(4), "an engine that is not read any more has nothing recent"
    assert advice(pressure.told(1_120.0)).startswith("4 requests were preempted in the last 2 min")
    old = Pressure()
    old.note(4, 1_000.0 + WINDOW_S + 1, 1_000.0)
    now = 1_000.0 + WINDOW_S + 1
    assert old.told(now) == Told(4)
    assert advice(old.told(now)) == ""


def test_advice_ends_when_the_window_has_passed() -> None:
    pressure = Pressure()
    pressure.note(0, 0.0, 0.0)
    pressure.note(1, 60.0, 0.0)
    assert advice(pressure.told(60.0)).startswith("1 request was preempted in the last 1 min")
    pressure.note(1, 60.0 + WINDOW_S, 0.0)
    pressure.note(1, 70.0 + WINDOW_S, 0.0)
    assert advice(pressure.told(70.0 + WINDOW_S)) == ""


@given(st.lists(st.tuples(st.floats(0.001, 400), st.integers(0, 5)), min_size=2, max_size=60))
def test_what_is_recent_is_what_was_added_within_the_window(steps: list[tuple[float, int]]) -> None:
    pressure, now, total = Pressure(), 0.0, 0
    seen = []
    for wait, more in steps:
        now, total = now + wait, total + more
        seen.append((now, total))
        pressure.note(total, now, 0.0)
    told = pressure.told(now)
    assert told.total == total
    assert told.over_s <= WINDOW_S
    if told.recent is not None:
        began = next(count for at, count in seen if at == now - told.over_s or abs(at - (now - told.over_s)) < 1e-6)
        assert told.recent == total - began
    lately = [count for at, count in seen if now - at <= WINDOW_S - 10]
    if len(lately) > 1:
        assert (told.recent or 0) >= lately[-1] - lately[0]


def test_the_scrape_config_of_the_docs_names_routes_that_there_are() -> None:
    text = DOCS.read_text().partition("```yaml\n")[2].partition("```")[0]
    jobs = yaml.safe_load(text)["scrape_configs"]
    paths = [job.get("metrics_path", "/metrics") for job in jobs]
    assert paths == ["/metrics", "/api/engines/NAME/metrics"]
    assert all(job["authorization"]["credentials_file"] for job in jobs)


async def test_counters_are_read_though_nobody_asks(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            assert "watch engines" in [task.get_name() for task in asyncio.all_tasks()]
            watch = rig.gateway.watch
            assert isinstance(watch, functools.partial)
            controls, collector = watch.args
            fake.set(preemptions=2)
            task = asyncio.create_task(admin.watch(controls, collector, period_s=0.05))
            async with asyncio.timeout(20):
                while collector.pressure("fake-0").told(time.monotonic()).total != 2:
                    await asyncio.sleep(0.05)
            task.cancel()
        assert "watch engines" not in [task.get_name() for task in asyncio.all_tasks()]


async def test_readings_that_overlap_are_one(tmp_path: Path) -> None:
    with start_fake(tmp_path) as fake:
        async with running(tmp_path, engine_of(fake)) as rig:
            await rig.client.post("/v1/completions", json={"model": "fake", "prompt": "one two three", "max_tokens": 1})
            await asyncio.gather(*(rig.client.get("/metrics") for _ in range(20)))
            page = (await rig.client.get("/metrics")).text
            direct = engine_counts((await rig.client.get("/api/engines/fake-0/metrics")).text)
    assert direct is not None
    assert direct.prompt > 0
    assert f'aicockpit_prompt_tokens_total{{engine="fake-0"}} {direct.prompt}' in page


async def test_the_share_of_prompt_tokens_found_cached_is_told_of_all_lives(tmp_path: Path) -> None:
    def life(name: str) -> AbstractContextManager[FakeVllm]:
        (tmp_path / name).mkdir()
        return start_fake(tmp_path / name, "--block-size", "16")

    async def ask(client: httpx.AsyncClient) -> None:
        body = {"model": "fake", "prompt": list(range(1, 161)), "max_tokens": 1}
        assert (await client.post("/v1/completions", json=body)).status_code == 200

    with life("one") as one, life("two") as two:
        engine = engine_of(one)
        async with running(tmp_path, engine, engine_of("http://127.0.0.1:9", "away-0")) as rig:
            for _ in range(2):
                await ask(rig.client)
            (told, away) = await engines(rig.client)
            other = engine_of(two)  # it was started again, with nothing in its cache
            engine.address, engine.upstream = other.address, other.upstream
            await ask(rig.client)
            await rig.client.get("/metrics")
            (later, _) = await engines(rig.client)
    assert told["prompt_tokens"] == {"total": 320, "cached": 144, "cached_share": 0.45}
    assert detail(told) == "45% of 320 prompt tokens found cached"
    assert later["prompt_tokens"] == {"total": 480, "cached": 144, "cached_share": 0.3}
    assert away["prompt_tokens"] == {"total": None, "cached": None, "cached_share": None}
    assert "prompt tokens" not in detail(away)
