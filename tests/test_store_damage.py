"""What a disk loses is asked for again, whoever finds it, and comes back."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aicockpit.errors import StorageFull
from aicockpit.workspace import blobs, tables
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.store import GRACE_S, Applied, Conflict, File, Info, Missing, Store

TREE = {"a.py": b"one" * 100, "b.py": b"two" * 100, "c/d.py": b"one" * 100}


class Ahead:
    """A clock; the files' times are the machine's."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return time.time() + self.s


@pytest.fixture
def clock() -> Ahead:
    return Ahead()


@pytest.fixture
def store(tmp_path: Path, clock: Ahead) -> Iterator[Store]:
    made = Store(tmp_path / "store", clock=clock)
    yield made
    made.close()


def rows(tree: dict[str, bytes]) -> list[File]:
    return [File(path, digest(data), len(data), 1) for path, data in tree.items()]


def put(store: Store, *contents: bytes) -> tuple[int, int]:
    return store.put_blobs([(digest(data), data) for data in contents])


def filled(store: Store, name: str = "w") -> Info:
    info = store.create("key", name)
    put(store, *TREE.values())
    assert isinstance(store.propose(info.id, None, rows(TREE)), Applied)
    return now(store, info)


def now(store: Store, info: Info) -> Info:
    found = store.info(info.id)
    assert found is not None
    return found


def place(store: Store, data: bytes) -> Path:
    name = digest(data).hex()
    return store.blob_folder / name[:2] / name


def notes(store: Store) -> list[str]:
    return os.listdir(store.blob_folder / "lost")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def swap(path: Path) -> None:
    path.write_bytes(zlib.compress(b"another content"))


def heals(store: Store, info: Info, *lost: bytes) -> None:
    """From the next manifest of a client that knows of nothing to contents that are all there."""
    before = info.revision
    conflict = store.propose(info.id, before, [])
    assert conflict == Conflict(before + 1), "a client has to send everything it has"
    wanted = tuple(digest(data) for data in lost)
    assert store.propose(info.id, None, rows(TREE)) == Missing(before + 1, wanted, len(wanted))
    assert put(store, *lost) == (len(lost), 0)
    assert store.propose(info.id, None, rows(TREE)) == Applied(before + 1, ())
    assert {file.path: store.blob(file.hash) for file in store.files(info.id)} == TREE
    assert store.propose(info.id, before + 1, []) == Applied(before + 1, ())
    assert notes(store) == []


@pytest.mark.parametrize("damage", [cut, swap, os.unlink])
def test_what_cannot_be_read_is_missing_and_comes_back(store: Store, damage: object) -> None:
    info = filled(store)
    assert callable(damage)
    damage(place(store, TREE["a.py"]))
    assert store.blob(digest(TREE["a.py"])) is None
    heals(store, info, TREE["a.py"])


def test_a_sector_that_cannot_be_read_is_damage_and_a_forbidden_file_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, real = filled(store), Path.read_bytes
    code = [errno.EIO]

    def read_bytes(path: Path) -> bytes:
        if path == place(store, TREE["b.py"]):
            raise OSError(code[0], os.strerror(code[0]))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    code[0] = errno.EACCES
    with pytest.raises(PermissionError):
        store.blob(digest(TREE["b.py"]))
    (store.blob_folder / "lost" / digest(TREE["b.py"]).hex()).touch()
    assert store.propose(info.id, 1, []) == Applied(1, ()), "what cannot be told is no loss"
    code[0] = errno.EIO
    assert store.blob(digest(TREE["b.py"])) is None
    assert store.propose(info.id, 1, []) == Conflict(2)
    monkeypatch.undo()
    put(store, TREE["b.py"])
    assert store.propose(info.id, None, rows(TREE)) == Applied(2, ())


