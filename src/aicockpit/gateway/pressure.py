"""Requests that an engine had to preempt for want of KV cache, over time, and what to do about it. Pure; `metrics.py`
keeps one for each engine, `admin.py` shows it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW_S = 600.0
_APART_S = 5.0  # samples nearer to each other than this are one: they are taken whenever somebody asks


@dataclass(frozen=True, slots=True)
class Told:
    """`total` over all lives of the engine, None before it was first asked. `recent` of them in the last `over_s`
    seconds, None until it has been asked twice within the window."""

    total: int | None = None
    recent: int | None = None
    over_s: float = 0.0


@dataclass(slots=True)
class Pressure:
    """Samples (monotonic time, preemptions so far) of one engine, oldest first; none is older than the window."""

    _seen: deque[tuple[float, float]] = field(default_factory=deque)

    def note(self, total: float, now: float, born: float) -> None:
        """`total` never falls. `born`: when the engine began to count from 0; 0.0 when that is not known."""
        if not self._seen and born and now - born <= WINDOW_S:
            self._seen.append((born, 0.0))
        if len(self._seen) > 1 and now - self._seen[-2][0] < _APART_S:
            self._seen.pop()
        self._seen.append((now, total))
        while now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()

    def told(self, now: float) -> Told:
        """As of the last sample; what is older than the window is not recent."""
        if not self._seen:
            return Told()
        (began, before), (ended, total) = self._seen[0], self._seen[-1]
        if len(self._seen) == 1 or now - ended > WINDOW_S:
            return Told(int(total))
        return Told(int(total), int(total - before), ended - began)

    def fresh(self, now: float, limit_s: float) -> bool:
        """Was the last sample taken within `limit_s`?"""
        return bool(self._seen) and now - self._seen[-1][0] < limit_s


def advice(told: Told) -> str:
    """One sentence when requests were preempted lately; "" when none were, or nobody knows."""
    if not told.recent:
        return ""
    many = f"{told.recent} requests were" if told.recent > 1 else "1 request was"
    return (
        f"{many} preempted in the last {max(1, round(told.over_s / 60))} min: the KV cache does not hold what runs at "
        "once, and what is preempted is computed again. Raise --gpu-memory-utilization (on the CPU "
        "--kv-cache-memory-bytes) or --tensor-parallel-size, or lower --max-num-seqs."
    )
