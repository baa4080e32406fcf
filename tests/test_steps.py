"""How long a step of warming is, by what was measured."""

from __future__ import annotations

import pytest

from aicockpit.workspace.steps import PrefetchLimits, Speed, step_length

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
