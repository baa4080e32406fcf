"""The flags and variables of one variant of a recipe, on one kind of hardware, in one layout. Pure; `select.py` calls.

Order, later wins: the model's own, its strategy's, the variant's, features, the hardware's, the layout's, the window.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from aicockpit.errors import SettingError
from aicockpit.hardware.device import Device
from aicockpit.recipes import flags
from aicockpit.recipes.schema import Feature, Override, Recipe

_OVERRIDES = "--hf-overrides"
_GENERATIONS = {(7, 0): "volta", (7, 5): "turing", (8, 0): "ampere", (8, 6): "ampere", (8, 7): "ampere", (8, 9): "ada"}


@dataclass(frozen=True, slots=True)
class Assembled:
    """`notes`: what of the recipe was left out, and why."""

    flags: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def generation(device: Device) -> str:
    """As the public recipes call it: hopper, blackwell, ada, ampere, ..., amd; "" when unknown."""
    if device.vendor == "amd":
        return "amd"
    if device.capability is None:
        return ""
    if device.capability[0] >= 10:
        return "blackwell"
    return "hopper" if device.capability[0] == 9 else _GENERATIONS.get(device.capability, "")


def is_hardware(key: str, device: Device) -> bool:
    """Is this id of the public recipes (`h100`, `mi300x`, `rtx_pro_6000`) the device's? By the words of its name."""
    words = re.findall(r"[a-z0-9]+", device.name.lower())
    wanted = re.findall(r"[a-z0-9]+", key.lower())
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words))) if wanted else False


def strategy(tensor: int, data: int, expert: bool) -> str:
    """The public name of a layout."""
    if not expert:
        return "single_node_tp"
    return "single_node_dep" if data > 1 and tensor == 1 else "single_node_tep"


def features(recipe: Recipe, asked: Iterable[str], without: Iterable[str], kind: str = "") -> dict[str, Feature]:
    """Those that are on, in a strategy. Raises SettingError for a name that the recipe does not have."""
    asked, without = tuple(asked), tuple(without)
    for name in (*asked, *without):
        if name not in recipe.features:
            known = ", ".join(recipe.features) or "none"
            raise SettingError(f"{recipe.id} has no feature {name!r}; it has: {known}.")
    on = {n: f for n, f in recipe.features.items() if n in asked or n not in recipe.opt_in_features}
    return {
        name: feature
        for name, feature in on.items()
        if name not in without and (not feature.strategies or not kind or kind in feature.strategies)
    }


def assemble(
    recipe: Recipe,
    variant: str,
    device: Device | None,
    kind: str,
    on: Iterable[Feature],
    layout: Sequence[str],
    window: Sequence[str],
    env: Iterable[tuple[str, str]] = (),
) -> Assembled:
    """`kind` is the strategy; `layout` and `window` are flags that come last."""
    chosen, over = recipe.variants[variant], recipe.strategy_overrides.get(kind)
    parts: list[Sequence[str]] = [recipe.model.base_args]
    found = dict(recipe.model.base_env)
    for more in (over, chosen):
        if more is not None:
            parts.append(more.extra_args)
            found |= more.extra_env
    parts += [_args(feature, variant) for feature in on]
    for override in _for_hardware(recipe, variant, device):
        parts.append(override.extra_args)
        found |= override.extra_env
    kept: list[Sequence[str]] = []
    notes: list[str] = []
    for part in (*parts, layout, window):
        mine, left = flags.spare(part)
        kept.append(mine)
        notes += left
    merged = _merge(kept)
    return Assembled(merged, tuple({**found, **dict(env)}.items()), tuple(dict.fromkeys(notes)))


def _args(feature: Feature, variant: str) -> tuple[str, ...]:
    usable = [name for name, mode in feature.modes.items() if not mode.variants or variant in mode.variants]
    if not usable:
        return feature.args
    name = feature.default_mode if feature.default_mode in usable else usable[0]
    return (*feature.args, *feature.modes[name].args)


def _for_hardware(recipe: Recipe, variant: str, device: Device | None) -> Iterator[Override]:
    """The recipe's for this generation (or its maker), then the variant's, then the variant's for this very GPU."""
    if device is None:
        if "cpu" in recipe.hardware_overrides:
            yield recipe.hardware_overrides["cpu"]
        return
    own, mine = generation(device), recipe.variants[variant].hardware_overrides
    for table in (recipe.hardware_overrides, mine):
        if (found := table.get(own) or table.get(device.vendor)) is not None:
            yield found
    yield from (override for key, override in mine.items() if is_hardware(key, device))


def _merge(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Later parts replace flags of earlier ones, but `--hf-overrides` add up, key by key."""
    merged: tuple[str, ...] = ()
    overrides: dict[str, object] = {}
    for part in parts:
        overrides |= _overrides(part)
        merged = flags.merge(merged, part)
    if not overrides:
        return merged
    others = [word for flag, words in flags.split(merged) if flag != _OVERRIDES for word in words]
    return (*others, _OVERRIDES, json.dumps(overrides))


def _overrides(part: Sequence[str]) -> dict[str, object]:
    """Those of one part; none when it spells them in another way than as one JSON object."""
    try:
        found = json.loads(flags.value(part, _OVERRIDES) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
