"""The builder when its child dies, hangs or is left: on the loop of asyncio, and on uvloop, which the product uses."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from aicockpit.workspace.blobs import digest
from aicockpit.workspace.builder import Builder
from aicockpit.workspace.builds import BuildFailed
from aicockpit.workspace.child import Died
from builder_rig import LIBRARY, Tree

Make = Callable[..., Builder]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test as two: each runs on a loop of its own, and its builders are closed when it fails, too."""

    async def closing(fixtures: dict[str, Any]) -> None:
        made: list[Builder] = []

        def make(*values: Any, **more: Any) -> Builder:
            made.append(Builder(*values, **more))
            return made[-1]

        try:
            await test(make=make, **fixtures)
        finally:
            for builder in made:
                await builder.close()

    @functools.wraps(test)
    def run(loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(closing(fixtures))

    own = [one for name, one in inspect.signature(test).parameters.items() if name != "make"]
    first = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = inspect.Signature([*own, first])  # type: ignore[attr-defined]
    loops = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    both: Callable[..., None] = loops(run)
    return both


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@on_both_loops
async def test_a_child_that_was_killed_is_replaced_and_remembers_its_analyses(make: Make, tree: Tree) -> None:
    builder = make(tree.folder)
    snapshot = tree.write(LIBRARY)
    first = await builder.build(snapshot, tree.spec, "completion", 4000)
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    near = await builder.near(snapshot, tree.spec, "app.py", None, 2000, frozenset())
    assert near.tokens
    assert (await builder.build(snapshot, tree.spec, "completion", 4000)).pack.id == first.pack.id
    await builder.close()
    with sqlite3.connect(tree.folder / "analyses.db") as db:
        assert db.execute("SELECT count(*) FROM analyses").fetchone() == (4,)
    db.close()


BAD = """
import sys
from pathlib import Path
from aicockpit.prompts import skeleton
from aicockpit.workspace import workshop
whole = skeleton.analyse
def analyse(path, text, grammars):
    if "poison" in text:
        print("a parser ran wild", file=sys.stderr, flush=True)
        __import__("os")._exit(3)
    return whole(path, text, grammars)
skeleton.analyse = analyse
entry = workshop.journal.entry
def dead(path, old, new, *rest):
    if "venom" in (new or ""):
        __import__("os")._exit(5)
    return entry(path, old, new, *rest)
workshop.journal.entry = dead
assemble = workshop.Workshop.assemble
def dying(self, tag, spec, kind, budget):
    if budget == 666:
        __import__("os")._exit(4)
    if budget == 777:
        __import__("time").sleep(60)
    return assemble(self, tag, spec, kind, budget)
workshop.Workshop.assemble = dying
workshop.main(sys.argv[1:])
"""


@on_both_loops
async def test_a_file_that_kills_the_child_costs_itself_alone(make: Make, tree: Tree) -> None:
    builder = make(tree.folder, command=(sys.executable, "-c", BAD, str(tree.folder)))
    built = await builder.build(tree.write({**LIBRARY, "bad.py": "poison = 1\n"}), tree.spec, "completion", 4000)
    assert built.left.crashed == ("bad.py",)
    assert "def area" in tree.text(built.pack.tokens)


@on_both_loops
async def test_a_change_that_kills_the_child_costs_its_own_entry(make: Make, tree: Tree) -> None:
    builder = make(tree.folder, command=(sys.executable, "-c", BAD, str(tree.folder)))
    tree.write({"a.py": "a = 1\n", "bad.py": "venom = 1\n", "c.py": "c = 1\n"})
    bad = ("bad.py", None, digest(b"venom = 1\n"))
    changes = [("a.py", None, digest(b"a = 1\n")), bad, ("c.py", None, digest(b"c = 1\n"))]
    for deaths in (2, 2):
        said = await builder.journal(tree.spec, "completion", changes, 40)
        assert [(one.path, bool(one.text)) for one in said] == [("a.py", True), ("bad.py", False), ("c.py", True)]
        assert builder.deaths == deaths


@on_both_loops
async def test_a_build_that_kills_the_child_twice_fails_and_others_go_on(make: Make, tree: Tree) -> None:
    builder = make(tree.folder, command=(sys.executable, "-c", BAD, str(tree.folder)))
    snapshot = tree.write(LIBRARY)
    with pytest.raises(BuildFailed, match=r"died 2 times in 'assemble': exit status 4"):
        await builder.build(snapshot, tree.spec, "completion", 666)
    assert (await builder.build(snapshot, tree.spec, "completion", 4000)).pack.tokens


@on_both_loops
async def test_a_child_that_hangs_is_replaced_and_a_cancelled_build_leaves_no_answer_behind(
    make: Make, tree: Tree
) -> None:
    command = (sys.executable, "-c", BAD, str(tree.folder))
    builder = make(tree.folder, command=command, call_s=5.0)
    snapshot = tree.write(LIBRARY)
    building = asyncio.create_task(builder.build(snapshot, tree.spec, "completion", 4000))
    await asyncio.sleep(0.01)
    building.cancel()
    assert (await builder.describe(tree.spec)).fim
    with pytest.raises(BuildFailed, match="no answer to 'assemble' within 5 s"):
        await builder.build(snapshot, tree.spec, "completion", 777)


@on_both_loops
async def test_a_child_killed_while_idle_costs_the_next_call_nothing(make: Make, tree: Tree) -> None:
    builder = make(tree.folder)
    content = tree.write(LIBRARY).files["app.py"].hash
    change = ("app.py", None, content)
    (first,) = await builder.journal(tree.spec, "completion", [change], 60)
    for wait_ms in (0.0, 0.5, *(1.0, 1.3, 1.6, 2.0) * 3, 3.0):
        assert builder.pid is not None
        os.kill(builder.pid, signal.SIGKILL)
        await asyncio.sleep(wait_ms / 1000)
        assert await builder.journal(tree.spec, "completion", [change], 60) == [first]
    assert (await builder.build(tree.write({}), tree.spec, "completion", 4000)).left.crashed == ()


class Broken:
    """A child's input that is closed when it is written to, as the two loops say it, or only when it is flushed."""

    def __init__(self, real: asyncio.StreamWriter, write: Exception | None, drain: Exception | None) -> None:
        self._real, self._write, self._drain = real, write, drain

    def write(self, data: bytes) -> None:
        if self._write is not None:
            raise self._write

    async def drain(self) -> None:
        if self._drain is not None:
            raise self._drain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


GONE = RuntimeError("unable to perform operation on <WriteUnixTransport closed=True>; the handler is closed")


@pytest.mark.parametrize(
    ("write", "drain"),
    [(GONE, None), (BrokenPipeError(), None), (None, GONE), (None, ConnectionResetError()), (None, OSError(5, "I/O"))],
    ids=repr,
)
@on_both_loops
async def test_an_input_that_is_closed_is_a_death_that_the_call_is_not_blamed_for(
    make: Make, tree: Tree, write: Exception | None, drain: Exception | None
) -> None:
    builder = make(tree.folder)
    change = ("app.py", None, tree.write(LIBRARY).files["app.py"].hash)
    (first,) = await builder.journal(tree.spec, "completion", [change], 60)
    child = builder._child
    assert child is not None
    real = child._process.stdin
    assert real is not None
    child._process.stdin = Broken(real, write, drain)  # type: ignore[assignment]
    assert (await builder._call("describe", tree.spec, attempts=1)).fim
    assert builder.deaths == 1
    assert await builder.journal(tree.spec, "completion", [change], 60) == [first]


@on_both_loops
async def test_a_child_that_is_dead_as_soon_as_it_lives_fails_the_call(make: Make, tree: Tree) -> None:
    builder = make(tree.folder, command=("false",))
    with pytest.raises(BuildFailed, match="died 2 times in 'describe'"):
        await builder.describe(tree.spec)
    assert builder.deaths == 2


@on_both_loops
async def test_a_child_that_reads_nothing_is_given_up_though_its_input_is_full(make: Make, tree: Tree) -> None:
    builder = make(tree.folder, command=(sys.executable, "-c", "import time; time.sleep(60)"), call_s=0.2)
    with pytest.raises(Died, match=r"no answer to 'survey' within 0.2 s"):
        await builder._call("survey", b"x" * 10_000_000)
