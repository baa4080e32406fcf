"""How `aicockpit fit` looks on a terminal: the sum, the verdict, the command, what else was tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from aicockpit.hardware import fit, shape_weights
from aicockpit.hardware.device import Device
from aicockpit.hardware.shape import ModelShape
from aicockpit.recipes import explain
from aicockpit.recipes.select import Chosen


@dataclass(frozen=True, slots=True)
class Other:
    """Another checkpoint of the model. `told`: what else to know of it. `verdict` where it goes, None when nowhere:
    `why`."""

    name: str
    variant: str
    precision: str
    told: tuple[str, ...]
    verdict: fit.Verdict | None
    why: str


@dataclass(frozen=True, slots=True)
class View:
    """What is shown. `passed`: layouts not taken, and why. `given`: GPUs there are. `chosen`: what `serve` would take,
    None when nothing fits."""

    name: str
    shape: ModelShape
    source: str
    machine: str
    verdict: fit.Verdict
    passed: tuple[tuple[fit.Layout, str], ...]
    others: tuple[Other, ...]
    advice: tuple[str, ...]
    everything: bool
    given: int
    chosen: Chosen | None


def show(view: View, out: Console) -> None:
    """Print it, 60 columns or more."""
    verdict = view.verdict
    out.print(Text(view.name, "bold"), soft_wrap=True)
    out.print(Text(f"{_dimensions(view.shape)}; from {view.source}", "dim"))
    out.print(Text(f"on {_machine(view)}"))
    out.print()
    out.print(_sum(verdict))
    out.print()
    mark, style = ("✓", "bold green") if verdict.fits else ("✗ does not fit:", "bold red")
    out.print(_item(Text(mark, style), f"{verdict.why}."))
    if view.chosen is not None:
        for reason in view.chosen.reasons[1:]:  # the first is the verdict
            out.print(_item("·", reason))
        out.print(Text("\n" + _command(view.chosen, out.width), "cyan"), soft_wrap=True)
    if view.advice:
        out.print(Text("\nWhat would fit:", "bold"))
        for sentence in view.advice:
            out.print(_item("·", sentence))
    _others(view, out)
    _layouts(view, out)


def _dimensions(shape: ModelShape) -> str:
    parts = [shape.precision]
    if shape.params:
        parts.append(f"{shape_weights.billions(shape.params)} parameters")
    parts.append(f"{shape.layers} layers")
    if shape.experts:
        parts.append(f"{shape.experts} experts of which {shape.experts_per_token} answer")
    if shape.max_len:
        parts.append(f"window {shape.max_len:,}")
    return ", ".join(parts)


def _machine(view: View) -> str:
    used = view.verdict.devices
    if not used:
        return view.machine or "the CPU"
    text = f"{_counted(used)}, {view.verdict.layout}"
    left = view.given - len(used)
    if left and view.verdict.fits:
        text += f" ({left} more {'are' if left > 1 else 'is'} free for another model or copy)"
    return text + (f" of {view.machine}" if view.machine else "")


def _counted(devices: Sequence[Device]) -> str:
    counts = Counter((device.name, device.memory) for device in devices)
    return " + ".join(f"{count} x {name} ({fit.gib(memory)})" for (name, memory), count in counts.items())


def _sum(verdict: fit.Verdict) -> RenderableType:
    """The terms, a rule, and what they add up to."""
    title = "of each GPU" if len(verdict.devices) > 1 else ""
    table = Table(
        Column(title, no_wrap=True),
        Column(justify="right", no_wrap=True),
        Column(overflow="fold"),
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        show_header=bool(title),
        header_style="dim",
    )
    shown = [term for term in verdict.terms if term.bytes]
    for term in shown:
        style = "bold red" if term.bytes < 0 else "bold" if term is verdict.terms[-1] else ""
        table.add_row(Text(f"  {term.name}", style), Text(fit.gib(term.bytes), style), Text(term.how, "dim"))
    rule = "─" * max(8, *(len(fit.gib(term.bytes)) for term in shown))
    table.add_row("", Text(rule, "dim"), "")
    table.add_row(Text(f"  {verdict.budget.name}"), fit.gib(verdict.budget.bytes), Text(verdict.budget.how, "dim"))
    return table


def _item(mark: str | Text, text: str) -> Table:
    grid = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
    grid.add_row(mark, Text(text))
    return grid


def _command(chosen: Chosen, width: int) -> str:
    """To run it by hand, on one line or a line for each flag."""
    lines = explain.serve_line(chosen)
    line = "  " + " ".join(each.removesuffix("\\").strip() for each in lines)
    return line if len(line) <= width else "\n".join(f"  {each}" for each in lines)


def _others(view: View, out: Console) -> None:
    if not view.others:
        return
    out.print(Text("\nOther checkpoints of it:", "bold"))
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2, 0, 0))
    for one in view.others:
        mark = Text("  ✓", "green") if one.verdict else Text("  ✗", "red")
        told = _short(one.verdict) if one.verdict else one.why
        table.add_row(mark, Text(f"{one.name} ({', '.join((one.precision, *one.told))})"), Text(told, "dim"))
    out.print(table)


def _short(verdict: fit.Verdict) -> str:
    return f"{verdict.kv_tokens:,} tokens, window {verdict.max_model_len:,}, {verdict.layout}"


def _layouts(view: View, out: Console) -> None:
    """Layouts on as many GPUs as are used; with `everything` on any number."""
    used = view.verdict.layout.gpus
    largest = used if view.verdict.fits else view.given
    rows = [(one, why) for one, why in view.passed if view.everything or one.gpus == largest]
    if not rows:
        return
    out.print(Text("\nLayouts not taken:", "bold"))
    table = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
    for one, why in rows:
        table.add_row(f"  {one}", Text(why, "dim"))
    out.print(table)
