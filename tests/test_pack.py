"""Packs: pure, within their budget, stable under edits, and cheap to build again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicockpit.prompts import fim
from aicockpit.prompts.languages import Grammars
from aicockpit.prompts.pack import ItemCache, Pack, Source, build
from aicockpit.prompts.skeleton import analyse
from tiny_tokenizers import of_family


class Letters:
    """An encoder that gives a token per four letters, and counts its calls."""

    fingerprint = "letters"

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, text: str, /) -> tuple[int, ...]:
        self.calls += 1
        data = text.encode()
        return tuple(int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4))


class Files:
    """A style that writes a path before each text."""

    name = "files"

    def header(self, encoder: Letters, repo: str, /) -> tuple[int, ...]:
        return encoder.encode(f"repo {repo}\n")

    def item(self, encoder: Letters, path: str, text: str, /) -> tuple[int, ...]:
        return encoder.encode(f"file {path}\n{text}\n")


class Tree:
    """Texts by path, built into packs with one cache."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = dict(texts)
        self.grammars = Grammars()
        self.encoder = Letters()
        self.cache = ItemCache(1_000_000)
        self.read: list[str] = []

    def sources(self) -> list[Source]:
        return [
            Source(path, xxhash.xxh3_128(text.encode()).digest(), 1, analyse(path, text, self.grammars))
            for path, text in self.texts.items()
        ]

    def text(self, content: bytes) -> str:
        found = next(text for text in self.texts.values() if xxhash.xxh3_128(text.encode()).digest() == content)
        self.read.append(found)
        return found

    def pack(self, budget: int = 3000) -> Pack:
        return build(self.sources(), self.text, Files(), self.encoder, "shop", budget, self.cache)


def shop() -> dict[str, str]:
    texts = {f"shop/part{number}.py": part(number) for number in range(12)}
    texts["shop/money.py"] = (
        '"""Money."""\n\nclass Money:\n    """An amount."""\n    def add(self, other):\n' + "        x = 1\n" * 60
    )
    texts["shop/kinds.py"] = '"""Kinds."""\n\nLOW = 1\nHIGH = 2\nNAMES = ("low", "high")\n'
    texts["README.md"] = "# Shop\n\nIt sells.\n"
    texts["CHANGELOG.md"] = "# 1.0\n"
    return texts


def part(number: int, body: str = "return Money()", signature: str = "a, b") -> str:
    return (
        f"from shop.money import Money\nfrom shop.kinds import LOW\n\n"
        f"def part{number}({signature}):\n    {body}\n    return LOW\n" + "    # more\n" * 20
    )


def test_a_pack_is_header_and_items_with_cuts_and_reasons() -> None:
    tree = Tree(shop())
    pack = tree.pack()
    at = pack.header
    assert pack.tokens[:at] == Files().header(tree.encoder, "shop")
    for item, cut in zip(pack.items, pack.cuts, strict=True):
        assert pack.tokens[at:cut] == item.tokens == Files().item(tree.encoder, item.path, item.text)
        at = cut
    assert at == len(pack.tokens) <= 3000
    assert pack.id == xxhash.xxh3_128(b"".join(token.to_bytes(4, "little") for token in pack.tokens)).hexdigest()
    money = pack.items[0]
    assert (money.path, money.kind) == ("shop/money.py", "skeleton")
    assert money.why in {"rank 1 of 15, referenced by 12 files", "rank 2 of 15, referenced by 12 files"}


def test_small_central_files_are_whole_and_text_gives_heads_at_the_end() -> None:
    kinds = {item.path: item.kind for item in Tree(shop()).pack().items}
    assert kinds["shop/kinds.py"] == "full"
    assert set(kinds.values()) == {"skeleton", "full", "head"}
    assert list(kinds)[-2:] == ["shop/kinds.py", "README.md"]
    assert "CHANGELOG.md" not in kinds


def test_the_budget_decides_how_much_of_the_ranking_is_in() -> None:
    small, large = Tree(shop()).pack(120), Tree(shop()).pack(400)
    assert len(small.tokens) <= 120
    assert "shop/money.py" in {item.path for item in small.items} < {item.path for item in large.items}
    assert len(large.tokens) <= 400
    nothing = Tree(shop()).pack(3)
    assert (nothing.tokens, nothing.items, nothing.header) == ((), (), 0)
    assert Tree({}).pack().tokens == ()


