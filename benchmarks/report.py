"""The run as tables: Markdown for docs/performance.md, rich tables for the terminal. Pure but for `write`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.table import Table

from benchmarks import sections
from benchmarks.bars import Bar, Results
from benchmarks.model import Measurement, Missing
from benchmarks.stats import MB, added, ratio

BEGIN, END = sections.markers("gateway")
INTRO = f"""# Performance

## Gateways side by side

{BEGIN}
{END}
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the numbers depend on. `versions` holds a line for every gateway that was measured."""

    date: str
    machine: str
    command: str
    seconds: float
    rounds: int
    generator: str
    versions: dict[str, str]
    missing: Sequence[Missing]


def clean(reason: str, hidden: Sequence[str]) -> str:
    """A reason as it may be published: one line, without addresses and without this machine's folders."""
    text = re.sub(r"https?://[^\s'\")]+", "(address)", " ".join(reason.split()))
    for place in sorted(hidden, key=len, reverse=True):
        text = text.replace(place, "...") if len(place) > 1 else text
    return text.replace("|", "/")[:300]


def times(value: float | None) -> str:
    """A ratio, short: `1.25x`, `0.043x`; a dash without one."""
    if value is None:
        return "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.2f}x" if value >= 0.1 else f"{value:.3f}x"


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _with_ratio(text: str, value: float, nginx: float | None) -> str:
    """A figure, and behind it how many times nginx's it is."""
    found = ratio(value, nginx) if nginx else None
    return f"{text} ({times(found)})" if found is not None else text


def header(kind: str) -> list[str]:
    """The columns for one kind of scenario."""
    rate = "requests/s" if kind == "json" else "chunks/s"
    parts = ["gateway", "connections", rate, "x direct", "x nginx"]
    if kind == "paced":
        parts += ["gap p50 ms", "gap p99 ms", "added p50 ms", "added p99 ms"]
    else:
        parts += ["p50 ms", "p99 ms", "added p50 ms", "added p99 ms"]
    return [*parts, "CPU s/1,000", "peak MB", "errors"]


def _latencies(m: Measurement) -> tuple[tuple[float, float], tuple[float, float]]:
    """What is shown, and what `added` is computed from."""
    load = m.load
    if m.scenario.kind == "paced":
        return (load.gap_p50, load.gap_p99), (load.delay_p50, load.delay_p99)
    return (load.p50, load.p99), (load.p50, load.p99)


def _added(m: Measurement, direct: Measurement | None) -> list[float] | None:
    if direct is None or direct is m:
        return None
    mine, base = _latencies(m)[1], _latencies(direct)[1]
    return [added(value, floor) for value, floor in zip(mine, base, strict=True)]


def rate(m: Measurement) -> float:
    return m.load.requests_per_second if m.scenario.kind == "json" else m.load.chunks_per_second


def row(m: Measurement, results: Results) -> list[str]:
    """One line; what is in brackets is a multiple of nginx's figure."""
    direct, nginx = results.get("direct", m), results.get("nginx", m)
    cells = [m.gateway, str(m.scenario.connections), f"{rate(m):,.0f}"]
    cells += [times(ratio(rate(m), rate(base)) if base else None) for base in (direct, nginx)]
    cells += [_milliseconds(value) for value in _latencies(m)[0]]
    mine, theirs = _added(m, direct), _added(nginx, direct) if nginx else None
    for place in (0, 1):
        base = theirs[place] if theirs and nginx is not m else None
        cells.append(_with_ratio(_milliseconds(mine[place]), mine[place], base) if mine else "-")
    other = nginx if nginx is not m else None
    cpu = _with_ratio(f"{m.cpu_per_1000:.3f}", m.cpu_per_1000, other.cpu_per_1000 if other else None)
    memory = _with_ratio(f"{m.memory / MB:.0f}", m.memory, other.memory if other else None)
    measured = m.gateway != "direct"
    return [*cells, cpu if measured else "-", memory if measured else "-", str(m.load.errors)]


def _tables(results: Results) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows of every table; gateways side by side under the same connections."""

    def key(m: Measurement) -> tuple[str, str]:
        return m.scenario.kind, m.scenario.title

    ordered = sorted(results.all, key=lambda m: m.scenario.connections)
    order = list(dict.fromkeys(key(m) for m in results.all))
    grouped = {k: list(g) for k, g in groupby(sorted(ordered, key=lambda m: order.index(key(m))), key=key)}
    return [(title, header(kind), [row(m, results) for m in grouped[kind, title]]) for kind, title in order]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: first column left, the others right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def bars_markdown(bars: Sequence[Bar]) -> str:
    """Bars, their verdicts, and what was seen."""
    return markdown_table(("bar", "verdict", "seen"), [(bar.text, bar.verdict, bar.seen) for bar in bars])


def ceiling(results: Results) -> list[str]:
    """Sentences on measurements where the load generator, not the gateway, was the limit."""
    found = []
    for m in results.all:
        direct = results.get("direct", m)
        busy = m.scenario.kind in ("json", "sse") and m.scenario.connections > 1
        if m.gateway != "direct" and busy and direct and rate(m) > 0.8 * rate(direct):
            share = f"{rate(m) / rate(direct):.0%} of the direct rate"
            found.append(f"{m.gateway}, {m.scenario.title}, {m.scenario.connections} connections: {share}")
    return found


def render(facts: Facts, results: Results, bars: Sequence[Bar]) -> str:
    """The whole generated part, without the markers."""
    lines = [
        f"{facts.date}; {facts.machine}; {facts.seconds:g} s a cell, best of {facts.rounds} rounds; "
        f"JSON load from {facts.generator}.",
        f"Made by `{facts.command}`.",
        "",
        *(f"- {name} {version}" for name, version in facts.versions.items()),
        *(f"- {missing.gateway}: not measured: {missing.reason}" for missing in facts.missing),
        "",
        "In brackets: a multiple of nginx's figure. `added` is the percentile less the direct one. With chunks "
        "every 10 ms it is the time from the engine's write to the client's read. CPU is the gateway's, for 1,000 "
        "requests (a stream of 100 chunks is one). Direct is also the ceiling of the stub and the load together.",
    ]
    for title, head, rows in _tables(results):
        lines += ["", f"### {title}", "", markdown_table(head, rows)]
    if near := ceiling(results):
        lines += ["", "Near the ceiling, so a lower bound: " + "; ".join(near) + "."]
    lines += [
        "",
        "### Bars",
        "",
        bars_markdown(bars),
    ]
    return "\n".join(lines)


def replace_between(text: str, part: str) -> str:
    """`text` with everything between the markers replaced; appended with its markers when there are none."""
    return sections.replaced(text, "gateway", part)


def write(path: Path, part: str) -> None:
    """Put the generated part into the file; makes the file when it is missing."""
    text = path.read_text() if path.is_file() else INTRO
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(replace_between(text, part))


def terminal_tables(results: Results) -> list[Table]:
    tables = []
    for title, head, rows in _tables(results):
        table = Table(title=title, title_justify="left")
        for place, name in enumerate(head):
            table.add_column(name, justify="right" if place else "left")
        for cells in rows:
            table.add_row(*cells)
        tables.append(table)
    return tables
