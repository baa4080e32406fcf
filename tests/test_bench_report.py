"""The benchmark's pure parts, and the stub engine that every figure rests on."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import load, report, wrk
from benchmarks.bars import Results, Soak, check
from benchmarks.model import CHUNKS, LoadResult, Measurement, Missing, Scenario, chat_body
from benchmarks.peers import PACKAGES
from benchmarks.stats import added, memory_flat, percentile, ratio
from benchmarks.stub import State, Stub


def cell(gateway: str, rate: float, kind: str = "json", connections: int = 32, p50: float = 1.0) -> Measurement:
    scene = Scenario("json" if kind == "json" else "sse", "2 kB", connections)
    chunks = 0 if kind == "json" else int(rate)
    seen = LoadResult(requests=int(rate), chunks=chunks, seconds=1.0, p50=p50, p99=p50 * 2)
    return Measurement(gateway, scene, seen, cpu=0.5, memory=50_000_000)


@pytest.mark.parametrize(("share", "expected"), [(50, 5), (99, 10), (100, 10), (1, 1)])
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == expected


def test_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 50) == 0.0


def test_ratio_and_added() -> None:
    assert ratio(3, 2) == 1.5
    assert ratio(3, 0) is None
    assert ratio(0, 3) is None
    assert added(0.5, 0.2) == pytest.approx(0.3)
    assert added(0.1, 0.2) == 0.0


@pytest.mark.parametrize(
    ("baseline", "samples", "flat"),
    [
        (50_000_000, [50_000_000, 59_000_000], True),
        (50_000_000, [50_000_000, 61_000_000], False),
        (500_000_000, [545_000_000], True),
        (500_000_000, [560_000_000], False),
        (50_000_000, [90_000_000, 50_000_000, 50_000_000, 50_000_000], True),
        (50_000_000, [], False),
    ],
)
def test_memory_is_flat_below_ten_per_cent_or_ten_megabytes(baseline: int, samples: list[int], flat: bool) -> None:
    assert memory_flat(baseline, samples)[0] is flat


def test_bodies_have_their_size_and_say_what_the_stub_must_do() -> None:
    small, large = chat_body("json", "2 kB"), chat_body("sse", "200 kB")
    assert 1_800 < len(small) < 2_300
    assert 190_000 < len(large) < 215_000
    assert "stream" not in json.loads(small)
    assert json.loads(large)["stream"] is True


def test_bars_pass_are_missed_or_say_that_nothing_was_measured() -> None:
    direct, router = cell("direct", 50_000, connections=1), cell("vllm-router", 10_000)
    fast = [cell("ours", 7_000), cell("ours", 900, connections=1, p50=1.9), direct, router]
    soak = Soak(flat=True, growth=0, settled=False, text="one stream left")
    assert [bar.verdict for bar in check(Results(fast), None)] == [
        "PASS",
        "NOT MEASURED",
        "PASS",
        "PASS",
        "NOT MEASURED",
    ]
    part = Soak(flat=True, growth=0, settled=True, text="", whole=False)
    assert check(Results(fast), part)[-1].verdict == "NOT MEASURED"
    slow = [cell("ours", 900), cell("ours", 300, connections=1, p50=3.0), direct, router]
    slow += [cell("ours", 90_000, "sse"), cell("vllm-router", 80_000, "sse"), cell("sglang-router", 91_000, "sse")]
    assert {bar.verdict for bar in check(Results(slow), soak)} == {"MISSED"}


def test_rows_hold_ratios_to_direct_and_to_nginx() -> None:
    all_cells = [cell("direct", 40_000, p50=0.5), cell("nginx", 20_000), cell("ours", 10_000, p50=2.0)]
    line = report.row(all_cells[2], Results(all_cells))
    assert len(line) == len(report.header("json"))
    assert line[:5] == ["ours", "32", "10,000", "0.25x", "0.50x"]
    assert line[7] == "1.50 (3.00x)"
    assert report.row(all_cells[0], Results(all_cells))[-3:-1] == ["-", "-"]


def test_page_names_versions_missing_peers_and_figures_near_the_ceiling() -> None:
    results = Results([cell("direct", 40_000), cell("nginx", 39_000), cell("ours", 8_000)])
    missing = [Missing("litellm", "no such package")]
    facts = report.Facts(
        "2026-01-01", "2 cores", "python benchmarks/gateway.py", 5, 2, "wrk", {"nginx": "1.2"}, missing
    )
    page = report.render(facts, results, check(results, None))
    assert "- nginx 1.2\n- litellm: not measured: no such package" in page
    assert "| ours | 32 | 8,000 |" in page
    assert "nginx, JSON, 2 kB, 32 connections: 98% of the direct rate" in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith(("| ours", "| gateway", "| direct"))}
    assert widths == {len(report.header("json")) + 1}


def test_markers_are_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "performance.md"
    report.write(page, "first")
    report.write(page, "second")
    text = page.read_text()
    assert text.startswith("# Performance")
    assert f"{report.BEGIN}\nsecond\n{report.END}\n" in text
    assert "first" not in text
    assert report.replace_between("kept\n", "x") == f"kept\n\n{report.BEGIN}\nx\n{report.END}\n"
    with pytest.raises(ValueError, match="markers"):
        report.replace_between(report.END + report.BEGIN, "x")


def test_reasons_are_published_without_addresses_and_folders() -> None:
    said = "no wheel at https://index.invalid/simple/x in\n /home/me/tree/.bench/x"
    assert report.clean(said, ["/home/me/tree", "/"]) == "no wheel at (address) in .../.bench/x"


def test_peers_are_pinned_and_never_to_a_release_that_an_attacker_published() -> None:
    assert all("==" in requirement for requirement in PACKAGES.values())
    assert PACKAGES["litellm"].rpartition("==")[2] not in {"1.82.7", "1.82.8", "1.107.0"}


def test_wrk_output_is_read_and_error_answers_are_no_requests() -> None:
    line = 'RESULT {"requests":100,"us":2000000,"status":10,"socket":1,"timeout":0,"p50":1500.0,"p99":3000.0}'
    seen = wrk.result(f"Running 2s test\n{line}\n")
    assert (seen.requests, seen.errors, seen.seconds, seen.p50) == (90, 11, 2.0, 1.5)
    assert seen.note == "10 status errors, 1 socket errors"
    assert wrk.result("unable to connect").errors == 1


@pytest.fixture
async def stub() -> AsyncIterator[int]:
    state = State()
    server = await asyncio.get_running_loop().create_server(lambda: Stub(state), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_stub_answers_what_a_gateway_asks(stub: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{stub}", trust_env=False) as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "bench"
        assert (await client.get("/health")).content == b""
        assert "vllm:num_requests_running{" in (await client.get("/metrics")).text
        assert (await client.get("/absent")).status_code == 404
        tokens = await client.post("/v1/completions", json={"model": "bench", "prompt": "a", "max_tokens": 1})
        assert tokens.json()["object"] == "text_completion"
        for size in ("2 kB", "200 kB"):
            chat = await client.post("/v1/chat/completions", content=chat_body("json", size))
            assert chat.json()["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize("kind", ["sse", "paced"])
async def test_stub_streams_every_chunk(stub: int, kind: str) -> None:
    body = chat_body("sse" if kind == "sse" else "paced", "2 kB")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{stub}", trust_env=False) as client:
        lines = (await client.post("/v1/chat/completions", content=body)).text.split("\n\n")
        assert len(lines) == CHUNKS + 2
        assert lines[-2:] == ["data: [DONE]", ""]
        first, last = (json.loads(lines[i].removeprefix("data: ")) for i in (0, CHUNKS - 1))
        stamps = [int(event["choices"][0]["delta"]["content"].split()[1]) for event in (first, last)]
        assert (stamps[1] - stamps[0] > 900_000_000) is (kind == "paced")
        assert (await client.get("/stub/state")).json() == {"active": 0, "aborted": 0, "served": 1}


async def _eventually(client: httpx.AsyncClient, good: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    async with asyncio.timeout(5):
        while not good(state := (await client.get("/stub/state")).json()):
            await asyncio.sleep(0.01)
    return dict(state)


async def test_load_counts_what_the_stub_served(stub: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{stub}", trust_env=False) as client:
        seen = await load.drive(load.Spec(stub, "json", "2 kB", 4, 20, most=200))
        assert (seen.requests, seen.errors) == (200, 0)
        assert 0 < seen.p50 <= seen.p99
        seen = await load.drive(load.Spec(stub, "sse", "2 kB", 4, 20, most=8))
        assert (seen.requests, seen.chunks) == (8, 8 * CHUNKS)
        seen = await load.drive(load.Spec(stub, "abort", "2 kB", 4, 20, most=12))
        assert seen.requests == 12
        state = await _eventually(client, lambda s: not s["active"] and s["aborted"] == 12)
        assert state["served"] == 208


async def test_load_reports_refused_answers_and_lost_connections() -> None:
    answers = iter([b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b""])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        seen = await load.drive(load.Spec(port, "json", "2 kB", 1, 20, most=3))
        assert (seen.requests, seen.errors) == (0, 3)
        assert "503 Busy" in seen.note
    nobody = await load.drive(load.Spec(port, "json", "2 kB", 1, 20, most=2))
    assert (nobody.requests, nobody.errors) == (0, 2)
