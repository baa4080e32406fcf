"""One cap for all who write in a folder: engines that come, go, are stopped, killed and disagree about it."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aicockpit.kvdisk import files
from aicockpit.kvdisk.ledger import Ledger
from aicockpit.kvdisk.shelf import PrivateError
from aicockpit.kvdisk.stats import Counts
from aicockpit.kvdisk.writer import Limits, Writer
from kvdisk_rig import FOLDER, PAYLOAD, filler, name_of, shelf_in, store

CHILD = Path(__file__).with_name("kvdisk_writer_child.py")
SIZE = files.room(PAYLOAD)


class Engine:
    """A writer of one engine, whose clock is the test's."""

    def __init__(self, root: Path, blocks: float) -> None:
        self.now, self.counts = 1000.0, Counts()
        limits = Limits(str(root), int(blocks * SIZE), reserve=0)
        self.writer = Writer(shelf_in(root), limits, PAYLOAD, self.counts, clock=lambda: self.now)

    def keep(self, *numbers: int) -> None:
        for number in numbers:
            self.writer.keep(name_of(number), 0, filler(number))
        assert self.writer.flush(10)


@contextmanager
def engines(root: Path, *caps: float) -> Iterator[list[Engine]]:
    made = [Engine(root, cap) for cap in caps]
    yield made
    for engine in made:
        engine.writer.close()


def held(root: Path) -> float:
    """In blocks."""
    return sum(path.stat().st_size for path in root.rglob("*.kv*")) / SIZE


def test_an_engine_with_a_smaller_size_takes_nothing_while_there_is_room_and_stores(tmp_path: Path) -> None:
    for number in range(300):
        store(shelf_in(tmp_path), name_of(number))
    with engines(tmp_path, 4000, 500) as (large, small):
        for number in range(1000, 1100):
            large.keep(number)
            small.keep(number + 500)
        assert held(tmp_path) == 500
        large.keep(2000)
        assert held(tmp_path) == 501, "the larger size is the larger engine's to use"
        small.keep(3000)
        assert held(tmp_path) == 451, "and the smaller holds whenever the smaller engine writes"


def test_engines_of_different_sizes_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with engines(tmp_path, 100) as (earlier,):
        earlier.keep(1)
    with engines(tmp_path, 50) as (only,):
        only.keep(2, 3)
        assert not caplog.records, "the size was changed, and nobody shares it"
        with engines(tmp_path, 60) as (other,):
            for number in range(10, 20):
                other.keep(number)
                only.keep(number + 10)
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert all(f"the smaller holds: {50 * SIZE} bytes" in one for one in told)


def test_many_engines_fill_an_empty_folder_before_anything_goes(tmp_path: Path) -> None:
    with engines(tmp_path, *[400] * 8) as made:
        for number in range(400):
            made[number % 8].keep(number)
        assert held(tmp_path) == 400
        made[0].keep(1000)
        assert held(tmp_path) == 361


@pytest.mark.parametrize("blocks", [1.0, 1.9, 4.5, 5.5, 8.6])
def test_a_cap_of_a_few_blocks_takes_new_ones(tmp_path: Path, blocks: float) -> None:
    with engines(tmp_path, blocks) as (engine,):
        for number in range(50):
            engine.keep(number)
            assert engine.writer.off_reason is None
            assert 0 < held(tmp_path) <= blocks


def test_while_another_process_holds_the_lock_nothing_is_written_and_then_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engines(tmp_path, 60) as (engine,):
        engine.keep(0)
        with open(tmp_path / ".lock", "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            engine.keep(*range(1, 200))
            engine.now += 15
            engine.keep(*range(1, 200))
            assert held(tmp_path) == 1
            assert "another process holds" in (engine.writer.off_reason or "")
            assert len(engine.writer.take_refused()) == 2 * 199
            with engines(tmp_path, 60) as (second,):
                second.keep(300)
                assert second.writer.take_refused() == [name_of(300)]
        engine.now += 15
        engine.keep(1)
        assert held(tmp_path) == 2
        assert engine.writer.off_reason is None
    assert sum("stores nothing" in record.message for record in caplog.records) == 2, "once an engine"


def test_a_process_that_was_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), 10 * SIZE, wait_s=0.1)
    with ledger.room_for(SIZE):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with ledger.room_for(SIZE) as swept:
            assert swept.held == 2 * SIZE
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_block_is_entered_before_it_is_written_and_struck_out_where_it_could_not_begin(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), 10 * SIZE)
    with pytest.raises(OSError, match="no"), ledger.room_for(SIZE):
        raise OSError("no")
    with ledger.room_for(SIZE) as swept:
        assert swept.held == SIZE

    def put(handle: int, rest: memoryview) -> int:
        """While the file is empty, somebody else counts the folder."""
        with Ledger(str(tmp_path), 10 * SIZE).room_for(SIZE) as swept:
            counted.append(swept.held)
        return os.write(handle, rest)

    counted: list[int] = []
    shelf = shelf_in(tmp_path)
    shelf.make_room_for(name_of(1))
    buffer = bytearray(SIZE)
    files.write(shelf.path(name_of(1)), buffer, 0, put=put, enter=lambda: ledger.room_for(SIZE))
    assert counted == [2 * SIZE]


@pytest.mark.parametrize("text", [b"", b"x", b"something else, and longer", b"AICKVL00" + bytes(16)])
def test_a_number_that_is_none_is_counted_anew(tmp_path: Path, text: bytes) -> None:
    ledger = Ledger(str(tmp_path), 10 * SIZE)
    with ledger.room_for(0):
        pass
    store(shelf_in(tmp_path), name_of(1))
    (tmp_path / ".lock").write_bytes(text)
    with ledger.room_for(SIZE) as swept:
        assert swept.held == 2 * SIZE


