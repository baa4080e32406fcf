"""The candidates for a wish: every variant of a recipe on every set of like GPUs, and why the others are none. Pure.

`select.py` ranks what is found, `advise.py` looks on when nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from aicockpit.hardware import fit
from aicockpit.hardware.device import Device
from aicockpit.hardware.shape import ModelShape, ShapeUnknown
from aicockpit.recipes import filters, spot
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.schema import Recipe, precision_rank
from aicockpit.recipes.spot import Failed, Placed

Shapes = Callable[[str], ModelShape | None]
# What falling back costs, in the order in which it is done.
STAGES = ("as asked", "fewer GPUs than asked", "another precision", "another precision and fewer GPUs")

# Where two ranks first differ, in words.
LOST = (
    "it is further from what was asked",
    "its recipe comes later",
    "its window is shorter than the work needs",
    "its GPUs work one after the other, a pipeline",
    "it holds fewer than two of its longest requests at once, so little stays warm",
    "the other was run on this hardware",
    "its weights lose more",
    "it takes more GPUs, or fewer than were asked for",
    "its layout is less simple",
    "it comes later in the recipe",
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One candidate that was not taken: `gptq_int8 on 1 x RTX A6000`, and why."""

    candidate: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing will do. `advice`: sentences on what would."""

    reasons: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant that fits somewhere. `stage` is an index into `STAGES`; `place` its recipe's and its own turn; `gpus`
    how many it takes, or lacks of those that were asked for."""

    recipe: Recipe
    variant: str
    label: str
    placed: Placed
    stage: int
    place: tuple[int, int]
    gpus: int

    def rank(self) -> tuple[int | bool, ...]:
        """Lexicographic, least first; `LOST` says in words what each place means."""
        placed, device = self.placed, self.placed.devices[0] if self.placed.devices else None
        return (
            self.stage,
            self.place[0],
            not placed.working,
            placed.verdict.layout.pipeline > 1,
            not placed.roomy,
            not filters.verified(self.recipe, device),
            precision_rank(placed.precision),
            self.gpus,
            placed.order,
            self.place[1],
        )


def behind(one: Candidate, best: Candidate) -> str:
    """Where its rank first differs from the winner's, in words."""
    told = (why for why, mine, theirs in zip(LOST, one.rank(), best.rank(), strict=True) if mine != theirs)
    return next(told, LOST[-1])


@dataclass(slots=True)
class Search:
    """What was found: those that fit, the rejections in order, and of each stage the nearest miss."""

    found: list[Candidate] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    missed: dict[int, tuple[int, Rejected]] = field(default_factory=dict)

    def reject(self, label: str, failed: Failed, stage: int) -> None:
        self.rejected.append(Rejected(label, failed.why))
        if stage not in self.missed or failed.left > self.missed[stage][0]:
            self.missed[stage] = (failed.left, self.rejected[-1])

    @property
    def nearest(self) -> Rejected | None:
        """Of what was nearest to the wish, the miss that lacked least."""
        return self.missed[min(self.missed)][1] if self.missed else None


def look(wish: Wish, recipes: Sequence[Recipe], devices: Sequence[Device], shapes: Shapes) -> Search:
    """Every variant of these recipes on every set of like GPUs."""
    search = Search()
    for turn, recipe in enumerate(recipes):
        prefix = f"{recipe.id}: " if len(recipes) > 1 else ""
        if why := filters.of_recipe(wish, recipe):
            search.rejected.append(Rejected(recipe.id, why))
            continue
        for order, name in enumerate(recipe.variants):
            shape = _usable(wish, recipe, name, shapes)
            if isinstance(shape, str):
                search.rejected.append(Rejected(prefix + name, shape))
                continue
            for group in spot.groups(devices, wish.gpu_count):
                label = f"{prefix}{name} on {spot.describe(group)}"
                outcome, stage = _place(wish, recipe, name, shape, group), _stage(wish, recipe, name, group)
                if isinstance(outcome, Failed):
                    search.reject(label, outcome, stage)
                else:
                    gpus = len(group) if wish.gpu_count is None else wish.gpu_count - len(group)
                    search.found.append(Candidate(recipe, name, label, outcome, stage, (turn, order), gpus))
    return search


