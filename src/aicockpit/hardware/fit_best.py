"""Which layout on which number of GPUs: the first that fits, else the one that came nearest. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from aicockpit.hardware.device import Device
from aicockpit.hardware.fit_judge import WORKING, judge
from aicockpit.hardware.fit_layout import layouts
from aicockpit.hardware.fit_types import Ask, Best, Layout, Verdict
from aicockpit.hardware.shape import ModelShape

# A layout of the first kind answers a single request fastest; a pipeline does not, and repeated attention costs memory.
_KINDS: tuple[Callable[[Layout], bool], ...] = (
    lambda layout: layout.pipeline == layout.data == 1,
    lambda layout: layout.pipeline > 1,
    lambda layout: layout.data > 1,
)


def best(shape: ModelShape, devices: Sequence[Device], ask: Ask, count: int | None = None) -> Best:
    """The layout to use. Order: tensor parallelism, then pipelines, then repeated attention; the next kind only when
    the one before does not fit, or holds less than `WORKING` tokens of the model's window when `ask` names none. Of
    each kind the fewest GPUs that hold the window, as those left can run a second copy. `count`: exactly so many GPUs.

    The largest GPUs that are free are taken first. Raises ValueError without GPUs or with fewer than `count`.
    """
    if not devices or (count is not None and not 1 <= count <= len(devices)):
        raise ValueError(f"{'any' if count is None else count} of {len(devices)} GPUs")
    ranked = sorted(devices, key=lambda device: (_busy(device, ask), -device.memory))
    chosen: Verdict | None = None
    counts = (count,) if count else range(1, len(ranked) + 1)
    every = [item for gpus in counts for item in layouts(shape, ranked[:gpus])]
    for kind in _KINDS:
        if chosen is not None and chosen.fits and chosen.max_model_len >= WORKING:
            break
        for layout, why in every:
            if why or not kind(layout):
                continue
            verdict = judge(shape, ranked, layout, ask)
            if verdict.fits and not _partial(verdict, shape, ask):
                return Best(verdict)
            if chosen is None or _order(verdict) > _order(chosen):
                chosen = verdict
    if chosen is None:  # the model cannot be divided so at all
        layout, why = next(item for kind in _KINDS for item in every if kind(item[0]))
        chosen = replace(judge(shape, ranked, layout, ask), fits=False, why=why)
    return Best(chosen)


def _busy(device: Device, ask: Ask) -> bool:
    """Too little is free for an engine to start."""
    return device.free is not None and device.free < int(device.memory * ask.utilisation)


def _partial(verdict: Verdict, shape: ModelShape, ask: Ask) -> bool:
    return not ask.max_model_len and verdict.max_model_len < (shape.max_len or 0)


def _order(verdict: Verdict) -> tuple[bool, int]:
    """What fits before what does not; then the longer window, or the one that lacks least."""
    return verdict.fits, verdict.max_model_len if verdict.fits else verdict.terms[-1].bytes
