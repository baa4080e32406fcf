"""What is worth saying about one saved change: the newer text of the symbols that changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from aicockpit.prompts.languages import line_comment
from aicockpit.prompts.skeleton import Analysis

CONTEXT = 2  # lines around a change that is in no symbol, or in one too long to be told whole
MAX_DIFFED = 3_000  # lines that are compared one by one; a larger change is one hunk
# Pairs of equal lines, old and new, times lines: the most that comparing can cost, some 2 s. Text that repeats itself
# takes the cube of its length.
MAX_COST = 20_000_000
MAX_LINE = 400  # characters

Span = tuple[str, int, int]


def entry(
    path: str,
    old: str | None,
    new: str | None,
    old_analysis: Analysis | None,
    new_analysis: Analysis | None,
    limit_lines: int,
) -> str:
    """At most `limit_lines` lines about the change from `old` to `new`; "" if nothing is worth saying.

    A new file gives its skeleton, a deleted one a line that says so, a change of whitespace nothing. A changed
    symbol is given whole, under the first lines of what it stands in; what was only taken away shows what is left
    around it. `old_analysis` is not needed to tell a change and may be None.
    """
    if new is None:
        return "" if old is None else f"{line_comment(path)} {path} was deleted"
    if old is None:
        text = new if new_analysis is None else new_analysis.skeleton
        return "\n".join(_bounded(_lines(text), limit_lines, path))
    before, after = _lines(old), _lines(new)
    spans = () if new_analysis is None else new_analysis.spans
    parts = sorted({_part(start, end, after, spans, limit_lines) for start, end in _changes(before, after)})
    lines: list[str] = []
    shown = -1  # the last line that is shown already
    for start, end in _merged(parts):
        for name, first, _ in _around(spans, start, end):
            head = _head(after, first, name)
            if shown < head < start:
                lines.append(after[head])
                shown = head
        if lines and start > shown + 1:
            lines.append(_indent(after[start]) + line_comment(path) + " ...")
        lines += after[max(start, shown + 1) : end + 1]
        shown = max(shown, end)
    return "\n".join(_bounded(lines, limit_lines, path))


def _changes(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Changed lines of `after` as (first, behind last); equal numbers where lines were only taken away."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    tail = 0
    while tail < min(len(before), len(after)) - start and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    old, now = before[start : len(before) - tail], after[start : len(after) - tail]
    if max(len(old), len(now)) > MAX_DIFFED or _cost(old, now) > MAX_COST:
        return [(start, start + len(now))] if _squeezed(old) != _squeezed(now) else []
    codes = SequenceMatcher(None, old, now, autojunk=False).get_opcodes()
    return [
        (start + j1, start + j2)
        for tag, i1, i2, j1, j2 in codes
        if tag != "equal" and _squeezed(old[i1:i2]) != _squeezed(now[j1:j2])
    ]


def _cost(old: Sequence[str], now: Sequence[str]) -> int:
    counts = Counter(now)
    return sum(count * counts[line] for line, count in Counter(old).items()) * min(len(old), len(now))


def _lines(text: str) -> list[str]:
    """As spans count them: only a line feed ends a line."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _part(start: int, end: int, lines: Sequence[str], spans: Sequence[Span], limit: int) -> tuple[int, int]:
    """The lines to show for a change, first and last: its symbol, or the change with a little around it."""
    last = max(end - 1, start)
    holders = _around(spans, start, last)
    if holders:
        _, first, final = holders[-1]
        inside = any(first <= span[1] and span[2] <= final and span[1:] != (first, final) for span in spans)
        if final - first < limit and (not inside or final - first < 2 * CONTEXT):
            return first, min(final, len(lines) - 1)
    most = len(lines) - 1
    return max(0, min(start, most) - CONTEXT), min(most, last + CONTEXT if end > start else start + CONTEXT - 1)


def _around(spans: Sequence[Span], start: int, end: int) -> list[Span]:
    """The symbols that hold all of these lines, from the outermost."""
    found = {(first, -last): (name, first, last) for name, first, last in spans if first <= start and end <= last}
    return [found[key] for key in sorted(found)]


def _head(lines: Sequence[str], first: int, name: str) -> int:
    """The line that names a symbol: decorators and attributes may stand before it."""
    word = name.rpartition(".")[2]
    return next((row for row in range(first, min(first + 6, len(lines))) if word in lines[row]), first)


def _merged(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in parts:
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end >= start:
            merged.append((start, end))
    return merged


def _bounded(lines: Sequence[str], limit: int, path: str) -> list[str]:
    lines = [line.rstrip()[:MAX_LINE] for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) <= limit:
        return list(lines)
    more = f"{line_comment(path)} ..."
    kept = lines[: max(limit - 1, 0)]
    while kept and kept[-1].strip() in {"", more}:
        kept.pop()
    return [*kept, more][: max(limit, 0)]


def _squeezed(lines: Sequence[str]) -> str:
    return "".join("".join(lines).split())


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
