"""How long a step of warming is, by what was measured, and where its tokens came from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.workspace.steps import Origin, PrefetchLimits, Speed, begun, step_length, traced

LIMITS = PrefetchLimits(step_s=0.3)
BLOCK = 32


def settles_at(cost_s: float, rate: float, limits: PrefetchLimits = LIMITS) -> tuple[int, float]:
    """Tokens and seconds of steps where a request costs `cost_s` and computes `rate` tokens a second."""
    speed, last = Speed(), 0
    for _ in range(40):
        last = step_length(speed.tokens_in(limits.step_s), last, BLOCK, limits)
        speed.add(last, cost_s + last / rate)
        speed.add_empty(cost_s)
    return last, cost_s + last / rate


def test_nothing_measured_is_the_first_step() -> None:
    assert Speed().tokens_in(0.3) is None
    assert step_length(None, 0, BLOCK, LIMITS) == LIMITS.first_step


@pytest.mark.parametrize("cost", [0.0, 0.01, 0.05, 0.1])
def test_a_step_takes_what_it_aims_at(cost: float) -> None:
    tokens, seconds = settles_at(cost, 2000.0)
    assert 0.3 - 2 * BLOCK / 2000 <= seconds <= 0.3
    assert tokens % BLOCK == 0


@pytest.mark.parametrize("cost", [0.2, 0.3, 0.6])
def test_where_a_request_costs_more_than_that_steps_do_not_shrink_to_a_block(cost: float) -> None:
    tokens, seconds = settles_at(cost, 2000.0)
    assert tokens >= 0.9 * cost * 2000 - BLOCK
    assert seconds <= 2 * cost


def test_a_step_grows_by_degrees() -> None:
    speed = Speed()
    speed.add(32, 0.001)
    assert step_length(speed.tokens_in(0.3), 32, BLOCK, LIMITS) == 128


def test_an_empty_request_that_took_as_long_as_a_step_makes_no_speed_of_it() -> None:
    speed = Speed()
    speed.add(320, 0.2)
    speed.add_empty(0.5)
    assert speed.tokens_in(0.3) == pytest.approx(320 / 0.05 * 0.2)
    speed.add_empty(0.1)
    assert speed.tokens_in(0.3) == pytest.approx(1600 * 0.3), "a cost that leaves room for the step changes nothing"
    assert speed.tokens_s == pytest.approx(1600)


def test_what_is_found_beyond_the_engines_memory_is_the_tiers_if_it_has_one() -> None:
    before = Origin(computed=64, memory=32)
    assert traced(before, 256, 96, 96, tier=True) == Origin(224, 32, 0)
    assert traced(before, 256, 192, 160, tier=True) == Origin(128, 96, 32)
    assert traced(before, 256, 192, 400, tier=True) == Origin(128, 128, 0)
    assert traced(before, 256, 256, 0, tier=True) == Origin(64, 32, 160)
    assert traced(before, 256, 256, 0, tier=False) == Origin(64, 192, 0)


def test_a_step_that_finds_less_than_was_there_begins_anew() -> None:
    before = Origin(64, 32, 160)
    assert traced(before, 256, 64, 256, tier=True) == Origin(192, 64, 0)
    assert traced(before, 256, 0, 256, tier=True) == Origin(computed=256)
    assert traced(before, 320, None, 256, tier=True) == Origin(128, 32, 160), "it did not say"


def test_a_head_begins_with_what_is_resident() -> None:
    assert begun(Origin(), 128) == Origin(memory=128)
    assert begun(Origin(64, 0, 32), 128) == Origin(64, 32, 32)
    assert begun(Origin(64, 0, 32), 80) == Origin(memory=80), "some of it went away since"


STEPS = st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(0, 400), st.integers(0, 400)), max_size=20)


@given(st.integers(0, 100), STEPS, st.booleans())
def test_its_parts_are_all_of_it(resident: int, steps: list[tuple[int, int | None, int]], tier: bool) -> None:
    origin, end = begun(Origin(), resident), resident
    for more, found, there in steps:
        end += more
        origin = traced(origin, end, found, there, tier=tier)
        assert origin.total == end
        assert min(origin.computed, origin.memory, origin.tier) >= 0
        assert tier or not origin.tier
