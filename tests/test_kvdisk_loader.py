"""Blocks come from the disk beside the engine's work; what is not right is told and not used."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aicockpit.kvdisk.loader import Loaded
from aicockpit.kvdisk.shelf import Shelf
from aicockpit.kvdisk.writer import Limits, Writer
from kvdisk_load_rig import SIZE, Rig
from kvdisk_rig import PAYLOAD, block, filler, name_of, until


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.gate.set()
    made.loader.close()


def test_a_prefix_stands_where_it_belongs(rig: Rig) -> None:
    rig.start("a", range(20))
    assert rig.ended() == [Loaded("a", (), None)]
    for number in range(20):
        assert rig.memory.read(number + 10) == block(name_of(number))
    assert not any(rig.memory.read(9) + rig.memory.read(30))
    assert rig.told("loaded_blocks") == 20
    assert rig.told("loaded_bytes") == 20 * SIZE
    assert rig.meter.rate is not None
    until(lambda: os.stat(rig.shelf.path(name_of(19))).st_mtime > 1e9)
    ages = [os.stat(rig.shelf.path(name_of(number))).st_mtime_ns for number in range(20)]
    assert ages == sorted(ages, reverse=True), "the front of a prefix is its youngest part"


def test_loads_end_in_the_order_of_their_start(rig: Rig) -> None:
    for request in "abc":
        rig.start(request, range(10))
    assert [loaded.request for loaded in rig.ended(3)] == ["a", "b", "c"]


def test_nothing_waits_for_a_load(rig: Rig) -> None:
    rig.gate.clear()
    rig.start("a", range(3))
    assert rig.loader.take() == []
    started = time.monotonic()
    rig.loader.wait(0.02)
    assert time.monotonic() - started < 5
    rig.gate.set()
    assert rig.ended() == [Loaded("a", (), None)]


@pytest.mark.parametrize("flaw", ["missing", "truncated", "corrupt", "foreign"])
def test_a_flawed_file_ends_the_load_there(rig: Rig, flaw: str) -> None:
    path = Path(rig.shelf.path(name_of(4)))
    whole = path.read_bytes()
    spoilt = {"truncated": whole[:-1], "corrupt": whole[:-1] + b"?", "foreign": bytes(len(whole))}
    if flaw == "missing":
        path.unlink()
    else:
        path.write_bytes(spoilt[flaw])
    rig.start("a", range(8))
    assert rig.ended() == [Loaded("a", (14, 15, 16, 17), flaw)]  # type: ignore[arg-type]
    assert rig.told("load_failures", flaw) == 4
    assert not any(rig.memory.read(14)), "not a byte of it was used"
    behind = [rig.shelf.has(name_of(number)) for number in range(4, 9)]
    assert behind == [False, flaw == "missing", flaw == "missing", flaw == "missing", True], (
        "written anew when computed"
    )
    assert rig.memory.read(13) == block(name_of(3))


def test_the_throttle_is_what_is_measured(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_per_s=SIZE / 0.01)
    rig.start("a", range(20))
    assert rig.ended() == [Loaded("a", (), None)]
    assert rig.meter.rate is not None
    assert rig.meter.rate.block_s == pytest.approx(0.01, rel=0.3)
    rig.loader.close()


def test_a_disk_that_does_not_answer_is_given_up_and_taken_up_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path, stall_s=0.1)
    rig.gate.clear()
    rig.start("a", range(5))
    rig.start("b", range(3))
    ended = {loaded.request: loaded for loaded in rig.ended(2)}
    assert ended["a"] == Loaded("a", (10, 11, 12, 13, 14), "stalled")
    assert ended["b"] == Loaded("b", (10, 11, 12), "stalled")
    assert not rig.loader.answering
    assert rig.told("loading") == 0
    rig.memory.write(10, b"another request's block" + bytes(PAYLOAD - 23))
    rig.gate.set()
    until(lambda: rig.loader.answering)
    assert rig.memory.read(10).startswith(b"another request's"), "late bytes are not put where others' may be by now"
    assert rig.loader.take() == []
    rig.start("c", range(3))
    assert rig.ended() == [Loaded("c", (), None)]
    assert rig.told("loading") == 1
    rig.loader.close()


def test_a_disk_that_hangs_when_files_are_touched_is_given_up_too(tmp_path: Path) -> None:
    rig, gate, touch = Rig(tmp_path, stall_s=0.1), threading.Event(), Shelf.touch

    def hang(shelf: Shelf, name: bytes, depth: int) -> bool:
        assert gate.wait(10)
        return touch(shelf, name, depth)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Shelf, "touch", hang)
        rig.start("a", range(3))
        assert rig.ended() == [Loaded("a", (), None)], "what was loaded is told before its files are touched"
        assert rig.loader.answering
        rig.start("b", range(3))
        assert rig.ended() == [Loaded("b", (10, 11, 12), "stalled")]
        assert not rig.loader.answering, "the next request does not wait for it"
        assert rig.told("loading") == 0
        gate.set()
        until(lambda: rig.loader.answering)
    assert rig.told("loading") == 1
    rig.start("c", range(3))
    assert rig.ended() == [Loaded("c", (), None)]
    rig.loader.close()


def test_an_idle_loader_is_not_stalled(tmp_path: Path) -> None:
    rig = Rig(tmp_path, stall_s=0.05)
    time.sleep(0.1)
    rig.start("a", range(2))
    assert rig.ended() == [Loaded("a", (), None)]
    rig.loader.close()


def test_after_close_nothing_is_put_into_the_engines_memory(rig: Rig) -> None:
    rig.gate.clear()
    rig.start("a", range(20))
    assert rig.reading.wait(5)
    rig.loader.close(0.05)  # the read hangs on
    before = [rig.memory.read(number + 10) for number in range(20)]
    rig.gate.set()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "kvdisk-loader"])
    assert [rig.memory.read(number + 10) for number in range(20)] == before


def test_dropped_loads_are_told_as_failed_and_change_nothing(rig: Rig) -> None:
    rig.gate.clear()
    rig.start("a", range(5))
    rig.start("b", range(5, 8))
    assert rig.reading.wait(5)
    rig.loader.drop()
    assert rig.loader.take() == [
        Loaded("a", tuple(range(10, 15)), "dropped"),
        Loaded("b", tuple(range(15, 18)), "dropped"),
    ]
    rig.gate.set()
    rig.start("c", range(3))
    assert rig.ended() == [Loaded("c", (), None)]
    assert rig.memory.read(13) != block(name_of(3))


@pytest.mark.parametrize(
    ("problem", "healed"), [("EIO", True), ("EUCLEAN", True), ("ELOOP", True), ("EMFILE", False), ("ESTALE", False)]
)
def test_a_file_that_cannot_be_read_goes_and_one_that_is_not_to_blame_stays(
    rig: Rig, problem: str, healed: bool
) -> None:
    path = Path(rig.shelf.path(name_of(2)))
    if problem == "ELOOP":
        path.rename(path.with_suffix(".real"))
        path.symlink_to(path.with_suffix(".real"))
    else:
        rig.problems = [None, None, getattr(errno, problem)]
    rig.start("a", range(5))
    assert rig.ended() == [Loaded("a", (12, 13, 14), "unreadable")]
    assert rig.shelf.has(name_of(2)) != healed
    writer = Writer(rig.shelf, Limits(str(path.parents[3]), 1000 * SIZE, reserve=0), PAYLOAD, rig.counts)
    writer.keep(name_of(2), 2, filler(2))
    assert writer.flush(10)
    writer.close()
    rig.start("b", range(3))
    assert rig.ended() == [Loaded("b", (), None)], "it was written anew, or is read again"
