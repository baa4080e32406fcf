"""Which recipe, variant, GPUs and layout serve a wish: filters, then a rank, each rejection with its reason. Pure.

docs/recipes.md has the rank and the order of falling back. Called at the start of a server and by `recipes explain`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aicockpit.hardware import fit
from aicockpit.hardware.device import Device
from aicockpit.recipes import advise, filters, generic, spot
from aicockpit.recipes.assemble import features
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.schema import Recipe
from aicockpit.recipes.search import STAGES, Candidate, Refused, Rejected, Search, Shapes, behind, look
from aicockpit.types import KvTier

__all__ = ["Chosen", "Refused", "Rejected", "Shapes", "Wish", "select"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What to run. `recipe` "" when none names the model; `flags` without the model and what the supervisor sets.
    `devices`: the GPUs to take, none on the CPU. `reasons`: sentences, the first says what was taken and why."""

    recipe: str
    variant: str
    model_id: str
    precision: str
    layout: fit.Layout
    flags: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    verdict: fit.Verdict
    devices: tuple[Device, ...]
    reasons: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    revision: str = ""
    kv_tier: KvTier | None = None


def select(wish: Wish, recipes: Sequence[Recipe], devices: Sequence[Device], shapes: Shapes) -> Chosen | Refused:
    """`recipes` in the order of preference. `devices` are the GPUs that may be used. `shapes` tells what is known of a
    Hub id or folder beyond the recipes (files on disk, the Hub); it may say None.

    Raises SettingError for a wish that names what is not there."""
    model, _, revision = (wish.model, "", "") if filters.is_folder(wish.model) else wish.model.partition("@")
    precision = "" if wish.precision == "auto" else wish.precision
    wish = replace(wish, model=model, precision=precision, exact=wish.exact or bool(revision))
    if wish.gpu_count == 0:
        devices = ()
    elif wish.gpu_count and not devices:
        why = f"{wish.model} is to have {wish.gpu_count} GPU{'s' * (wish.gpu_count > 1)}, and there is none."
        return Refused((why,), (), ("Ask for 0 GPUs to run it on the CPU.",))
    named = [recipe for recipe in recipes if filters.named(wish, recipe)]
    known = bool(named)
    if not known:
        shape = shapes(wish.model)
        if shape is None:
            return advise.unknown(wish, recipes)
        named = [generic.recipe(wish.model, shape)]
    for recipe in named:
        features(recipe, wish.features, wish.without)
    search = look(wish, named, devices, shapes)
    if not search.found:
        return advise.refused(wish, named, recipes, devices, shapes, search)
    ranked = sorted(search.found, key=Candidate.rank)
    best = ranked[0]
    lost = [Rejected(one.label, f"it fits too, but {behind(one, best)}: {best.label} is taken") for one in ranked[1:]]
    chosen = _chosen(wish, best, search, lost, devices)
    return replace(chosen, recipe=best.recipe.id if known else "", revision=revision or chosen.revision)


def _chosen(wish: Wish, best: Candidate, search: Search, lost: Sequence[Rejected], devices: Sequence[Device]) -> Chosen:
    placed, recipe, name = best.placed, best.recipe, best.variant
    folder = filters.is_folder(wish.model)
    model = wish.model if folder else recipe.model_id(name)
    where = spot.describe(placed.devices) + (f", {placed.verdict.layout}" if len(placed.devices) > 1 else "")
    reasons = [f"{model} ({placed.precision}) on {where}: {placed.verdict.why}."]
    if best.stage:
        because = f" {search.nearest.candidate}: {search.nearest.reason}." if search.nearest else ""
        reasons.append(f"Asked was {_asked(wish, recipe)}; taken is {STAGES[best.stage]}.{because}")
    reasons += [*placed.reasons, *_longer(best, search), *_spare(wish, best, search, devices)]
    reasons += _facts(recipe, name, model, folder)
    if recipe.id == generic.ID:
        reasons.append("No recipe names this model: its flags are generic; tool calls and reasoning are not set up.")
    return Chosen(
        recipe.id,
        name,
        model,
        placed.precision,
        placed.verdict.layout,
        placed.flags,
        placed.env,
        placed.verdict,
        placed.devices,
        tuple(dict.fromkeys(_sentence(reason) for reason in reasons)),
        (*search.rejected, *lost),
        recipe.checkpoint(name).revision,
        recipe.aicockpit.kv_tier,
    )


