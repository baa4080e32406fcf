"""The builder's search for similar places: what it finds, what it leaves out, and how its index follows the tree."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.prompts.fim import detect
from aicockpit.prompts.similar import query
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.builder import PORTION, Builder
from aicockpit.workspace.builds import Similar, Sought
from aicockpit.workspace.index import Index
from aicockpit.workspace.track import EpochLimits
from builder_rig import LIBRARY, Tree
from epoch_rig import Given, Rig
from tiny_tokenizers import of_family

CIRCLE = "def circumference(radius, precision):\n    return round(radius * two_pi, precision)\n"
SQUARE = "def perimeter(width, height):\n    assert width and height\n    return width + height\n"
HOUSE = {"circle.py": CIRCLE, "square.py": SQUARE, "open.py": "from circle import circumference\n"}
PLACE = query("def circumference_of(radius):\n    return round(radius")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(params=["inline", "child"])
async def builder(request: pytest.FixtureRequest, tree: Tree) -> AsyncIterator[Builder]:
    made = Builder(tree.folder, inline=request.param == "inline")
    yield made
    await made.close()


def sought(words: frozenset[str] = PLACE, budget: int = 2000, **other: object) -> Sought:
    return Sought("open.py", words, budget, **other)  # type: ignore[arg-type]


def paths(found: Similar) -> list[str]:
    return [snippet.path for snippet in found.snippets]


async def test_what_is_most_like_the_place_stands_last_and_the_file_itself_nowhere(
    tree: Tree, builder: Builder
) -> None:
    heard: list[tuple[int, int]] = []
    words = query("def circumference(radius, precision):\n    return width")
    found = await builder.similar(
        tree.write(HOUSE), tree.spec, sought(words), lambda done, total: heard.append((done, total))
    )
    assert paths(found) == ["square.py", "circle.py"]
    text = tree.text(found.tokens)
    assert text.index("def perimeter") < text.index("def circumference")
    assert "from circle import" not in text
    best = found.snippets[-1]
    assert (best.first, best.last, best.content) == (1, 2, digest(CIRCLE.encode()))
    assert 0.5 < best.score <= 1
    assert heard[-1] == (3, 3)
    assert found.chunks == 3
    again = await builder.similar(tree.write({}), tree.spec, sought(words), lambda *one: heard.append(one))
    assert again == found
    assert heard[-1] == (0, 0)  # nothing had to be read


async def test_it_keeps_to_its_budget_and_drops_the_worst_first(tree: Tree, builder: Builder) -> None:
    snapshot = tree.write(HOUSE)
    words = query("def circumference(radius, precision):\n    return width")
    whole = len((await builder.similar(snapshot, tree.spec, sought(words))).tokens)
    for budget in range(0, whole + 20, 10):
        found = await builder.similar(snapshot, tree.spec, sought(words, budget))
        assert len(found.tokens) <= budget
    assert paths(await builder.similar(snapshot, tree.spec, sought(words, whole - 1))) == ["circle.py"]


async def test_what_stands_in_the_prompt_anyway_is_left_out(tree: Tree, builder: Builder) -> None:
    snapshot = tree.write({**HOUSE, "copy.py": HOUSE["open.py"] + CIRCLE, "open.py": HOUSE["open.py"] + CIRCLE})
    own = tree.files["open.py"].hash
    assert set(paths(await builder.similar(snapshot, tree.spec, sought()))) == {"copy.py", "circle.py", "square.py"}
    without = frozenset({own, tree.files["square.py"].hash})  # a copy of the file, and what the pack has whole
    assert paths(await builder.similar(snapshot, tree.spec, sought(without=without))) == ["circle.py"]
    told = (("circle.py", "def circumference(radius, precision):"), ("circle.py", CIRCLE), ("square.py", "assert no"))
    found = await builder.similar(snapshot, tree.spec, sought(without=frozenset({own}), told=told))
    assert paths(found) == ["square.py"]


async def test_binary_huge_generated_and_lost_files_are_not_searched(tree: Tree) -> None:
    builder = Builder(tree.folder, inline=True, max_file=5000)
    files = {"data.py": CIRCLE + "\0", "huge.py": CIRCLE * 200, "lib.min.js": CIRCLE + "// min", **HOUSE}
    snapshot = tree.write({**files, "lost.py": CIRCLE + "# lost"})
    tree.blobs.remove([tree.files["lost.py"].hash])
    assert paths(await builder.similar(snapshot, tree.spec, sought())) == ["square.py", "circle.py"]
    await builder.close()


async def test_a_killed_child_reads_the_tree_again(tree: Tree) -> None:
    builder = Builder(tree.folder)
    snapshot = tree.write(HOUSE)
    first = await builder.similar(snapshot, tree.spec, sought())
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    assert await builder.similar(snapshot, tree.spec, sought()) == first
    await builder.close()


BAD = """
import os, sys
from aicockpit.workspace import index, workshop
add = index.Chunks.add
def adding(self, path, text):
    if "poison" in text or path == "circle.py" and len(self) > 60:
        os._exit(3)
    add(self, path, text)
