"""A load that falls behind computing is cut, and the disk is measured while nobody waits for it."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from aicockpit.kvdisk.chooser import LEAST_S, UNKNOWN_S, choose, patience
from aicockpit.kvdisk.loader import Loaded, Loader
from aicockpit.kvdisk.meter import STALE_S, ComputeMeter, ComputeRate, LoadMeter, LoadRate
from aicockpit.kvdisk.probe import PROBE_BLOCKS, as_it_was, in_memory, some_stored
from aicockpit.kvdisk.shelf import Shelf
from aicockpit.kvdisk.stats import Counts
from kvdisk_load_rig import SIZE, Rig
from kvdisk_rig import Memory, block, name_of, shelf_in, store, until

COMPUTE = ComputeRate(0.001, 0.0)


@pytest.mark.parametrize("slower", [0.4, 2, 5, 20])
def test_a_load_costs_little_more_than_computing_at_any_speed(tmp_path: Path, slower: float) -> None:
    """Twelve blocks that take 50 ms each to compute: a load, and computing what it left, against 0.6 s."""
    rig = Rig(tmp_path, bytes_per_s=SIZE / (0.05 * slower))
    began = time.monotonic()
    rig.start("a", range(12), block_s=0.05, patience_s=0.1)
    (ended,) = rig.ended()
    whole = time.monotonic() - began + len(ended.failed) * 0.05
    assert (ended.failure == "slow") == (slower > 1)
    assert whole < 0.6 + 0.1 + 0.2, "patience, and a thread that wakes up late"
    for number in range(12 - len(ended.failed)):
        assert rig.memory.read(number + 10) == block(name_of(number)), "what came in time is of use"
    rig.loader.close(0.05)


def test_a_load_that_hangs_in_its_first_read_is_cut_and_its_late_bytes_are_not_used(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.gate.clear()
    began = time.monotonic()
    rig.start("a", range(30), block_s=0.01, patience_s=0.05)
    assert rig.ended() == [Loaded("a", tuple(range(10, 40)), "slow")]
    assert time.monotonic() - began < 1
    assert rig.meter.rate is not None, "that it takes so long or longer is known at once"
    assert rig.meter.rate.block_s > 0.05
    assert rig.meter.stale, "and is to be measured soon"
    assert rig.loader.answering
    rig.gate.set()
    rig.start("b", range(3))
    assert rig.ended() == [Loaded("b", (), None)]
    assert not any(rig.memory.read(13))
    rig.loader.close()


def test_a_load_behind_a_hanging_one_is_cut_too_and_one_behind_a_fast_one_is_not(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.gate.clear()
    rig.start("ordered", range(5))
    rig.start("b", range(5), block_s=0.01, patience_s=0.05)
    assert rig.ended() == [Loaded("b", (10, 11, 12, 13, 14), "slow")]
    rig.gate.set()
    assert rig.ended() == [Loaded("ordered", (), None)]
    rig.loader.close()
    calm = Rig(tmp_path / "calm", bytes_per_s=SIZE / 0.005)
    calm.start("a", range(30), block_s=0.05, patience_s=0.05)
    calm.start("b", range(20), block_s=0.05, patience_s=0.05)
    assert calm.ended(2) == [Loaded("a", (), None), Loaded("b", (), None)], "0.15 s in the queue, 1 s of computing"
    calm.loader.close()


def test_an_engine_that_waits_for_a_load_wakes_when_it_is_late(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.gate.clear()
    rig.start("a", range(5), block_s=0.01, patience_s=0.05)
    began = time.monotonic()
    rig.loader.wait(5)
    assert time.monotonic() - began < 2
    assert rig.ended() == [Loaded("a", (10, 11, 12, 13, 14), "slow")]
    began = time.monotonic()
    rig.loader.wait(5)
    assert time.monotonic() - began < 2, "nothing more is to come of it"
    rig.gate.set()
    rig.loader.close()


def test_what_a_load_waited_for_others_is_not_held_against_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, touch, took = Rig(tmp_path, bytes_per_s=SIZE / 0.01), Shelf.touch, threading.Event()

    def slowly(shelf: Shelf, name: bytes, depth: int) -> bool:
        if shelf is rig.shelf:  # no loader of another test, which is just ending
            took.set()
        time.sleep(0.02)
        return touch(shelf, name, depth)

    monkeypatch.setattr(Shelf, "touch", slowly)
    rig.start("a", range(20), block_s=1, patience_s=0.15)
    rig.start("b", range(2), block_s=1, patience_s=0.15)
    assert took.wait(10)
    assert rig.loader.take() == [Loaded("a", (), None)], "while its last file is being touched"
    assert rig.loader._jobs
    monkeypatch.undo()
    assert rig.ended() == [Loaded("b", (), None)]
    rig.loader.close()


def test_a_load_behind_a_slow_probe_is_cut(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.gate.clear()
    rig.loader.probe([name_of(1)])
    assert rig.reading.wait(5)
    rig.start("a", range(5), block_s=0.01, patience_s=0.05)
    assert rig.ended() == [Loaded("a", (10, 11, 12, 13, 14), "slow")]
    rig.gate.set()
    rig.loader.close()


def test_a_disk_that_hangs_under_a_probe_is_given_up_however_soon_loads_behind_it_are_cut(tmp_path: Path) -> None:
    rig = Rig(tmp_path, stall_s=0.3)
    rig.gate.clear()
    rig.loader.probe([name_of(1)])
    assert rig.reading.wait(5)
    end = time.monotonic() + 10
    while rig.loader.answering:
        assert time.monotonic() < end, "every request paid its patience, for ever"
        rig.start("a", range(5), block_s=0.001, patience_s=0.01)
        assert rig.ended()[0].failure in ("slow", "stalled")
    assert rig.told("loading") == 0
    rig.gate.set()
    until(lambda: rig.loader.answering)
    rig.start("b", range(3))
    assert rig.ended() == [Loaded("b", (), None)]
    rig.loader.close()


def test_an_engines_first_step_which_is_slow_counts_until_there_is_one_as_large() -> None:
    meter = ComputeMeter()
    meter.add(2048, 1024, 0, 3.0)
    assert meter.rate == ComputeRate(pytest.approx(3.0 / 2048), 0.0)  # type: ignore[arg-type]
    meter.add(250, 125, 0, 0.25)
    assert meter.rate is not None
    assert meter.rate.seconds(0, 2048) > 2.5, "a short one is not enough to go by"
    meter.add(2048, 1024, 0, 2.0)
    assert meter.rate.seconds(0, 2048) == pytest.approx(2.0, rel=0.05)
    meter.add(2048, 1024, 0, 2.2)
    assert meter.rate.seconds(0, 2048) == pytest.approx(2.1, rel=0.05), "only the first one"


def test_an_engines_first_step_does_not_count_where_an_earlier_engine_left_its_speed() -> None:
    """Loading might look faster from then on, nothing would be computed, and nobody would find out."""
    meter = ComputeMeter(ComputeRate(0.001, 0.0))
    meter.add(2048, 1024, 0, 3.5)
    assert meter.rate == ComputeRate(0.001, 0.0)
    meter.add(2048, 1024, 0, 2.5)
    assert meter.rate.seconds(0, 2048) == pytest.approx(2.5, rel=0.05)


def test_patience_is_a_share_of_computing() -> None:
    rate = LoadRate(0.001, 0)
    assert list(patience(32, 50, 0, rate, COMPUTE)) == pytest.approx([0.032, 0.16])
    assert list(patience(32, 50, 0, None, COMPUTE)) == pytest.approx([0.032, 0.08]), "not measured"
    assert list(patience(32, 2, 0, rate, COMPUTE)) == pytest.approx([0.032, LEAST_S])
    assert patience(32, 50, 0, rate, None) == (0.0, UNKNOWN_S)


def test_a_slow_disk_is_measured_again_without_a_request(tmp_path: Path) -> None:
    rate = LoadRate(0.1, 1000.0)
    for now, probe in ((1000.0, False), (1000 + STALE_S, True)):
        choice = choose(50, first_token=0, block_tokens=32, load=rate, compute=COMPUTE, now=now)
        assert (choice.blocks, choice.probe) == (0, probe)
    rig = Rig(tmp_path, bytes_per_s=SIZE / 0.01)
    assert rig.meter.stale
    rig.loader.probe([name_of(number) for number in range(3)])
    until(lambda: rig.meter.rate is not None)
    found = rig.meter.rate
    assert found is not None
    assert found.block_s == pytest.approx(0.01, rel=0.5)
    assert not any(rig.memory.one), "nothing of it is put anywhere"
    assert rig.loader.take() == []
    rig.loader.close()


def test_a_new_engine_measures_the_disk_before_a_request_comes(tmp_path: Path) -> None:
    shelf, memory, meter = shelf_in(tmp_path), Memory(), LoadMeter()
    for number in range(30):
        store(shelf, name_of(number))
    loader = Loader(shelf, memory.blocks, meter, Counts(), bytes_per_s=SIZE / 0.005)
    until(lambda: meter.rate is not None)
    assert meter.rate is not None
    assert meter.rate.block_s == pytest.approx(0.005, rel=0.5)
    loader.close()


def test_a_bound_counts_until_it_is_measured() -> None:
    now = [100.0]
    meter = LoadMeter(lambda: now[0])
    assert meter.stale
    meter.add(10, 0.01)
    assert not meter.stale
    meter.at_least(0.5)
    assert meter.rate == LoadRate(0.5, 100 - STALE_S)
    meter.at_least(0.2)
    assert meter.rate.block_s == 0.5
    meter.add(1, 0.002)
    assert meter.rate == LoadRate(pytest.approx(0.002), 100.0)


def test_a_few_stored_blocks_are_found(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    assert some_stored(str(tmp_path / "missing")) == []
    assert some_stored(shelf.folder) == []
    for number in range(40):
        store(shelf, name_of(number))
    Path(shelf.path(name_of(0))).with_suffix(".tmp").touch()
    Path(shelf.folder, "speed.json").touch()
    found = some_stored(shelf.folder, chance=random.Random(1))
    assert len(set(found)) == PROBE_BLOCKS
    assert set(found) <= {name_of(number) for number in range(40)}


def test_a_probe_leaves_the_systems_memory_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 16))
    handle = os.open(path, os.O_RDWR)
    try:
        with as_it_was(str(path)):
            path.read_bytes()
        assert in_memory(handle), "it was before"
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        if in_memory(handle):
            pytest.skip("this file system keeps its files in memory")
        with as_it_was(str(path)):
            path.read_bytes()
        assert not in_memory(handle)
    finally:
        os.close(handle)
    with as_it_was(str(tmp_path / "missing")):
        pass
