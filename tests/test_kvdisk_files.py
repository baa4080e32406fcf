"""A block's file is the block or it is refused, whatever happened to it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.kvdisk import files
from aicockpit.kvdisk.shelf import Shelf
from kvdisk_rig import KEY, PAYLOAD, block, left_behind, load, name_of, shelf_in, store, until

NAME = name_of(1)


def flaw_of(shelf: Shelf, name: bytes = NAME, size: int = PAYLOAD) -> str:
    with pytest.raises(files.UnusableError) as raised:
        load(shelf, name, size)
    return raised.value.flaw


@given(st.binary(min_size=1, max_size=5000))
def test_a_block_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, payload: bytes) -> None:
    path = str(tmp_path_factory.getbasetemp() / "block")
    buffer = bytearray(files.HEADER.size) + payload
    files.seal(buffer, KEY, NAME)
    files.write(path, buffer, 5_000_000_000)
    assert bytes(files.read(path, KEY, NAME, bytearray(files.room(len(payload))))) == payload
    assert os.stat(path).st_mtime_ns == 5_000_000_000
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    path = store(shelf, NAME)
    whole = Path(path).read_bytes()
    for length in [0, 1, files.HEADER.size - 1, files.HEADER.size, *range(100, len(whole), 97), len(whole) - 1]:
        Path(path).write_bytes(whole[:length])
        assert flaw_of(shelf) == "truncated"


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    path = store(shelf, NAME)
    whole = bytearray(Path(path).read_bytes())
    for at in [*range(files.HEADER.size + 4), *random.Random(7).sample(range(len(whole)), 200), len(whole) - 1]:
        whole[at] ^= 1 << at % 8
        Path(path).write_bytes(whole)
        assert flaw_of(shelf) in ("corrupt", "foreign")
        whole[at] ^= 1 << at % 8
    Path(path).write_bytes(whole)
    assert load(shelf, NAME) == block(NAME)


def test_zeros_of_the_right_length_are_refused(tmp_path: Path) -> None:
    """What a power cut leaves on some file systems: the name and the length, without the bytes."""
    shelf = shelf_in(tmp_path)
    path = store(shelf, NAME)
    Path(path).write_bytes(bytes(files.room(PAYLOAD)))
    assert flaw_of(shelf) == "foreign"
    with open(path, "r+b") as file:
        file.write(bytes(files.HEADER.size))
    assert flaw_of(shelf) == "foreign"


def test_another_blocks_file_is_refused(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    other = store(shelf, name_of(2))
    shelf.make_room_for(NAME)
    os.rename(other, shelf.path(NAME))
    assert flaw_of(shelf) == "foreign"


def test_another_keys_file_is_refused(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    store(Shelf(shelf.folder, b"another key's 16"), NAME)
    assert flaw_of(shelf) == "foreign"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    os.chown(store(shelf, NAME), 65534, 65534)
    assert flaw_of(shelf) == "foreign"


def test_a_longer_file_is_refused(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    with open(store(shelf, NAME), "ab") as file:
        file.write(b"x")
    assert flaw_of(shelf) == "foreign"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    assert flaw_of(shelf) == "missing"
    shelf.make_room_for(NAME)
    os.mkfifo(shelf.path(NAME))
    assert flaw_of(shelf) == "foreign"
    os.unlink(shelf.path(NAME))
    os.mkdir(shelf.path(NAME))
    assert flaw_of(shelf) == "foreign"
    os.rmdir(shelf.path(NAME))
    os.symlink(store(shelf, name_of(2)), shelf.path(NAME))
    assert flaw_of(shelf) == "unreadable"


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    path = store(shelf, NAME)
    calls: list[int] = []

    def get(handle: int, into: list[memoryview]) -> int:
        calls.append(handle)
        if len(calls) == 2:
            os.truncate(path, 700)
        return os.readv(handle, [into[0][:600]])

    with pytest.raises(files.UnusableError) as raised:
        files.read(path, KEY, NAME, bytearray(files.room(PAYLOAD)), get=get)
    assert raised.value.flaw == "truncated"
    assert len(calls) > 2


def test_a_disk_that_fails_to_read_is_told(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    path = store(shelf, NAME)

    def get(handle: int, into: list[memoryview]) -> int:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(files.UnusableError) as raised:
        files.read(path, KEY, NAME, bytearray(files.room(PAYLOAD)), get=get)
    assert raised.value.flaw == "unreadable"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path, code: int) -> None:
    shelf = shelf_in(tmp_path)
    shelf.make_room_for(NAME)
    buffer = bytearray(files.HEADER.size) + block(NAME)
    files.seal(buffer, KEY, NAME)
    written: list[int] = []

    def put(handle: int, rest: memoryview) -> int:
        if written:
            raise OSError(code, os.strerror(code))
        written.append(os.write(handle, rest[:1000]))
        return written[0]

    with pytest.raises(OSError, match=os.strerror(code)):
        files.write(shelf.path(NAME), buffer, 0, put=put)
    assert written == [1000]
    assert not left_behind(tmp_path)
    assert flaw_of(shelf) == "missing"


def test_a_disk_that_takes_nothing_is_no_endless_loop(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing could be written"):
        files.write(str(tmp_path / "block"), bytearray(500), 0, put=lambda handle, rest: 0)
    assert list(tmp_path.iterdir()) == []


def test_short_writes_and_reads_are_continued(tmp_path: Path) -> None:
    path = str(tmp_path / "block")
    buffer = bytearray(files.HEADER.size) + block(NAME)
    files.seal(buffer, KEY, NAME)
    files.write(path, buffer, 0, put=lambda handle, rest: os.write(handle, rest[:77]))
    into = bytearray(files.room(PAYLOAD))
    found = files.read(path, KEY, NAME, into, get=lambda handle, views: os.readv(handle, [views[0][:91]]))
    assert bytes(found) == block(NAME)


def past_the_cache(handle: int) -> bool:
    return bool(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT)


def can_pass(folder: Path) -> bool:
    """The disk under a folder lets writes go past the cache."""
    with open(folder / "probe", "wb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_DIRECT)
        except OSError:
            return False
        return past_the_cache(file.fileno())


@pytest.mark.parametrize("most", [1 << 30, mmap.PAGESIZE, 1000])
@pytest.mark.parametrize("pages", [0, 1, 3])
def test_whole_pages_go_past_the_cache_and_the_rest_does_not(tmp_path: Path, pages: int, most: int) -> None:
    path, size = str(tmp_path / "block"), pages * mmap.PAGESIZE + 77 - files.HEADER.size * (pages > 0)
    buffer = files.aligned(files.room(size))
    buffer[files.HEADER.size :] = block(NAME, size)
    files.seal(buffer, KEY, NAME)
    seen: list[tuple[bool, int]] = []

    def put(handle: int, rest: memoryview) -> int:
        seen.append((past_the_cache(handle), len(rest)))
        return os.write(handle, rest[: most if len(rest) > most else len(rest)])

    files.write(path, buffer, 0, uncached=True, put=put)
    assert bytes(files.read(path, KEY, NAME, bytearray(files.room(size)))) == block(NAME, size)
    assert all(length % mmap.PAGESIZE == 0 for past, length in seen if past)
    if most >= mmap.PAGESIZE and can_pass(tmp_path):
        assert sum(past for past, _ in seen) == -(-pages * mmap.PAGESIZE // most)


def test_a_disk_that_refuses_to_go_past_the_cache_takes_it_all_the_same(tmp_path: Path) -> None:
    path, size = str(tmp_path / "block"), 3 * mmap.PAGESIZE
    buffer = files.aligned(files.room(size))
    buffer[files.HEADER.size :] = block(NAME, size)
    files.seal(buffer, KEY, NAME)

    def put(handle: int, rest: memoryview) -> int:
        if past_the_cache(handle):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.write(handle, rest)

    files.write(path, buffer, 0, uncached=True, put=put)
    assert bytes(files.read(path, KEY, NAME, bytearray(files.room(size)))) == block(NAME, size)


def test_readers_beside_writers_see_whole_blocks_only(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    store(shelf, NAME, size=200_000)
    stop = threading.Event()
    writers = [threading.Thread(target=lambda: [store(shelf, NAME, size=200_000) for _ in range(60)]) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers) or reads < 20:
        assert load(shelf, NAME, 200_000) == block(NAME, 200_000)
        reads += 1
    stop.set()
    assert not left_behind(tmp_path)


@pytest.mark.timeout(240)
def test_a_hundred_kills_while_writing_leave_whole_blocks_only(tmp_path: Path) -> None:
    shelf, size, chance = shelf_in(tmp_path), 400_000, random.Random(11)
    child = [sys.executable, str(Path(__file__).with_name("kvdisk_child.py")), shelf.folder, str(size)]
    checked, partial = 0, [0, 0]
    for kill in range(100):
        begun = Path(shelf.folder, "begun")
        begun.unlink(missing_ok=True)
        process = subprocess.Popen([*child, str(kill * 10_000), "uncached" if kill % 2 else "cached"])
        until(begun.exists)
        threading.Event().wait(chance.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        number = kill * 10_000
        while shelf.has(name_of(number)):
            assert load(shelf, name_of(number), size) == block(name_of(number), size)
            os.unlink(shelf.path(name_of(number)))
            number, checked = number + 1, checked + 1
        assert not list(Path(shelf.folder).rglob("*.kv")), "nothing stands behind the one that was being written"
        partial[kill % 2] += len(left_behind(tmp_path))
        for path in left_behind(tmp_path):
            os.unlink(path)
    assert checked > 100
    assert min(partial) > 5, "kills did hit files half written, whichever way they were written"
