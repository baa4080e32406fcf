"""Load or compute: how many blocks of a prompt's stored prefix to load. Pure; the scheduler's side calls it per
request.

The idea is Cake's ("Compute or Load KV Cache? Why not both?", arXiv 2410.03065). There one request's cache is filled
from both ends at once: chunks are computed from the front while others are fetched from the back, until they meet.
vLLM's connector interface takes a contiguous prefix, so here one end only is loaded, and what follows is computed
afterwards; loading overlaps with the work of *other* requests. With that, the cost of loading k blocks and computing
the rest is `k * load + sum of compute(i) for i >= k`, and as a block costs more to compute the deeper it stands, that
sum is least at an end: all that is stored, or nothing. The numbers in between come from a load that is cut short
because it turns out slower than computing (loader.py). No request waits for a measurement: while computing is faster,
the disk is measured by reading a few files that nobody waits for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .meter import STALE_S, ComputeRate, LoadRate

# A load costs the request two more turns of the engine's loop.
TURN_S = 0.004
# How much later than computing it a prefix may come, as a share of computing: as long as nothing is known of the disk,
# and when its measured speed, a moment ago, promised better. And at least so long, for a thread may wake up late.
UNMEASURED_SHARE, MEASURED_SHARE, LEAST_S = 0.05, 0.10, 0.01
# How long a load may take while nobody knows what computing takes: afterwards the rest is computed, so it is known.
UNKNOWN_S = 0.25

Reason = Literal["nothing stored", "asked for", "not measured", "loading is faster", "computing is faster"]


@dataclass(frozen=True, slots=True)
class Choice:
    """`blocks` to load, from the front. `load_s`, `compute_s`: what all that is stored would take; None: unknown.
    `probe`: the disk's speed, which spoke against loading, is to be measured again."""

    blocks: int
    reason: Reason
    load_s: float | None = None
    compute_s: float | None = None
    probe: bool = False


def patience(
    block_tokens: int,
    blocks: int,
    first_token: int,
    load: LoadRate | None,
    compute: ComputeRate | None,
) -> tuple[float, float]:
    """For a load of `blocks` blocks after `first_token`: seconds that computing one of them takes (0: unknown), and by
    how many seconds the load may be behind that before it is cut."""
    if compute is None:
        return 0.0, UNKNOWN_S
    compute_s = compute.seconds(first_token, first_token + blocks * block_tokens)
    share = UNMEASURED_SHARE if load is None else MEASURED_SHARE
    return compute_s / blocks, max(share * compute_s, LEAST_S)


def choose(
    stored: int,
    *,
    first_token: int,
    block_tokens: int,
    load: LoadRate | None,
    compute: ComputeRate | None,
    now: float,
    queued: int = 0,
    limit: int | None = None,
    always: bool = False,
) -> Choice:
    """How many of the `stored` blocks after `first_token` to load, behind `queued` blocks of other requests.

    Loads wait for each other, so where loading is not much faster than computing, a queue makes some requests compute
    while others load, and both the disk and the processor are used.

    `limit`: at most so many blocks, as the request asked; `always`: it asked for all that is stored, whatever that
    costs. While computing is faster, a measurement of the disk that is older than `STALE_S` is to be renewed.
    """
    if limit is not None:
        stored = min(stored, limit)
    if stored <= 0:
        return Choice(0, "nothing stored" if limit is None else "asked for")
    last_token = first_token + stored * block_tokens
    load_s = None if load is None else load.block_s * (queued + stored) + TURN_S
    compute_s = None if compute is None else compute.seconds(first_token, last_token)
    if always:
        return Choice(stored, "asked for", load_s, compute_s)
    if load is None or load_s is None or compute_s is None:
        return Choice(stored, "not measured", load_s, compute_s)
    if load_s <= compute_s:
        return Choice(stored, "loading is faster", load_s, compute_s)
    return Choice(0, "computing is faster", load_s, compute_s, probe=now - load.at >= STALE_S)