@dataclass(frozen=True, slots=True)
class Sibling:
    """One variant of a recipe on a machine, were it asked for by its name. `best`: where it goes, None when nowhere;
    `nearest`: the miss that lacked least then, None when no memory was counted. `passed`: layouts on any number of
    GPUs, and why not. `why` it is no candidate at all, or "". `shape` None: its dimensions are not known."""

    variant: str
    shape: ModelShape | None = None
    best: Candidate | None = None
    nearest: Failed | None = None
    passed: tuple[tuple[fit.Layout, str], ...] = ()
    why: str = ""


def sibling(wish: Wish, recipe: Recipe, name: str, devices: Sequence[Device], shapes: Shapes) -> Sibling:
    """The variant `name`, asked for by its name; no other in its place."""
    own = wish.model if filters.is_folder(wish.model) else recipe.model_id(name)
    asked = replace(wish, model=own, precision="", exact=False, role="")
    shape = _usable(asked, recipe, name, shapes)
    if isinstance(shape, str):
        return Sibling(name, why=shape)
    found: list[Candidate] = []
    failed: list[Failed] = []
    passed: list[tuple[fit.Layout, str]] = []
    for group in spot.groups(devices, wish.gpu_count):
        outcome = _place(asked, recipe, name, shape, group)
        if isinstance(outcome, Failed):
            failed.append(outcome)
            passed += outcome.passed
            continue
        gpus = len(group) if wish.gpu_count is None else wish.gpu_count - len(group)
        fewer = _stage(asked, recipe, name, group) % 2
        found.append(Candidate(recipe, name, spot.describe(group), outcome, fewer, (0, 0), gpus))
        passed += outcome.passed
    best = min(found, key=Candidate.rank, default=None)
    for one in found:
        if best is not None and one is not best:
            told = one.placed.verdict
            but = f"fits too, {told.kv_tokens:,} tokens, window {told.max_model_len:,}; but {behind(one, best)}"
            passed.append((told.layout, but))
    nearest = max(failed, key=lambda one: one.left, default=None) if best is None else None
    why = nearest.why if nearest else ""
    passed.sort(key=lambda each: each[0].gpus)
    return Sibling(name, shape, best, nearest, tuple(passed), why)


def _usable(wish: Wish, recipe: Recipe, name: str, shapes: Shapes) -> ModelShape | str:
    """The variant's dimensions, or why it is no candidate."""
    if why := filters.of_variant(wish, recipe, name):
        return why
    try:
        shape = shape_of(wish, recipe, name, shapes)
    except ShapeUnknown as error:
        return str(error)
    return shape or f"the dimensions of {recipe.model_id(name)} are not known, so neither is its fit"


def _place(wish: Wish, recipe: Recipe, name: str, shape: ModelShape, group: Sequence[Device]) -> Placed | Failed:
    if group and (why := filters.of_device(recipe, name, group[0])):
        return Failed(why)
    return spot.place(wish, recipe, name, shape, group)


def _stage(wish: Wish, recipe: Recipe, name: str, group: Sequence[Device]) -> int:
    """How far from the wish: an index into `STAGES`."""
    fewer = wish.gpu_count is not None and len(group) < wish.gpu_count
    if wish.precision:
        other = recipe.variants[name].precision != wish.precision
    else:
        other = name not in filters.named(wish, recipe)
    return other * 2 + fewer


def shape_of(wish: Wish, recipe: Recipe, name: str, shapes: Shapes) -> ModelShape | None:
    """What is on disk or the Hub tells best; of a variant that vLLM quantises while loading, the recipe alone knows.

    Raises ShapeUnknown when the recipe's own facts are not understood."""
    online = name != "default" and not recipe.variants[name].model_id
    where = wish.model if filters.is_folder(wish.model) else recipe.model_id(name)
    return (None if online else shapes(where)) or spot.recipe_shape(recipe, name)
