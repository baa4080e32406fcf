"""What a look at the tree reads and concludes, and what the ledger remembers of it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicockpit.indexer import inside, ledger, reading
from aicockpit.indexer.index import Batch, Index, blobs, wire
from aicockpit.indexer.ledger import Entry, Ledger, LedgerBusy, bounded, inode
from aicockpit.indexer.scan import Delta, RootGone, Stopped, Tree


def quiet(phase: str, done: int, total: int) -> None:
    pass


def made(root: Path, limit: int = 1 << 20) -> Tree:
    tree = Tree(os.fsencode(root), limit)
    tree.scan(quiet)
    return tree


def old(*paths: Path) -> None:
    """Past the moment in which a further change might not show in a file's times."""
    time.sleep(reading.TICK_NS / 1e9 + 0.02)


def read(path: Path, limit: int) -> reading.Read:
    root = inside.open_root(os.fsencode(path.parent))
    try:
        return reading.read(root, os.fsencode(path.name), limit)
    finally:
        os.close(root)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []
    real = os.open

    def note(path: bytes, flags: int, *others: int, dir_fd: int | None = None) -> int:
        if not path.endswith(b".git") and not flags & os.O_DIRECTORY:
            seen.append(os.path.basename(path))
        return real(path, flags, *others, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", note)
    return seen


def test_a_file_is_read_again_only_when_its_times_size_or_inode_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    old()
    tree = made(tmp_path)
    seen = opened(monkeypatch)
    assert tree.scan(quiet) == Delta()
    assert seen == []
    stat = (tmp_path / "a").stat()
    (tmp_path / "a").write_text("ONE")
    os.utime(tmp_path / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a tool does that keeps times
    assert tree.scan(quiet).content == {b"a"}
    (tmp_path / "b").touch()
    assert tree.scan(quiet).content == set()
    assert b"b" in seen


def test_a_file_read_right_after_a_change_is_not_trusted_to_be_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("one")
    tree = made(tmp_path)
    entry = tree.entry(b"a")
    assert entry is not None
    assert entry.ctime_ns == -1
    seen = opened(monkeypatch)
    old()
    delta = tree.scan(quiet)
    assert seen == [b"a"]
    assert delta.content == set()
    assert tree.scan(quiet) == Delta()


def test_a_renamed_folder_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for number in range(10):
        (tmp_path / f"a/b/f{number}").write_text(str(number))
    old()
    tree = made(tmp_path)
    (tmp_path / "a").rename(tmp_path / "z")
    seen = opened(monkeypatch)
    delta = tree.refresh([b"a", b"z"], quiet)
    assert len(delta.content) == 20
    assert seen == []
    assert {path for path, _ in tree.files()} == {b"z/b/f%d" % number for number in range(10)}


def test_the_hash_is_that_of_the_bytes_while_a_file_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0" * 300_000)
    done = threading.Event()

    def rewrite() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            with path.open("r+b", buffering=0) as file:
                for place in range(0, 300_000, 50_000):
                    file.seek(place)
                    file.write(b"%d" % (turn % 10) * 50_000)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(150):
            found = read(path, 1 << 20)
            assert found.entry is not None
            assert found.entry.hash == xxhash.xxh3_128(found.data).digest()
            assert found.entry.ctime_ns == -1
    finally:
        done.set()
        writer.join()


def test_growing_past_the_limit_and_vanishing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x" * 100)
    tree = made(tmp_path, limit=100)
    (tmp_path / "a").write_text("x" * 101)
    delta = tree.refresh([b"a"], quiet)
    assert (delta.entries, delta.content, dict(delta.left_out)) == ({b"a": None}, {b"a"}, {"large": 1})
    assert read(tmp_path / "none", 10).why == "gone"
    assert read(tmp_path, 10).why == "special"


def test_text_that_becomes_binary_is_removed_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    tree = made(tmp_path)
    (tmp_path / "a").write_bytes(b"\0\1\2")
    assert tree.refresh([b"a"], quiet).content == {b"a"}
    assert tree.entry(b"a") is None
    (tmp_path / "a").write_text("text again")
    assert tree.refresh([b"a"], quiet).content == {b"a"}
    assert tree.entry(b"a") is not None


def test_a_root_that_is_gone_or_a_stop_ends_the_scan(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_text("x")
    tree = made(root)
    root.rename(tmp_path / "aside")
    with pytest.raises(RootGone):
        tree.scan(quiet)
    with pytest.raises(RootGone):
        tree.refresh([b"a"], quiet)
    assert tree.entry(b"a") is not None
    (tmp_path / "aside").rename(root)
    tree.stop()
    with pytest.raises(Stopped):
        tree.scan(quiet)


NAME = st.sampled_from(["a", "b", "c"])
STEP = st.tuples(
    st.sampled_from(["write", "remove", "mkdir", "rename", "link"]), st.lists(NAME, min_size=1, max_size=3), NAME
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(STEP, min_size=1, max_size=6), min_size=1, max_size=5))
def test_looking_at_what_events_name_equals_looking_at_everything(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, list[str], str]]]
) -> None:
    root = tmp_path_factory.mktemp("tree").resolve()
    tree = made(root)
    for number, steps in enumerate(rounds):
        touched = set()
        for step in steps:
            touched |= act(root, *step, text=f"{number} {step}")
        tree.refresh(touched, quiet)
        fresh = made(root)
        assert {p: e.hash for p, e in tree.files()} == {p: e.hash for p, e in fresh.files()}


