"""models/kv_files.py: vLLM's own KV files stay within their size; `tests/test_tier.py` has a name that vLLM made."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.models import kv_files
from aicockpit.models.kv_files import Trimmed, trim
from aicockpit.recipes.arrange import Plan, PlannedModel
from aicockpit.recipes.command import EngineShape
from aicockpit.roster import Roster
from aicockpit.settings import load
from aicockpit.types import KvTier

PAGE = 4096
PLACE = "0123456789abcdef/_models_m_0123456789ab_r0/abc/de_g0"


def block(folder: Path, number: int, used: float, size: int = PAGE, place: str = PLACE, end: str = ".bin") -> Path:
    path = folder / place / f"{number:064x}{end}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    path.chmod(0o644)
    os.utime(path, (used, used))
    return path


def held(*paths: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in paths if path.exists())


def test_what_was_unused_the_longest_goes_first(tmp_path: Path) -> None:
    paths = [block(tmp_path, number, 1000.0 + number) for number in range(10)]
    os.utime(paths[0], (5000, 1000))  # read of late
    size = held(*paths) // 2
    done = trim(tmp_path, size)
    assert done == Trimmed(held(*paths), 6)
    assert [path.exists() for path in paths] == [True, *[False] * 6, True, True, True]
    assert held(*paths) <= size
    assert trim(tmp_path, size).removed == 0


@given(st.lists(st.tuples(st.integers(1, 5 * PAGE), st.integers(1, 50)), max_size=12), st.integers(0, 40 * PAGE))
def test_it_keeps_the_size_and_never_a_file_older_than_one_that_went(files: list[tuple[int, int]], size: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [block(folder, number, used, length) for number, (length, used) in enumerate(files)]
        before, done = held(*paths), trim(folder, size)
        assert done.held == held(*paths) <= max(size, 0)
        gone = [used for path, (_, used) in zip(paths, files, strict=True) if not path.exists()]
        kept = [used for path, (_, used) in zip(paths, files, strict=True) if path.exists()]
        assert done.removed == len(gone)
        assert not gone or not kept or max(gone) <= min(kept)
        assert before > size or not gone


def test_each_look_has_the_kernel_note_the_next_read_too(tmp_path: Path) -> None:
    """`relatime` would note but one read a day."""
    path = block(tmp_path, 1, 1000)
    flags = os.statvfs(path).f_flag
    if flags & os.ST_NOATIME or not flags & os.ST_RELATIME:
        pytest.skip("not mounted with relatime")
    times = []
    for look in (False, False, True):
        if look:
            assert trim(tmp_path, 1 << 30).removed == 0
        time.sleep(0.02)
        path.read_bytes()
        times.append(path.stat().st_atime_ns)
    assert times[0] == times[1] < times[2]
    assert (path.stat().st_mtime, stat.S_IMODE(path.stat().st_mode)) == (1000, 0o644)
    changed = path.stat().st_ctime_ns
    trim(tmp_path, 1 << 30)
    trim(tmp_path, 1 << 30)
    again = path.stat().st_ctime_ns
    trim(tmp_path, 1 << 30)
    assert changed < again == path.stat().st_ctime_ns, "once for each read"


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path) -> None:
    others = [
        block(tmp_path, 1, 1, place="mine"),
        block(tmp_path, 1, 1, place="0123456789abcdef"),
        block(tmp_path, 1, 1, place="0123456789abcdef/_models_m_0123456789ab"),
        block(tmp_path, 1, 1, place="SmolLM2-0123456789abcdef0123456789abcdef/r0/ab", end=".kv"),
        block(tmp_path, 1, 1, place=PLACE, end=".txt"),
    ]
    (tmp_path / PLACE / f"{2:064x}.bin").symlink_to(others[0])
    (tmp_path / ("f" * 16)).symlink_to(tmp_path / "0123456789abcdef")
    assert trim(tmp_path, 0) == Trimmed(0, 0)
    assert all(path.exists() for path in others)


def test_half_written_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = block(tmp_path, 1, 1000, end=".bin_77.tmp")
    living = block(tmp_path, 2, 9000, end=".bin_78.tmp")
    assert trim(tmp_path, 0, now=9100) == Trimmed(held(living), 1)
    assert (dead.exists(), living.exists()) == (False, True)


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert trim(tmp_path / "gone", 0) == Trimmed(0, 0)


async def test_a_running_server_trims_what_its_engines_on_gpus_fill(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "gpu", tmp_path / "cpu"
    files = [block(folder, number, number) for folder in (ours, theirs) for number in range(4)]
    asked = load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state")})
    shapes = (
        EngineShape("a", gpus=("0",), kv_tier=KvTier("disk", PAGE, ours)),
        EngineShape("b", gpus=("1",), kv_tier=KvTier("disk", 2 * held(files[0]), ours)),
        EngineShape("c", kv_tier=KvTier("disk", PAGE, theirs)),  # our own connector keeps its size itself
        EngineShape("d", gpus=("2",), kv_tier=KvTier("cpu", PAGE)),
    )
    roster = Roster(asked, lambda *_: None)
    roster.plan = Plan((PlannedModel("m", "", shapes),))
    task = asyncio.create_task(roster.trim())
    try:
        async with asyncio.timeout(10):
            while files[2].exists():
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
    assert [path.exists() for path in files] == [False, False, False, True, True, True, True, True]
    assert kv_files.trim(ours, 2 * held(files[3])).removed == 0
