"""The rule of restarts, without clock or chance."""

from __future__ import annotations

import pytest

from aicockpit.engines.restart import GiveUp, RestartPolicy, Retry, decide

POLICY = RestartPolicy(limit=5, window_s=600, first_s=1, most_s=60)


def test_waits_double_up_to_the_longest() -> None:
    policy = RestartPolicy(limit=20, window_s=1e9, first_s=1, most_s=60)
    delays = []
    for count in range(1, 12):
        decision = decide([float(n) for n in range(count)], 100.0, policy, jitter=1.0)
        assert isinstance(decision, Retry)
        delays.append(decision.delay_s)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 4.0), (0.5, 6.0), (1.0, 8.0)])
def test_half_of_the_wait_is_chance(jitter: float, delay: float) -> None:
    assert decide([1, 2, 3, 4], 5, POLICY, jitter) == Retry(delay, 4)


def test_gives_up_after_the_limit_within_the_window() -> None:
    assert isinstance(decide([1, 2, 3, 4, 5], 5, POLICY, 0), Retry)
    assert decide([1, 2, 3, 4, 5, 6], 6, POLICY, 0) == GiveUp("gave up after 5 restarts in 600 s")


def test_old_crashes_are_forgotten() -> None:
    assert decide([1, 2, 3, 4, 5, 1000], 1000, POLICY, 1.0) == Retry(1, 1)


def test_slow_failures_count_too_until_the_engine_was_ready() -> None:
    crashes = [0.0, 500, 1000, 1500, 2000, 2500]
    assert isinstance(decide(crashes[:5], 2000, POLICY, 0, in_a_row=5), Retry)
    assert decide(crashes, 2500, POLICY, 0, in_a_row=6) == GiveUp(
        "gave up after 5 restarts in a row that did not become ready"
    )


def test_no_restarts_allowed() -> None:
    assert decide([1], 1, RestartPolicy(limit=0), 0) == GiveUp("gave up after 0 restarts in 600 s")
    assert decide([1, 2], 2, RestartPolicy(limit=1), 0) == GiveUp("gave up after 1 restart in 600 s")
