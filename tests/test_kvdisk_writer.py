"""Blocks reach the disk beside the engine's work, or are told as not written; a full disk costs nothing else."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aicockpit.kvdisk import files
from aicockpit.kvdisk.shelf import Shelf, sweep
from aicockpit.kvdisk.stats import Counts
from aicockpit.kvdisk.writer import Limits, Writer
from kvdisk_rig import PAYLOAD, Counted, block, filler, left_behind, load, name_of, shelf_in, store, until

SIZE = files.room(PAYLOAD)


class Rig(Counted):
    """A writer whose disk and clock are in the test's hands."""

    def __init__(self, root: Path, **limits: int | float) -> None:
        super().__init__()
        self.root = root
        self.shelf: Shelf = shelf_in(root)
        self.now = 1000.0
        self.gate = threading.Event()
        self.gate.set()
        self.problem: int | None = None
        chosen = Limits(**{"root": str(root), "cap": 1000 * SIZE, "reserve": 0, **limits})  # type: ignore[arg-type]
        self.writer = Writer(self.shelf, chosen, PAYLOAD, self.counts, put=self._put, clock=lambda: self.now)

    def _put(self, handle: int, rest: memoryview) -> int:
        assert self.gate.wait(10)
        if self.problem is not None:
            os.write(handle, rest[:50])
            raise OSError(self.problem, os.strerror(self.problem))
        return os.write(handle, rest)

    def keep(self, number: int, depth: int = 0) -> None:
        self.writer.keep(name_of(number), depth, filler(number))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.gate.set()
    made.writer.close()


def test_blocks_are_written_and_counted(rig: Rig) -> None:
    for number in range(20):
        rig.keep(number, depth=number)
    assert rig.writer.flush(10)
    for number in range(20):
        assert load(rig.shelf, name_of(number)) == block(name_of(number))
    assert rig.told("stored_blocks") == 20
    assert rig.told("stored_bytes") == 20 * SIZE
    assert rig.told("storing") == 1
    assert not rig.writer.take_refused()


def test_the_step_does_not_wait_for_the_disk(rig: Rig) -> None:
    rig.gate.clear()
    for number in range(10):
        rig.keep(number)
    assert not rig.writer.flush(0.01)
    rig.gate.set()
    assert rig.writer.flush(10)
    assert rig.told("stored_blocks") == 10


def test_writing_waits_while_a_prompt_is_computed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, buffer=8 * SIZE)
    rig.writer.hold(True)
    for number in range(3):
        rig.keep(number)
    assert not rig.writer.flush(0.05)
    assert rig.told("stored_blocks") == 0
    for number in range(3, 6):
        rig.keep(number)
    until(lambda: rig.told("stored_blocks") == 3)
    assert not rig.writer.flush(0.05), "the rest fills less than half of the buffer"
    rig.writer.hold(False)
    assert rig.writer.flush(10)
    assert rig.told("stored_blocks") == 6
    rig.writer.hold(True)
    rig.keep(9)
    rig.writer.close(1)
    assert rig.shelf.has(name_of(9)), "a held writer still writes what it has before it ends"


def test_only_what_is_written_beside_computing_goes_past_the_cache(tmp_path: Path) -> None:
    """It takes less of the processor; what is written in idle time stays in memory, for the next engine."""
    payload, asked = 10 * mmap.PAGESIZE, list[bool]()

    def put(handle: int, rest: memoryview) -> int:
        asked.append(bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT))
        return os.write(handle, rest)

    with open(tmp_path / "probe", "wb") as file:
        if not files._bypass(file.fileno(), True):
            pytest.skip("this disk lets nothing pass")
    counts, shelf = Counts(), shelf_in(tmp_path)
    limits = Limits(str(tmp_path), 1000 * payload, 2 * files.room(payload), reserve=0)
    writer = Writer(shelf, limits, payload, counts, put=put)
    for number, held in enumerate((False, True, False)):
        writer.hold(held)
        writer.keep(name_of(number), 0, filler(number))
        assert writer.flush(10)
        assert asked == ([True, False] if held else [False]), "whole pages, and the rest"
        assert load(shelf, name_of(number), payload) == block(name_of(number), payload)
        asked.clear()
    writer.close()


def test_what_is_there_is_touched_and_not_copied(rig: Rig) -> None:
    before = time.time() - 500  # older, and the writer's first look might take it for what a dead process left
    path = store(rig.shelf, name_of(1), now=before)
    rig.writer.keep(name_of(1), 0, lambda into: pytest.fail("copied"))
    assert os.stat(path).st_mtime > before + 100
    assert rig.told("stored_blocks") == 0