index.Chunks.add = adding
workshop.main(sys.argv[1:])
"""


async def test_a_file_that_kills_the_child_costs_itself_alone_and_one_that_did_so_once_nothing(tree: Tree) -> None:
    builder = Builder(tree.folder, command=(sys.executable, "-c", BAD, str(tree.folder)))
    many = {f"f{number}.py": f"{SQUARE}# {number}" for number in range(2 * PORTION)}
    found = await builder.similar(tree.write({**many, "p.py": f"{CIRCLE}# poison", **HOUSE}), tree.spec, sought())
    assert paths(found)[-1] == "circle.py"
    assert found.chunks == len(many) + len(HOUSE)
    await builder.close()


async def test_with_contexts_and_a_real_builder_the_snippets_get_warm_and_follow_the_tree(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    worth = {"completion": Given(pack=400, journal=4000, neighbourhood=400, similar=2000), "chat": Given(0, 0, 0)}
    limits = EpochLimits(idle_s=60.0, search_s=0.01)
    rig = Rig(tree.folder, limits=limits, worth=worth, build=lambda folder: Builder(folder, inline=True))
    rig.start(model=tree.model)
    await rig.write({**LIBRARY, **HOUSE})
    engine = rig.engines["e0"]
    engine.auto = True
    await rig.wanted()
    for _ in range(2):
        rig.typed("open.py", "xyz", prefix="def circumference_of(radius):\n    return round(radius")
    await rig.until(lambda: "two_pi" in tree.text(rig.head(path="open.py").tokens))
    head = rig.head(path="open.py")
    assert tree.text(head.tokens).endswith(CIRCLE.rstrip() + "\n") or "two_pi, precision)" in tree.text(head.tokens)
    assert 0 < head.similar_tokens <= 2000
    await rig.write({"circle.py": CIRCLE.replace("two_pi", "tau")})
    await rig.until(lambda: "tau, precision)" in tree.text(rig.head(path="open.py").tokens[-head.similar_tokens :]))
    await rig.close()


async def test_a_workspace_that_made_way_and_came_back_shows_nothing_that_is_gone_by_then(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    worth = {"completion": Given(pack=400, journal=4000, neighbourhood=400, similar=2000), "chat": Given(0, 0, 0)}
    limits = EpochLimits(idle_s=60.0, search_s=0.01, rooms=1)
    rig = Rig(tree.folder, limits=limits, worth=worth, build=lambda folder: Builder(folder, inline=True))
    rig.start(model=tree.model)
    engine = rig.engines["e0"]
    engine.auto = True

    async def shown() -> str:
        await rig.until(lambda: rig.head(path="open.py").tokens)
        for _ in range(2):
            rig.typed("open.py", "xyz", prefix="def circumference_of(radius):\n    return round(radius, width")
        await rig.until(lambda: rig.head(path="open.py").similar_tokens)
        return tree.text(rig.head(path="open.py").tokens[-rig.head(path="open.py").similar_tokens :])

    rig.apply({**LIBRARY, **HOUSE})
    assert "two_pi" in await shown()
    other = rig.store.create("me", "other").id
    await rig.contexts.focus(other, "x.py")
    rig.apply({"circle.py": None})
    assert "two_pi" not in await shown()
    await rig.close()


NAMES = ("a.py", "b.py", "c/d.py")
TEXTS = st.lists(st.sampled_from(("alpha beta", "gamma", "delta beta", "alpha gamma")), max_size=80).map("\n".join)
TREES = st.dictionaries(st.sampled_from(NAMES), TEXTS)


@settings(max_examples=60, deadline=None)
@given(st.lists(TREES, min_size=1, max_size=5), st.integers(1, 3))
def test_an_index_that_followed_the_tree_finds_what_a_new_one_finds(trees: list[dict[str, str]], portion: int) -> None:
    texts: dict[bytes, str] = {}
    read: list[bytes] = []
    encoder = of_family("qwen")
    style, _ = detect(encoder.specials)

    def text_of(content: bytes) -> str:
        read.append(content)
        return texts[content]

    def follow(index: Index, tag: str, files: dict[str, str]) -> None:
        texts.update({digest(text.encode()): text for text in files.values()})
        due = index.plant("w", [(path, digest(text.encode())) for path, text in files.items()])
        for start in range(0, len(due), portion):
            assert index.search("w", tag, asked, style, encoder) is None
            assert index.grow("w", due[start : start + portion])
        assert index.ripen("w", tag)

    asked = Sought("c/d.py", frozenset({"alpha", "beta"}), 500)
    index, before = Index(text_of), dict[str, str]()
    for number, files in enumerate(trees):
        read.clear()
        follow(index, f"w/{number}", files)
        changed = [path for path, text in files.items() if before.get(path) != text]
        assert len(read) == len(changed)
        fresh = Index(text_of)
        follow(fresh, "w/0", files)
        assert index.search("w", f"w/{number}", asked, style, encoder) == fresh.search(
            "w", "w/0", asked, style, encoder
        )
        before = files
    assert index.search("w", "w/another", asked, style, encoder) is None


def test_the_workspaces_searched_longest_ago_make_way() -> None:
    index = Index(lambda _: "some words\n" * 3200, held=250)
    encoder = of_family("qwen")
    style, _ = detect(encoder.specials)
    for name in "abcd":
        assert index.plant(name, [("a.py", b"1")]) == [("a.py", b"1")]
        assert index.grow(name, [("a.py", b"1")])
        assert index.ripen(name, f"{name}/1")
    assert len(index) == 2
    assert index.search("a", "a/1", sought(), style, encoder) is None
    assert index.search("d", "d/1", sought(), style, encoder) is not None
    assert not index.ripen("a", "a/1")
