"""What would do, when nothing does: refusals of `select.py`, with the arithmetic and sentences on what to change."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from aicockpit.hardware import fit
from aicockpit.hardware.device import Device
from aicockpit.hardware.shape import ShapeUnknown
from aicockpit.recipes import filters, generic, spot
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.schema import Recipe, precision_rank
from aicockpit.recipes.search import Candidate, Refused, Search, Shapes, look, shape_of

_RELATED = 2


def unknown(wish: Wish, recipes: Sequence[Recipe]) -> Refused:
    """No recipe names the model, and nothing tells its dimensions."""
    ids = {recipe.model_id(name).lower(): recipe.model_id(name) for recipe in recipes for name in recipe.variants}
    ids |= {recipe.id: recipe.id for recipe in recipes}
    near = difflib.get_close_matches(wish.model.lower(), ids, n=3, cutoff=0.6)
    advice = [f"Did you mean {', '.join(ids[each] for each in near)}?"] if near else []
    advice.append("`aicockpit recipes list` shows the models that are known; docs/recipes.md tells how to add one.")
    why = f"No recipe names {wish.model}, and its config.json is not known here, so nobody can tell whether it fits."
    return Refused((why,), (), tuple(advice))


def refused(
    wish: Wish,
    named: Sequence[Recipe],
    recipes: Sequence[Recipe],
    devices: Sequence[Device],
    shapes: Shapes,
    search: Search,
) -> Refused:
    """No candidate is left."""
    if search.nearest is None:
        last = search.rejected[-1]
        reasons = (f"{wish.model} cannot be taken as asked.", f"{last.candidate}: {last.reason}.")
        return Refused(reasons, tuple(search.rejected), ())
    said = search.nearest
    reasons = (f"{wish.model} does not fit {spot.describe(devices)}.", f"{said.candidate}: {said.reason}.")
    recipe = named[0]
    other = _by_hand(wish, recipe, devices, shapes)
    of_fit = [text for text in _of_fit(wish, recipe, devices, shapes) if not (other and "Check its quality" in text)]
    related = _related(wish, recipe, recipes, devices, shapes)
    return Refused(reasons, tuple(search.rejected), tuple(dict.fromkeys((*other, *related, *of_fit))))


def _by_hand(wish: Wish, recipe: Recipe, devices: Sequence[Device], shapes: Shapes) -> list[str]:
    """Other checkpoints of the model that would fit, had they been asked for."""
    found: list[Candidate] = []
    for name, variant in recipe.variants.items():
        if not filters.of_variant(wish, recipe, name) or not variant.model_id or recipe.checkpoint(name).roles:
            continue
        asked = replace(wish, model=variant.model_id, precision="", exact=False)
        if best := _best(asked, recipe, devices, shapes):
            found.append(best)
    return [_offer(recipe, one) for one in sorted(found, key=Candidate.rank)]


def _offer(recipe: Recipe, best: Candidate) -> str:
    manual = recipe.checkpoint(best.variant).manual
    return f"{recipe.model_id(best.variant)} fits {_holds(best)}." + (f" It is {manual}." if manual else "")


def _related(
    wish: Wish, recipe: Recipe, recipes: Sequence[Recipe], devices: Sequence[Device], shapes: Shapes
) -> list[str]:
    """The first related models that fit."""
    found: list[str] = []
    for model_id in recipe.meta.related_recipes:
        other = next((one for one in recipes if one.model.model_id == model_id), None)
        if other is None or len(found) == _RELATED or (wish.role and wish.role not in other.roles):
            continue
        asked = replace(wish, model=other.id, precision="", exact=False, features=(), without=())
        if best := _best(asked, other, devices, shapes):
            found.append(_offer(other, best))
    return found


def _best(wish: Wish, recipe: Recipe, devices: Sequence[Device], shapes: Shapes) -> Candidate | None:
    return min(look(wish, [recipe], devices, shapes).found, key=Candidate.rank, default=None)


def _holds(best: Candidate) -> str:
    why = best.placed.verdict.why.removeprefix("fits: ")
    return f"{spot.describe(best.placed.devices)} ({best.placed.precision}): {why}"


def _of_fit(wish: Wish, recipe: Recipe, devices: Sequence[Device], shapes: Shapes) -> tuple[str, ...]:
    """What `fit` would change, for the smallest variant that may be taken."""
    allowed = [name for name in recipe.variants if not filters.of_variant(wish, recipe, name)] or ["default"]
    name = max(allowed, key=lambda each: precision_rank(recipe.variants[each].precision))
    try:
        shape = shapes(wish.model) if recipe.id == generic.ID else shape_of(wish, recipe, name, shapes)
    except ShapeUnknown:
        return ()
    if shape is None or not devices:
        return ()
    shape, _ = spot.stretch(wish, recipe, shape)
    least = wish.max_model_len or min(shape.max_len or spot.FLOOR, recipe.aicockpit.window.floor or spot.FLOOR)
    return fit.advice(shape, tuple(devices), replace(spot.asked(wish.args, wish.draft), max_model_len=least))
