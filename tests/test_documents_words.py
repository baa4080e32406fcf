"""The words of a question, and what is found: names by their parts, any text without an error, the right page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicockpit.documents import rank, words
from aicockpit.documents.chunks import cut
from aicockpit.documents.crawl import digest
from aicockpit.documents.index import Index
from aicockpit.documents.store import Store
from aicockpit.documents.text import read
from aicockpit.documents.values import Hit, Source
from documents_rig import store_in
from real import ROOT

# What a user of this server may ask, and the page of our own documentation that tells it.
ASKED = [
    ("Which files does the indexer never send because they look like secrets?", "indexing.md"),
    ("how do I serve several models from one file", "fleet.md"),
    ("AICOCKPIT_WORTH", "context.md"),
    ("what does aicockpit_context_parity_total count", "metrics.md"),
    ("why was selectolax chosen", "dependencies.md"),
    ("doctor says the disk is slow", "doctor.md"),
    ("how many KV tokens are predicted on an A6000 card", "hardware.md"),
    ("write a recipe of my own in YAML", "recipes.md"),
    ("how is a model downloaded and verified", "models.md"),
    ("what happens when an engine crashes, backoff and restart", "engines.md"),
    ("is robots.txt obeyed when documentation is read", "documentation.md"),
    ("requests per second compared with other gateways", "performance.md"),
]


def put(store: Store, source: Source, name: str, text: str, kind: str = "markdown") -> None:
    document = read(text, kind, name)
    pieces = cut(document.blocks, document.title)
    store.put_page(source.number, source.generation, name, name, document.title, digest(pieces), pieces)


def found(store: Store, source: Source, question: str, limit: int = 5) -> list[Hit]:
    return Index(store).search(question, [source], limit)[0]


@pytest.fixture(scope="module")
def own_docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Source]]:
    with store_in(tmp_path_factory.mktemp("docs")) as store:
        source = store.create("key", "AiCockpit", "docs", "upload", False)
        for path in sorted((ROOT / "docs").glob("*.md")):
            put(store, source, path.name, path.read_text())
        yield store, source


@pytest.mark.parametrize(("question", "page"), ASKED)
def test_the_right_page_is_among_the_first_three(own_docs: tuple[Store, Source], question: str, page: str) -> None:
    """Not the first: these pages change, and several speak of the same thing."""
    hits = found(*own_docs, question)
    assert page in [hit.url for hit in hits[:3]], [(hit.url, hit.title) for hit in hits]


def test_names_in_code_are_found_however_they_are_asked_for(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        source = store.create("key", "x", "x", "upload", False)
        put(store, source, "python.md", "# Tasks\n\nCall `asyncio.create_task(work)` and keep the result.")
        put(store, source, "java.md", "# Pools\n\nUse `HttpClientBuilder.setMaxConnections(5)`.")
        put(store, source, "cjk.md", "# 設定\n\n環境変数でサーバーの設定を変更できます。")
        put(store, source, "other.md", "# Other\n\nNothing of the kind; it creates a lot of work for the pool.")
        for question, page in (
            ("create_task", "python.md"),
            ("asyncio.create_task", "python.md"),
            ("how to create a task", "python.md"),
            ("createTask", "python.md"),
            ("setMaxConnections", "java.md"),
            ("max connections", "java.md"),
            ("http client builder", "java.md"),
            ("環境変数", "cjk.md"),
            ("サーバーの設定", "cjk.md"),
        ):
            assert found(store, source, question)[0].url == page, question


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Source]]:
    with store_in(tmp_path_factory.mktemp("small")) as store:
        source = store.create("key", "x", "x", "upload", False)
        put(store, source, "a.md", "# A\n\nSome text AND other text, NEAR the end: title OR body; place s1g1.")
        yield store, source


SYNTAX = [
    *['"', "''", "*", "^", "AND", "-x", "(", ")", "a*", "+", "^a", "place:s1g1", "rowid", "..", "__", "title:x", "–"],
    *(
        "OR NOT",
        "NEAR(a b, 3)",
        "{title body}:x",
        "a + b",
        "\x00",
        "\ud800",
        "; DROP TABLE words",
        "a" * 8000,
        '"a" OR "b',
    ),
    "a\u0301",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=300), st.lists(st.sampled_from(SYNTAX), max_size=6).map(" ".join)))
def test_any_text_is_a_question(small: tuple[Store, Source], question: str) -> None:
    hits = found(*small, question)
    assert len(hits) <= 1


def test_a_question_of_common_words_alone_still_asks(small: tuple[Store, Source]) -> None:
    assert words.question("what is the") != ""
    assert words.question("?!") == ""
    assert len(words.question("x1 " + " ".join(f"word{n}" for n in range(500)))) < 2000
    assert found(*small, "other")[0].title == "A"


def test_a_source_answers_only_for_itself_and_its_served_generation(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        one = store.create("key", "one", "x", "upload", False)
        two = store.create("other", "two", "x", "upload", False)
        put(store, one, "one.md", "# Apples\n\nThe apples of source one.")
        put(store, two, "two.md", "# Apples\n\nThe apples of source two, which are a secret.")
        assert [hit.url for hit in found(store, one, "apples secret two")] == ["one.md"]
        store.change(one.number, generation=2)
        newer = store.find(one.id)
        assert newer is not None
        put(store, newer, "new.md", "# Apples\n\nNewer apples.")
        assert [hit.url for hit in found(store, newer, "apples")] == ["one.md"]
        store.change(one.number, served=2)
        store.drop(one.number, 2)
        served = store.find(one.id)
        assert served is not None
        assert [hit.url for hit in found(store, served, "apples")] == ["new.md"]
        store.delete(two.number)
        left = store.db.rows("SELECT count(*) FROM words WHERE words MATCH 'secret'")
        assert left == [(0,)]


def test_meaning_and_words_are_fused_and_a_page_speaks_three_times_at_most(tmp_path: Path) -> None:
    assert rank.fuse([[1, 2], [2, 3]])[2] == pytest.approx(1 / 62 + 1 / 61)
    scores = rank.fuse([[1, 2, 3, 4, 5]])
    assert rank.best(scores, {1: "a", 2: "a", 3: "a", 4: "a", 5: "b"}, 9) == [1, 2, 3, 5]
    with store_in(tmp_path) as store:
        source = store.create("key", "one", "x", "upload", False)
        put(store, source, "car.md", "# Car\n\nAn automobile has four wheels.")
        put(store, source, "boat.md", "# Boat\n\nA boat floats.")
        index = Index(store)
        rows = index.without_vector(source, 1, "m", 10)
        assert [text.splitlines()[0] for _, text in rows] == ["Car", "Boat"]
        vectors = [(rows[0][0], rank.pack([1.0, 0.1])), (rows[1][0], rank.pack([0.0, 1.0]))]
        index.put_vectors(source, 1, "m", vectors)
        assert index.without_vector(source, 1, "m", 10) == []
        assert len(index.without_vector(source, 1, "other model", 10)) == 2
        hits, near = index.search("vehicle", [source], 5, "m", rank.pack([1.0, 0.0]))
        assert ([hit.url for hit in hits], near) == (["car.md", "boat.md"], True)
        hits, near = index.search("boat", [source], 5, "m", rank.pack([1.0, 0.0, 0.0]))  # another length
        assert ([hit.url for hit in hits], near) == (["boat.md"], False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-Embedding-8B", True),
        ("BAAI/bge-m3", True),
        ("intfloat/multilingual-e5-large", True),
        ("nomic-ai/nomic-embed-text-v1.5", True),
        ("sentence-transformers/all-MiniLM-L6-v2", True),
        ("BAAI/bge-reranker-v2-m3", False),
        ("Qwen/Qwen3-Coder-30B", False),
        ("meta-llama/Llama-3.1-8B", False),
        ("google/gemma-2-9b", False),
    ],
)
def test_an_embedding_model_is_known_by_its_name(name: str, expected: bool) -> None:
    assert rank.embeds(name) is expected


def test_what_a_model_wants_in_front_is_put_there() -> None:
    assert rank.prefixes("intfloat/e5-base-v2") == ("query: ", "passage: ")
    assert rank.prefixes("Qwen/Qwen3-Embedding-4B")[0].startswith("Instruct: ")
    assert rank.prefixes("BAAI/bge-m3") == ("", "")
    assert rank.pack([0.0, 0.0]) is None
    assert rank.pack([float("nan")]) is None
