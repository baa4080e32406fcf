"""Long calls of the builder give others their turn: what is said of portions in `builder.py` holds."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aicockpit.prompts.portions import Portions, whole
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.builder import Builder
from aicockpit.workspace.workshop import GO_ON, Calls, Refused, Workshop
from builder_rig import LIBRARY, Tree

# Assembling takes 1.5 s, in steps of 10 ms; analysing a file 10 ms. Each portion begun stands in the file "log" by the
# number and the name of its call, and the end of an assembling that was left.
SLOW = """
import sys, time
from pathlib import Path
from aicockpit.workspace import workshop
log = Path(sys.argv[1], "log")
def say(text):
    with log.open("a") as file:
        print(text, file=file)
assemble, analyse, entry = workshop.Workshop.assemble, workshop.skeleton.analyse, workshop.journal.entry
def slowly(self, *values):
    try:
        for _ in range(150):
            time.sleep(0.01)
            yield
    except GeneratorExit:
        say("left")
        raise
    return (yield from assemble(self, *values))
def slower(*values):
    time.sleep(0.01)
    return analyse(*values)
def deadly(path, old, new, *rest):
    if "venom" in (new or ""):
        __import__("os")._exit(5)
    return entry(path, old, new, *rest)
workshop.Workshop.assemble, workshop.skeleton.analyse, workshop.journal.entry = slowly, slower, deadly
answer = workshop.Calls.answer
def answering(self, number, call, values):
    say(f"{number} {call}")
    return answer(self, number, call, values)
workshop.Calls.answer = answering
workshop.main(sys.argv[1:])
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def slow(tree: Tree) -> Builder:
    return Builder(tree.folder, command=(sys.executable, "-c", SLOW, str(tree.folder)))


def lines(tree: Tree) -> list[str]:
    log = tree.folder / "log"
    return log.read_text().splitlines() if log.exists() else []


async def until(tree: Tree, name: str, count: int = 1) -> None:
    for _ in range(2000):
        if sum(name in line for line in lines(tree)) >= count:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"no {name!r} in the log")


def change(tree: Tree) -> tuple[str, bytes | None, bytes | None]:
    return ("app.py", None, tree.files["app.py"].hash)


async def test_saves_are_told_of_while_a_pack_is_assembled(tree: Tree, slow: Builder) -> None:
    snapshot = tree.write(LIBRARY)
    building = asyncio.create_task(slow.build(snapshot, tree.spec, "completion", 4000))
    await until(tree, "assemble")
    for _ in range(8):
        (said,) = await slow.journal(tree.spec, "completion", [change(tree)], 60)
        assert said.text
        assert not building.done()
    assert (await building).pack.tokens
    await slow.close()


async def test_a_save_waits_for_one_portion_however_many_builds_there_are(tree: Tree, slow: Builder) -> None:
    await slow.describe(tree.spec)
    many = {f"f{number}.py": f"def f{number}() -> int: ...\n" for number in range(150)}
    snapshots = [tree.write({path: f"{text}# {number}" for path, text in many.items()}) for number in range(5)]
    tree.write(LIBRARY)
    building = [asyncio.create_task(slow.build(one, tree.spec, "completion", 4000)) for one in snapshots]
    await until(tree, "analyse", 5)
    for _ in range(10):
        before = lines(tree)
        await slow.journal(tree.spec, "completion", [change(tree)], 60)
        after = lines(tree)[len(before) :]
        place = next(place for place, line in enumerate(after) if line.endswith("journal"))
        assert place <= 2, f"went first: {after[:place]}"  # the one in work, and one begun as we looked
        await asyncio.sleep(0.02)
    for task in building:
        task.cancel()
    await asyncio.gather(*building, return_exceptions=True)
    await slow.close()


async def test_a_build_that_is_cancelled_is_left_by_the_child(tree: Tree, slow: Builder) -> None:
    building = asyncio.create_task(slow.build(tree.write(LIBRARY), tree.spec, "completion", 4000))
    await until(tree, "assemble")
    await until(tree, GO_ON)
    building.cancel()
    await asyncio.gather(building, return_exceptions=True)
    await until(tree, "left")
    assert (await slow.describe(tree.spec)).fim
    assert slow.deaths == 0
    await slow.close()


async def test_a_build_outlives_the_death_of_the_child_by_another_call(tree: Tree, slow: Builder) -> None:
    snapshot = tree.write({**LIBRARY, "bad.py": "venom = 1\n"})
    bad = ("bad.py", None, digest(b"venom = 1\n"))
    building = asyncio.create_task(slow.build(snapshot, tree.spec, "completion", 4000))
    await until(tree, "assemble")
    await until(tree, GO_ON)
    (said,) = await slow.journal(tree.spec, "completion", [bad], 60)
    assert said.text == ""
    assert slow.deaths == 2
    built = await building
    assert "def area" in tree.text(built.pack.tokens)
    assert slow.deaths == 2
    await slow.close()


def pauses(work: Portions[Any]) -> int:
    """How often it pauses."""
    return sum(1 for _ in work)


def test_every_long_call_pauses_for_each_file(tree: Tree) -> None:
    many = {
        f"m{number}.py": f"import m{number + 1}\ndef f{number}(): m{number + 1}.f{number + 1}()\n"
        for number in range(60)
    }
    snapshot = tree.write(many)
    rows = [(file.path, file.hash) for file in snapshot.files.values()]
    shop = Workshop(tree.folder, keep=False)
    assert pauses(shop.analyse(rows)) == 60
    assert pauses(shop.survey("t/1", "r", [(*row, 1) for row in rows])) >= 1
    whole(shop.survey("t/2", "r", [(*row, 1) for row in rows]))
    assert pauses(shop.near("t/1", tree.spec, "m7.py", None, 1000, frozenset())) >= 120
    assert pauses(shop.near("t/1", tree.spec, "m7.py", None, 1000, frozenset())) == 0  # its graph is at hand
    assert pauses(shop.assemble("t/2", tree.spec, "completion", 100_000)) >= 180
    assert pauses(shop.journal(tree.spec, "completion", [(path, None, content) for path, content in rows], 60)) == 60
    shop.plant("w", rows)
    assert pauses(shop.grow("w", rows)) == 60
    shop.close()


class Shop:
    """Calls that take as long as they are told to."""

    def steps(self, count: int, fails: bool = False) -> Iterator[None]:
        for _ in range(count):
            time.sleep(0.001)
            yield
        if fails:
            raise Refused("no")
        return count  # type: ignore[return-value]

    def at_once(self) -> str:
        return "done"


def test_a_call_is_done_in_portions_of_a_given_time() -> None:
    calls = Calls(Shop(), portion_s=0.02)  # type: ignore[arg-type]
    assert calls.answer(1, "at_once", ()) == (True, "done")
    assert calls.answer(2, "steps", (1,)) == (True, 1)
    assert calls.answer(3, "steps", (1, True)) == (False, "no")
    assert calls.answer(4, "steps", (40,)) == (None, None)
    assert calls.answer(5, "steps", (40, True)) == (None, None)
    replies = [calls.answer(number, GO_ON, ()) for _ in range(60) for number in (4, 5) if number in calls._begun]
    assert (True, 40) in replies
    assert (False, "no") in replies
    assert 2 <= len(replies) <= 80  # never more than a portion for each step
    calls.answer(6, "steps", (1000,))
    calls.leave(6)
    calls.leave(6)
    assert calls._begun == {}
