"""What scored lines say: means with standard errors, the winner of each lane, the row to ship. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aicockpit.prompts.worth import LANES, Row, render
from benchmarks.worth_lines import CROSS, RANDOM, VARIANTS, Sizes

JOURNAL = 500  # tokens: not measured here; a journal replaces stale text, so it goes where a pack or neighbourhood goes
SHIPPED = ("none", "pack", "neighbourhood", "both")  # `similar` is the peers' way and none of ours


@dataclass(frozen=True, slots=True)
class Result:
    """One scored line. `scores`: log-probability per token of each variant; `exact`: whether greedy wrote the line.

    `cross`: a random line that happens to use another file's hidden symbol.
    """

    id: str
    kind: str
    cross: bool
    tokens: int
    scores: Mapping[str, float]
    exact: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error (0 for fewer than two values)."""

    value: float
    error: float
    count: int

    def shown(self, sign: bool = False) -> str:
        if not self.count:
            return "-"
        return f"{self.value:{'+' if sign else ''}.3f} ± {self.error:.3f}"


def mean_of(values: Sequence[float]) -> Mean:
    count = len(values)
    if not count:
        return Mean(0.0, 0.0, 0)
    middle = sum(values) / count
    if count == 1:
        return Mean(middle, 0.0, 1)
    variance = sum((value - middle) ** 2 for value in values) / (count - 1)
    return Mean(middle, math.sqrt(variance / count), count)


def scores(results: Sequence[Result], kind: str, variant: str) -> Mean:
    return mean_of([r.scores[variant] for r in results if r.kind == kind and variant in r.scores])


def gains(results: Sequence[Result], kind: str, variant: str) -> Mean:
    """The paired difference to no context."""
    pairs = [r.scores for r in results if r.kind == kind and variant in r.scores and "none" in r.scores]
    return mean_of([found[variant] - found["none"] for found in pairs])


def exact_rate(results: Sequence[Result], kind: str, variant: str) -> Mean:
    return mean_of([float(r.exact[variant]) for r in results if r.kind == kind and variant in r.exact])


def expected(results: Sequence[Result], variant: str, share: float) -> Mean:
    """The gain over all lines: cross lines are `share` of them, and are measured apart because they are few."""
    plain = [r.scores[variant] - r.scores["none"] for r in results if r.kind == RANDOM and not r.cross]
    cross = gains(results, CROSS, variant)
    rest = mean_of(plain)
    error = math.hypot((1 - share) * rest.error, share * cross.error)
    return Mean((1 - share) * rest.value + share * cross.value, error, min(rest.count, cross.count))


def winner(results: Sequence[Result], lane: str, share: float) -> tuple[str, str]:
    """The variant to ship for a lane, and why. No context wins unless another is ahead by its standard error.

    Completion: the expected gain over all lines. Chat: questions are about the repository, so the lines that need
    another file stand for them (chat itself is not measured here).
    """
    measure = {
        variant: expected(results, variant, share) if lane == "completion" else gains(results, CROSS, variant)
        for variant in SHIPPED
        if variant != "none"
    }
    what = "over all lines" if lane == "completion" else "on lines that use another file's symbols"
    best = max(measure, key=lambda variant: measure[variant].value)
    found = measure[best]
    text = f"{best} {found.shown(sign=True)} per token {what}"
    if found.count < 2:
        return "none", "too few lines are scored"
    if found.value > found.error:
        return best, text
    return "none", f"the best of the others is {text}: not above its standard error"


def row_of(results: Sequence[Result], lane: str, share: float, model: str, sizes: Sizes, corpus: str) -> Row:
    """The row for prompts/data/worth.toml."""
    best, why = winner(results, lane, share)
    last = re.sub(r"-(instruct|it|chat|base)$", "", model.rstrip("/").rsplit("/", 1)[-1].lower())
    lines = {kind: sum(r.kind == kind for r in results) for kind in (RANDOM, CROSS)}
    note = f"{lines[RANDOM]} random lines and {lines[CROSS]} that use other files' symbols, of {corpus}: {why}"
    return Row(
        pattern=f"*{last}*",
        lane=lane,
        pack=sizes.pack if best in ("pack", "both") else 0,
        neighbourhood=sizes.near if best in ("neighbourhood", "both") else 0,
        journal=JOURNAL if best != "none" else 0,
        measured=lane == "completion" and min(lines.values()) >= 100,
        note=note,
    )


def rows_to_ship(results: Sequence[Result], share: float, model: str, sizes: Sizes, corpus: str) -> str:
    """Both lanes' rows as TOML."""
    return render([row_of(results, lane, share, model, sizes, corpus) for lane in LANES])


def table(results: Sequence[Result], kind: str) -> tuple[list[str], list[list[str]]]:
    """Header and one line for each variant."""
    head = ["in front of the file", "lines", "log-probability per token", "gain, paired", "exact lines"]
    lines = []
    for variant in VARIANTS:
        seen = scores(results, kind, variant)
        rate = exact_rate(results, kind, variant)
        exact = f"{rate.value:.1%} ± {rate.error:.1%}" if rate.count else "-"
        gain = "-" if variant == "none" else gains(results, kind, variant).shown(sign=True)
        lines.append([variant, str(seen.count), seen.shown(), gain, exact])
    return head, lines
