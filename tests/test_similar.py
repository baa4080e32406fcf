"""Similar snippets: the search finds what comparing with everything would find, at any size; the segment, the query."""

from __future__ import annotations

import random
import time
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.prompts import fim, similar
from aicockpit.prompts.similar import CHUNK_LINES, Chunks, Found, jaccard, moved, query, segment, words
from tiny_tokenizers import of_family

VOCABULARY = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def naive(files: dict[str, str], asked: frozenset[str], without: Collection[str], count: int) -> list[Found]:
    """What the search must find: every chunk compared."""
    found = []
    for path, text in files.items():
        lines = text.split("\n")
        for start in range(0, len(lines), CHUNK_LINES):
            part = lines[start : start + CHUNK_LINES]
            held = words("\n".join(part))
            if held & asked and path not in without:
                found.append(Found(path, start + 1, start + len(part), jaccard(asked, held)))
    return sorted(found, key=lambda one: (-one.score, one.path, one.first))[:count]


def indexed(files: dict[str, str]) -> Chunks:
    chunks = Chunks()
    for path, text in files.items():
        chunks.add(path, text)
    return chunks


texts = st.lists(st.sampled_from([*VOCABULARY, "\n", "\n" * CHUNK_LINES]), max_size=40).map(" ".join)
trees = st.dictionaries(st.sampled_from([f"{name}.py" for name in "abcdefgh"]), texts, max_size=8)
queries = st.frozensets(st.sampled_from([*VOCABULARY, "unknown", "foreign"]), max_size=8)
paths = st.frozensets(st.sampled_from(["a.py", "b.py", "nowhere.py"]))


# The search


@given(files=trees, asked=queries, without=paths, count=st.integers(0, 12))
def test_the_search_finds_what_comparing_with_every_chunk_finds(
    files: dict[str, str], asked: frozenset[str], without: frozenset[str], count: int
) -> None:
    assert indexed(files).search(asked, without, count) == naive(files, asked, without, count)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["a.py", "b.py", "c.py"]), st.none() | texts), max_size=20), asked=queries
)
def test_replacing_and_dropping_leaves_what_a_new_index_holds(
    steps: list[tuple[str, str | None]], asked: frozenset[str]
) -> None:
    files: dict[str, str] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar, "COMPACT_FROM", 2)  # taken out of the lists now and then
        patch.setattr(similar, "ROW_FROM", 2)
        chunks = Chunks()
        for path, text in steps:
            if text is None:
                chunks.drop(path)
                files.pop(path, None)
            else:
                chunks.add(path, text)
                files[path] = text
            chunks.search(asked, (), 3)  # what is remembered of the lists must keep up
        assert chunks.search(asked, (), 50) == naive(files, asked, (), 50)
        assert len(chunks) == len(indexed(files))


def source(rng: random.Random, names: list[str], lines: int) -> str:
    """Lines of words as code has them: few are everywhere, most are rare."""
    size = len(names)
    return "\n".join(
        " ".join(names[min(size - 1, int(rng.paretovariate(0.35)) - 1)] for _ in range(4)) for _ in range(lines)
    )


def letters(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:05}")


@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_exact_over_chunks_of_all_sizes_while_files_come_and_go(seed: int) -> None:
    """Those that can be among the best are told by their size: few words that fit beat many."""
    rng = random.Random(seed)
    names = [letters(number) for number in range(300)]

    def text() -> str:
        return " ".join(rng.sample(names, rng.randint(1, rng.choice([30, 250]))))

    files: dict[str, str] = {}
    chunks = Chunks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar, "COMPACT_FROM", 20)
        for number in range(600):
            path = f"{rng.randint(0, 200)}.py"
            if number % 3:
                files[path] = text()
                chunks.add(path, files[path])
            else:
                files.pop(path, None)
                chunks.drop(path)
            if number % 5 == 0:
                asked, count = words(text()), rng.choice([1, 3, 20])
                assert chunks.search(asked, (), count) == naive(files, asked, (), count)


def test_the_search_is_exact_where_lists_are_long_and_kept_as_bits() -> None:
    rng = random.Random(7)
    names = [letters(number) for number in range(3_000)]
    files = {f"{number}.py": source(rng, names, 100) for number in range(400)}
    chunks = indexed(files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar, "ROWS", 5)  # fewer than a query asks for: they make way for each other
        for _ in range(10):
            asked = words(source(rng, names, 20))
            assert chunks.search(asked, {"3.py"}, 20) == naive(files, asked, {"3.py"}, 20)
    path = "7.py"
    files[path] = source(rng, names, 100)
    chunks.add(path, files[path])
    assert chunks.search(words(files[path][:600]), (), 20) == naive(files, words(files[path][:600]), (), 20)


