"""What commands print: steps, tables, one-line errors. A terminal gets a live view, a log gets lines."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from aicockpit.errors import AicockpitError

_LINE_EVERY_S = 10.0


class NoWorkspace(AicockpitError):
    """No workspace of the running server has that name."""


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
        if self._console.is_terminal and not self._console.is_dumb_terminal:
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
    return "; ".join(filter(None, (*told, _cached_words(engine.get("prompt_tokens", {})))))


def _cached_words(prompt: Mapping[str, Any]) -> str:
    """The share of an engine's prompt tokens that it found in its cache, of all its lives; "" before it had one."""
    share = prompt.get("cached_share")
    return "" if share is None else f"{share:.0%} of {prompt['total']:,} prompt tokens found cached"


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


def workspace_shown(spaces: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The lines of every workspace of that name, whoever's it is. Raises NoWorkspace when there is none."""
    found = [workspace_lines(space) for space in spaces if space["name"] == name]
    if not found:
        names = ", ".join(sorted({space["name"] for space in spaces}))
        there = f"It has: {names}." if names else "It has none."
        raise NoWorkspace(
            f"the running server has no workspace {name!r}. {there} "
            f"`aicockpit watch PATH --name {shlex.quote(name)}` makes one and fills it."
        )
    return [line for number, lines in enumerate(found) for line in ([""] * (number > 0) + lines)]


def workspace_lines(space: Mapping[str, Any]) -> list[str]:
    """What `aicockpit status --workspace` says of one workspace as `/api/workspaces/NAME` shows it."""
    context, owner = space["context"], space["owner"]
    whose = "the server's own" if owner == "server" else f"of the key {owner}"
    lines = [f"workspace {space['name']}, {whose}: {_count(space['files'], 'file')}, {size(space['bytes'])}, "]
    lines[0] += f"revision {space['revision']}"
    lines += [f"left out: {why}" for why in context.get("left_out", {}).get("reasons", ())]
    models = context.get("models", {})
    if not models:
        lines.append(context.get("reason") or "no model is served that could get context: see `aicockpit status`")
    for model, told in models.items():
        for lane, one in (told["lanes"] or {"": {"state": "off", "reason": told["reason"]}}).items():
            reason = f": {one['reason']}" if one.get("reason") else ""
            lines += ["", f"{model}{', ' * bool(lane)}{lane}: {one['state']}{reason}", *_lane_lines(one)]
    return [_printable(line) for line in lines]


def _lane_lines(lane: Mapping[str, Any]) -> list[str]:
    if "engines" not in lane:
        return []
    lines = []
    if build := lane["build"]:
        lines.append(f"  building: {build['why']}; {build['files']:,} of {build['of']:,} files read")
    if last := lane["last_build"]:
        parts = [f"{_count(last['files'], 'file')} read in {last['seconds']:.1f} s"]
        parts += [f"{last['unreadable']:,} not readable"] * bool(last["unreadable"])
        parts += [f"the builder's process dies of {path}" for path in last["crashed"]]
        lines.append(f"  last build: {'; '.join(parts)}")
    if lane["epoch"]:
        lines.append(f"  epoch {lane['epoch']['id']}: {_sizes(lane['epoch'])}")
    if lane["next"]:
        lines.append(f"  next epoch {lane['next']['id']}: {_sizes(lane['next'])}")
    lines += [f"  {name}: {_engine_words(engine)}" for name, engine in lane["engines"].items()]
    lines += ["  no engine serves it now"] * (not lane["engines"])
    saved, first = lane["last_save_to_warm_s"], lane["predicted_ttft_s"]
    lines.append(
        "  last save: " + ("none was told by the journal yet" if saved is None else f"warm after {saved:.2f} s")
    )
    unknown = "not known before a request came and the engine's speed is measured"
    lines.append("  time to first token: " + (unknown if first is None else f"{first:.2f} s predicted"))
    budget = lane["budget"]
    sizes = {"pack": "pack", "journal": "journal", "neighbourhood": "skeletons", "similar": "snippets"}
    given = ", ".join(f"{word} {budget[name]:,}" for name, word in sizes.items())
    lines.append(f"  budget in tokens: {given}; {'; '.join(budget['reasons'])}".rstrip("; "))
    for opened in lane["focus"] if budget["neighbourhood"] or budget["similar"] else ():
        lines += _open_lines(opened)
    if epoch := lane["epoch"]:
        files, rest = epoch["files"], epoch["files_in_pack"] - len(epoch["files"])
        lines.append("  in the pack (tokens, file, why):" if files else "  in the pack: no file")
        width = max((len(one["path"]) for one in files), default=0)
        lines += [f"    {one['tokens']:>6,}  {one['path']:<{width}}  {one['kind']}: {one['why']}" for one in files]
        lines += [f"    and {_count(rest, 'file')} more"] * (rest > 0)
        lines += ["  in the journal (tokens, file):"] * bool(epoch["journal"])
        lines += [f"    {one['tokens']:>6,}  {one['path']}" for one in epoch["journal"]]
    return lines


def _sizes(epoch: Mapping[str, Any]) -> str:
    pack = f"pack of {epoch['tokens']:,} tokens, {_count(epoch['files_in_pack'], 'file')}"
    return f"{pack}; journal of {epoch['journal_tokens']:,} tokens"


def _engine_words(engine: Mapping[str, Any]) -> str:
    """State, what is resident and where it came from, what serves meanwhile, and why it is not warm."""
    told = f"{engine['state']}, {engine['resident_tokens']:,} tokens resident ({engine['resident_fraction']:.0%})"
    if engine.get("verified_age_s") is not None:
        known = "by its KV events" if engine["exact"] else "verified"
        told += f", {known} {engine['verified_age_s']:.1f} s ago"
    if why := engine.get("why_inexact"):
        told += f" (an estimate: {why})"
    if origin := engine.get("origin"):
        told += f"; its last warming: {origin['computed']:,} tokens computed, "
        told += f"{origin['memory']:,} in memory before, {origin['tier']:,} from a KV tier"
    if engine["state"] != "warm" and engine.get("serves"):
        told += f"; serves {engine['serves_tokens']:,} tokens of epoch {engine['serves']}"
    if not engine.get("ready", True):
        told += "; the engine is not ready"
    return told + (f"; {engine['reason']}" if engine["reason"] else "")


def _open_lines(opened: Mapping[str, Any]) -> list[str]:
    where = "warm on " + ", ".join(opened["warm_on"]) if opened["warm_on"] else "not warm yet"
    lines = [f"  open: {opened['path']}, {where}; snippets of {opened['similar_tokens']:,} tokens: {opened['similar']}"]
    lines += [f"    {one['tokens']:>6,}  {one['path']}  skeleton: {one['why']}" for one in opened["files"]]
    for one in opened["snippets"]:
        lines.append(f"            {one['path']}:{one['first_line']}-{one['last_line']}  snippet: {one['why']}")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _printable(text: str) -> str:
    """Names of files come from anywhere: nothing in them may speak to the terminal."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def size(count: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
