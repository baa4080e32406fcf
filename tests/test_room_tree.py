"""The files of a room: read and compared beside the event loop, told completely, and never changed once lent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.workspace import builds
from aicockpit.workspace.manifest import File
from aicockpit.workspace.store import Info, Store
from aicockpit.workspace.track import EpochLimits, Track
from aicockpit.workspace.tree import MANY, Tree, portions
from epoch_rig import MODEL, Rig, digest

INFO = Info(1, "me", "repo", 0, 0, 0, 0.0, 0.0)


class Shelf:
    """A store that has what it is given. `fail` is raised once. `threads`: who read it."""

    def __init__(self) -> None:
        self.known: dict[str, File] = {}
        self.fail: Exception | None = None

    def files(self, _id: int) -> list[File]:
        return list(self._read().values())

    def file(self, _id: int, path: str) -> File | None:
        return self._read().get(path)

    def _read(self) -> dict[str, File]:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        return self.known


def made(shelf: object) -> Tree:
    return Tree(cast(Store, shelf), INFO)


def file(path: str, content: str, size: int = 1) -> File:
    return File(path, digest(content.encode()), size, 1)


_CHANGES = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1", "2", None]), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_CHANGES, st.booleans(), st.booleans()), max_size=8))
def test_every_change_is_told_once_and_what_was_lent_stays(steps: list[tuple[Any, bool, bool]]) -> None:
    async def walk() -> None:
        shelf = Shelf()
        tree = made(shelf)
        lent: list[tuple[Mapping[str, File], dict[str, File], Mapping[str, bytes], dict[str, bytes]]] = []
        await tree.refresh()
        for changes, whole, lend in steps:
            before = dict(shelf.known)
            for path, text in changes.items():
                if text is None:
                    shelf.known.pop(path, None)
                else:
                    shelf.known[path] = file(path, text, builds.MAX_FILE + int(text) - 1)
            tree.touch(None if whole else set(changes))
            told, both = await tree.refresh(), before.keys() | shelf.known.keys()
            assert set(told) == {path for path in both if before.get(path) != shelf.known.get(path)}
            assert tree.files == shelf.known
            assert tree.hashes == {path: one.hash for path, one in shelf.known.items()}
            assert tree.census.left(tree.files) == builds.left_by_limits(shelf.known.values())
            if lend:
                snapshot, hashes = tree.snapshot(), tree.lend()
                assert snapshot is tree.snapshot()
                lent.append((snapshot.files, dict(snapshot.files), hashes, dict(hashes)))
            assert all((one, other) == (two, four) for one, two, other, four in lent)

    asyncio.run(walk())


async def test_what_could_not_be_read_is_read_later() -> None:
    shelf = Shelf()
    tree = made(shelf)
    await tree.refresh()
    for whole in (False, True):
        shelf.known["a"] = file("a", f"{whole}")
        tree.touch(None if whole else ["a"])
        shelf.fail = OSError("the disk is away")
        with pytest.raises(OSError, match="away"):
            await tree.refresh()
        assert set(await tree.refresh()) == {"a"}
        assert not await tree.refresh()


async def test_after_a_doubt_every_file_is_named() -> None:
    shelf = Shelf()
    tree = made(shelf)
    shelf.known = {path: file(path, path) for path in "abc"}
    await tree.refresh()
    tree.doubt()
    del shelf.known["a"]
    shelf.fail = OSError("the disk is away")
    with pytest.raises(OSError, match="away"):
        await tree.refresh()
    assert set(await tree.refresh()) == {"a", "b", "c"}


async def test_a_whole_tree_is_compared_in_another_thread_than_the_event_loops() -> None:
    seen: set[int] = set()

    class Watched:
        """A file that notes who looks at its content."""

        def __init__(self, path: str, content: bytes) -> None:
            self.path, self.size, self._hash = path, 1, content

        @property
        def hash(self) -> bytes:
            seen.add(threading.get_ident())
            return self._hash

    rows: list[Watched] = []
    tree = made(SimpleNamespace(files=lambda _: list(rows)))
    for content in (b"1", b"2"):
        rows[:] = [Watched(str(number), content) for number in range(300)]
        tree.touch(None)
        assert len(await tree.refresh()) == 300
    tree.touch(None)
    assert not await tree.refresh()
    assert seen
    assert threading.get_ident() not in seen


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250, 1000])
def test_portions_hold_everything_and_are_of_about_one_size(count: int) -> None:
    parts = list(portions(range(count), 100))
    assert [one for part in parts for one in part] == list(range(count))
    assert all(len(part) <= 100 for part in parts)
    assert all(len(part) > 50 for part in parts[:-1])


async def test_a_branch_switch_in_a_large_tree_is_weighed_beside_the_event_loop_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path, limits=EpochLimits(idle_s=60.0, retry_s=0.05)).start()
    names = [f"f{number:05}.py" for number in range(MANY + 500)]
    await rig.in_service(*names)
    room = rig.contexts._rooms[rig.workspace]
    threads: list[bool] = []
    to_say = Track.to_say

    def noted(track: Track, *all: Any) -> Any:
        if len(track.pending[all[0].serial]) > MANY:
            threads.append(threading.get_ident() == threading.main_thread().ident)
        return to_say(track, *all)

    monkeypatch.setattr(Track, "to_say", noted)
    portioned: list[int] = []
    saved = Track.saved

    def counted(track: Track, paths: Any, *rest: Any) -> None:
        portioned.append(len(paths))
        saved(track, paths, *rest)

    monkeypatch.setattr(Track, "saved", counted)
    rig.builder.gate.clear()
    await rig.write({name: f"other {name}\n" for name in names})
    await rig.until(lambda: rig.builder.builds == 2)
    for _ in range(10):
        room.ring()
        await rig.until(lambda: not room._bell.is_set())
        await asyncio.sleep(0.01)
    assert threads == [False]
    assert sum(portioned) == len(names)
    assert max(portioned) <= MANY
    rig.builder.gate.set()
    rig.engines["e0"].auto = True
    await rig.until(lambda: "other f00000.py" in rig.text())
    assert rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]["reason"] == ""
    await rig.close()