def test_twenty_thousand_files_are_searched_in_some_milliseconds() -> None:
    """Also where words of the query stand in half of all chunks. Counted is the processor's time."""
    rng = random.Random(3)
    names = [letters(number) for number in range(20_000)]
    parts = [source(rng, names, CHUNK_LINES) for _ in range(200)]
    chunks = Chunks()
    for number in range(20_000):
        chunks.add(f"{number}.py", f"{rng.choice(parts)} {rng.choice(names)}")
    asked = [words(f"{rng.choice(parts)} {source(rng, names, 16)}") for _ in range(12)]
    assert max(len(held) for held in chunks._lists.values()) > 10_000
    chunks.search(asked[0], ())
    times = []
    for one in asked[1:]:
        began = time.process_time()
        assert len(chunks.search(one, ("7.py",))) == 20
        times.append(time.process_time() - began)
    assert sorted(times)[len(times) // 2] < 0.03  # 3 ms on an idle core


def test_the_index_is_bounded_and_says_what_it_left_out() -> None:
    chunks = Chunks(limit=3)
    chunks.add("a.py", "alpha\n" * 2 * CHUNK_LINES)
    chunks.add("b.py", "beta\n" * 2 * CHUNK_LINES)
    chunks.add("c.py", "gamma")
    assert (len(chunks), chunks.left_out) == (3, 2)
    assert chunks.search(frozenset({"gamma"}), ()) == []
    chunks.drop("a.py")
    assert (len(chunks), chunks.left_out) == (1, 2)
    chunks.add("c.py", "gamma")
    assert (len(chunks), chunks.left_out) == (2, 1)
    chunks.drop("b.py")
    chunks.drop("b.py")
    assert (len(chunks), chunks.left_out) == (1, 0)


def test_lines_that_are_too_long_to_be_shown_are_not_indexed() -> None:
    chunks = indexed({"min.js": "alpha " * 2_000, "one.js": "alpha"})
    assert [found.path for found in chunks.search(frozenset({"alpha"}), ())] == ["one.js"]


# Words and queries


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("getURLFor(HTTPResponse)", {"get", "url", "for", "http", "response"}),
        ("snake_case_2 = x1 + MAX_SIZE", {"snake", "case", "max", "size"}),
        ("größe_ändern = überTragen()", {"größe", "ändern", "über", "tragen"}),
        ("", set()),
        ("{}[] 12 3.4 a b", set()),
    ],
)
def test_names_are_taken_apart(text: str, found: set[str]) -> None:
    assert words(text) == found


@given(text=st.text(alphabet="abCDeF_ 1.\n", max_size=60))
def test_the_words_of_a_text_do_not_depend_on_a_character_of_another_alphabet_in_it(text: str) -> None:
    assert words(text) == words(text + " →")


@given(lines=st.lists(st.sampled_from([*VOCABULARY, "", "alpha beta"]), max_size=100))
def test_a_query_is_made_of_the_last_lines(lines: list[str]) -> None:
    assert query("\n".join(lines)) == words("\n".join(lines[-CHUNK_LINES:]))


def test_data_that_looks_like_text_fills_no_memory() -> None:
    letters = random.Random(5)

    def line(length: int) -> str:
        return "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=length))

    chunks = Chunks(vocabulary=100)
    chunks.add("names.py", "\n".join(VOCABULARY))
    chunks.add("base64.txt", "\n".join(" ".join(line(3) for _ in range(20)) for _ in range(CHUNK_LINES)))
    assert len(chunks) == 1
    chunks.add("sequence.txt", "\n".join(line(60) for _ in range(10 * CHUNK_LINES)))
    assert len(chunks) == 11
    assert len(chunks._lists) == 100
    assert [found.path for found in chunks.search(frozenset(VOCABULARY), ())] == ["names.py"]


def test_typing_a_word_is_no_move_and_another_place_is_one() -> None:
    lines = [
        f"self.{one} = {other}({one})" for one, other in zip(VOCABULARY * 3, reversed(VOCABULARY * 3), strict=True)
    ]
    here = query("\n".join(lines))
    assert not moved(here, here)
    assert not moved(here, query("\n".join([*lines, "self.total = len(alpha)"])))
    assert moved(here, query("import os\nimport sys\n\n\ndef main() -> int:\n    return run(sys.argv)"))
    assert not moved(frozenset(), frozenset())
    assert moved(frozenset(), here)


# The segment

STYLE, ENCODER = fim.detect(of_family("qwen").specials)[0], of_family("qwen")


def test_the_best_snippet_stands_last_and_all_fit_the_budget() -> None:
    files = {f"{name}.py": f"def {name}():\n    return {name}\n" for name in VOCABULARY}
    found = [Found(f"{name}.py", 1, 3, 1 - place / 10) for place, name in enumerate(VOCABULARY)]
    whole, items = segment(found, files.get, STYLE, ENCODER, 10_000)
    assert [item.path for item in items] == [f"{name}.py" for name in reversed(VOCABULARY)]
    assert whole == tuple(token for item in items for token in STYLE.item(ENCODER, item.path, item.text))
    for budget in range(0, len(whole), 7):
        tokens, fitting = segment(found, files.get, STYLE, ENCODER, budget)
        assert len(tokens) <= budget
        assert [item.score for item in fitting] == sorted(item.score for item in fitting)


def test_what_is_too_large_makes_way_for_what_fits() -> None:
    files = {"large.py": "alpha = beta\n" * 30, "small.py": "alpha"}
    found = [Found("large.py", 1, 30, 0.9), Found("small.py", 1, 1, 0.5)]
    _, items = segment(found, files.get, STYLE, ENCODER, 30)
    assert [(item.path, item.first, item.text) for item in items] == [("small.py", 1, "alpha")]


def test_no_text_stands_in_a_segment_twice_and_what_is_gone_not_at_all() -> None:
    files = {"a.py": "x\nalpha\nbeta\n", "copy.py": "y\nalpha\nbeta", "blank.py": "\n\n\n"}
    places = [
        Found("a.py", 2, 4, 0.9),
        Found("copy.py", 2, 3, 0.9),
        Found("a.py", 2, 4, 0.8),
        Found("gone.py", 1, 2, 0.7),
    ]
    tokens, items = segment([*places, Found("blank.py", 1, 3, 0.6)], files.get, STYLE, ENCODER, 1_000)
    assert [(item.path, item.first, item.text, item.score) for item in items] == [("a.py", 2, "alpha\nbeta", 0.9)]
    assert tokens == STYLE.item(ENCODER, "a.py", "alpha\nbeta")