def _sentence(text: str) -> str:
    """With a capital and a full stop; a name that stands first (`openai/gpt-oss-20b`, `vLLM`) is left as it is."""
    plain = re.match(r"[a-z]+(?=[\s,:;.]|$)", text)
    return (text[:1].upper() + text[1:] if plain else text) + ("" if text.endswith((".", "?", "!")) else ".")


def _asked(wish: Wish, recipe: Recipe) -> str:
    parts = [wish.model, wish.precision or recipe.variants["default"].precision]
    if wish.gpu_count is not None:
        parts.append(f"{wish.gpu_count} GPU{'s' * (wish.gpu_count != 1)}")
    return ", ".join(parts)


def _spare(wish: Wish, best: Candidate, search: Search, devices: Sequence[Device]) -> list[str]:
    """What the GPUs that are left could do, when nobody said how many to take: copies, or a longer window."""
    placed, used = best.placed, len(best.placed.devices)
    alike = sum(1 for device in devices if used and device.name == placed.devices[0].name)
    if wish.gpu_count is not None or alike == used:
        return []
    could = []
    if (copies := alike // used) > 1:
        could.append(f"GPU_COUNT={copies * used} with AICOCKPIT_REPLICAS={copies} would run {copies} engines")
    window = placed.verdict.max_model_len
    wider = [
        one
        for one in search.found
        if (one.recipe.id, one.variant, one.stage) == (best.recipe.id, best.variant, best.stage)
        and one.placed.devices[:1] == placed.devices[:1]
        and one.placed.verdict.max_model_len > window
        and one.placed.verdict.layout.pipeline == 1
    ]
    if wider:
        one = min(wider, key=_widest)
        longer = f"a window of {one.placed.verdict.max_model_len:,} tokens instead of {window:,}"
        could.append(f"GPU_COUNT={len(one.placed.devices)} would give one engine {longer}")
    stay = "stays" if alike - used == 1 else "stay"
    return [f"{alike - used} more of these GPUs {stay} free: {', or '.join(could)}."] if could else []


def _widest(one: Candidate) -> tuple[int | bool, ...]:
    """The longest window, without repeated attention if it can be, on the fewest GPUs."""
    return -one.placed.verdict.max_model_len, one.placed.verdict.layout.data > 1, one.gpus


def _longer(best: Candidate, search: Search) -> list[str]:
    """The checkpoint that holds a window long enough for the work, when this one, which was named, does not."""
    if best.placed.working:
        return []
    others = (one for one in search.found if one.placed.working and one.variant != best.variant)
    other = min(others, key=lambda one: one.rank()[1:], default=None)
    if other is None:
        return []
    model, told = other.recipe.model_id(other.variant), other.placed.verdict
    ask = f"ask for it by its name, or for the precision {other.placed.precision}"
    needs = best.recipe.aicockpit.window.working or spot.WORKING
    where = spot.describe(other.placed.devices)
    held = f"{model} ({other.placed.precision}) holds {told.max_model_len:,} tokens on {where}"
    return [f"Its window is shorter than the {needs:,} tokens that the work needs: {held}; {ask}."]


def _facts(recipe: Recipe, name: str, model: str, folder: bool) -> list[str]:
    """What a user should know of this checkpoint before taking it."""
    found = list(recipe.aicockpit.notes)
    if folder and recipe.id != generic.ID:
        found.append(f"The folder has the name of {recipe.model_id(name)}, so the recipe {recipe.id} applies.")
    owner = recipe.model.model_id.partition("/")[0]
    if recipe.aicockpit.gated and not folder and model.startswith(f"{owner}/"):
        found.append(f"{model} is gated: accept its licence on the Hub, and set HF_TOKEN.")
    facts, checkpoint = recipe.aicockpit.shape, recipe.checkpoint(name)
    if facts and not (facts.verified and checkpoint.verified):
        found.append("The size of these weights is computed, not read; vLLM's own measurement at the start decides.")
    return found
