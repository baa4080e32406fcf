"""The builder with the real analyser, tokenizer and style: in this process, and in its child."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from aicockpit.prompts.skeleton import Analysis
from aicockpit.workspace import saved
from aicockpit.workspace.analyses import Analyses
from aicockpit.workspace.builder import Builder
from aicockpit.workspace.builds import BuildFailed, ModelSpec, select
from aicockpit.workspace.epoch import Entry, Epoch
from aicockpit.workspace.manifest import File
from aicockpit.workspace.track import EpochLimits
from aicockpit.workspace.workshop import NICE
from builder_rig import LIBRARY, Tree
from epoch_rig import Rig


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(params=["inline", "child"])
async def builder(request: pytest.FixtureRequest, tree: Tree) -> AsyncIterator[Builder]:
    made = Builder(tree.folder, inline=request.param == "inline")
    yield made
    await made.close()


async def test_it_builds_a_pack_a_journal_entry_and_a_neighbourhood(tree: Tree, builder: Builder) -> None:
    snapshot = tree.write(LIBRARY)
    described = await builder.describe(tree.spec)
    assert described.fim
    assert "<|repo_name|>" in described.specials
    heard: list[tuple[int, int]] = []
    built = await builder.build(
        snapshot, tree.spec, "completion", 4000, lambda done, total: heard.append((done, total))
    )
    text = tree.text(built.pack.tokens)
    assert "def area(self, scale: float) -> float" in text
    assert heard[-1] == (4, 4)
    assert built.pack.cuts[-1] == len(built.pack.tokens)
    assert not any(item.text for item in built.pack.items)
    again = await builder.build(tree.write({}), tree.spec, "completion", 4000)
    assert again.pack.tokens == built.pack.tokens
    chat = await builder.build(snapshot, tree.spec, "chat", 4000)
    assert any("def area" in item.text for item in chat.pack.items)

    old = tree.files["lib/tools.py"].hash
    newer = tree.write({"lib/tools.py": LIBRARY["lib/tools.py"].replace("area(1)", "area(2)")})
    change = ("lib/tools.py", old, newer.files["lib/tools.py"].hash)
    (said,) = await builder.journal(tree.spec, "completion", [change], 60)
    assert "return one.area(2)" in tree.text(said.tokens)
    assert said.hash == change[2]
    (gone,) = await builder.journal(tree.spec, "completion", [("app.py", tree.files["app.py"].hash, None)], 60)
    assert "deleted" in gone.text

    near = await builder.near(snapshot, tree.spec, "app.py", tree.files["app.py"].hash, 2000, frozenset({"README.md"}))
    assert {path for path, _, _ in near.items} == {"lib/tools.py", "lib/shapes.py"}
    assert sum(size for _, _, size in near.items) == len(near.tokens)
    few = await builder.near(snapshot, tree.spec, "app.py", None, 2000, frozenset({"lib/tools.py"}))
    assert "lib/tools.py" not in [path for path, _, _ in few.items]


async def test_a_body_edit_leaves_the_pack_as_it_is(tree: Tree, builder: Builder) -> None:
    first = await builder.build(tree.write(LIBRARY), tree.spec, "completion", 4000)
    edited = tree.write({"lib/shapes.py": LIBRARY["lib/shapes.py"].replace("return 3", "return 3.14159")})
    assert (await builder.build(edited, tree.spec, "completion", 4000)).pack.id == first.pack.id


async def test_no_room_for_a_pack_still_gives_what_stands_behind_it_a_header(tree: Tree, builder: Builder) -> None:
    built = await builder.build(tree.write(LIBRARY), tree.spec, "completion", 0)
    assert built.pack.items == ()
    assert tree.text(built.pack.tokens).startswith("<|repo_name|>")


async def test_missing_tokenizer_and_missing_contents_are_told(tree: Tree, builder: Builder, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="tokenizer"):
        await builder.describe(ModelSpec("far", tmp_path / "nowhere"))
    with pytest.raises(BuildFailed, match="it runs elsewhere"):
        await builder.describe(ModelSpec("far", None, "it runs elsewhere"))
    snapshot = tree.write(LIBRARY)
    for file in snapshot.files.values():
        tree.blobs.remove([file.hash])
    built = await builder.build(snapshot, tree.spec, "completion", 4000)
    assert built.left.gone == 4


async def test_the_child_is_niced_and_ends_with_us(tree: Tree) -> None:
    builder = Builder(tree.folder)
    await builder.describe(tree.spec)
    assert builder.pid is not None
    child = psutil.Process(builder.pid)
    assert child.nice() == min(19, psutil.Process().nice() + NICE)
    await builder.close()
    assert not child.is_running()
    with pytest.raises(BuildFailed, match="stopping"):
        await builder.describe(tree.spec)


async def test_the_child_ends_when_the_server_is_killed(tree: Tree) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(tree.folder), str(tree.model), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    child = psutil.Process(int(await server.stdout.readline()))
    server.kill()
    await server.wait()
    for _ in range(500):
        if not child.is_running() or child.status() == psutil.STATUS_ZOMBIE:
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the child lives on")


SERVER = """
import asyncio, sys
from pathlib import Path
from aicockpit.workspace.builder import Builder
from aicockpit.workspace.builds import ModelSpec
async def main():
    builder = Builder(Path(sys.argv[1]))
    await builder.describe(ModelSpec("bytes", Path(sys.argv[2])))
    print(builder.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_broken_cache_of_analyses_is_begun_anew(tree: Tree) -> None:
    (tree.folder / "analyses.db").write_bytes(b"not a database, and long enough to be looked at" * 100)
    builder = Builder(tree.folder, inline=True)
    assert (await builder.build(tree.write(LIBRARY), tree.spec, "completion", 4000)).pack.tokens
    await builder.close()


def test_analyses_are_held_up_to_their_size() -> None:
    analyses = Analyses(None, size=10_000)
    made = {(b"%d" % number, ".py"): Analysis("python", "x" * 3000, (), (), (), ()) for number in range(5)}
    for _ in range(2):
        analyses.add(made)
    assert list(analyses.find(made)) == list(made)[2:]
    analyses.add({(b"large", ".py"): Analysis("python", "", (), (("a", 1),) * 50, (), (("a", 1, 2),) * 20)})
    assert len(analyses) == 0


def test_of_too_many_files_the_smallest_sources_are_taken() -> None:
    files = [File(path, b"", size, 0) for path, size in [("a.py", 9), ("b.md", 1), ("c.py", 5), ("big.py", 1000)]]
    chosen = select(files, lambda path: path.endswith(".py"), max_file=100, max_files=2)
    assert [file.path for file in chosen.files] == ["c.py", "a.py"]
    assert (chosen.left.large, chosen.left.beyond) == (1, 1)


async def test_a_persisted_epoch_comes_back_as_it_was(tree: Tree) -> None:
    builder = Builder(tree.folder, inline=True)
    snapshot = tree.write(LIBRARY)
    built = await builder.build(snapshot, tree.spec, "chat", 4000)
    made = saved.Made("f", "qwen", "shapes", (1, 2, 3))
    epoch = Epoch(1, built.pack, {path: file.hash for path, file in snapshot.files.items()})
    data = saved.dump_epoch(epoch, made)
    tagged = Epoch(1, epoch.pack, epoch.base, tag=saved.tag_of(data))
    journal = saved.dump_journal(
        tagged.with_entries([Entry("a", b"1" * 16, "text", (1, 2))], {"a": b"1" * 16, "b": None})
    )
    found = saved.load_epoch(data, journal, made, 7)
    assert found.pack == built.pack
    assert found.base == epoch.base
    assert found.entries == (Entry("a", b"1" * 16, "text", (1, 2)),)
    assert found.knows("b") is None
    assert saved.load_epoch(data, b"broken", made, 7).entries == ()
    with pytest.raises(saved.StateUnusable, match="made with"):
        saved.load_epoch(data, None, saved.Made("g", "qwen", "shapes", (1, 2, 3)), 7)
    for at in range(0, len(data), 97):
        with pytest.raises(saved.StateUnusable):
            saved.load_epoch(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], None, made, 7)
    await builder.close()


async def test_with_contexts_and_a_real_builder_a_save_is_in_the_next_warm_head(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    rig = Rig(tree.folder, limits=EpochLimits(idle_s=60.0), build=lambda folder: Builder(folder, inline=True))
    rig.start(model=tree.model)
    await rig.write(dict(LIBRARY))
    await rig.wanted()
    rig.engines["e0"].warm()
    head = rig.head(path="app.py")
    assert "def area" in tree.text(head.tokens)
    newer = LIBRARY["lib/tools.py"].replace("one.area(1)", "one.area(scale=2)")
    await rig.write({"lib/tools.py": newer})
    await rig.until(lambda: len(rig.engines["e0"].targets[0].tokens) > len(head.tokens))
    assert rig.head().tokens == head.tokens
    rig.engines["e0"].warm()
    assert "one.area(scale=2)" in tree.text(rig.head().tokens)
    assert rig.head().tokens[: len(head.tokens)] == head.tokens
    await rig.close()