def test_a_block_that_is_waiting_is_not_copied_again(rig: Rig) -> None:
    rig.gate.clear()
    rig.keep(1)
    rig.writer.keep(name_of(1), 0, lambda into: pytest.fail("copied"))
    rig.gate.set()
    assert rig.writer.flush(10)
    assert rig.told("stored_blocks") == 1


def test_a_full_buffer_refuses_and_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, buffer=3 * SIZE)
    rig.gate.clear()
    for number in range(5):
        rig.keep(number)
    assert rig.writer.take_refused() == [name_of(3), name_of(4)]
    assert rig.told("unstored_blocks", "busy") == 2
    rig.gate.set()
    assert rig.writer.flush(10)
    rig.keep(3)
    assert rig.writer.flush(10)
    assert rig.shelf.has(name_of(3))
    rig.writer.close()


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_full_disk_turns_storing_off_and_on_again(rig: Rig, problem: int) -> None:
    rig.keep(0)
    assert rig.writer.flush(10)
    rig.problem = problem
    rig.keep(1)
    assert rig.writer.flush(10)
    assert rig.told("storing") == 0
    assert rig.writer.off_reason == os.strerror(problem)
    rig.writer.keep(name_of(2), 0, lambda into: pytest.fail("copied for a disk that takes nothing"))
    assert rig.writer.take_refused() == [name_of(1), name_of(2)]
    assert rig.told("unstored_blocks", "disk") == 2
    assert not left_behind(rig.root)
    assert load(rig.shelf, name_of(0)) == block(name_of(0)), "what is stored stays of use"
    rig.problem = None
    rig.now += 15
    rig.keep(1)
    assert rig.writer.flush(10)
    assert load(rig.shelf, name_of(1)) == block(name_of(1))
    assert rig.told("storing") == 1
    assert rig.writer.off_reason is None


def test_what_waits_while_the_disk_is_full_is_refused_too(rig: Rig) -> None:
    rig.gate.clear()
    for number in range(6):
        rig.keep(number)
    rig.problem = errno.ENOSPC
    rig.gate.set()
    assert rig.writer.flush(10)
    assert sorted(rig.writer.take_refused()) == sorted(name_of(number) for number in range(6))


def test_room_for_others_stays_on_the_disk(tmp_path: Path) -> None:
    rig = Rig(tmp_path, reserve=1 << 60)
    rig.keep(1)
    assert rig.writer.flush(10)
    assert rig.told("storing") == 0
    assert "would be free" in (rig.writer.off_reason or "")
    rig.writer.close()


def test_a_folder_that_vanishes_is_made_again(rig: Rig) -> None:
    rig.keep(1)
    assert rig.writer.flush(10)
    os.rename(rig.root / Path(rig.shelf.folder).parent.name, rig.root / "gone")
    rig.keep(2)
    assert rig.writer.flush(10)
    assert load(rig.shelf, name_of(2)) == block(name_of(2))


def test_the_cap_holds_at_every_moment(tmp_path: Path) -> None:
    cap = 60 * SIZE
    rig = Rig(tmp_path, cap=cap)
    most = 0
    for number in range(400):
        rig.keep(number)
        assert rig.writer.flush(10)
        swept = sweep(str(tmp_path), 1 << 60)
        most = max(most, swept.held)
    assert most == cap
    assert rig.shelf.has(name_of(399))
    assert not rig.shelf.has(name_of(0))
    assert rig.told("evicted_blocks") > 300
    rig.writer.close()