def test_a_new_engine_does_not_believe_a_number_from_before_a_power_cut(tmp_path: Path) -> None:
    with Ledger(str(tmp_path), 10 * SIZE).room_for(0):
        pass
    for number in range(9):
        store(shelf_in(tmp_path), name_of(number))
    with Ledger(str(tmp_path), 10 * SIZE).room_for(SIZE) as swept:
        assert swept.held == 10 * SIZE


def test_a_number_that_says_too_much_removes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), 10 * SIZE)
    for _ in range(10):
        with ledger.room_for(SIZE):
            pass
    store(shelf_in(tmp_path), name_of(1))
    with ledger.room_for(SIZE) as swept:
        assert (swept.held, swept.removed) == (2 * SIZE, 0)


def test_what_fills_the_folder_and_does_not_go_leaves_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        store(shelf_in(tmp_path), name_of(number))

    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    ledger = Ledger(str(tmp_path), 10 * SIZE)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        for _ in range(2):
            with pytest.raises(OSError, match="cannot be removed"), ledger.room_for(SIZE):
                pytest.fail("entered")
    with ledger.room_for(SIZE) as swept:
        assert (swept.held, swept.removed) == (10 * SIZE, 1)


@pytest.mark.parametrize("kind", ["link", "folder", "another user's"])
def test_a_lock_that_is_not_ours_keeps_the_tier_off_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    (tmp_path / "letter").write_text("years of work")
    if kind == "link":
        (tmp_path / ".lock").symlink_to("letter")
    elif kind == "folder":
        (tmp_path / ".lock").mkdir()
    else:
        (tmp_path / ".lock").touch()
        try:
            os.chown(tmp_path / ".lock", 65534, 65534)
        except PermissionError:
            pytest.skip("only root gives files away")
    with pytest.raises(PrivateError, match="a folder of its own"):
        Ledger(str(tmp_path), 10 * SIZE).check()
    with engines(tmp_path, 10) as (engine,):
        engine.keep(1, 2)
        engine.now += 15
        engine.keep(1, 2)
        assert "is not a file of this user" in (engine.writer.off_reason or "")
    assert len(caplog.records) == 1
    assert str(tmp_path) in caplog.records[0].message
    assert (tmp_path / "letter").read_text() == "years of work"
    assert not list(tmp_path.rglob("*.kv"))


def test_what_may_pass_does_not_keep_the_tier_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        Ledger(str(tmp_path), SIZE).check()


def test_what_others_have_in_the_folder_stays(tmp_path: Path) -> None:
    docs, root = tmp_path / "docs", tmp_path / "kv"
    docs.mkdir()
    (docs / "thesis.tex").write_text("years of work")
    root.mkdir()
    (root / ".writers").symlink_to(docs)
    (root / "photos").mkdir()
    (root / "photos" / "one.jpg").write_text("x")
    with engines(root, 3) as (engine,):
        engine.keep(*range(20))
    assert sorted(path.name for path in tmp_path.rglob("*.*") if path.suffix in (".tex", ".jpg")) == [
        "one.jpg",
        "thesis.tex",
    ]
    assert held(root) <= 3


def test_a_folder_that_is_removed_is_made_again_for_its_owner_alone(tmp_path: Path) -> None:
    root = tmp_path / "kv"
    with engines(root, 60, 60) as (one, two):
        one.keep(*range(50))
        shutil.rmtree(root)
        before = os.umask(0o002)
        try:
            one.keep(*range(100, 110))
            two.keep(*range(200, 240))
        finally:
            os.umask(before)
        assert held(root) == 50
        two.keep(*range(300, 320))
        assert held(root) <= 60, "each counts on what the other wrote"
        assert one.writer.off_reason is None
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        assert root / FOLDER / "r0" in folders
        assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_lock_that_is_removed_before_it_is_taken_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = fcntl.flock, False

    def remove_first(handle: int, kind: int) -> None:
        nonlocal removed
        if not removed:
            removed = True
            (tmp_path / ".lock").unlink()
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with Ledger(str(tmp_path), 10 * SIZE).room_for(SIZE):
        pass
    assert removed
    assert (tmp_path / ".lock").stat().st_size, "others see what was entered"


def test_engines_that_are_killed_and_stopped_keep_the_cap(tmp_path: Path) -> None:
    """Looked at while all stand still; a stopped one may hold the lock, and those that died have left halves."""
    cap, chance = 200, random.Random(4)
    numbers = iter(range(0, 1 << 40, 1 << 24))

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, CHILD, tmp_path, str(cap * SIZE), str(next(numbers))])

    running = [begin() for _ in range(4)]
    most, looks, deadline = 0.0, 0, time.monotonic() + 30
    try:
        while looks < 40 and time.monotonic() < deadline:
            time.sleep(0.05 + 0.1 * chance.random())
            for child in running:
                child.send_signal(signal.SIGSTOP)
            for child in running:
                os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            most, looks = max(most, held(tmp_path)), looks + (held(tmp_path) > 0)
            for child in running:
                child.send_signal(signal.SIGCONT)
            if looks % 8 == 7:
                killed = running.pop(chance.randrange(len(running)))
                killed.kill()
                killed.wait()
                running.append(begin())
    finally:
        for child in running:
            child.kill()
            child.wait()
    assert looks > 10
    assert 0.8 * cap < most <= cap
