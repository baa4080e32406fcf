"""A folder and the gateway stay equal, whatever happens to either: real files, real events, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aicockpit.errors import SettingError
from aicockpit.indexer.agent import Options, Progress, run
from aicockpit.indexer.ledger import LedgerBusy
from aicockpit.indexer.push import Refused
from fake_workspace import FakeWorkspaces, serving


@pytest.fixture
async def fake() -> AsyncIterator[FakeWorkspaces]:
    async with serving(FakeWorkspaces()) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def content(root: Path) -> dict[str, bytes]:
    """What a workspace of `root` must hold when nothing is ignored."""
    found = {}
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and b"/.git/" not in path:
                with open(path, "rb") as file:
                    relative = os.path.relpath(path, os.fsencode(root))
                    found[relative.decode("utf-8", "backslashreplace")] = file.read()
    return found


class Watch:
    """A running indexer and what it reported."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.said: list[Progress] = []
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(run(options, self.said.append, self.stop))

    def phase(self, name: str) -> bool:
        if self.task.done():
            self.task.result()
        return any(progress.phase == name for progress in self.said)

    def message(self, part: str) -> bool:
        return any(part in progress.message for progress in self.said)


@contextlib.asynccontextmanager
async def watching(fake: FakeWorkspaces, root: Path, **changes: object) -> AsyncIterator[Watch]:
    """The indexer at work; left when it has ended of itself or the block has."""
    chosen: dict[str, object] = {"gateway": fake.address, "key": fake.key, "name": "w", "state": root.parent / "state"}
    watch = Watch(Options(root, **{**chosen, **changes}))  # type: ignore[arg-type]
    try:
        yield watch
    finally:
        watch.stop.set()
        await watch.task


async def equal(fake: FakeWorkspaces, root: Path) -> None:
    wanted = content(root)
    await fake.until(lambda: fake.tree() == wanted)


def nothing_twice(fake: FakeWorkspaces) -> None:
    assert [digest for digest, times in fake.received.items() if times > 1] == []


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
    put(root, {"a.py": "old"})
    async with watching(fake, root):
        await equal(fake, root)
        waits = []
        for number in range(20):
            count, start = len(fake.applied_at), time.monotonic()
            put(root, {"a.py": f"new {number}"})
            await fake.until(lambda count=count: len(fake.applied_at) > count)
            waits.append(fake.applied_at[-1] - start)
    assert sorted(waits)[10] < 0.1


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

    def note(path: str | bytes, *others: int) -> int:
        opened.append(os.fsdecode(path))
        return real(path, *others)

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
    worst = 0.0
    async with watching(fake, root) as watch:
        while not watch.phase("push"):
            start = time.monotonic()
            await asyncio.sleep(0.001)
            worst = max(worst, time.monotonic() - start)
        await equal(fake, root)
    assert worst < 0.25


def test_options_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "My Project!").mkdir()
    assert Options(tmp_path / "My Project!", tmp_path).workspace == "My-Project-"
    for bad in ({"name": "a/b"}, {"limit": 0}, {"limit": 1 << 30}, {"gateway": "localhost:8000"}):
        with pytest.raises(SettingError):
            Options(tmp_path, tmp_path, **bad)
    with pytest.raises(SettingError, match="not a folder"):
        Options(tmp_path / "nowhere", tmp_path)
