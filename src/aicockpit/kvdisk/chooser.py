"""Load or compute: how many blocks of a prompt's stored prefix to load. Pure; the scheduler's side calls it per
request.

The idea is Cake's ("Compute or Load KV Cache? Why not both?", arXiv 2410.03065). There one request's cache is filled
from both ends at once: chunks are computed from the front while others are fetched from the back, until they meet.
vLLM's connector interface takes a contiguous prefix, so here one end only is loaded, and what follows is computed
afterwards; loading overlaps with the work of *other* requests. With that, the cost of loading k blocks and computing
the rest is `k * load + sum of compute(i) for i >= k`, and as a block costs more to compute the deeper it stands, that
sum is least at an end: all that is stored, or nothing. The numbers in between come from a probe, and from a load that
is cut short because it turns out slower than computing (loader.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .meter import STALE_S, ComputeRate, LoadRate

# A load costs the request two more turns of the engine's loop.
TURN_S = 0.004
PROBE_BLOCKS = 2

Reason = Literal["nothing stored", "asked for", "not measured", "loading is faster", "computing is faster", "probe"]


@dataclass(frozen=True, slots=True)
class Choice:
    """`blocks` to load, from the front. `load_s`, `compute_s`: what all that is stored would take; None: unknown."""

    blocks: int
    reason: Reason
    load_s: float | None = None
    compute_s: float | None = None


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
    costs. While computing is faster, a measurement of the disk that is older than `STALE_S` is renewed with a few
    blocks.
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
    if now - load.at > STALE_S:
        return Choice(min(PROBE_BLOCKS, stored), "probe", load_s, compute_s)
    return Choice(0, "computing is faster", load_s, compute_s)
