"""Would arithmetic refuse a start of these models, and where would each of them go? As `roster.py` decides it, from
recipes and files of this machine: the Hub is not asked. `everything` and `aicockpit fleet explain` call it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import constants

from aicockpit.doctor.finding import Finding
from aicockpit.engines.orphans import StateLock
from aicockpit.errors import AicockpitError, SettingError
from aicockpit.hardware import detect, shape
from aicockpit.hardware.device import Device
from aicockpit.hardware.machine import Gpu, Snapshot
from aicockpit.hardware.shape import ModelShape, ShapeUnknown
from aicockpit.models import remote
from aicockpit.models.hub import Hub
from aicockpit.models.locate import is_path
from aicockpit.recipes import filters, fleet, load, place, spot
from aicockpit.recipes.arrange import Sized, arrange
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.fleet import Asked, FleetModel
from aicockpit.recipes.place import Slot
from aicockpit.recipes.schema import Recipe
from aicockpit.settings import Settings
from aicockpit.sizing import HOST_SHARE, Sizer

_FIX = "a start refuses it; `aicockpit recipes explain` shows every candidate, `aicockpit fit` what would do"
_OFF = "AICOCKPIT_FIT=off starts it all the same; vLLM will tell at the end of a long start"


def findings(settings: Settings, machine: Snapshot, ours: Callable[[int], bool]) -> Iterator[Finding]:
    """A row `model` for each that is asked for. `ours`: is this process an engine of AiCockpit?"""
    try:
        asked = fleet.ask(settings)
    except SettingError:  # the row `fleet` tells it
        return
    if not asked.models:
        return
    runs = StateLock.holder(settings.state_dir) is not None
    slots = _slots(settings, machine, ours, runs)
    memory = machine.memory_total if runs else machine.memory_available
    host = None if memory is None else int(memory * HOST_SHARE)
    yield from judge(settings, asked, slots, host, machine.host.cpu.features if machine.host else None)


def judge(
    settings: Settings, asked: Asked, slots: Sequence[Slot], host: int | None, cpu: tuple[str, ...] | None
) -> Iterator[Finding]:
    """The rows for these GPUs, and `host` bytes of memory for engines. `aicockpit fleet explain` calls it too."""
    try:
        recipes = load.library(settings.recipes).recipes
    except SettingError as error:
        yield Finding("model", "recipes", "bad", _line(error), "correct the recipe that it names")
        return
    here = _Here(settings, bool(slots))
    sizer = Sizer(replace(settings, fit=True), recipes, slots, here, host, here.failed, cpu)
    told = [_sized(sizer, m) for m in asked.models]
    good = [(m, size) for m, size in zip(asked.models, told, strict=True) if isinstance(size, Sized)]
    seats, clash = _together(asked, good, slots, host)
    for m, size in zip(asked.models, told, strict=True):
        what = f"model {m.served}"
        if isinstance(size, Sized):
            where = (f"{seat}." for seat in seats.get(m.served, ()))
            yield Finding("model", what, "ok", " ".join([*size.reasons[:1], *where]))
        elif not settings.fit:
            yield Finding("model", what, "warn", size, _OFF)
        elif _asks(m, recipes, here):
            yield Finding("model", what, "ok", "its dimensions are not here: a start asks the Hub for them")
        else:
            yield Finding("model", what, "bad", size, _FIX)
    if clash:
        yield Finding("model", "models together", "bad", clash, _FIX)


@dataclass(slots=True)
class _Here:
    """Dimensions as files on this machine tell them. `failed`: why they do not. Without GPUs a start needs those of
    folders only."""

    settings: Settings
    gpus: bool
    failed: dict[str, str] = field(default_factory=dict)

    def __call__(self, model: str) -> ModelShape | None:
        try:
            if is_path(model):
                return shape.local(Path(os.path.expanduser(model)))
            if not self.gpus:
                return None
            name, _, revision = model.partition("@")
            hub = replace(Hub.of_environment(self.settings.hf_token), offline=True)
            return remote.look(hub, name, revision, self.settings.state_dir / "shapes").shape
        except (AicockpitError, ShapeUnknown, OSError) as error:
            if is_path(model) or constants.is_offline_mode():
                self.failed[model] = str(error)
            return None


def _asks(m: FleetModel, recipes: Sequence[Recipe], here: _Here) -> bool:
    """Does a start have to ask the Hub for the dimensions? Without GPUs it does not, and of a recipe's id in vain."""
    if not here.gpus or is_path(m.model) or constants.is_offline_mode() or here(m.model) is not None:
        return False
    wish = Wish(m.model.partition("@")[0])
    naming = [(recipe, names) for recipe in recipes if (names := filters.named(wish, recipe))]
    if any(recipe.id == wish.model.lower() for recipe, _ in naming):
        return False
    return not any(_tells(recipe, name) for recipe, names in naming for name in names)


def _tells(recipe: Recipe, name: str) -> bool:
    """The recipe has the variant's dimensions."""
    try:
        return spot.recipe_shape(recipe, name) is not None
    except ShapeUnknown:
        return False


def _sized(sizer: Sizer, m: FleetModel) -> Sized | str:
    """What it needs, or the refusal."""
    try:
        return sizer.size(m)
    except SettingError as error:
        return _line(error)


def _together(
    asked: Asked, good: Sequence[tuple[FleetModel, Sized]], slots: Sequence[Slot], host: int | None
) -> tuple[dict[str, tuple[str, ...]], str]:
    """Where each would go, by its name, and why they do not fit together."""
    asked = replace(asked, models=tuple(m for m, _ in good))
    try:
        plan = arrange(asked, [size for _, size in good], slots, sorted(os.sched_getaffinity(0)), host)
    except SettingError as error:
        return {}, _line(error)
    return {
        m.served: tuple(
            seat for seat in plan.reasons if seat.partition(":")[0] in {shape.name for shape in planned.shapes}
        )
        for m, planned in zip(asked.models, plan.models, strict=True)
    }, ""


def _slots(settings: Settings, machine: Snapshot, ours: Callable[[int], bool], runs: bool) -> list[Slot]:
    """The GPUs of a start, which would have what our own engines hold; unknown is all of it, where ours run."""
    by_index = {gpu.index: gpu for gpu in machine.gpus}
    taken: dict[str, int] = {}
    found: list[Device] = []
    for device in detect.devices(machine, settings.cuda_visible):
        gpu = None if device.index is None else by_index.get(device.index)
        held = _held(gpu, ours) if gpu is not None else None
        found.append(replace(device, free=None) if runs and held is None else device)
        if device.index is not None:
            taken[str(device.index)] = held or 0
    return place.slots(found, machine.pairs, taken)


def _held(gpu: Gpu, ours: Callable[[int], bool]) -> int | None:
    """Bytes of our engines; None when it cannot be told."""
    if gpu.detail is None or gpu.detail.processes is None:
        return None
    sizes = [process.used for process in gpu.detail.processes if ours(process.pid)]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
