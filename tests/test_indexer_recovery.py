"""The indexer when something ends, fails or goes away, and what it holds up meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aicockpit.errors import SettingError
from aicockpit.indexer.agent import Options
from aicockpit.indexer.ledger import LedgerBusy
from aicockpit.indexer.push import Refused
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


async def test_a_restart_reads_and_sends_nothing(
    fake: FakeWorkspaces, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root, {f"f{number}.py": str(number) for number in range(300)})
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.phase("watching"))
    await asyncio.sleep(0.1)  # files just written are read once more, by their times
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.phase("watching"))
    calls = len(fake.calls)
    opened: list[str] = []
    real = os.open

    def note(path: str | bytes, *others: int, dir_fd: int | None = None) -> int:
        opened.append(os.fsdecode(path))
        return real(path, *others, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", note)
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.phase("watching"))
    assert fake.calls[calls:] == ["PUT w"]
    assert [path for path in opened if path.endswith(".py")] == []
    monkeypatch.undo()
    put(root, {"f7.py": "changed while away"})
    (root / "f8.py").unlink()
    async with watching(fake, root):
        await equal(fake, root)
    assert fake.manifests[-1]["base"] is not None
    nothing_twice(fake)


async def test_a_push_that_dies_half_way_goes_on(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {f"f{number}.py": os.urandom(3000).hex() for number in range(3000)})
    fake.cut_blobs, fake.lose_answers = [100_000], 1
    async with watching(fake, root) as watch:
        await equal(fake, root)
    assert watch.message("nothing is lost")
    nothing_twice(fake)


async def test_changes_while_the_gateway_is_away_arrive_later(root: Path, tmp_path: Path) -> None:
    put(root, {"a.py": "1"})
    fake = FakeWorkspaces()
    socket = str(tmp_path / "gateway.sock")
    fake.address = f"unix:{socket}"
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.message("no answer from the gateway"))
        async with serving(fake, socket):
            await equal(fake, root)
        os.unlink(socket)
        put(root, {"a.py": "2", "b.py": "3"})
        await asyncio.sleep(0.5)
        assert fake.tree() == {"a.py": b"1"}
        async with serving(fake, socket):
            await equal(fake, root)
    nothing_twice(fake)


async def test_pending_changes_survive_the_indexer(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1"})
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.phase("watching"))
        fake.fail = [(503, "not_ready")] * 100
        put(root, {"a.py": "2"})
        await fake.until(lambda: watch.phase("waiting"))
    fake.fail = []
    async with watching(fake, root):
        await equal(fake, root)
    assert fake.manifests[-1]["base"] == 1


async def test_conflict_lost_workspace_and_server_errors(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1"})
    async with watching(fake, root):
        await equal(fake, root)
        fake.workspaces["w"].revision = 41
        put(root, {"a.py": "2"})
        await equal(fake, root)
        assert fake.manifests[-1]["base"] is None
        del fake.workspaces["w"]
        put(root, {"b.py": "3"})
        await equal(fake, root)
        fake.fail = [(500, "internal_error"), (429, "overloaded")]
        put(root, {"c.py": "4"})
        await equal(fake, root)


async def test_a_gateway_that_cannot_tell_its_workspaces_apart_gets_the_whole_tree(root: Path) -> None:
    put(root, {"a.py": "1"})
    async with serving(FakeWorkspaces(identity=False)) as fake:
        for _ in range(2):
            async with watching(fake, root) as watch:
                await fake.until(lambda watch=watch: watch.phase("watching"))
        assert [m["base"] for m in fake.manifests] == [None, None, None]


async def test_a_wrong_key_ends_it_and_a_full_workspace_does_not(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1"})
    with pytest.raises(Refused, match="401"):
        async with watching(fake, root, key="wrong") as watch:
            await watch.task
    for number, (status, code) in enumerate([(413, "too_many_files"), (400, "invalid_manifest")]):
        fake.fail = [(status, code)]
        put(root, {f"before{number}.py": "2"})
        async with watching(fake, root) as watch:
            await fake.until(lambda watch=watch, status=status: watch.message(str(status)))
            put(root, {f"b{number}.py": "2"})
            await equal(fake, root)
    fake.garbled = 1
    put(root, {"garbled.py": "3"})
    async with watching(fake, root) as watch:
        await equal(fake, root)
    assert watch.message("nothing is lost")


async def test_after_a_400_the_whole_tree_is_told(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1", "b.py": "2"})
    async with watching(fake, root) as watch:
        await fake.until(lambda: watch.phase("watching"))
        fake.fail = [(400, "path_conflict")]
        put(root, {"a.py": "3"})
        await fake.until(lambda: watch.message("the gateway answered 400"))
        assert watch.message("Nothing is pushed until a file changes")
        assert fake.tree()["a.py"] == b"1"
        put(root, {"b.py": "4"})
        await equal(fake, root)
        assert fake.manifests[-1]["base"] is None
    nothing_twice(fake)


async def test_git_that_fails_is_told_and_its_last_answer_stands(fake: FakeWorkspaces, root: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    put(root, {".gitignore": "*.log\n", "tracked.log": "1", "other.log": "2"})
    subprocess.run(["git", "add", "-f", "tracked.log"], cwd=root, check=True)
    async with watching(fake, root) as watch:
        await fake.until(lambda: fake.paths() == {".gitignore", "tracked.log"})
        index = (root / ".git/index").read_bytes()
        (root / ".git/index").write_bytes(b"damaged")
        put(root, {".gitignore": "*.log\n*.tmp\n", "a.tmp": "3", "a.py": "4"})
        await fake.until(lambda: watch.message("its last answer stands"))
        await fake.until(lambda: fake.paths() == {".gitignore", "tracked.log", "a.py"})
        (root / ".git/index").write_bytes(index)
        put(root, {"b.py": "5"})
        await fake.until(lambda: "b.py" in fake.paths())


async def test_a_file_that_grows_without_end_is_not_sent_all_the_time(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1"})
    async with watching(fake, root):
        await equal(fake, root)
        before = sum(fake.received.values())
        with (root / "app.out").open("w") as file:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                file.write("line\n" * 100)
                file.flush()
                await asyncio.sleep(0.01)
            assert sum(fake.received.values()) - before <= 4
        await equal(fake, root)


async def test_a_root_that_goes_away_removes_nothing(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1", "b/c.py": "2"})
    async with watching(fake, root) as watch:
        await equal(fake, root)
        root.rename(root.parent / "aside")
        await fake.until(lambda: watch.phase("paused"))
        assert fake.paths() == {"a.py", "b/c.py"}
        (root.parent / "aside").rename(root)
        put(root, {"b/c.py": "back"})
        await equal(fake, root)
        put(root, {"b/c.py": "and watched"})
        await equal(fake, root)


async def test_polling_sees_the_same(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {"a.py": "1", "b/c.py": "2"})
    async with watching(fake, root, polling=True, poll_s=0.1):
        await equal(fake, root)
        put(root, {"a.py": "22", "d/e.py": "3"})
        shutil.rmtree(root / "b")
        await equal(fake, root)


async def test_one_indexer_at_a_time(fake: FakeWorkspaces, root: Path) -> None:
    async with watching(fake, root) as first:
        await fake.until(lambda: first.phase("watching"))
        with pytest.raises(LedgerBusy, match="watched already"):
            async with watching(fake, root) as second:
                await second.task


async def test_the_event_loop_is_never_held_up(fake: FakeWorkspaces, root: Path) -> None:
    put(root, {f"d{number % 50}/f{number}.py": "x" * 3000 + str(number) for number in range(4000)})
    put(root, {"big.txt": "y" * (1 << 20)})
    gc.collect()
    gc.freeze()  # what all tests before this one left is not walked through in the middle of it
    began, worst = time.thread_time(), 0.0
    try:
        async with watching(fake, root) as watch:
            while not watch.phase("push"):
                start = time.thread_time()  # what the loop itself worked: a busy machine is not its fault
                await asyncio.sleep(0.001)
                worst = max(worst, time.thread_time() - start)
            await equal(fake, root)
    finally:
        gc.unfreeze()
    assert worst < max(0.25, (time.thread_time() - began) / 10), "one step held up a tenth of all the work"


def test_options_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "My Project!").mkdir()
    assert Options(tmp_path / "My Project!", tmp_path).workspace == "My-Project-"
    for bad in ({"name": "a/b"}, {"limit": 0}, {"limit": 1 << 30}, {"gateway": "localhost:8000"}):
        with pytest.raises(SettingError):
            Options(tmp_path, tmp_path, **bad)
    with pytest.raises(SettingError, match="not a folder"):
        Options(tmp_path / "nowhere", tmp_path)
