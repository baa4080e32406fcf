"""Events: which paths are told, what happens when the kernel's limits are reached, and when a look is due."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from aicockpit.indexer import watch
from aicockpit.indexer.watch import GIT_CHANGED, Event, Inotify, Polling, Recursive, choose, file_system
from fake_workspace import FakeWorkspaces, serving
from indexer_rig import content, put, watching

HERE = Path(__file__).parent


class Heard:
    """What a watcher told, from its thread."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._more = threading.Condition()

    def __call__(self, events: list[Event]) -> None:
        with self._more:
            self.events += events
            self._more.notify_all()

    def until(self, *wanted: Event) -> None:
        with self._more:
            assert self._more.wait_for(lambda: set(wanted) <= set(self.events), 10), self.events[-20:]

    def paths(self) -> set[bytes]:
        return {path for path, _ in self.events}

    def until_told(self, path: bytes, times: int) -> None:
        with self._more:
            done = self._more.wait_for(lambda: sum(event[0] == path for event in self.events) >= times, 10)
            assert done, self.events[-20:]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def inotify(tmp_path: Path, heard: Heard) -> Iterator[Inotify]:
    watcher = Inotify(os.fsencode(tmp_path), heard)
    watcher.enter(b"")
    yield watcher
    watcher.close()
    watcher.close()


def test_a_write_is_told_while_open_and_when_closed(tmp_path: Path, inotify: Inotify, heard: Heard) -> None:
    with (tmp_path / "a").open("w") as file:
        file.write("x")
        file.flush()
        heard.until((b"a", True))
        assert (b"a", False) not in heard.events
    heard.until((b"a", False))


def test_only_entered_folders_are_watched(tmp_path: Path, inotify: Inotify, heard: Heard) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    inotify.enter(b"in")
    (tmp_path / "out/a").write_text("x")
    (tmp_path / "in/a").write_text("x")
    heard.until((b"in", False), (b"out", False), (b"in/a", False))
    inotify.leave(b"in")
    (tmp_path / "in/b").write_text("x")
    (tmp_path / "c").write_text("x")
    heard.until((b"c", False))
    assert heard.paths().isdisjoint({b"out/a", b"in/b"})


def test_a_renamed_folder_is_known_by_its_new_name(tmp_path: Path, inotify: Inotify, heard: Heard) -> None:
    (tmp_path / "z").mkdir()
    inotify.enter(b"z")
    (tmp_path / "z").rename(tmp_path / "a")
    inotify.enter(b"a")
    inotify.leave(b"z")
    (tmp_path / "a/f").write_text("x")
    heard.until((b"z", False), (b"a", False), (b"a/f", False))


def test_a_folder_made_anew_is_watched_anew(tmp_path: Path, inotify: Inotify, heard: Heard) -> None:
    for number in range(20):
        (tmp_path / "d").mkdir()
        inotify.enter(b"d")
        (tmp_path / f"d/f{number}").write_text("x")
        heard.until((b"d/f%d" % number, False))
        shutil.rmtree(tmp_path / "d")


def test_a_queue_that_overflows_means_look_at_everything(tmp_path: Path, inotify: Inotify, heard: Heard) -> None:
    with inotify._lock:  # the watcher's thread stands still while the kernel's queue fills
        for number in range(6000):
            path = tmp_path / f"f{number}"
            path.write_text("x")
            path.unlink()
    heard.until((b"", False))


def repository(root: Path) -> bytes:
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return os.fsencode(root / ".git")


def test_git_s_index_is_told_and_the_rest_of_git_s_folder_is_not(
    tmp_path: Path, inotify: Inotify, heard: Heard
) -> None:
    git = repository(tmp_path)
    inotify.watch_rules((git + b"/index", git + b"/info/exclude", git + b"/nowhere/exclude"))
    (tmp_path / "a").write_text("x")
    subprocess.run(["git", "add", "a"], cwd=tmp_path, check=True)
    heard.until((GIT_CHANGED, False))
    assert heard.paths() <= {GIT_CHANGED, b"a", b".git"}


def test_rule_files_above_and_inside_the_tree_are_told(tmp_path: Path, heard: Heard) -> None:
    root = tmp_path / "sub"
    (root / "conf").mkdir(parents=True)
    inside = [os.fsencode(root / name) for name in ("conf/ignore", "mine")]
    watcher = Inotify(os.fsencode(root), heard)
    try:
        watcher.enter(b"")
        for _ in range(2):
            watcher.watch_rules([os.fsencode(tmp_path / ".gitignore"), *inside])
        (tmp_path / "other").write_text("x")
        (tmp_path / ".gitignore").write_text("x")
        heard.until((GIT_CHANGED, False))
        assert heard.paths() == {GIT_CHANGED}
        for count, place in enumerate(("mine", "conf/ignore", "conf/ignore"), 2):
            (root / place).write_text("x")
            heard.until_told(GIT_CHANGED, count)
            watcher.enter(b"conf")  # not watched for itself before: both are told from now on
        heard.until((b"conf/ignore", False))
        (tmp_path / ".gitignore").rename(tmp_path / "away")
        heard.until_told(GIT_CHANGED, 5)
    finally:
        watcher.close()


def test_watchdog_s_observer_tells_rule_files_outside_the_tree(tmp_path: Path, heard: Heard) -> None:
    root = tmp_path / "sub"
    root.mkdir()
    git = repository(tmp_path)
    watcher = Recursive(os.fsencode(root), heard)
    try:
        for _ in range(2):
            watcher.watch_rules([os.fsencode(tmp_path / ".gitignore"), git + b"/info/exclude", git + b"/nowhere/x"])
        (tmp_path / "other").write_text("x")
        (root / "a").write_text("x")
        heard.until((b"a", False))
        assert GIT_CHANGED not in heard.paths()
        (tmp_path / ".gitignore").write_text("x")
        heard.until((GIT_CHANGED, False))
        assert b"other" not in heard.paths()
    finally:
        watcher.close()