def test_a_reader_in_another_process_tells_the_store(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    info = filled(store)
    cut(place(store, TREE["b.py"]))
    code = "import sys; from pathlib import Path; from aicockpit.workspace.blobs import read; "
    code += "print([read(Path(sys.argv[1]), bytes.fromhex(sys.argv[2])) for _ in range(3)])"
    argv = [sys.executable, "-c", code, str(store.blob_folder), digest(TREE["b.py"]).hex()]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[None, None, None]"
    assert done.stderr.count("is damaged") == 1, "once for each damage"
    heals(store, info, TREE["b.py"])
    assert "1 contents" in caplog.text


def test_a_note_of_what_is_sound_or_unknown_changes_nothing(store: Store) -> None:
    info = filled(store)
    for hash in (digest(TREE["a.py"]), digest(b"never sent")):
        (store.blob_folder / "lost" / hash.hex()).touch()
    assert store.propose(info.id, 1, []) == Applied(1, ())
    assert notes(store) == []
    assert store.blob(digest(b"never sent")) is None
    assert store.propose(info.id, 1, []) == Applied(1, ())


def test_a_database_without_its_blobs(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    info, other = filled(store), filled(store, "other")
    store.close()
    shutil.rmtree(store.blob_folder)
    again = Store(tmp_path / "store")
    try:
        heals(again, info, TREE["a.py"], TREE["b.py"])
        assert again.propose(other.id, 1, []) == Conflict(2), "its client asks too, and nothing is missing by then"
        assert again.propose(other.id, None, rows(TREE)) == Applied(2, ())
    finally:
        again.close()
    third = Store(tmp_path / "store")
    assert now(third, info).revision == 2, "told once"
    third.close()


def test_files_that_vanish_while_it_runs_are_found_by_the_collection(store: Store) -> None:
    info = filled(store)
    shutil.rmtree(store.blob_folder)
    assert store.collect() == 0
    heals(store, info, TREE["a.py"], TREE["b.py"])


def test_the_collection_keeps_new_files_without_a_row_and_drops_old_ones(store: Store, clock: Ahead) -> None:
    info = filled(store)
    stray = place(store, b"stray")
    stray.write_bytes(b"x")
    store.collect()
    assert stray.exists()
    clock.s = 2 * GRACE_S
    store.collect()
    assert not stray.exists()
    assert now(store, info).revision == 1
    assert store.blob(digest(TREE["a.py"])) == TREE["a.py"]


def test_a_loss_that_the_tree_has_left_behind_goes_with_its_row(store: Store, clock: Ahead) -> None:
    info = filled(store)
    place(store, TREE["b.py"]).unlink()
    assert store.blob(digest(TREE["b.py"])) is None
    left = {path: data for path, data in TREE.items() if path != "b.py"}
    result = store.propose(info.id, None, rows(left))
    assert isinstance(result, Applied)
    assert [change.path for change in result.changed] == ["b.py"]
    clock.s = 2 * GRACE_S
    assert store.collect() == 1
    with tables.connect(store.folder) as db:
        assert tables.lost(db) == set()
    db.close()


def test_a_new_file_with_a_lost_content_is_missing_too(store: Store) -> None:
    filled(store)
    other = store.create("key", "other")
    place(store, TREE["a.py"]).unlink()
    store.blob(digest(TREE["a.py"]))
    assert store.propose(other.id, 0, rows({"x": TREE["a.py"]})) == Missing(0, (digest(TREE["a.py"]),), 1)


def test_on_a_full_disk_it_opens_and_finds_the_loss_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    info = filled(store)
    store.close()
    shutil.rmtree(store.blob_folder)

    def full(*_: object) -> None:
        raise StorageFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "lose", full)
        again = Store(tmp_path / "store")
    try:
        assert now(again, info).revision == 1
        again.collect()
        heals(again, info, TREE["a.py"], TREE["b.py"])
    finally:
        again.close()


def test_a_reader_that_cannot_leave_a_note_still_answers(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    filled(store)
    cut(place(store, TREE["a.py"]))
    shutil.rmtree(store.blob_folder / "lost")
    assert blobs.read(store.blob_folder, digest(TREE["a.py"])) is None
    assert "could not be noted" in caplog.text
