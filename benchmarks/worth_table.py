"""What scored lines say: means with standard errors, the winner of each lane, the rows to ship. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aicockpit.prompts.worth import LANES, Row, render
from benchmarks.worth_lines import CHAT, CROSS, HELD, NEAR, NONE, PACK, PEERS, RANDOM, SEGMENTS, TWICE, VARIANTS, Sizes

JOURNAL = 500  # tokens: what benchmarks/worth_journal.py found to be worth it
# What each lane can be given. Computed at each request, `similar` is the peers' way and none of ours; a chat has no
# open file.
SHIPPED: Mapping[str, Mapping[str, str]] = {
    "completion": {name: name for name, parts in SEGMENTS.items() if PEERS not in parts},
    "chat": {chat: name for chat, name in CHAT.items() if name in (NONE, PACK)},
}


@dataclass(frozen=True, slots=True)
class Result:
    """One scored line. `scores`: log-probability per token of each variant; `exact`: whether greedy wrote the line.

    `cross`: a random line that happens to use another file's hidden symbol. `prompts`: what was scored, as hashes.
    """

    id: str
    kind: str
    cross: bool
    tokens: int
    scores: Mapping[str, float]
    exact: Mapping[str, bool]
    prompts: Mapping[str, str] = field(default_factory=dict)


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


def nothing(variant: str) -> str:
    """The variant without context that another one is compared with."""
    return f"chat: {NONE}" if variant in CHAT else NONE


def gains(results: Sequence[Result], kind: str, variant: str, than: str = "") -> Mean:
    """The paired difference to no context, or to another variant."""
    base = than or nothing(variant)
    pairs = [r.scores for r in results if r.kind == kind and variant in r.scores and base in r.scores]
    return mean_of([found[variant] - found[base] for found in pairs])


def exact_rate(results: Sequence[Result], kind: str, variant: str) -> Mean:
    return mean_of([float(r.exact[variant]) for r in results if r.kind == kind and variant in r.exact])


def expected(results: Sequence[Result], variant: str, share: float, than: str = "") -> Mean:
    """The gain over all lines: cross lines are `share` of them, and are measured apart because they are few."""
    rest = gains([r for r in results if not r.cross], RANDOM, variant, than)
    cross = gains(results, CROSS, variant, than)
    error = math.hypot((1 - share) * rest.error, share * cross.error)
    return Mean((1 - share) * rest.value + share * cross.value, error, min(rest.count, cross.count))


def winner(results: Sequence[Result], lane: str, share: float) -> tuple[str, str]:
    """The variant to ship for a lane, and why. No context wins unless another is ahead by its standard error.

    Completion: the expected gain over all lines. Where the best is not ahead of others by the standard error of the
    paired difference, the lines that need another file decide between them. Chat: questions are about the
    repository, so these lines alone stand for them.
    """
    lanes = {variant: name for variant, name in SHIPPED[lane].items() if name != NONE}
    cross = {variant: gains(results, CROSS, variant) for variant in lanes}
    if lane == "chat":
        best = max(lanes, key=lambda variant: cross[variant].value)
        found = cross[best]
        text = f"{lanes[best]} {found.shown(sign=True)} per token in a chat, on lines that use another file's symbols"
    else:
        measure = {variant: expected(results, variant, share) for variant in lanes}
        first = max(lanes, key=lambda variant: measure[variant].value)
        behind = {variant: expected(results, first, share, than=variant) for variant in lanes}
        near = [variant for variant in lanes if behind[variant].value <= behind[variant].error]
        best = max(near, key=lambda variant: cross[variant].value)
        found = measure[best]
        text = f"{best} {found.shown(sign=True)} per token over all lines"
        if best != first:
            text += f" ({first} {measure[first].value:+.3f}, {cross[best].value - cross[first].value:.3f} less on the "
            text += "lines that use another file's symbols)"
    if found.count < 2:
        return NONE, "too few lines are scored"
    if found.value > found.error:
        return lanes[best], text
    return NONE, f"the best of the others is {text}: not above its standard error"


def row_of(results: Sequence[Result], lane: str, share: float, model: str, sizes: Sizes, corpus: str) -> Row:
    """The row for prompts/data/worth.toml."""
    best, why = winner(results, lane, share)
    last = re.sub(r"-(instruct|it|chat|base)$", "", model.rstrip("/").rsplit("/", 1)[-1].lower())
    used = NONE if lane == "completion" else f"chat: {NONE}"
    lines = {kind: sum(r.kind == kind and used in r.scores for r in results) for kind in (RANDOM, CROSS)}
    note = f"{lines[RANDOM]} random lines and {lines[CROSS]} that use other files' symbols, of {corpus}: {why}"
    parts = SEGMENTS[best]
    return Row(
        pattern=f"*{last}*",
        lane=lane,
        pack=sizes.pack if PACK in parts else 0,
        neighbourhood=sizes.near if NEAR in parts else 0,
        similar=sizes.similar if HELD in parts else 2 * sizes.similar if TWICE in parts else 0,
        journal=JOURNAL if best != NONE else 0,
        measured=min(lines.values()) >= 100,
        note=note,
    )


def rows_to_ship(results: Sequence[Result], share: float, model: str, sizes: Sizes, corpus: str) -> str:
    """Both lanes' rows as TOML."""
    return render([row_of(results, lane, share, model, sizes, corpus) for lane in LANES])


def table(results: Sequence[Result], kind: str, chat: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and one line for each variant, of those asked for as a completion or in a chat."""
    head = ["in front of the chat" if chat else "in front of the file", "lines", "log-probability per token"]
    head += ["gain, paired", *([] if chat else ["exact lines"])]
    lines = []
    for variant in CHAT if chat else VARIANTS:
        seen = scores(results, kind, variant)
        rate = exact_rate(results, kind, variant)
        exact = f"{rate.value:.1%} ± {rate.error:.1%}" if rate.count else "-"
        if 0 < rate.count < seen.count:
            exact += f" (of {rate.count})"
        gain = "-" if variant == nothing(variant) else gains(results, kind, variant).shown(sign=True)
        name = CHAT.get(variant, variant)
        lines.append([name, str(seen.count), seen.shown(), gain, *([] if chat else [exact])])
    return head, lines
