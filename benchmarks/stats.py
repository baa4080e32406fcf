"""Percentiles, ratios and the verdict on memory: pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

MB = 1_000_000


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of `values` in any order; 0 when there are none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share / 100 * len(ranked)) - 1)]


def ratio(value: float, base: float) -> float | None:
    """`value` as a multiple of `base`; None when that has no meaning."""
    return value / base if value > 0 and base > 0 else None


def added(value: float, direct: float) -> float:
    """What the gateway adds, never below zero: two measurements differ by noise."""
    return max(0.0, value - direct)


def memory_flat(baseline: int, samples: Sequence[int]) -> tuple[bool, int]:
    """Whether the end stands less than 10 % or 10 MB over the baseline, and the growth in bytes."""
    if not samples:
        return False, 0
    growth = max(samples[-3:]) - baseline
    return growth < 10 * MB or growth < baseline * 0.1, growth
