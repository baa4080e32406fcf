"""What commands print: steps, tables, one-line errors. A terminal gets a live view, a log gets lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

_LINE_EVERY_S = 10.0


@dataclass(slots=True)
class Step:
    """One line of the live view. `ended` and `good` are set when it is over."""

    name: str
    began: float
    detail: str = ""
    ended: float | None = None
    good: bool = True
    printed: str = field(default="", repr=False)
    printed_at: float = field(default=0.0, repr=False)


class Steps:
    """Progress of a long command: each step with its detail and elapsed time. Use as a context manager."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._steps: dict[str, Step] = {}
        self._live: Live | None = None

    def __enter__(self) -> Steps:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=8, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, name: str, detail: str = "") -> None:
        """Begin a step, or change its detail."""
        step = self._steps.get(name)
        if step is None:
            step = self._steps[name] = Step(name, self._clock())
        step.detail = detail
        self._line(step)

    def end(self, name: str, detail: str = "", good: bool = True) -> None:
        step = self._steps.setdefault(name, Step(name, self._clock()))
        step.detail, step.good, step.ended = detail or step.detail, good, self._clock()
        self._line(step)

    def _line(self, step: Step) -> None:
        """Without a terminal: a line per change of words, and at most one each ten seconds for moving numbers."""
        if self._live is not None:
            return
        words = step.detail.split(" ", 1)[0] + ("." if step.ended is not None else "")
        now = self._clock()
        if words == step.printed and now - step.printed_at < _LINE_EVERY_S:
            return
        step.printed, step.printed_at = words, now
        mark = "" if step.ended is None else (" done" if step.good else " FAILED")
        self._console.print(Text(f"[{now - step.began:5.1f} s] {step.name}: {step.detail}{mark}"), soft_wrap=True)

    def _table(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for step in self._steps.values():
            spent = (step.ended or self._clock()) - step.began
            mark: RenderableType = Spinner("dots")
            if step.ended is not None:
                mark = Text("✓", "green") if step.good else Text("✗", "red")
            table.add_row(mark, Text(step.name, "bold"), Text(f"{spent:.0f} s", "dim"), Text(step.detail))
        return table


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table for status, keys and doctor."""
    made = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def detail(engine: Mapping[str, Any]) -> str:
    """What `aicockpit status` says of an engine beside its state: how far it is, or why it is not there."""
    told = [engine["stage"] if engine["state"] == "starting" else engine["reason"]]
    if count := engine["waiting"]:
        told.append(f"{count} request{'s wait' if count > 1 else ' waits'} for it")
        told[-1] += f": {engine['waits']}" * bool(engine["waits"])
    elif engine["state"] in ("stopped", "sleeping") and not engine["pinned"]:
        told.append("comes with the next request")
    told.append(engine.get("advice", ""))
    return "; ".join(filter(None, told))


def context_rows(space: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of `aicockpit status` for one workspace as `/api/workspaces` shows it: one for each model and lane."""
    name, files = space["name"], f"{space['files']:,}"
    rows = []
    for model, told in space["context"].get("models", {}).items():
        lanes = told["lanes"] or {"": {"state": "off", "reason": told["reason"]}}
        rows += [(name, files, model, lane, *_lane_cells(one)) for lane, one in lanes.items()]
    return rows or [(name, files, "", "", space["context"].get("reason", ""), "", "", "", "")]


def _lane_cells(lane: Mapping[str, Any]) -> tuple[str, ...]:
    """State, pack, journal, resident, last save."""
    epoch, engines = lane.get("epoch") or lane.get("next"), lane.get("engines", {})
    state = lane["state"] + (f": {lane['reason']}" if lane.get("reason") else "")
    if epoch is None:
        return state, "", "", "", ""
    resident = ", ".join(f"{one['resident_fraction']:.0%} on {name}" for name, one in engines.items())
    saved = lane.get("last_save_to_warm_s")
    pack = f"{epoch['tokens']:,} tokens, {epoch['files_in_pack']} files"
    return state, pack, f"{epoch['journal_tokens']:,}", resident, "" if saved is None else f"{saved:.2f} s"


def size(count: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
