"""The table of docs/hardware.md: known cards x shipped models, predicted tokens of KV cache. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from aicockpit.hardware import cards, fit
from aicockpit.hardware.shape import ModelShape

BEGIN, END = "<!-- fit:begin -->", "<!-- fit:end -->"
SINGLE = ("L4", "RTX4090", "RTX5090", "A6000", "L40S", "A100-80GB", "H100", "H200", "MI300X")
SEVERAL = ("L4:4", "RTX4090:2", "A6000:4", "A100-80GB:4", "A100-80GB:8", "H100:8", "H200:4", "H200:8", "MI300X:8")


def markdown(models: Sequence[tuple[str, ModelShape]]) -> str:
    """Two tables, between the markers' lines."""
    fits_one = [(name, shape, _cells(shape, SINGLE)) for name, shape in models]
    rows = [_row(name, cells) for name, _, cells in fits_one if any(cells)]
    lines = [*_head(SINGLE), *rows, ""]
    large = [(name, shape) for name, shape, cells in fits_one if not all(cells)]
    rows = [_row(name, cells) for name, shape in large if any(cells := _cells(shape, SEVERAL))]
    return "\n".join([BEGIN, *lines, *_head(SEVERAL), *rows, END])


def _head(machines: Sequence[str]) -> list[str]:
    names = [_title(text) for text in machines]
    return [f"| model | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]


def _title(text: str) -> str:
    name, _, count = text.partition(":")
    card = cards.known(name)
    size = f"{card.memory / (1 << 30):.1f} GiB" if card else ""
    return f"{count + ' x ' if count else ''}{name}<br>{size}"


def _cells(shape: ModelShape, machines: Sequence[str]) -> list[str]:
    """ "94,560", "37,600 (window 32,768)", "" when it does not fit."""
    found = []
    for text in machines:
        devices = cards.parse(text)
        verdict = fit.best(shape, devices, fit.Ask(), len(devices)).verdict
        part = verdict.max_model_len < (shape.max_len or 0)
        cell = f"{verdict.kv_tokens:,}" + (f"<br>window {verdict.max_model_len:,}" if part else "")
        if len(devices) > 1:
            cell += f"<br>{verdict.layout}"
        found.append(cell if verdict.fits else "")
    return found


def _row(name: str, cells: Sequence[str]) -> str:
    shown = " | ".join(cell or "–" for cell in cells)
    return f"| {name} | {shown} |"
