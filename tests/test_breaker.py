"""The circuit breaker against a model of itself, for any order of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aicockpit.engines.breaker import Breaker


@given(st.lists(st.sampled_from(["ok", "fail", "left", "wait"]), max_size=60))
def test_it_opens_after_the_threshold_and_lets_one_trial_through(steps: list[str]) -> None:
    breaker, now, failures = Breaker(threshold=3, cool_s=5.0), 0.0, 0
    for step in steps:
        if step == "wait":
            now += 5.0
        elif breaker.allows(now):
            trial = breaker.sent()
            assert trial == breaker.open
            assert breaker.open == (failures >= 3)
            assert not (breaker.open and breaker.allows(now)), "one trial at a time"
            if step == "ok":
                breaker.succeeded()
                failures = 0
            elif step == "fail":
                breaker.failed(now)
                failures += 1
            else:
                pass  # the client left
            if trial:
                breaker.trial_over()
        else:
            assert failures >= 3
    now += 5.0
    assert breaker.allows(now), "it can always come back"
