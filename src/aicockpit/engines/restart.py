"""When to start a crashed engine again, and when to give up. Pure: times and a random number come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """At most `limit` restarts within `window_s`; the first after about `first_s`, each wait twice the last."""

    limit: int = 5
    window_s: float = 600.0
    first_s: float = 1.0
    most_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Start again after `delay_s`; it is attempt `number` of those the window allows."""

    delay_s: float
    number: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not start again; `sentence` says why."""

    sentence: str


def decide(
    crashes: Sequence[float], now: float, policy: RestartPolicy, jitter: float, in_a_row: int = 0
) -> Retry | GiveUp:
    """What to do after a crash. `crashes`: the times of all of them, this one too; `jitter`: random, 0 to 1.

    `in_a_row` counts starts since the engine was last ready: an engine that needs minutes to fail would otherwise
    never crash often enough within the window.
    """
    recent = sum(1 for crash in crashes if now - crash <= policy.window_s)
    if recent > policy.limit:
        return GiveUp(f"gave up after {_restarts(policy.limit)} in {policy.window_s:g} s")
    if in_a_row > policy.limit:
        return GiveUp(f"gave up after {_restarts(policy.limit)} in a row that did not become ready")
    number = max(recent, in_a_row, 1)
    # Half of the wait is random, so that engines that fell together do not rise together.
    full = min(policy.most_s, policy.first_s * 2.0 ** min(number - 1, 30))
    return Retry(full * (0.5 + jitter / 2), number)


def _restarts(count: int) -> str:
    return f"{count} restart{'' if count == 1 else 's'}"
