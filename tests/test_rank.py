"""The graph of references and the ranks that follow from it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.prompts.rank import Graph, graph, rank, rank_of
from aicockpit.prompts.skeleton import Analysis


def file(
    *, defines: str = "", uses: dict[str, int] | None = None, imports: str = "", language: str = "python"
) -> Analysis:
    references = tuple((uses or {}).items())
    return Analysis(language, "x", tuple(defines.split()), references, tuple(imports.split()))


def test_what_many_files_use_stands_first() -> None:
    tree = {
        "errors.py": file(defines="Failure"),
        "store.py": file(defines="Store", uses={"Failure": 2}, imports="errors.Failure"),
        "app.py": file(defines="App", uses={"Failure": 1, "Store": 3}, imports="errors.Failure store.Store"),
        "cli.py": file(uses={"App": 1}, imports="app.App"),
    }
    ranks = rank(tree)
    assert sorted(ranks, key=lambda path: -ranks[path]) == ["errors.py", "store.py", "app.py", "cli.py"]
    assert sum(ranks.values()) == pytest.approx(1)


def test_an_import_tells_which_of_two_definers_is_meant() -> None:
    tree = {
        "a/shop.py": file(defines="run"),
        "b/shop.py": file(defines="run"),
        "main.py": file(uses={"run": 4}, imports="b.shop.run"),
    }
    known = graph(tree)
    assert known.edges[known.index()["main.py"]] == ((1, 3.0),)
    assert known.referrers == (0, 1, 0)


def test_a_name_that_no_import_explains_carries_little() -> None:
    tree = {"lists.py": file(defines="append"), "shop.py": file(defines="sell")}
    tree["main.py"] = file(uses={"append": 100, "sell": 1}, imports="shop")
    known = graph(tree)
    assert [target for target, _ in known.edges[1]] == [2, 0]
    assert known.referrers == (0, 0, 1)


def test_a_name_defined_in_very_many_files_carries_nothing() -> None:
    tree = {f"part{number:02}.py": file(defines="get") for number in range(30)}
    tree["main.py"] = file(uses={"get": 9})
    assert graph(tree).edges[0] == ()
    tree["main.py"] = file(uses={"get": 9}, imports="part07")
    known = graph(tree)
    assert known.edges[0] == ((known.index()["part07.py"], 4.0),)


def test_languages_do_not_see_each_other_but_for_families() -> None:
    tree = {
        "a.go": file(defines="Shop", language="go"),
        "a.java": file(defines="Shop", language="java"),
        "b.java": file(uses={"Shop": 1}, language="java"),
        "c.h": file(defines="shop", language="cpp"),
        "c.c": file(uses={"shop": 1}, imports="c.h", language="c"),
        "README.md": file(language="text"),
    }
    known = graph(tree)
    edges = {
        path: [known.paths[target] for target, _ in out] for path, out in zip(known.paths, known.edges, strict=True)
    }
    assert {path: out for path, out in edges.items() if out} == {"b.java": ["a.java"], "c.c": ["c.h"]}


def test_a_package_needs_no_import_in_go() -> None:
    tree = {
        "shop/a.go": file(defines="newShop", language="go"),
        "shop/b.go": file(uses={"newShop": 1}, language="go"),
        "other/c.go": file(uses={"newShop": 1}, language="go"),
    }
    assert graph(tree).referrers == (0, 1, 0)


def test_no_files_and_files_without_references_have_ranks() -> None:
    assert rank({}) == {}
    assert rank({"a.py": file(), "b.py": file()}) == {"a.py": pytest.approx(0.5), "b.py": pytest.approx(0.5)}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from("abcdefgh")), st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 50))
        ),
        min_size=1,
        max_size=12,
    )
)
def test_ranks_are_shares_and_do_not_depend_on_the_order_given(files: list[tuple[set[str], dict[str, int]]]) -> None:
    tree = {
        f"f{number}.py": file(defines=" ".join(sorted(names)), uses={n: c for n, c in uses.items() if n not in names})
        for number, (names, uses) in enumerate(files)
    }
    ranks = rank(tree)
    assert sum(ranks.values()) == pytest.approx(1)
    assert min(ranks.values()) > 0
    assert rank(dict(reversed(tree.items()))) == ranks


def test_twenty_thousand_files_rank_in_seconds() -> None:
    tree = {
        f"pkg{number % 200}/mod{number}.py": file(
            defines=" ".join(f"name{number}_{place}" for place in range(20)),
            uses={f"name{(number * 7 + step * 13) % 20_000}_{step % 20}": step + 1 for step in range(40)},
            imports=" ".join(f"pkg{(number * 7 + step * 13) % 20_000 % 200}.mod{step}" for step in range(10)),
        )
        for number in range(20_000)
    }
    began = time.process_time()
    assert len(rank(tree)) == 20_000
    assert time.process_time() - began < 20


def test_a_graph_may_be_handed_on() -> None:
    known = Graph(("a", "b"), (((1, 1.0),), ()), (0, 1))
    assert rank_of(known)["b"] > rank_of(known)["a"]
