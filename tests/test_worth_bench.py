"""The worth benchmark: which lines it takes, how it scores them on a server, what it makes of the figures."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import worth
from benchmarks.worth_lines import (
    CHAT,
    CROSS,
    HELD,
    RANDOM,
    TWICE,
    VARIANTS,
    WALK,
    Sample,
    Sizes,
    balanced,
)
from benchmarks.worth_score import ScoreError, Scorer

from aicockpit.prompts import fim, similar
from tiny_tokenizers import of_family
from worth_rig import WORDS, Stub, corpus_of, tokenizer_in, tree_in, truth


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.stop()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tree_in(tmp_path / "small")


# Lines and prompts


def test_cross_lines_use_a_symbol_that_only_another_file_shows(tree: Path) -> None:
    corpus = corpus_of(tree)
    samples, share = corpus.samples(100, 1)
    cross = [sample for sample in samples if sample.kind == CROSS]
    assert {(sample.path, sample.symbol) for sample in cross} == {(f"mod_{n}.py", f"helper_{n + 1}") for n in range(4)}
    assert 0 < share < 0.2
    for sample in cross:
        assert all(sample.symbol not in part for part in corpus.window(sample.path, sample.number))
        assert sample.symbol in corpus.tree[sample.path].splitlines()[sample.number]


def test_a_symbol_that_the_window_shows_makes_no_cross_line(tree: Path) -> None:
    samples, share = corpus_of(tree, Sizes(before=20_000, after=20_000)).samples(100, 1)
    assert share == 0
    assert {sample.kind for sample in samples} == {RANDOM}


def test_the_open_file_is_in_no_context_and_the_line_in_no_prompt(tree: Path) -> None:
    corpus = corpus_of(tree)
    encoder = of_family("qwen")
    sample = next(sample for sample in corpus.samples(100, 1)[0] if sample.kind == CROSS)
    prompts = corpus.prompts(sample)
    assert encoder.decode(prompts.line) == "\n" + corpus.tree[sample.path].splitlines()[sample.number]
    assert set(prompts.before) == set(VARIANTS)
    alone = encoder.decode(prompts.before["none"])
    assert alone.startswith("<|fim_prefix|>")
    for variant in VARIANTS[1:]:
        text = encoder.decode(prompts.before[variant])
        assert text.count(f"<|file_sep|>{sample.path}\n") == 1  # the tail's own
        assert prompts.text not in text
    near = encoder.decode(prompts.before["neighbourhood"])
    assert f"def {sample.symbol}(value)" in near
    for chat, messages in prompts.chats.items():
        assert [message["role"] for message in messages] == ["user"] if CHAT[chat] == "none" else ["system", "user"]
        assert messages[-1]["content"].count(f"This is {sample.path} ") == 1
        assert prompts.text not in messages[-1]["content"]
        assert f"### {sample.path}\n" not in messages[0]["content"]
    assert prompts.said == encoder.encode(prompts.text[1:])


def test_the_segments_stand_in_the_order_that_is_served(tree: Path) -> None:
    corpus, encoder = corpus_of(tree), of_family("qwen")
    sample = next(sample for sample in corpus.samples(100, 1)[0] if sample.kind == CROSS)
    prompts = corpus.prompts(sample)
    style, _ = fim.detect(encoder.specials)
    tail = len(style.tail(encoder, sample.path, *corpus.window(sample.path, sample.number)))
    pack, held = prompts.before["pack"], prompts.before[HELD]
    snippets = held[held.index(encoder.specials["<|file_sep|>"]) : -tail]
    assert snippets
    assert prompts.before[f"pack + {HELD}"] == pack[:-tail] + snippets + pack[-tail:]
    near = prompts.before["pack + neighbourhood"]
    assert prompts.before[f"pack + neighbourhood + {HELD}"] == near[:-tail] + snippets + near[-tail:]
    assert len(prompts.before[TWICE]) > len(held)


def test_a_held_query_is_that_of_a_line_above_and_no_older_than_a_search_would_leave_it(tree: Path) -> None:
    corpus = corpus_of(tree)
    ages = set()
    for sample in corpus.samples(100, 1)[0]:
        walk = corpus.walk(sample)
        lines = corpus.tree[sample.path].splitlines()
        assert walk.query == similar.query("\n".join(lines[: sample.number - walk.age]))
        assert 0 <= walk.age <= walk.lines < WALK
        assert walk.searches >= 1
        ages.add(walk.age)
        if walk.age > 2:  # no search was due since, but for one that is not warm yet
            settled = similar.query("\n".join(lines[: sample.number - 2]))
            assert walk.searches == 1 or not similar.moved(walk.query, settled)
    assert len(ages) > 5


def test_every_beginning_of_the_order_is_balanced(tree: Path) -> None:
    samples = [Sample(f"{n % 7}.py", n, RANDOM) for n in range(50)] + [
        Sample(f"{n % 5}.py", n, CROSS) for n in range(50)
    ]
    ordered = balanced(samples, random.Random(1))
    assert sorted(ordered, key=lambda s: s.id) == sorted(samples, key=lambda s: s.id)
    for end in range(1, len(ordered)):
        random_lines = sum(sample.kind == RANDOM for sample in ordered[:end])
        assert abs(2 * random_lines - end) <= 4


# Scoring


def test_both_ways_of_scoring_give_the_same(stub: Stub) -> None:
    scorer = Scorer(stub.url, "m")
    prompt, line = tuple(range(40)), (5, 9, 5, 7)
    by_tokens = scorer.score(prompt, line)
    scorer.mode = "prompt"
    assert scorer.score(prompt, line) == by_tokens
    assert by_tokens == [truth([*prompt, *line[:place]], token) for place, token in enumerate(line)]
    scorer.close()


def test_token_mode_sends_growing_prompts_that_share_the_prefix(stub: Stub) -> None:
    scorer = Scorer(stub.url, "m")
    scorer.score((1, 2, 3), (8, 9))
    scorer.close()
    (body,) = stub.bodies
    assert body["prompt"] == [[1, 2, 3], [1, 2, 3, 8]]
    assert (body["max_tokens"], body["logprob_token_ids"], body["temperature"]) == (1, [8, 9], 0)


@pytest.mark.parametrize(("ways", "mode"), [(("tokens", "prompt"), "tokens"), (("prompt",), "prompt")])
def test_the_probe_chooses_what_the_server_knows(ways: tuple[str, ...], mode: str) -> None:
    stub = Stub(ways)
    scorer = Scorer(stub.url, "m")
    try:
        found = scorer.probe(tuple(range(100)), (1, 2))
        assert found.mode == mode == scorer.mode
        assert found.difference == (0 if len(ways) == 2 else None)
        assert found.speed > 0
    finally:
        scorer.close()
        stub.stop()


def test_a_server_that_cannot_score_is_named() -> None:
    stub = Stub(())
    scorer = Scorer(stub.url, "m")
    try:
        with pytest.raises(ScoreError, match="neither way"):
            scorer.probe(tuple(range(100)), (1, 2))
    finally:
        scorer.close()
        stub.stop()


def test_a_server_that_is_not_there_is_an_error_with_its_address() -> None:
    scorer = Scorer("http://127.0.0.1:9", "m")
    with pytest.raises(ScoreError, match=r"127\.0\.0\.1:9"):
        scorer.score((1,), (2,))
    scorer.close()


# A whole run


@pytest.fixture
def words(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(worth, "FOLDER", tmp_path / "bench")
    monkeypatch.setattr(worth, "PAGE", tmp_path / "page.md")
    tokenizer = tokenizer_in(tmp_path / "tokenizer")
    return [str(tree), "--model", "m-135M", "--lines", "6", "--tokenizer", str(tokenizer), *WORDS]


def test_a_run_goes_on_where_it_was_interrupted(stub: Stub, words: list[str], tmp_path: Path) -> None:
    words += ["--engine", stub.url]
    assert worth.main([*words, "--limit", "3"]) == 0
    (kept,) = (tmp_path / "bench").iterdir()
    first = kept.read_text()
    assert first.count("\n") == 3
    kept.write_text(first + '{"id": "cut sho')
    assert worth.main(words) == 0
    lines = kept.read_text().splitlines()
    assert "\n".join(lines[:3]) + "\n" == first
    ids = [json.loads(line)["id"] for line in lines]
    assert len(ids) == len(set(ids)) == 10  # six random lines, and the four cross lines there are
    asked = len(stub.bodies)
    assert worth.main(words) == 0
    assert len(stub.bodies) == asked


def test_a_server_that_dies_ends_the_run_and_keeps_what_is_scored(words: list[str], tmp_path: Path) -> None:
    stub = Stub(dies_after=50)
    try:
        assert worth.main([*words, "--engine", stub.url]) == 1
    finally:
        stub.stop()
    (kept,) = (tmp_path / "bench").iterdir()
    assert 1 <= kept.read_text().count("\n") <= 4


def test_a_prompt_that_has_changed_is_scored_again_and_no_other(
    stub: Stub, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words += ["--engine", stub.url, "--no-exact"]
    assert worth.main(words) == 0
    (kept,) = (tmp_path / "bench").iterdir()
    ids = [json.loads(line)["id"] for line in kept.read_text().splitlines()]
    asked = len(stub.bodies)
    monkeypatch.setattr(similar, "segment", lambda *_: ((5, 6, 7), ()))  # what is found is another thing now
    assert worth.main(words) == 0
    again = [json.loads(line) for line in kept.read_text().splitlines()][len(ids) :]
    assert [result["id"] for result in again] == ids
    probe, held = 3, sum(HELD in name for name in VARIANTS) - 1  # twice as many tokens: the same prompt
    assert probe + len(ids) <= len(stub.bodies) - asked <= probe + held * len(ids)


def test_a_line_is_asked_for_in_a_chat_as_the_server_renders_it(stub: Stub, words: list[str], tmp_path: Path) -> None:
    words += ["--engine", stub.url, "--chat", "--write"]
    assert worth.main(words) == 0
    (kept,) = (tmp_path / "bench").iterdir()
    results = [json.loads(line) for line in kept.read_text().splitlines()]
    assert all(set(result["scores"]) == {*VARIANTS, *CHAT} for result in results)
    page = (tmp_path / "page.md").read_text()
    assert "### Random lines, asked for in a chat" in page
    assert "similar held: the cursor comes down to the line from up to 64 lines above it; a search every" in page
    asked = len(stub.bodies)
    assert worth.main(words) == 0
    assert len(stub.bodies) == asked


def test_exact_lines_are_counted_unless_left_out_and_can_be_counted_later(
    stub: Stub, words: list[str], tmp_path: Path
) -> None:
    def written() -> list[dict[str, object]]:
        return [body for body in stub.bodies if body["max_tokens"] > 1]

    words += ["--engine", stub.url]
    assert worth.main([*words, "--no-exact"]) == 0
    (kept,) = (tmp_path / "bench").iterdir()
    first = [json.loads(line) for line in kept.read_text().splitlines()]
    assert not written()
    assert all(result["exact"] == {} for result in first)
    asked = len(stub.bodies)
    assert worth.main(words) == 0
    results = [json.loads(line) for line in kept.read_text().splitlines()][len(first) :]
    assert [result["scores"] for result in results] == [result["scores"] for result in first]
    assert len(stub.bodies) - asked == len(written()) + 3  # nothing is scored again; three to probe the server
    assert all(set(result["exact"]) == set(VARIANTS) for result in results)
    hits = {result["id"].split(":")[1] for result in results if result["exact"]["none"]}
    assert hits == {"mod_1.py"}


@pytest.mark.parametrize(
    ("written", "exact"),
    [("\n  x = 1", True), ("\n  x = 1  \ny", True), ("\n  x = 10", False), ("\n x = 1", False), ("", False)],
)
def test_an_exact_line_ends_where_the_real_one_does(written: str, exact: bool) -> None:
    assert worth.is_exact(written, "\n  x = 1") is exact


def test_the_estimate_for_the_default_run_on_two_cores_is_under_two_hours() -> None:
    without = worth.estimate(Sizes(), 200, False, 800, prompt_mode=False, suffix=False)
    assert without < 70 * 60
    assert without < worth.estimate(Sizes(), 200, True, 800, prompt_mode=False, suffix=False) < 110 * 60
    assert worth.estimate(Sizes(), 200, False, 800, False, chat=True) > worth.estimate(Sizes(), 200, False, 800, False)


def test_a_published_command_has_no_key_and_no_folder_of_this_machine() -> None:
    assert worth._public(["/home/me/src", "--key", "secret", "--model", "m"]) == ["src", "--key", "KEY", "--model", "m"]
