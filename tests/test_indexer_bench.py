"""The indexer's benchmark in small: it measures with the real routes and store, ends, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import index
from benchmarks.index import Row
from benchmarks.index_site import Site


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "disk"))
    monkeypatch.setattr(index, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(index, "SETTLE_S", 0.3)
    monkeypatch.setattr(index, "IDLE_S", 0.3)
    return ["--files", "150", "--megabytes", "1", "--saves", "4"]


def children() -> set[int]:
    """Other tests may keep processes for the whole session."""
    return {child.pid for child in psutil.Process().children()}


def started(before: set[int]) -> set[int]:
    return children() - before


def test_it_measures_every_bar_and_removes_its_files(small: list[str], tmp_path: Path) -> None:
    before = children()
    assert index.main([*small, "--write"]) in (0, 1)  # how fast it is here is not asked
    assert list((tmp_path / "disk").iterdir()) == []
    page = (tmp_path / "page.md").read_text()
    for what in ("everything at the gateway", "restart with nothing changed", "p95", "branch switch, 150 files"):
        assert what in page
    assert page.count("PASS") + page.count("FAIL") >= 7
    assert "1 revision," in page
    assert not started(before), "both processes have ended"


def test_it_ends_when_there_is_no_time_and_removes_its_files(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LIMIT_S", 0.5)
    before = children()
    assert index.main(small) == 2
    assert list((tmp_path / "disk").iterdir()) == []
    assert not (tmp_path / "page.md").exists()
    assert not started(before)


async def test_the_two_processes_end_with_the_benchmark(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a.py").write_text("a")
    async with Site(tmp_path / "tree", tmp_path) as site, site.indexer() as indexer:
        await site.more_than(0, indexer)
        (revision,) = site.revisions
        assert revision.changes == 1
        assert revision.requests >= 3
        processes = [site.gateway._process, indexer._process]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()  # as it closes when the benchmark is killed
        async with asyncio.timeout(10):
            assert [await process.wait() for process in processes] == [0, 0]


def test_a_bar_is_what_a_figure_must_stay_under() -> None:
    assert [Row("x", seen, 5, "s").verdict for seen in (4.9, 5.0)] == ["PASS", "FAIL"]
    assert Row("x", 1234.56, None, "ms", "note").cells == ["x", "1,234.6 ms", "-", "-", "note"]
