"""The store: what is acknowledged stays, whatever happens; what is refused changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.errors import ApiError, BadRequest, NotFound, Overloaded, SettingError, TooLarge
from aicockpit.workspace import blobs
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.store import Applied, Change, Conflict, File, Info, Missing, Store, StoreLimits


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    made = Store(tmp_path / "store", StoreLimits(workspaces=3, files=5, bytes=1000, file=400), clock)
    yield made
    made.close()


def file(path: str, data: bytes = b"", mtime_ns: int = 1) -> File:
    return File(path, digest(data), len(data), mtime_ns)


def put(store: Store, *contents: bytes) -> tuple[int, int]:
    return store.put_blobs([(digest(data), data) for data in contents])


def sync(store: Store, info: Info, tree: dict[str, bytes], base: int | None = None) -> Applied:
    put(store, *tree.values())
    result = store.propose(info.id, base, [file(path, data) for path, data in tree.items()])
    assert isinstance(result, Applied)
    return result


def contents(store: Store, info: Info) -> dict[str, bytes | None]:
    return {found.path: store.blob(found.hash) for found in store.files(info.id)}


def test_a_manifest_is_applied_when_every_blob_is_here(store: Store) -> None:
    info = store.create("key", "tree")
    files = [file("a.py", b"one"), file("b/c.py", b"two")]
    assert store.propose(info.id, None, files) == Missing(0, tuple(sorted([digest(b"one"), digest(b"two")])), 2)
    assert store.find("key", "tree") == info
    assert put(store, b"one") == (1, 0)
    assert store.propose(info.id, None, files) == Missing(0, (digest(b"two"),), 1)
    assert put(store, b"one", b"two") == (1, 1)
    applied = Applied(1, (Change("a.py", None, digest(b"one")), Change("b/c.py", None, digest(b"two"))))
    assert store.propose(info.id, None, files) == applied
    found = store.info(info.id)
    assert found
    assert (found.revision, found.files, found.bytes) == (1, 2, 6)
    assert contents(store, info) == {"a.py": b"one", "b/c.py": b"two"}
    assert store.file(info.id, "a.py") == files[0]
    assert store.file(info.id, "b") is None


def test_the_same_manifest_twice_is_one_revision(store: Store) -> None:
    info = store.create("key", "tree")
    sync(store, info, {"a": b"1", "b": b"2"})
    assert sync(store, info, {"b": b"2", "a": b"1"}) == Applied(1, ())
    touched = [file("a", b"1", mtime_ns=7), file("b", b"2")]
    assert store.propose(info.id, None, touched) == Applied(1, ())
    assert store.files(info.id) == touched


def test_a_change_needs_the_current_revision(store: Store) -> None:
    info = store.create("key", "tree")
    sync(store, info, {"a": b"1", "b": b"2"})
    put(store, b"3")
    assert store.propose(info.id, 0, [file("a", b"3")]) == Conflict(1)
    assert store.propose(info.id, 2, [file("a", b"3")]) == Conflict(1)
    applied = store.propose(info.id, 1, [file("a", b"3"), file("c", b"1")], ["b", "never there"])
    assert isinstance(applied, Applied)
    assert set(applied.changed) == {
        Change("a", digest(b"1"), digest(b"3")),
        Change("c", None, digest(b"1")),
        Change("b", digest(b"2"), None),
    }
    assert contents(store, info) == {"a": b"3", "c": b"1"}
    assert store.propose(info.id, 2, []) == Applied(2, ())


def test_a_file_becomes_a_folder_and_back(store: Store) -> None:
    info = store.create("key", "tree")
    sync(store, info, {"a": b"1", "a-b": b"", "a0": b""})
    put(store, b"2")
    with pytest.raises(BadRequest, match="file and a folder"):
        store.propose(info.id, 1, [file("a/b/c", b"2")])
    assert store.propose(info.id, 1, [file("a/b/c", b"2")], ["a"])
    with pytest.raises(BadRequest, match="file and a folder"):
        store.propose(info.id, 2, [file("a/b", b"2")])
    with pytest.raises(BadRequest, match="file and a folder"):
        store.propose(info.id, 2, [file("a", b"2")])
    assert store.propose(info.id, 2, [file("a", b"1")], ["a/b/c"])
    assert contents(store, info) == {"a": b"1", "a-b": b"", "a0": b""}


def test_limits_are_told_before_anything_is_sent(store: Store) -> None:
    info = store.create("key", "tree")
    for files, code in (
        ([file(f"f{number}") for number in range(6)], "too_many_files"),
        ([File("a", digest(b""), 401, 1)], "file_too_large"),
        ([File(f"f{number}", digest(b"%d" % number), 400, 1) for number in range(3)], "workspace_too_large"),
    ):
        with pytest.raises(TooLarge) as refused:
            store.propose(info.id, None, files)
        assert refused.value.code == code
    sync(store, info, {"a": b"1" * 300, "b": b"2" * 300})
    with pytest.raises(TooLarge, match=r"1002 bytes, and 1000"):
        store.propose(info.id, 1, [File("c", digest(b""), 400, 1), File("d", digest(b"x"), 2, 1)])
    with pytest.raises(TooLarge, match=r"6 files, and 5"):
        store.propose(info.id, 1, [file(f"f{number}") for number in range(4)])
    with pytest.raises(TooLarge, match="has 401 bytes"):
        put(store, b"x" * 401)
    for name in ("b", "c"):
        store.create("key", name)
    with pytest.raises(Overloaded) as full:
        store.create("key", "d")
    assert full.value.code == "too_many_workspaces"
    assert store.create("key", "b").name == "b"
    assert store.create("somebody", "d").owner == "somebody"


def test_a_claimed_size_does_not_pass_a_limit(store: Store) -> None:
    info = store.create("key", "tree")
    for number in range(3):
        put(store, b"%d" % number * 400)
    with pytest.raises(TooLarge, match="1200 bytes"):
        store.propose(info.id, None, [File(f"f{n}", digest(b"%d" % n * 400), 0, 1) for n in range(3)])
    assert store.propose(info.id, None, [File("f", digest(b"1" * 400), 0, 1)])
    assert [found.size for found in store.files(info.id)] == [400]


def held(store: Store) -> int:
    """Contents on disk."""
    return sum(path.is_file() for path in store.blob_folder.rglob("*"))


def test_of_what_no_manifest_refers_to_the_oldest_makes_room(store: Store, clock: Clock) -> None:
    info = store.create("key", "tree")
    data = [b"%d" % number * 400 for number in range(4)]
    for one in data[:3]:
        clock.ahead += 1
        assert store.put_blobs([(digest(one), one)], info.id) == (1, 0)
    assert [store.blob(digest(one)) for one in data[:3]] == [None, *data[1:3]]
    assert isinstance(store.propose(info.id, None, [file("a", data[1]), file("b", data[2])]), Applied)
    assert store.put_blobs([(digest(data[3]), data[3]), (digest(data[0]), data[0])], info.id) == (2, 0)
    assert held(store) == 4
    with pytest.raises(TooLarge, match="one push holds 1200 bytes"):
        store.put_blobs(
            [(digest(b"%d" % n * 399), b"%d" % n * 399) for n in range(3)] + [(digest(b"xyz"), b"xyz")], info.id
        )
    assert contents(store, info) == {"a": data[1], "b": data[2]}


def test_what_the_same_push_names_does_not_make_room(store: Store, clock: Clock) -> None:
    info = store.create("key", "tree")
    data = [b"%d" % number * 400 for number in range(3)]
    for one in data[:2]:
        clock.ahead += 1
        store.put_blobs([(digest(one), one)], info.id)
    assert store.put_blobs([(digest(one), one) for one in (data[0], data[2])], info.id) == (1, 1)
    assert [store.blob(digest(one)) for one in data] == [data[0], None, data[2]]


def test_a_file_saved_again_and_again_takes_no_more_than_twice_the_room(store: Store, clock: Clock) -> None:
    info = store.create("key", "log")
    for number in range(40):
        clock.ahead += 1
        data = b"%03d" % number * 100
        store.put_blobs([(digest(data), data)], info.id)
        result = store.propose(info.id, number, [file("app.log", data)])
        assert isinstance(result, Applied)
        assert held(store) <= 4
    assert contents(store, info) == {"app.log": b"039" * 100}


def test_deleting_and_making_it_again_gives_no_room_anew(store: Store) -> None:
    other = store.create("other", "tree")
    store.put_blobs([(digest(b"shared"), b"shared")], store.create("key", "tree").id)
    assert store.propose(other.id, None, [file("a", b"shared")])
    for number in range(5):
        info = store.create("key", "tree")
        data = b"%d" % number * 400
        store.put_blobs([(digest(data), data), (digest(data[:9]), data[:9])], info.id)
        assert store.propose(info.id, None, [file("a", data)])
        store.delete(info.id)
        assert held(store) == 1
    assert contents(store, other) == {"a": b"shared"}


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../a", "a b", "ä", "x" * 65, "a\n", "-a"])
def test_names_that_cannot_be(store: Store, name: str) -> None:
    with pytest.raises(BadRequest):
        store.create("key", name)


@given(st.binary(max_size=300))
def test_frames_of_any_bytes_end_in_one_way_or_the_other(body: bytes) -> None:
    pairs = []
    try:
        for pair in blobs.frames(body):
            pairs.append(pair)
        rest = b""
    except BadRequest:
        rest = None
    read = b"".join(hash + len(data).to_bytes(4, "big") + data for hash, data in pairs)
    assert body.startswith(read)
    assert rest is None or read == body


def test_a_wrong_hash_is_refused_and_what_came_before_is_kept(store: Store) -> None:
    with pytest.raises(BadRequest, match="xxh3-128"):
        store.put_blobs([(digest(b"1"), b"1"), (digest(b"2"), b"3"), (digest(b"4"), b"4")])
    assert [store.blob(digest(data)) for data in (b"1", b"2", b"3", b"4")] == [b"1", None, None, None]


def test_contents_are_private_and_compressed(store: Store) -> None:
    put(store, b"x" * 400)
    name = digest(b"x" * 400).hex()
    place = store.blob_folder / name[:2] / name
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_size < 40
    assert (store.folder / "workspaces.db").stat().st_mode & 0o777 == 0o600
    assert blobs.read(store.blob_folder, digest(b"x" * 400)) == b"x" * 400


@pytest.mark.parametrize("damage", [b"", b"no zlib", "other"])
def test_a_damaged_blob_is_none(store: Store, damage: bytes | str, caplog: pytest.LogCaptureFixture) -> None:
    put(store, b"1", b"2")
    one, two = (store.blob_folder / digest(data).hex()[:2] / digest(data).hex() for data in (b"1", b"2"))
    one.write_bytes(damage if isinstance(damage, bytes) else two.read_bytes())
    assert store.blob(digest(b"1")) is None
    assert "is damaged" in caplog.text
    assert store.blob(digest(b"2")) == b"2"


def test_blobs_go_an_hour_after_the_last_need_of_them(store: Store, clock: Clock) -> None:
    info = store.create("key", "tree")
    sync(store, info, {"a": b"kept", "b": b"left"})
    clock.ahead = 5000
    assert sync(store, info, {"a": b"kept"}).revision == 2
    put(store, b"pushed")
    clock.ahead = 8000  # 50 minutes later
    assert store.collect() == 0
    clock.ahead = 9000
    assert store.collect() == 2
    assert [store.blob(digest(data)) for data in (b"kept", b"left", b"pushed")] == [b"kept", None, None]
    assert store.put_blobs([(digest(b"left"), b"left")]) == (1, 0)


def test_a_push_in_flight_is_not_collected_under_its_manifest(store: Store, clock: Clock) -> None:
    info = store.create("key", "tree")
    files = [file("a", b"first"), file("b", b"last")]
    put(store, b"first")
    clock.ahead = 3500
    assert isinstance(store.propose(info.id, None, files), Missing)
    clock.ahead = 7000
    assert store.collect() == 0
    assert put(store, b"first") == (0, 1)
    clock.ahead = 10500
    assert store.collect() == 0
    put(store, b"last")
    assert isinstance(store.propose(info.id, None, files), Applied)


def test_files_without_a_row_are_swept(store: Store, clock: Clock) -> None:
    """A crash between the two leaves them."""
    put(store, b"1")
    orphan = store.blob_folder / "ab" / ("ab" * 16)
    orphan.write_bytes(b"half")
    assert store.collect() == 0
    assert orphan.exists()
    clock.ahead = 4000
    assert store.collect() == 1
    assert not orphan.exists()


def test_deleting_drops_files_and_states_and_the_number_is_not_used_again(store: Store, clock: Clock) -> None:
    info, other = store.create("key", "tree"), store.create("key", "other")
    sync(store, info, {"a": b"mine", "b": b"shared"})
    sync(store, other, {"c": b"shared"})
    store.put_state(info.id, "epoch", b"1")
    store.put_state(other.id, "epoch", b"2")
    store.delete(info.id)
    store.delete(info.id)
    assert store.list() == [store.info(other.id)]
    assert (store.files(info.id), store.get_state(info.id, "epoch")) == ([], None)
    store.put_state(info.id, "epoch", b"late")
    store.touch(info.id)
    assert store.get_state(info.id, "epoch") is None
    with pytest.raises(NotFound):
        store.propose(info.id, None, [])
    clock.ahead = 4000
    assert store.collect() == 1
    assert contents(store, other) == {"c": b"shared"}
    assert store.get_state(other.id, "epoch") == b"2"
    store.delete(other.id)
    assert store.create("key", "tree").id > other.id


def test_everything_is_there_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    first = Store(tmp_path, clock=clock)
    info = first.create("key", "tree")
    sync(first, info, {"a": b"1"})
    first.put_state(info.id, "epoch", b"\x00\xff")
    first.put_state(info.id, "gone", b"1")
    first.put_state(info.id, "gone", None)
    clock.ahead = 50
    first.touch(info.id)
    before = first.list()
    assert before[0].used >= info.used + 50
    first.close()
    second = Store(tmp_path)
    assert second.list() == before == [second.find("key", "tree")]
    assert contents(second, info) == {"a": b"1"}
    assert [second.get_state(info.id, key) for key in ("epoch", "gone", "never")] == [b"\x00\xff", None, None]
    second.close()


def test_a_folder_is_opened_once(store: Store) -> None:
    with pytest.raises(SettingError, match="another process"):
        Store(store.folder)


def test_a_damaged_or_newer_database_says_what_to_do(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "workspaces.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SettingError, match="newer release"):
        Store(tmp_path)
    (tmp_path / "workspaces.db").write_bytes(b"no database " * 100)
    with pytest.raises(SettingError, match="Move that folder away"):
        Store(tmp_path)
    shutil.rmtree(tmp_path)
    Store(tmp_path).close()


def test_many_threads_at_once_lose_nothing(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock=clock)
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            info = store.create("key", f"tree{number % 3}")
            for step in range(15):
                data = b"%d %d" % (step, number % 2)
                clock.ahead += 500
                put(store, data)
                store.touch(info.id)
                current = store.info(info.id)
                assert current
                result = store.propose(info.id, current.revision, [file(f"f{step}", data)])
                if isinstance(result, Applied):
                    found = store.file(info.id, f"f{step}")
                    assert found
                store.collect()
        except (ApiError, AssertionError, OSError, sqlite3.Error) as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    for info in store.list():
        assert info.files == len(store.files(info.id)) > 0
        assert None not in contents(store, info).values()
    before = {info.name: info.revision for info in store.list()}
    store.close()
    again = Store(tmp_path)
    assert {info.name: info.revision for info in again.list()} == before
    again.close()
