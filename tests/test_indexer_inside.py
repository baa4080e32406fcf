"""Nothing outside the tree is read, whatever becomes a symlink and when."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from aicockpit.indexer import inside
from aicockpit.indexer.index import GZIP, Blobs, blobs
from aicockpit.indexer.ledger import Entry
from aicockpit.indexer.reading import content_hash
from aicockpit.indexer.scan import RootGone, Tree
from aicockpit.workspace.blobs import frames

LIMIT = 1 << 20
OUTSIDE = "from outside the tree"


def quiet(phase: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """`pkg/mid/a.py` and `b.py` in the tree; `out` beside it has files of the same names."""
    for top, text in (("tree/pkg", "inside"), ("out", OUTSIDE)):
        for name in ("mid/a.py", "mid/b.py", "c.py"):
            path = tmp_path / top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text} {name}")
    return tmp_path / "tree"


@pytest.fixture
def tree(root: Path) -> Tree:
    made = Tree(os.fsencode(root), LIMIT)
    made.scan(quiet)
    return made


def link(folder: Path, target: Path) -> None:
    """What a package manager does: a link to a folder elsewhere takes a folder's place."""
    shutil.rmtree(folder)
    folder.symlink_to(target)


def known(tree: Tree) -> dict[bytes, tuple[bytes, Entry]]:
    return {entry.hash: (path, entry) for path, entry in sorted(tree.files())}


def framed(body: Blobs) -> dict[bytes, bytes]:
    return dict(frames(zlib.decompress(body.body, GZIP)))


def when(monkeypatch: pytest.MonkeyPatch, name: bytes, do: Callable[[], None]) -> None:
    """Do it right before something of that name is opened, once."""
    real, waiting = os.open, [do]

    def opening(path: bytes, flags: int, *others: int, dir_fd: int | None = None) -> int:
        if isinstance(path, bytes) and os.path.basename(path) == name and waiting:
            waiting.pop()()
        return real(path, flags, *others, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opening)


LINKS = [("pkg", "out"), ("pkg/mid", "out/mid")]


@pytest.mark.parametrize(("folder", "target"), LINKS)
def test_a_link_in_a_folders_place_is_not_followed_when_contents_are_sent(
    root: Path, tree: Tree, folder: str, target: str
) -> None:
    where = known(tree)
    link(root / folder, root.parent / target)
    body = blobs(os.fsencode(root), LIMIT, list(where), where)
    gone = {path for path, _ in where.values() if path.startswith(folder.encode() + b"/")}
    assert {path for path, found in body.moved} == gone
    assert [found.why for _, found in body.moved] == ["gone"] * len(gone)
    assert all(OUTSIDE.encode() not in data for data in framed(body).values())
    assert body.count == len(where) - len(gone)
    for path, found in body.moved:
        tree.learn(path, found)
    assert {path for path, _ in tree.files()} == {path for path, _ in where.values()} - gone


@pytest.mark.parametrize(("folder", "target"), LINKS)
def test_a_link_in_a_folders_place_is_not_followed_by_an_event_inside_it(
    root: Path, tree: Tree, folder: str, target: str
) -> None:
    link(root / folder, root.parent / target)
    delta = tree.refresh([b"pkg/mid/a.py"], quiet)
    assert delta.entries == {b"pkg/mid/a.py": None}
    tree.refresh([b"pkg/mid"], quiet)
    tree.refresh([folder.encode()], quiet)
    assert {path for path, _ in tree.files()} == ({b"pkg/c.py"} if folder != "pkg" else set())


def test_a_parent_that_becomes_a_link_between_two_files(
    root: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder itself goes out of the tree, and what was put in it there is not sent."""
    where = {digest: place for digest, place in known(tree).items() if b"mid" in place[0]}
    away = root.parent / "away"

    def leave() -> None:
        (root / "pkg").rename(away)
        (away / "mid/b.py").write_text(OUTSIDE)
        (root / "pkg").symlink_to(away)

    when(monkeypatch, b"pkg", lambda: when(monkeypatch, b"pkg", leave))  # the first file, then the second
    body = blobs(os.fsencode(root), LIMIT, list(where), where)
    assert list(framed(body).values()) == [b"inside mid/a.py"]
    assert [(path, found.why) for path, found in body.moved] == [(b"pkg/mid/b.py", "gone")]


@pytest.mark.parametrize("moment", [b"pkg", b"mid", b"a.py"])
def test_a_parent_that_becomes_a_link_while_the_tree_is_walked(
    root: Path, tmp_path: Path, moment: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(os.fsencode(root), LIMIT)
    when(monkeypatch, moment, lambda: link(root / "pkg", tmp_path / "out"))
    tree.scan(quiet)
    ours = {content_hash(f"inside {name}".encode()) for name in ("mid/a.py", "mid/b.py", "c.py")}
    assert {entry.hash for _, entry in tree.files()} <= ours


def test_an_ignore_file_outside_does_not_decide(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out/.aicockpitignore").write_text("*\n")
    (root / "pkg/.aicockpitignore").write_text("c.py\n")
    away = tmp_path / "away"

    def swap() -> None:
        (root / "pkg").rename(away)
        (root / "pkg").symlink_to(tmp_path / "out")

    when(monkeypatch, b".aicockpitignore", swap)
    tree = Tree(os.fsencode(root), LIMIT)
    delta = tree.scan(quiet)
    assert sum(delta.left_out.values()) == 1, "`c.py` alone; the others are gone when they are to be read"
    assert list(tree.files()) == []


def test_the_root_may_be_a_link_and_a_folder_may_forbid_to_be_listed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(root)
    tree = Tree(os.fsencode(tmp_path / "named"), LIMIT)
    assert len(tree.scan(quiet).content) == 3
    top = inside.open_root(os.fsencode(root))
    try:
        (root / "pkg").chmod(0o311)
        file = inside.open_file(top, b"pkg/mid/a.py")
        assert os.read(file, 100) == b"inside mid/a.py"
        os.close(file)
        for path in (b"../out/c.py", b"pkg/../../out/c.py", b".."):
            with pytest.raises(NotADirectoryError):
                inside.open_file(top, path)
    finally:
        (root / "pkg").chmod(0o755)
        os.close(top)


def test_no_descriptor_is_left_open(root: Path, tree: Tree) -> None:
    where = known(tree)
    before = len(os.listdir("/proc/self/fd"))
    (root / "pkg/mid").rename(root / "pkg/other")
    (root / "pkg/mid").symlink_to(root)
    blobs(os.fsencode(root), LIMIT, list(where), where)
    tree.refresh([b"pkg/mid/a.py", b"pkg/mid", b"pkg/c.py", b"nowhere/x"], quiet)
    tree.scan(quiet)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_root_that_goes_while_it_is_looked_at_removes_nothing(
    root: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    when(monkeypatch, b".", lambda: shutil.rmtree(root))
    with pytest.raises(RootGone):
        tree.scan(quiet)
    assert len(list(tree.files())) == 3
    where = known(tree)
    assert blobs(os.fsencode(root), LIMIT, list(where), where) == Blobs(b"", 0, 0, (), ())


def test_a_content_that_is_not_what_the_manifest_said_goes_by_its_own_hash(root: Path, tree: Tree) -> None:
    where = known(tree)
    (root / "pkg/c.py").write_text("newer")
    body = blobs(os.fsencode(root), LIMIT, list(where), where)
    found = framed(body)
    assert all(content_hash(data) == digest for digest, data in found.items())
    assert found[content_hash(b"newer")] == b"newer"
    assert content_hash(b"inside c.py") not in found