@pytest.mark.parametrize("writers", [3, 8])
def test_replicas_that_share_a_folder_share_its_cap(tmp_path: Path, writers: int) -> None:
    cap = 400 * SIZE
    rigs = [Rig(tmp_path, cap=cap) for _ in range(writers)]
    most = 0
    for number in range(1200 // writers):
        for at, rig in enumerate(rigs):
            rig.keep(number * writers + at)
        for rig in rigs:
            assert rig.writer.flush(10)
        held = sum(path.stat().st_size for path in tmp_path.rglob("*.kv"))
        most = max(most, held)
    assert cap * 0.9 < most <= cap
    for rig in rigs:
        rig.writer.close()


def test_a_replica_that_was_idle_looks_again_before_it_writes(tmp_path: Path) -> None:
    cap = 400 * SIZE
    idle, busy = Rig(tmp_path, cap=cap), Rig(tmp_path, cap=cap)
    for rig, numbers in ((idle, range(1)), (busy, range(1, 600)), (idle, range(600, 900))):
        for number in numbers:
            rig.keep(number)
            assert rig.writer.flush(10)
        idle.now += 60
    held = sum(path.stat().st_size for path in tmp_path.rglob("*.kv"))
    assert cap // 2 < held <= cap
    for rig in (idle, busy):
        rig.writer.close()


def test_a_cap_below_one_block_keeps_nothing_and_does_not_fail(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cap=SIZE - 1)
    rig.keep(1)
    assert rig.writer.take_refused() == [name_of(1)]
    assert rig.told("storing") == 0
    assert "hold no block" in (rig.writer.off_reason or "")
    rig.writer.close()


def test_a_cap_below_one_block_leaves_the_blocks_of_others_alone(tmp_path: Path) -> None:
    other = Rig(tmp_path)
    for number in range(20):
        other.keep(number)
    other.writer.close()
    Rig(tmp_path, cap=SIZE - 1).writer.close()
    assert all(other.shelf.has(name_of(number)) for number in range(20))


def test_after_other_weights_nothing_of_the_old_ones_is_written(rig: Rig) -> None:
    rig.keep(0)
    assert rig.writer.flush(10)
    rig.gate.clear()
    for number in range(1, 6):  # one of them is being written
        rig.keep(number)
    rig.writer.discard()
    rig.gate.set()
    until(lambda: not any(rig.shelf.has(name_of(number)) for number in range(6)))
    rig.writer.keep(name_of(9), 0, lambda into: pytest.fail("copied"))
    rig.writer.close()
    rig.now += 1000
    rig.writer.keep(name_of(9), 0, lambda into: pytest.fail("copied later"))
    assert not list(rig.root.rglob("*.kv"))
    assert rig.told("storing") == 0


def test_other_weights_of_one_engine_leave_the_blocks_of_others(rig: Rig) -> None:
    other = Rig(rig.root)
    for number in range(20):
        other.keep(number)
    assert other.writer.flush(10)
    for number in range(10, 40):
        rig.keep(number)
    assert rig.writer.flush(10)
    rig.writer.discard()
    rig.writer.close()
    assert [number for number in range(40) if rig.shelf.has(name_of(number))] == list(range(20))
    other.keep(50)
    assert other.writer.flush(10)
    assert other.shelf.has(name_of(50)), "and others go on"
    other.writer.close()


def test_what_an_engine_wrote_is_remembered_as_far_as_the_folder_holds_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cap=30 * SIZE)
    for number in range(1000):
        rig.keep(number)
        assert rig.writer.flush(10)
    assert len(rig.writer._own) <= 160
    rig.writer.discard()
    rig.writer.close()
    assert not list(tmp_path.rglob("*.kv"))


def test_two_threads_may_find_at_once_that_it_is_time_to_try_again(rig: Rig) -> None:
    rig.problem = errno.ENOSPC
    rig.keep(0)
    assert rig.writer.flush(10)
    rig.problem = None
    threads: list[threading.Thread] = []

    def clock() -> float:
        if not threads:  # the other thread comes between this one's looks
            threads.append(threading.Thread(target=rig.keep, args=(2,)))
            threads[0].start()
            threads[0].join(0.2)
        return rig.now + 15

    rig.writer._clock = clock
    rig.keep(1)
    threads[0].join()
    assert rig.writer.flush(10)
    assert rig.shelf.has(name_of(1))
    assert rig.shelf.has(name_of(2))


def test_each_reason_is_told_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    for problem in (errno.ENOSPC, errno.ENOSPC, errno.EIO, errno.ENOSPC):
        rig.problem = problem
        rig.keep(1)
        assert rig.writer.flush(10)
        rig.now += 15
    told = [record.getMessage() for record in caplog.records]
    assert [os.strerror(problem) in one for problem, one in zip((errno.ENOSPC, errno.EIO), told, strict=True)]
    assert all(str(rig.root) in one for one in told)


def test_close_writes_what_is_waiting(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for number in range(30):
        rig.keep(number)
    rig.writer.close()
    assert all(rig.shelf.has(name_of(number)) for number in range(30))
    assert not [thread for thread in threading.enumerate() if thread.name == "kvdisk-writer"]


def test_chores_are_done_on_the_writers_thread(rig: Rig) -> None:
    done: list[str] = []
    rig.writer.later(lambda: done.append(threading.current_thread().name))
    until(lambda: done == ["kvdisk-writer"])
    rig.gate.clear()
    rig.keep(1)
    rig.writer.later(lambda: done.append("before it ends"))
    rig.gate.set()
    rig.writer.close()
    assert done[1:] == ["before it ends"]
    assert rig.shelf.has(name_of(1))
