"""Several people take turns: what the engines keep warm does not change at each of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from aicockpit.workspace.openfiles import OpenFiles
from aicockpit.workspace.steps import Target
from aicockpit.workspace.track import EpochLimits
from aicockpit.workspace.turns import Turns
from epoch_rig import MODEL, Rig

FILES = tuple(f"f{number}.py" for number in range(5))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, limits=EpochLimits(idle_s=30.0, focuses=4)).start()
    await rig.in_service(*FILES)
    yield rig
    await rig.close()


class Count:
    """How often an engine gets other targets."""

    def __init__(self, rig: Rig) -> None:
        self.engine, self.times = rig.engines["e0"], 0
        self._before = self.engine.set_targets
        self.engine.set_targets = self.set_targets  # type: ignore[method-assign]

    def set_targets(self, targets: Sequence[Target], /) -> None:
        self.times += 1
        self._before(targets)

    async def settled(self) -> int:
        before = -1
        while before != self.times:
            before = self.times
            self.engine.warm()
            await asyncio.sleep(0.1)
        return self.times


async def test_two_workspaces_by_turns_leave_the_targets_as_they_are(rig: Rig) -> None:
    other = rig.store.create("me", "other").id
    first, rig.workspace = rig.workspace, other
    await rig.write({"z.py": "api of z\nbody"})
    count = Count(rig)
    count.engine.auto = True
    await rig.until(lambda: rig.contexts.head(other, MODEL, "completion", "", "e0").tokens)
    rig.contexts.head(first, MODEL, "completion", "", "e0")
    before = await count.settled()
    for _ in range(10):
        for workspace in (first, other):
            rig.contexts.head(workspace, MODEL, "completion", "", "e0")
            await asyncio.sleep(0.01)
    assert await count.settled() == before


async def test_five_files_by_turns_leave_the_four_that_are_open(rig: Rig) -> None:
    count = Count(rig)
    for path in FILES:
        rig.typed(path, "x" * 40)
    before = await count.settled()
    for _ in range(5):
        for path in FILES:
            rig.head(path=path)
            rig.contexts.seen(rig.workspace, MODEL, path, (1, 2, 3))
            await asyncio.sleep(0.01)
    assert await count.settled() == before


def opened(files: OpenFiles, at: dict[str, float]) -> None:
    for path, seen in at.items():
        files.focus(path)
        files.seen(path, (1,), "", seen)


def test_a_file_nobody_works_in_makes_way_for_another() -> None:
    files = OpenFiles(2, 100)
    opened(files, {"a": 100.0, "b": 103.0})
    assert not files.has_room(104.0)
    assert files.has_room(106.0)  # nobody has worked in a for more than five seconds
    files.focus("c")
    assert list(files) == ["c", "b"]


def test_an_older_file_that_is_worked_in_is_not_the_one_that_makes_way() -> None:
    files = OpenFiles(2, 100)
    opened(files, {"a": 100.0, "b": 100.0})
    files.seen("a", (1,), "", 104.0)
    assert files.has_room(107.0)
    files.focus("c")
    assert list(files) == ["c", "a"]


def test_there_is_room_while_fewer_are_open() -> None:
    files = OpenFiles(3, 100)
    opened(files, {"a": 100.0, "b": 100.0})
    assert files.has_room(100.0)


def test_who_is_asked_for_alone_comes_to_the_front_in_the_end() -> None:
    turns = Turns()
    assert turns.asked((1, "m"), 100.0)
    assert turns.asked((2, "m"), 101.0), "new: behind the one that is busy"
    assert list(turns) == [(1, "m"), (2, "m")]
    assert not turns.asked((2, "m"), 102.0)
    assert turns.asked((2, "m"), 106.0)
    assert list(turns) == [(2, "m"), (1, "m")]
    assert not turns.asked((2, "m"), 106.5)
    assert not turns.asked((1, "m"), 107.0)
    turns.keep({1})
    assert list(turns) == [(1, "m")]


def test_the_busy_pass_the_idle_behind_one_who_stays_in_front() -> None:
    turns = Turns()
    for number, at in ((3, 100.0), (2, 103.0), (1, 103.0)):
        turns.asked((number, "m"), at)
    assert [one for one, _ in turns] == [3, 2, 1]
    turns.asked((3, "m"), 107.0)
    assert not turns.asked((2, "m"), 107.5)
    assert turns.asked((1, "m"), 113.0)
    assert [one for one, _ in turns] == [1, 3, 2]
    assert turns.asked((2, "m"), 114.0)
    assert [one for one, _ in turns] == [1, 2, 3]
