"""A folder and the gateway stay equal, whatever happens to either: real files, real events, real sockets."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fake_workspace import FakeWorkspaces, serving
from indexer_rig import equal, nothing_twice, put, watching


@pytest.fixture
async def fake() -> AsyncIterator[FakeWorkspaces]:
    async with serving(FakeWorkspaces()) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


async def test_the_first_scan_brings_everything_with_progress(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {f"d{number % 7}/f{number}.py": f"x = {number}\n" for number in range(500)})
    put(root, {"same1": "equal", "same2": "equal", "empty": ""})
    async with watching(fake, root) as watch:
        await equal(fake, root)
        await fake.until(lambda: watch.phase("watching"))
    nothing_twice(fake)
    assert {"scan", "hash", "push", "watching"} <= {progress.phase for progress in watch.said}
    assert watch.said[-1].files == 503
    assert [m["base"] for m in fake.manifests] == [None, None]


async def test_a_save_a_new_file_a_rename_and_a_delete(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1", "b/c.py": "2", "b/d.py": "3", "z/e.py": "4"})
    async with watching(fake, root):
        await equal(fake, root)
        before = sum(fake.received.values())
        put(root, {"a.py": "one", "new/deep/er/f.py": "5"})
        await equal(fake, root)
        assert sum(fake.received.values()) == before + 2
        (root / "a.py").rename(root / "renamed.py")
        (root / "b").rename(root / "y")
        (root / "z").rename(root / "early")
        await equal(fake, root)
        put(root, {"y/c.py": "after the move", "early/e.py": "too"})
        await equal(fake, root)
        shutil.rmtree(root / "y")
        (root / "renamed.py").unlink()
        await equal(fake, root)
        assert sum(fake.received.values()) == before + 4
    assert all(m["base"] is not None for m in fake.manifests[2:])
    nothing_twice(fake)


async def test_editors_that_save_beside_and_rename(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "old", ".gitignore": "*~\n*.swp\n"})
    async with watching(fake, root):
        await equal(fake, root)
        for number in range(5):
            put(root, {".a.py.swp": "x", "a.py.tmp": f"new {number}"})
            (root / "a.py.tmp").rename(root / "a.py")
            (root / ".a.py.swp").unlink()
            await equal(fake, root)
        (root / "a.py").rename(root / "a.py~")  # as vim does with backupcopy=no
        put(root, {"a.py": "vim"})
        await fake.until(lambda: fake.tree()["a.py"] == b"vim")
        put(root, {"b.new": "linked"})
        os.unlink(root / "a.py")
        os.link(root / "b.new", root / "a.py")
        await fake.until(lambda: fake.tree()["a.py"] == b"linked")
    assert "a.py~" not in fake.paths()


async def test_a_save_arrives_soon(fake: FakeWorkspaces, root: Path) -> None:
    """p95 under 0.1 s, and what this machine adds: four times the p95 by which a bare wake-up of loop and thread comes
    late, in the best of up to five rounds (a busy moment delays one, a slow indexer all)."""
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.phase("watching"))
        rounds: list[tuple[float, float]] = []
        while not rounds or (min(took - allowed for took, allowed in rounds) >= 0 and len(rounds) < 5):
            waits, late = [], []
            for number in range(20):
                count, start = len(fake.applied_at), time.monotonic()
                put(root, {f"a{number % 10}.py": f"new {len(rounds)} {number}"})
                await fake.until(lambda count=count: len(fake.applied_at) > count)
                waits.append(fake.applied_at[-1] - start)
                start = time.monotonic()
                await asyncio.sleep(0.01)
                await asyncio.to_thread(time.sleep, 0.01)
                late.append(time.monotonic() - start - 0.02)
            rounds.append((sorted(waits)[18], 0.1 + 4 * sorted(late)[18]))
    assert any(took < allowed for took, allowed in rounds), rounds


async def test_a_file_held_open_and_a_file_that_never_rests(fake: FakeWorkspaces, root: Path) -> None:
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.phase("watching"))
        with (root / "open.txt").open("w") as file:
            file.write("not closed")
            file.flush()
            await fake.until(lambda: fake.tree().get("open.txt") == b"not closed")
        with (root / "log.txt").open("a") as log:
            for number in range(400):
                log.write(f"line {number}\n")
                log.flush()
                await asyncio.sleep(0.003)
        put(root, {"other.txt": "not held up by it"})
        await equal(fake, root)


async def test_folder_becomes_file_and_file_becomes_folder(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a/b/c.py": "1", "d": "2"})
    async with watching(fake, root):
        await equal(fake, root)
        shutil.rmtree(root / "a")
        put(root, {"a": "a file now"})
        (root / "d").unlink()
        put(root, {"d/e.py": "a folder now"})
        await equal(fake, root)
        (root / "a").unlink()
        put(root, {"a/b/c.py": "a folder again"})
        await equal(fake, root)
        put(root, {"a/b/c.py": "and watched"})
        await equal(fake, root)


async def test_links_loops_pipes_and_unreadable_files(fake: FakeWorkspaces, root: Path, tmp_path: Path) -> None:
    put(root, {"a/b.py": "1"})
    put(tmp_path, {"outside/secret.py": "x"})
    (root / "a" / "loop").symlink_to(root)
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "file-link.py").symlink_to(tmp_path / "outside/secret.py")
    os.mkfifo(root / "pipe")
    async with watching(fake, root):
        await equal(fake, root)
        (root / "b.py").symlink_to(root / "a/b.py")
        (root / "loop2").symlink_to(root)
        put(root, {"last.py": "2"})
        await fake.until(lambda: "last.py" in fake.paths())
        (root / "last.py").unlink()
        (root / "last.py").symlink_to(tmp_path / "outside/secret.py")
        await fake.until(lambda: fake.paths() == {"a/b.py"})


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root reads everything")
def test_unreadable_files_and_folders_are_left_out_and_counted(root: Path) -> None:
    put(root, {"open.py": "1", "closed.py": "2", "shut/in.py": "3"})
    (root / "closed.py").chmod(0)
    (root / "shut").chmod(0)
    code = (
        "import os, sys; from aicockpit.indexer.scan import Tree; t = Tree(os.fsencode(sys.argv[1]), 1000);"
        "d = t.scan(lambda *a: None); print(sorted(p for p, _ in t.files()), d.left_out['unreadable'])"
    )
    # Root reads everything, but for one without capabilities.
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    python = [*drop, sys.executable, "-c", code, str(root)]
    done = subprocess.run(python, capture_output=True, text=True, check=False)
    (root / "shut").chmod(0o755)
    assert done.stdout.strip() == "[b'open.py'] 2", done.stderr


async def test_names_that_are_not_utf8(fake: FakeWorkspaces, root: Path) -> None:
    place = os.fsencode(root)
    for name in (
        b"caf\xe9.py",
        b"d\xff/x.py",
        "straße.py".encode(),
        b"new\nline.py",
        b"back\\slash.py",
        b"twin\\xe9",
        b"twin\xe9",
    ):
        os.makedirs(os.path.dirname(os.path.join(place, name)), exist_ok=True)
        with open(os.path.join(place, name), "wb") as file:
            file.write(name)
    async with watching(fake, root):
        await fake.until(lambda: len(fake.paths()) == 6)
        assert fake.tree()["caf\\xe9.py"] == b"caf\xe9.py"
        assert fake.tree()["d\\xff/x.py"] == b"d\xff/x.py"
        assert fake.tree()["twin\\xe9"] == b"twin\\xe9"
        os.unlink(os.path.join(place, b"caf\xe9.py"))
        os.unlink(os.path.join(place, b"twin\xe9"))
        await fake.until(lambda: "caf\\xe9.py" not in fake.paths())
        assert "twin\\xe9" in fake.paths()


async def test_files_that_change_while_they_are_sent(fake: FakeWorkspaces, root: Path) -> None:
    """The fake checks each hash against the bytes; the last state arrives."""
    put(root, {f"f{number}": "x" * 20_000 for number in range(60)})
    async with watching(fake, root):
        for turn in range(40):
            put(root, {f"f{number}": f"{turn} {number} " * (2000 + turn) for number in range(0, 60, 7)})
            await asyncio.sleep(0.005)
        await equal(fake, root)


async def test_a_branch_switch_is_few_pushes(fake: FakeWorkspaces, root: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=root, check=True, capture_output=True
        )

    git("init", "-q", "-b", "main")
    put(root, {f"p{number % 40}/f{number}.py": f"main {number}" for number in range(2500)})
    git("add", "-A")
    git("commit", "-qm", "main")
    git("checkout", "-qb", "other")
    shutil.rmtree(root / "p0")
    put(root, {f"p{1 + number % 39}/f{number}.py": f"other {number}" for number in range(2000)})
    put(root, {f"q{number % 40}/g{number}.py": f"new {number}" for number in range(1000)})
    git("add", "-A")
    git("commit", "-qm", "other")
    async with watching(fake, root):
        await equal(fake, root)
        before = len(fake.manifests)
        await asyncio.to_thread(git, "checkout", "-q", "main")
        await equal(fake, root)
        assert len(fake.applied_at) <= 1 + 3
        assert len(fake.manifests) <= before + 8
        put(root, {"p0/f0.py": "watched again"})
        await equal(fake, root)
    nothing_twice(fake)


async def test_ignore_files_and_git_s_index_take_effect_at_once(fake: FakeWorkspaces, root: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    put(root, {"a.log": "1", "b.py": "2", "sub/c.log": "3"})
    async with watching(fake, root):
        await fake.until(lambda: len(fake.paths()) == 3)
        put(root, {"sub/.gitignore": "*.log\n"})
        await fake.until(lambda: fake.paths() == {"a.log", "b.py", "sub/.gitignore"})
        put(root, {".gitignore": "*.log\n"})
        await fake.until(lambda: "a.log" not in fake.paths())
        subprocess.run(["git", "add", "-f", "a.log"], cwd=root, check=True)
        await fake.until(lambda: "a.log" in fake.paths())
        (root / "sub/.gitignore").unlink()
        (root / ".gitignore").unlink()
        await fake.until(lambda: fake.paths() == {"a.log", "b.py", "sub/c.log"})
