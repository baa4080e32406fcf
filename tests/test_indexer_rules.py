"""Ignore files above the watched folder, and the last word of `.aicockpitignore` over what looks like a secret."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicockpit.indexer.ignore import including
from aicockpit.indexer.index import Index
from aicockpit.indexer.ledger import Ledger
from aicockpit.indexer.scan import Tree
from fake_workspace import FakeWorkspaces, serving
from indexer_rig import put, watching
from test_indexer_ignore import PATTERNS, SEGMENT, fill, git, grow, only_our_git_configuration, ours, theirs

KEY = '{"name": "ci", "private_key": "-----BEGIN RSA PRIVATE KEY-----\\nMIIE"}\n'

__all__ = ["only_our_git_configuration"]


@pytest.fixture
async def fake() -> AsyncIterator[FakeWorkspaces]:
    async with serving(FakeWorkspaces()) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


# Above the watched folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.lists(SEGMENT, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12),
    below=st.sampled_from(["sub", "sub/deep"]),
    blocks=st.tuples(PATTERNS, PATTERNS, PATTERNS, PATTERNS),
    tracked=st.integers(0, 4),
)
def test_a_part_of_a_work_tree_agrees_with_git(
    tmp_path: Path, names: list[str], below: str, blocks: tuple[list[str], ...], tracked: int
) -> None:
    repo = tmp_path / "repo"
    shutil.rmtree(repo, ignore_errors=True)
    part = repo / below
    part.mkdir(parents=True)
    git(repo, "init", "-q", "--template=")
    (repo / ".git/info").mkdir()
    grow(part, names)
    if known := [f"{below}/{name}" for name in names[:tracked] if (part / name).is_file()]:
        git(repo, "--literal-pathspecs", "add", "-f", "--", *known)
    # A pattern that takes the watched folder itself means something else here: it was named to us.
    kept = [f"!/{'/'.join(below.split('/')[: n + 1])}" for n in range(below.count("/") + 1)]
    for place, lines in zip((".git/info/exclude", ".gitignore", "sub/.gitignore"), blocks[:3], strict=True):
        depth = "" if place != "sub/.gitignore" else "sub/"
        (repo / place).write_text("\n".join([*lines, *(line.replace(f"!/{depth}", "!/") for line in kept)]))
    with (part / ".gitignore").open("a") as file:
        file.write("\n" + "\n".join(blocks[3]))
    assert ours(part) == theirs(part)


def test_a_part_that_git_ignores_follows_its_own_rules_and_every_own_file(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    put(tmp_path, {".gitignore": "out/\n*.log\n", ".aicockpitignore": "*.csv\n", "out/.gitignore": "*.tmp\n"})
    fill(tmp_path, ["out/in/a.py", "out/in/a.log", "out/in/a.csv", "out/in/a.tmp", "out/b.tmp"])
    git(tmp_path, "add", "-f", "out/b.tmp")
    assert ours(tmp_path / "out") == {b".gitignore", b"in/a.py", b"in/a.log", b"b.tmp"}


async def test_changes_of_ignore_files_above_take_effect_at_once(fake: FakeWorkspaces, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    put(repo, {"sub/a.log": "1", "sub/b.py": "2", "sub/in/c.tmp": "3", "sub/in/d.txt": "4"})
    git(repo, "init", "-q")
    everything = {"a.log", "b.py", "in/c.tmp", "in/d.txt"}
    async with watching(fake, repo / "sub", state=tmp_path / "state") as watch:
        await fake.until(lambda: fake.paths() == everything)
        put(repo, {".gitignore": "*.log\n"})
        await fake.until(lambda: fake.paths() == everything - {"a.log"})
        put(repo, {".git/info/exclude": "*.tmp\n", ".aicockpitignore": "/sub/in/d.txt\n"})
        await fake.until(lambda: fake.paths() == {"b.py"})
        (repo / ".gitignore").unlink()
        (repo / ".aicockpitignore").unlink()
        await fake.until(lambda: fake.paths() == everything - {"in/c.tmp"})
        assert fake.paths() == {os.fsdecode(path) for path in theirs(repo / "sub")}
        assert not watch.task.done()


async def test_the_user_s_own_ignore_file_takes_effect_at_once(
    fake: FakeWorkspaces, root: Path, tmp_path: Path
) -> None:
    git(root, "init", "-q")
    (Path(os.environ["XDG_CONFIG_HOME"]) / "git").mkdir()
    put(tmp_path, {"dotfiles/ignore": "*.one\n"})
    (tmp_path / "link").symlink_to(tmp_path / "dotfiles/ignore")
    put(root, {"a.one": "1", "a.two": "2"})
    async with watching(fake, root):
        await fake.until(lambda: fake.paths() == {"a.one", "a.two"})
        git(root, "config", "core.excludesFile", str(tmp_path / "link"))
        await fake.until(lambda: fake.paths() == {"a.two"})
        put(tmp_path, {"dotfiles/ignore": "*.two\n"})
        await fake.until(lambda: fake.paths() == {"a.one"})
        git(root, "config", "--unset", "core.excludesFile")
        await fake.until(lambda: fake.paths() == {"a.one", "a.two"})
        put(Path(os.environ["XDG_CONFIG_HOME"]), {"git/ignore": "*.one\n"})
        await fake.until(lambda: fake.paths() == {"a.two"})


# What looks like a secret


@pytest.mark.parametrize("name", ["fixture.json", "notes.txt", "deploy", "kube.yml", "test_keys.py", "a b#!.md"])
def test_a_false_positive_can_be_brought_back_whatever_its_type(tmp_path: Path, name: str) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    begins = name in ("deploy", "test_keys.py")
    put(root, {f"sub/{name}": KEY[KEY.index("-----") :] if begins else KEY})

    def look() -> tuple[set[bytes], set[bytes]]:
        index = Index(Tree(os.fsencode(root), 1 << 20), Ledger(state, "w"))
        delta = index.scan(lambda phase, done, total: None)
        index.ledger.close()
        return {path for path, _ in index.tree.files()}, delta.held

    path = f"sub/{name}".encode()
    for _ in range(2):  # as it is read, and as it is remembered
        assert look() == (set(), {path})
    (root / ".aicockpitignore").write_text(including(f"sub/{name}") + "\n")
    for _ in range(2):
        assert look() == ({b".aicockpitignore", path}, set())
    (root / ".aicockpitignore").write_text("!sub/\n")  # the folder is not the file
    for _ in range(2):
        assert look() == ({b".aicockpitignore"}, {path})


def test_a_key_far_behind_the_beginning_is_found_too(tmp_path: Path) -> None:
    clusters = "- cluster:\n    certificate-authority-data: " + "TUlJ" * 500 + "\n"
    kube = clusters * 40 + "users:\n- user:\n    client-key-data: TUlJ\n"
    put(tmp_path, {"cluster.yaml": kube, "notes.md": "x\n" * 50_000 + KEY, "a.yaml": clusters * 40, "a.py": kube})
    assert ours(tmp_path) == {b"a.yaml", b"a.py"}


@pytest.mark.parametrize("name", ["a*b", "[x]?.json", "back\\slash", "space ", "!#", "dir/ü é"])
def test_the_line_that_is_advised_means_this_file_and_no_other(tmp_path: Path, name: str) -> None:
    fill(tmp_path, [name, "aXb", "x1.json", "backslash", "space", "dir/u"], KEY)
    (tmp_path / ".aicockpitignore").write_text(including(name) + "\n")
    assert ours(tmp_path) == {b".aicockpitignore", name.encode()}


def test_a_renamed_file_is_judged_by_its_new_name(tmp_path: Path) -> None:
    put(tmp_path, {"in.py": "# " + KEY, "let.json": KEY, ".aicockpitignore": "!let.json\n"})
    tree = Tree(os.fsencode(tmp_path), 1 << 20)
    tree.scan(lambda *a: None)
    assert {path for path, _ in tree.files()} == {b".aicockpitignore", b"in.py", b"let.json"}
    (tmp_path / "in.py").rename(tmp_path / "in.json")
    (tmp_path / "let.json").rename(tmp_path / "other.json")
    delta = tree.refresh([b"in.py", b"in.json", b"let.json", b"other.json"], lambda *a: None)
    assert {path for path, _ in tree.files()} == {b".aicockpitignore"}
    assert delta.held == {b"in.json", b"other.json"}


async def test_a_file_that_is_held_back_is_named_with_the_way_out(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1", "conf/fixture.json": KEY})
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.message("conf/fixture.json"))
        await fake.until(lambda: watch.phase("watching"))
        assert fake.paths() == {"a.py"}
        (line,) = {progress.message for progress in watch.said if progress.message}
        assert "!/conf/fixture.json" in line
        assert str(root / ".aicockpitignore") in line
        put(root, {".aicockpitignore": "!/conf/fixture.json\n"})
        await fake.until(lambda: fake.paths() == {"a.py", "conf/fixture.json", ".aicockpitignore"})
        put(root, {"conf/fixture.json": KEY * 2})
        await fake.until(lambda: fake.tree()["conf/fixture.json"] == (KEY * 2).encode())
        await fake.until(lambda: watch.said[-1].phase == "watching")
        put(root, {"late.txt": KEY})
        await fake.until(lambda: watch.message("late.txt"))
        assert watch.said[-1].phase == "watching", "a message does not change what is shown to go on"
        put(root, {".aicockpitignore": "\n"})
        await fake.until(lambda: fake.paths() == {"a.py", ".aicockpitignore"})


async def test_many_held_files_are_one_message(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {f"k{number}.json": KEY for number in range(9)})
    async with watching(fake, root, polling=True, poll_s=0.05) as watch:
        await fake.until(lambda: watch.phase("watching"))
        put(root, {"a.py": "1"})
        await fake.until(lambda: fake.paths() == {"a.py"})
    (line,) = {progress.message for progress in watch.said if progress.message}
    assert "k0.json, k1.json, k2.json, k3.json, k4.json and 4 more" in line


# A file that never rests


async def test_a_file_appended_to_in_a_loop_is_not_pushed_each_time(fake: FakeWorkspaces, root: Path) -> None:
    """Opened, written and closed each time, as `echo >> log` does; a save beside it is not held up."""
    put(root, {"a.py": "1", "log.txt": ""})
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.phase("watching"))
        before = len(fake.applied_at)
        for number in range(60):
            with (root / "log.txt").open("a") as file:
                file.write(f"line {number}\n")
            await asyncio.sleep(0.05)
        assert len(fake.applied_at) - before <= 8
        put(root, {"a.py": "2"})
        await fake.until(lambda: fake.tree()["a.py"] == b"2", 2)
        await fake.until(lambda: fake.tree()["log.txt"].endswith(b"line 59\n"), 6)