def act(root: Path, what: str, parts: list[str], other: str, text: str) -> set[bytes]:
    """Do one thing; the paths that events would name. What cannot be done is left undone."""
    path = root.joinpath(*parts[:-1]).resolve() / parts[-1]  # events name the true folder, not a link to it
    try:
        if what == "write":
            path.write_text(text)
        elif what == "remove":
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        elif what == "mkdir":
            path.mkdir()
        elif what == "link":
            path.symlink_to(root)
        else:
            path.rename(root / other)
            return {os.fsencode(place.relative_to(root)) for place in (path, root / other)}
    except OSError:
        return set()
    return {os.fsencode(path.relative_to(root))}


def entry(content: bytes = b"x") -> Entry:
    return Entry(xxhash.xxh3_128(content).digest(), len(content), 1, 2, 3)


def test_the_ledger_remembers_files_changes_and_where_the_gateway_stands(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "state", "w")
    ledger.note({b"a\xff": entry(), b"b": entry(b"y")}, {b"a\xff", b"b"})
    ledger.applied("id@3", {b"b"})
    ledger.note({b"b": None}, {b"b"})
    with pytest.raises(LedgerBusy):
        Ledger(tmp_path / "state", "w")
    ledger.close()
    again = Ledger(tmp_path / "state", "w")
    assert (dict(again.entries()), again.pending(), again.base) == ({b"a\xff": entry()}, {b"a\xff", b"b"}, "id@3")
    again.forget_base()
    assert again.base == ""
    again.close()
    assert (tmp_path / "state/w.db").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["garbage", "version"])
def test_a_damaged_ledger_is_made_anew(tmp_path: Path, damage: str) -> None:
    Ledger(tmp_path, "w").close()
    if damage == "garbage":
        (tmp_path / "w.db").write_bytes(b"not a database at all" * 400)
    else:
        with sqlite3.connect(tmp_path / "w.db") as db:
            db.execute("pragma user_version = 99")
        db.close()
    ledger = Ledger(tmp_path, "w")
    assert (list(ledger.entries()), ledger.base) == ([], "")
    ledger.close()


def test_a_change_during_a_push_stays_pending(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).write_text("1")
    index = Index(Tree(os.fsencode(root), 1 << 20), Ledger(tmp_path, "w"))
    index.adopt("id", 0)
    index.scan(quiet)
    batch = index.batch()
    assert isinstance(batch, Batch)
    (root / "a").write_text("2")
    (root / "b").unlink()
    (root / "c").write_text("3")
    index.refresh([b"a", b"b", b"c"], quiet)
    assert not index.applied(batch, 1)
    following = index.batch()
    assert following is not None
    assert (following.base, [path for path, _ in following.files], following.removed) == (1, [b"a", b"c"], ["b"])
    assert index.applied(following, 2)
    assert index.batch() is None
    index.ledger.close()


def test_blobs_come_in_bodies_of_limited_size_and_with_the_bytes_that_are_there(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"f{number}").write_bytes(os.urandom(150_000).hex().encode())
    tree = made(tmp_path)
    where = {e.hash: (path, e) for path, e in tree.files()}
    (tmp_path / "f0").write_text("changed")
    (tmp_path / "f1").unlink()
    left, sizes, moved = list(where), [], set()
    while left:
        body = blobs(tree.root, tree.limit, left, where)
        sizes.append(body.size)
        moved |= {path for path, _ in body.moved}
        left = list(body.left)
    assert len(sizes) > 1
    assert max(sizes) < (4 << 20) + (1 << 20)
    assert moved == {b"f0", b"f1"}