def test_watchdog_s_observer_tells_the_same_paths(tmp_path: Path, heard: Heard) -> None:
    (tmp_path / "d").mkdir()
    watcher = Recursive(os.fsencode(tmp_path), heard)
    try:
        (tmp_path / "d/a").write_text("x")
        heard.until((b"d/a", False))
        (tmp_path / "d/a").rename(tmp_path / "b")
        heard.until((b"b", False))
        (tmp_path / "b").unlink()
        heard.until((b"b", False))
    finally:
        watcher.close()


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
def test_when_the_kernel_has_no_more_watches_the_tree_is_polled(tmp_path: Path, limit: str) -> None:
    """In a user namespace of its own, where the real limit can be set."""
    unshare = ["unshare", "--user", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    code = f"""
        import asyncio, pathlib, sys
        pathlib.Path("/proc/sys/user/{limit}").write_text("{3 if "watches" in limit else 0}")
        from fake_workspace import FakeWorkspaces, serving
        from indexer_rig import content, put, watching
        async def main():
            root = pathlib.Path(sys.argv[1])
            put(root, {{f"d{{n}}/f.py": str(n) for n in range(9)}})
            async with serving(FakeWorkspaces()) as fake, watching(fake, root, poll_s=0.1) as watch:
                await fake.until(lambda: fake.tree() == content(root))
                put(root, {{"d8/f.py": "changed", "e/g.py": "new"}})
                await fake.until(lambda: fake.tree() == content(root))
            print([p.message for p in watch.said if "sysctl" in p.message][0])
        asyncio.run(main())
    """
    command = [*unshare, sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    name = "max_user_watches" if "watches" in limit else "max_user_instances"
    assert f"sudo sysctl fs.inotify.{name}=" in done.stdout, done.stderr


class Full:
    """The C library of a kernel that has no watches left, once it gave `some`: `call` fails with `number`."""

    def __init__(self, call: str, number: int, some: int) -> None:
        self._real = ctypes.CDLL(None, use_errno=True)
        self._call, self._number, self._left = call, number, some

    def __getattr__(self, name: str) -> Callable[..., int]:
        return functools.partial(self._refuse, name) if name == self._call else getattr(self._real, name)

    def _refuse(self, name: str, *arguments: object) -> int:
        self._left -= 1
        if self._left >= 0:
            return int(getattr(self._real, name)(*arguments))
        ctypes.set_errno(self._number)
        return -1


@pytest.mark.parametrize(
    ("call", "number", "some", "limit"),
    [
        ("inotify_add_watch", errno.ENOSPC, 3, "max_user_watches"),
        ("inotify_add_watch", errno.ENOSPC, 0, "max_user_watches"),
        ("inotify_init1", errno.EMFILE, 0, "max_user_instances"),
    ],
)
async def test_when_a_watch_is_refused_the_tree_is_polled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, some: int, limit: str
) -> None:
    """Without a user namespace: what the kernel answers is made up, so this is never skipped."""
    kernel, root = Full(call, number, some), tmp_path / "root"
    library = SimpleNamespace(CDLL=lambda *_, **__: kernel, get_errno=ctypes.get_errno)
    monkeypatch.setattr(watch, "ctypes", library)
    put(root, {f"d{n}/f.py": str(n) for n in range(9)})
    async with serving(FakeWorkspaces()) as fake, watching(fake, root, poll_s=0.1) as running:
        await fake.until(lambda: fake.tree() == content(root))
        await fake.until(lambda: running.message(f"sudo sysctl fs.inotify.{limit}="))
        assert running.message("so this tree is polled")
        # What was watched is watched no more: only a look at the whole tree can find these.
        assert "aicockpit-inotify" not in {thread.name for thread in threading.enumerate()}
        put(root, {"d0/f.py": "changed", "d8/f.py": "changed", "e/g.py": "new"})
        await fake.until(lambda: fake.tree() == content(root))
    assert len([progress for progress in running.said if "sysctl" in progress.message]) == 1


def test_network_mounts_are_polled_and_say_so(tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/x rw\n"
        "2 1 0:5 / /home/me/a\\040b rw,relatime shared:1 - fuse.sshfs host: rw\n"
        "3 1 0:6 / /home/me/a\\040b/local rw - tmpfs tmpfs rw\n"
        "broken line\n"
    )
    places = {b"/home/me/a b/c": "fuse.sshfs", b"/home/me/a b/local": "tmpfs", b"/home/me/a bc": "ext4", b"/": "ext4"}
    assert {place: file_system(place, str(table)) for place in places} == places
    assert file_system(b"/", str(tmp_path / "none")) == ""
    assert isinstance(choose(os.fsencode(tmp_path), heard, True), Polling)
    for kind in ("nfs4", "virtiofs", "fakeowner", "osxfs", "9p", "fuse.sshfs", "fuse"):
        monkeypatch.setattr(watch, "file_system", lambda root, kind=kind: kind)
        assert isinstance(choose(os.fsencode(tmp_path), heard, False), Polling)


def test_closing_takes_no_time(tmp_path: Path, heard: Heard) -> None:
    start = time.monotonic()
    for _ in range(20):
        Inotify(os.fsencode(tmp_path), heard).close()
    assert time.monotonic() - start < 8
