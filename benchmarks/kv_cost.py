"""`kv_tier.py store`: what storing adds to the time of computing a prompt, against an engine without a tier.

The prompts are so long and follow each other so closely that the buffer in front of the disk fills: writing waits while
a prompt is computed until half of the buffer is full, so short prompts with pauses between them would be written beside
nothing. How many blocks were on disk before the last prompt was sent is counted and told.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.bars import Bar, checked
from benchmarks.kv_bench import Bench, median
from benchmarks.kv_engine import Engine

# With the answer's token in SmolLM2's context of 8,192; one prompt alone passes half of the buffer of 128 MiB.
TOKENS = 6_145
FLAGS = ("--max-model-len", "8192", "--max-num-batched-tokens", "512")
RUN, NOT_STORED = 5, 3
BAR = 0.05
LEAST_BESIDE = 0.5


@dataclass(slots=True)
class Times:
    """Seconds per prompt. `round_*`: the medians of each round's run. Blocks: `written` of them all, `beside` computing
    (before the last prompt of the run was sent), `left` unwritten. `copying`: seconds that steps waited for copies,
    of `storing` seconds of stored prompts."""

    none: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    round_none: list[float] = field(default_factory=list)
    round_stored: list[float] = field(default_factory=list)
    written: int = 0
    beside: int = 0
    left: int = 0
    copying: float = 0.0

    @property
    def added(self) -> float:
        """The share that storing adds to the median."""
        return median(self.stored) / median(self.none) - 1

    @property
    def share_beside(self) -> float:
        return self.beside / self.written if self.written else 0.0


def store(bench: Bench, rounds: int) -> bool:
    """Rounds of an engine without a tier and one with it, never both at once; which is first takes turns."""
    chance, found = random.Random(), Times()
    for number in range(rounds):
        for tier in (False, True) if number % 2 == 0 else (True, False):
            with bench.engine(bench.tier("store") if tier else None, *FLAGS) as made:
                _run(made, chance, 1, TOKENS // 4, stored=False)  # the first prompt of an engine is slower
                if tier:
                    _with_tier(bench, made, chance, found, stored_first=number % 2 == 0)
                else:
                    times = _run(made, chance, RUN, TOKENS, stored=None)
                    found.none += times
                    found.round_none.append(median(times))
                    bench.note(f"round {number + 1}, no tier: {median(times):.3f} s")
    return told(bench, found)


def _with_tier(bench: Bench, made: Engine, chance: random.Random, found: Times, *, stored_first: bool) -> None:
    for stored in (True, False) if stored_first else (False, True):
        if not stored:
            found.idle += _run(made, chance, NOT_STORED, TOKENS, stored=False)
            continue
        before = made.settled()
        times = _run(made, chance, RUN - 1, TOKENS, stored=True)
        # Not after the last one: what is written once nothing is computed any more must not count.
        beside = int(made.metric("aicockpit_kv_disk_stored_blocks_total")) - before
        times += _run(made, chance, 1, TOKENS, stored=True)
        written = made.settled() - before
        found.stored += times
        found.round_stored.append(median(times))
        found.beside += beside
        found.written += written
        bench.note(f"stored: {median(times):.3f} s, {beside} of {written} blocks written beside it")
    found.left += int(made.metric("aicockpit_kv_disk_unstored_blocks_total"))
    found.copying += made.metric("aicockpit_kv_disk_copy_seconds_total")


def _run(made: Engine, chance: random.Random, count: int, tokens: int, *, stored: bool | None) -> list[float]:
    """New prompts, one right after the other. `stored`: as the request asks; None: there is no tier to ask."""
    wish = None if stored is None else {"store": stored}
    prompts = [[chance.randrange(1000, 40_000) for _ in range(tokens)] for _ in range(count)]
    return [made.complete(prompt, wish=wish).seconds for prompt in prompts]


def bars(found: Times) -> list[Bar]:
    """The cost, and that it is one of writing: most blocks were written while prompts were computed."""
    return [
        checked("storing adds at most 5 % to the median", found.added <= BAR, f"{found.added:+.1%}"),
        checked(
            "at least half of the blocks were written while prompts were computed, and at most 1 % was not written",
            found.share_beside >= LEAST_BESIDE and found.left <= 0.01 * (found.written + found.left),
            f"{found.beside} of {found.written}; {found.left} not written",
        ),
    ]


def told(bench: Bench, found: Times) -> bool:
    """Tell it; whether the bars are cleared."""

    def row(name: str, times: Sequence[float]) -> tuple[str, ...]:
        share = "" if times is found.none else f"{median(times) / median(found.none) - 1:+.1%}"
        return (name, str(len(times)), f"{min(times):.3f}", f"{median(times):.3f}", f"{max(times):.3f}", share)

    rows = [
        row("no tier", found.none),
        row("disk tier, not stored", found.idle),
        row("disk tier, stored", found.stored),
    ]
    head = (f"{TOKENS:,} new tokens, back to back, s", "times", "least", "median", "most", "against no tier")
    bench.table(head, rows)
    pairs = zip(found.round_stored, found.round_none, strict=True)
    bench.tell(
        f"Round by round storing adds {', '.join(f'{one / other - 1:+.1%}' for one, other in pairs)}; steps waited "
        f"{found.copying / sum(found.stored):.1%} of their time for copies."
    )
    return bench.bars(bars(found))