def test_one_item_takes_at_most_about_a_quarter() -> None:
    texts = shop()
    texts["shop/money.py"] += "".join(f"def function{number}(a, b): return 1\n" for number in range(300))
    pack = Tree(texts).pack(1000)
    money = next(item for item in pack.items if item.path == "shop/money.py")
    assert 150 < len(money.tokens) < 300
    assert money.why.endswith("cut to a quarter of the budget")
    assert money.text.endswith(": ...")
    assert len(pack.items) > 8


def test_a_body_edit_leaves_every_token_and_encodes_one_file_again() -> None:
    tree = Tree(shop())
    before = tree.pack()
    tree.texts["shop/part3.py"] = part(3, body="return Money().add(Money())")
    tree.encoder.calls = 0
    after = tree.pack()
    assert after.tokens == before.tokens
    assert after.id == before.id
    assert tree.encoder.calls == 2  # the header, and the file that was edited
    tree.encoder.calls = 0
    assert tree.pack() == after
    assert tree.encoder.calls == 1


def test_a_skeleton_edit_leaves_all_items_in_front_of_it() -> None:
    tree = Tree(shop())
    before = tree.pack()
    tree.texts["shop/part3.py"] = part(3, signature="a, b, c")
    after = tree.pack()
    place = next(number for number, item in enumerate(before.items) if item.path == "shop/part3.py")
    assert [item.path for item in after.items] == [item.path for item in before.items]
    assert after.tokens[: after.cuts[place - 1]] == before.tokens[: before.cuts[place - 1]]
    assert after.id != before.id


def test_a_new_file_that_refers_to_others_moves_nothing() -> None:
    tree = Tree(shop())
    before = tree.pack()
    tree.texts["shop/zoo.py"] = part(99)
    after = [item.path for item in tree.pack().items]
    assert [path for path in after if path != "shop/zoo.py"] == [item.path for item in before.items]


def test_times_decide_nothing() -> None:
    tree = Tree(shop())
    sources = tree.sources()
    other = [replace(source, mtime_ns=number) for number, source in enumerate(reversed(sources))]
    packs = {
        build(given, tree.text, Files(), tree.encoder, "shop", 2000, ItemCache(limit)).id
        for given, limit in ((sources, 0), (other, 100_000), (sources[3:] + sources[:3], 500))
    }
    assert len(packs) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(budget=st.integers(0, 2000), drop=st.sets(st.integers(0, 14)))
def test_any_budget_holds(budget: int, drop: set[int]) -> None:
    texts = {path: text for number, (path, text) in enumerate(shop().items()) if number not in drop}
    pack = Tree(texts).pack(budget)
    assert len(pack.tokens) <= budget
    assert pack.cuts == tuple(sorted(set(pack.cuts)))
    assert len(pack.cuts) == len(pack.items)


def test_the_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    cache = ItemCache(500)
    for number in range(50):
        cache.get((b"h", f"p{number}", "skeleton", "f"), lambda: range(20))
    assert len(cache) == 9
    made: list[str] = []

    def make(key: str) -> tuple[int, ...]:
        made.append(key)
        return (1,)

    for key in ("p49", "p0"):
        cache.get((b"h", key, "skeleton", "f"), partial(make, key))
    assert made == ["p0"]


@pytest.mark.parametrize("family", ["qwen", "starcoder2", "deepseek"])
def test_with_a_real_tokenizer_and_style_a_pack_is_what_the_style_writes(family: str) -> None:
    encoder = of_family(family)
    style, _ = fim.detect(encoder.specials)
    tree = Tree(shop())
    pack = build(tree.sources(), tree.text, style, encoder, "shop", 2500, ItemCache(100_000))
    written = style.header(encoder, "shop")
    for item in pack.items:
        written += style.item(encoder, item.path, item.text)
    assert pack.tokens == written
    assert len(pack.items) > 5


def test_equal_snapshots_give_equal_ids_in_another_process() -> None:
    code = "from test_pack import Tree, shop\nfor b in (200, 900, 3000): print(Tree(shop()).pack(b))"
    said = set()
    for seed in ("1", "2"):
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        env = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=paths)
        said.add(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
        )
    assert len(said) == 1
