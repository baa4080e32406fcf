"""The busy engine against the warm one: pure, with every term of the prediction held."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aicockpit.engines.engine import Engine
from aicockpit.gateway.routing import Candidate, Choice, Limits, Verdict, Warm, choose
from aicockpit.types import EngineState, Lane
from test_routing import engine

LIMITS = Limits(queue=16, background=1)
# 2,000 tokens at 1,000 a second: a cold start is two seconds longer.
TOKENS, SPEED = 2000, 1000.0


def at_work(name: str, load: int, pace: float, sent: int = 0) -> Engine:
    made = engine(name, interactive=load, sent=sent)
    made.pace = pace
    return made


def chosen(engines: list[Engine], warm: Warm) -> Choice:
    return choose(engines, Lane.INTERACTIVE, LIMITS, 0.0, (), warm)


def pair(load: int, pace: float) -> Choice:
    """A busy engine where the context is warm, beside an idle one where it is not."""
    return chosen([at_work("cold", 0, pace), at_work("warm", load, pace)], Warm({"warm": TOKENS}, SPEED))


@pytest.mark.parametrize("load", [0, 3])
def test_at_equal_load_the_warm_one_is_chosen(load: int) -> None:
    engines = [at_work("cold", load, 0.5), at_work("warm", load, 0.5, sent=9)]
    choice = chosen(engines, Warm({"warm": TOKENS}, SPEED))
    assert choice.engine is engines[1]


@pytest.mark.parametrize(("load", "pace"), [(1, 2.0), (4, 0.5)])
def test_it_is_left_once_waiting_there_costs_more_than_a_cold_start(load: int, pace: float) -> None:
    just_below, just_above = pair(load, pace * 0.999), pair(load, pace * 1.001)
    assert just_below.engine is not None
    assert just_above.engine is not None
    assert (just_below.engine.name, just_above.engine.name) == ("warm", "cold")


def test_a_faster_prefill_makes_a_cold_start_worth_while() -> None:
    engines = [at_work("cold", 0, 1.0), at_work("warm", 1, 1.0)]
    slow, fast = (chosen(engines, Warm({"warm": TOKENS}, speed)).engine for speed in (1900.0, 2100.0))
    assert slow is engines[1]
    assert fast is engines[0]


def test_each_engine_s_load_counts_at_its_own_pace() -> None:
    engines = [at_work("slow", 2, 1.0), at_work("quick", 3, 0.1)]
    assert chosen(engines, Warm({}, SPEED)).engine is engines[1]


def test_as_long_as_no_pace_is_known_load_decides_between_equals() -> None:
    engines = [at_work("busy", 2, 0.0), at_work("idle", 1, 0.0, sent=9)]
    assert chosen(engines, Warm({}, SPEED, last="busy")).engine is engines[1]


def test_of_equals_the_one_that_had_the_file_s_last_request_then_the_one_sent_fewest() -> None:
    engines = [at_work("a", 1, 0.5, sent=9), at_work("b", 1, 0.5, sent=5), at_work("c", 1, 0.5, sent=7)]
    tokens = dict.fromkeys("abc", TOKENS)
    assert chosen(engines, Warm(tokens, SPEED, last="a")).engine is engines[0]
    assert chosen(engines, Warm(tokens, SPEED, last="gone")).engine is engines[1]
    assert chosen(engines, Warm(tokens, SPEED)).engine is engines[1]
    # It is a tie-break only: neither more load nor less warmth is taken for it.
    assert chosen(engines, Warm({**tokens, "a": 0}, SPEED, last="a")).engine is engines[1]
    engines[0].load.interactive = 2
    assert chosen(engines, Warm(tokens, SPEED, last="a")).engine is engines[1]


def test_the_reason_names_the_numbers_and_so_do_the_candidates() -> None:
    engines = [at_work("a", 3, 0.5), at_work("b", 1, 0.25)]
    choice = chosen(engines, Warm({"a": 1500, "b": 500}, SPEED))
    assert choice.engine is engines[1]
    assert choice.reason == (
        "a: 1500 of 1500 tokens warm, 3 in work, 1.50 s; b: 500 of 1500 tokens warm, 1 in work, 1.25 s"
    )
    assert choice.candidates == (
        Candidate("a", "ready", "", 3, 1500, 1.5),
        Candidate("b", "ready", "", 1, 500, 1.25),
    )


def test_candidates_tell_why_an_engine_was_none() -> None:
    sick, failed, full = engine("sick"), engine("failed"), engine("full", interactive=16)
    starting, good = engine("starting", EngineState.STARTING), engine("good")
    starting.stage = "loading weights"
    for _ in range(sick.breaker.threshold):
        sick.breaker.failed(10.0)
    engines = [sick, failed, full, starting, good]
    choice = choose(engines, Lane.INTERACTIVE, LIMITS, 11.0, [failed], Warm({"full": 80, "good": 40}, SPEED))
    assert choice.engine is good
    told = {one.engine: (one.state, one.why_not, one.overlap_tokens, one.cost_s) for one in choice.candidates}
    assert told == {
        "sick": ("ready", "circuit open after failures", 0, None),
        "failed": ("ready", "it has just failed this request", 0, None),
        "full": ("ready", "it has 16 requests in work, as many as it may", 80, None),
        "starting": ("starting", "starting (loading weights)", 0, None),
        "good": ("ready", "", 40, 0.0),
    }


def test_candidates_of_background_work_and_of_no_workspace() -> None:
    engines = [engine("a", interactive=1), engine("b", background=1), engine("c", agent=2)]
    choice = choose(engines, Lane.BACKGROUND, LIMITS, 0.0)
    assert [one.why_not for one in choice.candidates] == [
        "interactive work is in flight there",
        "its background slots are taken",
        "",
    ]
    assert {(one.overlap_tokens, one.cost_s) for one in choice.candidates} == {(None, None)}
    assert [one.load for one in choice.candidates] == [1, 1, 2]
    waiting = choose(engines[:2], Lane.BACKGROUND, LIMITS, 0.0)
    assert (waiting.verdict, len(waiting.candidates)) == (Verdict.WAIT, 2)


@pytest.mark.parametrize("best", [0, 15, 16, 39])
def test_what_is_told_is_bounded_and_has_the_chosen_one(best: int) -> None:
    engines = [engine(f"e{n}", interactive=n != best, sent=n) for n in range(40)]
    engines[5].state, engines[5].reason = EngineState.FAILED, "x" * 5000
    for warm in (None, Warm({f"e{best}": 500}, SPEED)):
        choice = choose(engines, Lane.INTERACTIVE, LIMITS, 0.0, (), warm)
        assert choice.engine is engines[best]
        assert f"e{best}" in [one.engine for one in choice.candidates]
        assert len(choice.candidates) == 16
        assert max(len(one.why_not) for one in choice.candidates) == 200
        assert warm is None or f"e{best}: 500 of 500 tokens warm" in choice.reason


rows = st.tuples(st.integers(0, 18), st.integers(0, 40), st.integers(0, 4000), st.integers(0, 9))


@given(st.lists(rows, min_size=2, max_size=6), st.data())
def test_more_load_more_to_compute_or_a_slower_pace_never_make_an_engine_the_choice(
    table: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    engines = [at_work(f"e{n}", load, pace / 8, sent) for n, (load, pace, _, sent) in enumerate(table)]
    tokens = {f"e{n}": warm for n, (_, _, warm, _) in enumerate(table)}
    warm = Warm(tokens, SPEED, data.draw(st.sampled_from(["", *tokens])))
    before = chosen(engines, warm).engine
    loser = data.draw(st.sampled_from(engines))
    assume(loser is not before)
    loser.load.interactive += data.draw(st.integers(0, 5))
    loser.pace += data.draw(st.integers(0, 5)) / 8
    tokens[loser.name] -= data.draw(st.integers(0, tokens[loser.name]))
    assert chosen(engines, dataclasses.replace(warm, tokens=tokens)).engine is not loser


@given(st.lists(rows, min_size=1, max_size=6))
def test_no_engine_is_predicted_to_start_sooner_than_the_chosen_one(table: list[tuple[int, int, int, int]]) -> None:
    engines = [at_work(f"e{n}", load, pace / 8, sent) for n, (load, pace, _, sent) in enumerate(table)]
    choice = chosen(engines, Warm({f"e{n}": warm for n, (_, _, warm, _) in enumerate(table)}, SPEED))
    costs = {one.engine: one.cost_s for one in choice.candidates if not one.why_not}
    assert (choice.engine is None) == (not costs)
    if choice.engine is not None:
        assert costs[choice.engine.name] == min(cost for cost in costs.values() if cost is not None)