def test_another_limit_and_other_rules_judge_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/big.txt").write_text("x" * 5000)
    old()
    kept = []
    for limit in (10_000, 1000, 10_000):
        index = Index(Tree(os.fsencode(tmp_path / "root"), limit), Ledger(tmp_path, "w"))
        index.scan(quiet)
        kept.append([path for path, _ in index.tree.files()])
        index.ledger.close()
    assert kept == [[b"big.txt"], [], [b"big.txt"]]
    monkeypatch.setattr(ledger, "_VERSION", ledger._VERSION ^ 1)  # as other rules make it
    made_anew = Ledger(tmp_path, "w")
    assert list(made_anew.entries()) == []
    made_anew.close()


@pytest.mark.parametrize("mtime_ns", [10**19, 2**63, -(10**18)])
def test_times_of_any_year_are_kept(tmp_path: Path, mtime_ns: int) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a").write_text("x")
    os.utime(tmp_path / "root/a", ns=(0, mtime_ns))
    old()
    for _ in range(2):
        index = Index(Tree(os.fsencode(tmp_path / "root"), 1000), Ledger(tmp_path, "w"))
        delta = index.scan(quiet)
        index.ledger.close()
    assert delta.entries == {}


def test_times_and_inodes_beyond_sqlite_s_integers() -> None:
    seen = os.stat_result((0o100644, 2**64 - 1, 1, 1, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2**70, -(2**70)))
    assert (bounded(2**70), bounded(-(2**70)), inode(seen)) == (2**63 - 1, -(2**63) + 1, 2**63 - 1)


def test_an_empty_folder_in_the_root_s_place_removes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_text("x")
    index = Index(Tree(os.fsencode(root), 1000), Ledger(tmp_path, "w"))
    index.scan(quiet)
    index.ledger.close()
    root.rename(tmp_path / "disk")
    root.mkdir()
    for tree in (index.tree, Tree(os.fsencode(root), 1000)):
        again = Index(tree, Ledger(tmp_path, "w"))
        with pytest.raises(RootGone):
            again.refresh([b"a"], quiet)
        assert [path for path, _ in again.tree.files()] == [b"a"]
        again.ledger.close()
    (root / "b").write_text("y")  # another folder, and a full one: that is the tree now
    again = Index(Tree(os.fsencode(root), 1000), Ledger(tmp_path, "w"))
    assert again.scan(quiet).content == {b"a", b"b"}
    (root / "b").unlink()
    assert again.scan(quiet).content == {b"b"}
    again.ledger.close()


def test_of_names_with_one_shown_form_one_is_sent(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    names = [b"\\xff\xfe", b"\xff\\xfe", b"\\xff\\xfe"]
    for name in names[:2]:
        (root / os.fsdecode(name)).write_bytes(name)
    index = Index(Tree(os.fsencode(root), 1000), Ledger(tmp_path, "w"))

    def push(number: int) -> tuple[list[bytes], list[str]]:
        batch = index.batch()
        assert batch is not None
        index.applied(batch, number)
        return [path for path, _ in batch.files], list(batch.removed)

    assert index.scan(quiet).left_out == {"twin": 1}
    assert push(1)[0] == names[:1]
    (root / os.fsdecode(names[0])).unlink()
    assert index.refresh([names[0]], quiet).left_out == {"twin": 0}
    assert push(2) == (names[1:2], [])
    (root / os.fsdecode(names[2])).write_text("its true name")
    index.refresh([names[2]], quiet)
    assert push(3) == (names[2:], [])
    (root / os.fsdecode(names[2])).unlink()
    index.refresh([names[2]], quiet)
    assert push(4) == (names[1:2], [])
    (root / os.fsdecode(names[1])).unlink()
    index.refresh([names[1]], quiet)
    assert push(5) == ([], ["\\xff\\xfe"])
    index.ledger.close()


def test_names_on_the_wire() -> None:
    assert [wire(name) for name in (b"a/b", "ß".encode(), b"\xff\\")] == ["a/b", "ß", "\\xff\\"]
