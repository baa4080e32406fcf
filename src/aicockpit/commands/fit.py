"""`aicockpit fit MODEL`: does it fit as `serve` would run it, with every term; and the table of docs/hardware.md.

`python -m aicockpit.commands.fit --table` prints that table from the shipped recipes and the known cards, `--tiers`
that of docs/kv-tiers.md, `--packs` that of docs/workspaces.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console

from aicockpit.commands import Commands, fit_show, fit_table, fit_tiers, judging
from aicockpit.errors import ModelError, SettingError
from aicockpit.hardware import fit
from aicockpit.hardware.shape import ModelShape, ShapeUnknown
from aicockpit.recipes import command, explain, filters, generic, load, search, spot
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.load import Library
from aicockpit.recipes.schema import Recipe, precision_rank
from aicockpit.recipes.search import Refused, Sibling
from aicockpit.recipes.select import Chosen, select
from aicockpit.settings import Settings

FITS, DOES_NOT, UNKNOWN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Subject:
    """One variant of a recipe. `online`: its weights become what they are while they are loaded."""

    name: str
    shape: ModelShape
    online: bool


def add(commands: Commands) -> None:
    """Register the command."""
    text = "say whether a model fits a machine, with the arithmetic; exit code 0: it fits, 1: not, 2: cannot be known"
    parser = commands("fit", run, text)
    parser.add_argument(
        "fit_model", metavar="MODEL", help="a folder, a Hub id (owner/name[@revision]) or a recipe's id"
    )
    parser.add_argument("--gpu", default="", help='"A6000", "H100:8", "24GiB:2" or "cpu"; default: the machine here')
    parser.add_argument("--gpus", type=_positive, help="how many of them to take; default: as few as do")
    parser.add_argument("--context", type=_positive, help="tokens of the window; default: as the memory allows")
    parser.add_argument("--kv-dtype", default="auto", choices=("auto", *fit.KV_DTYPES), help="of the KV cache (auto)")
    parser.add_argument("--utilisation", type=_share, default=fit.UTILISATION, help=f"of a GPU ({fit.UTILISATION})")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs; the sum stays the same")
    parser.add_argument("--all", action="store_true", help="show why each other layout was not taken")
    parser.add_argument("--json", action="store_true", help="everything, for programs")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 40):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of a GPU, 0 to 1")
    return share


def run(loaded: Settings, arguments: argparse.Namespace) -> int:
    """Judge and print. Raises SettingError for a GPU or a number of them that is not there."""
    out = Console(highlight=False)
    here = judging.machine(loaded, arguments.gpu)
    given = len(here.devices)
    if arguments.gpus and not 1 <= arguments.gpus <= given:
        raise SettingError(f"--gpus {arguments.gpus}: there {'is' if given == 1 else 'are'} {given}.")
    try:
        view = _view(loaded, arguments, here)
    except (ShapeUnknown, ModelError) as error:
        if arguments.json:
            judging.emit(json.dumps({"model": arguments.fit_model, "fits": None, "why": str(error)}))
        else:
            Console(stderr=True, highlight=False).print(f"cannot be known: {error}", markup=False, soft_wrap=True)
        return UNKNOWN
    if arguments.json:
        judging.emit(json.dumps(document(view), indent=2))
    else:
        fit_show.show(view, out)
    return FITS if view.verdict.fits else DOES_NOT


def _view(loaded: Settings, arguments: argparse.Namespace, here: judging.Machine) -> fit_show.View:
    """What `serve` would take, and every checkpoint of the model beside it. Raises ModelError, ShapeUnknown;
    SettingError with the nearest names for a word that is no model."""
    library = load.library(loaded.recipes)
    model = _named(arguments.fit_model, library)
    folder = filters.is_folder(model)
    if not folder and "/" not in model:
        library.find(model.partition("@")[0])
    shapes = judging.Shapes(loaded, library, model)
    wish = judging.wish(loaded, library, model, here, _flags(arguments), arguments.gpus)
    wish = replace(wish, max_model_len=arguments.context or wish.max_model_len)
    outcome = select(wish, library.recipes, here.devices, shapes)
    name, _, revision = (model, "", "") if folder else model.partition("@")
    if revision and (wrong := [error for of, error in shapes.failed.items() if of.lower() == name.lower()]):
        raise wrong[0]  # a recipe knows the model; it does not know that there is such a revision
    plain = replace(wish, model=name)
    recipe = _recipe(plain, library, shapes)
    if isinstance(outcome, Chosen):
        outcome = judging.with_tier(loaded, library, outcome, shapes)
        recipe = library.by_id[outcome.recipe].recipe if outcome.recipe else recipe
    names = filters.named(plain, recipe) if folder else tuple(recipe.variants)
    every = [search.sibling(plain, recipe, name, here.devices, shapes) for name in names]
    mine = _mine(plain, recipe, every, outcome)
    if mine.shape is None:
        raise next(iter(shapes.failed.values()), ModelError(f"{mine.why or outcome.reasons[0]}."))
    verdict = outcome.verdict if isinstance(outcome, Chosen) else _missed(mine, here, wish, outcome)
    name = model if folder else recipe.model_id(mine.variant)
    return fit_show.View(
        name,
        mine.shape,
        shapes.sources.get(name, f"the recipe {recipe.id}"),
        "" if here.given and here.devices else _called(here),
        verdict,
        tuple((layout, why) for layout, why in mine.passed if layout != verdict.layout),
        tuple(_other(recipe, one, name if folder else "") for one in every if one is not mine),
        outcome.advice if isinstance(outcome, Refused) else (),
        arguments.all,
        len(here.devices),
        outcome if isinstance(outcome, Chosen) else None,
    )


def _named(model: str, library: Library) -> str:
    """As the selection tells folders from names: `.`, and a folder that is here, by its whole path. A recipe's id stays
    one beside a folder of that name."""
    from aicockpit.models import locate

    if filters.is_folder(model) or model.lower() in library.by_id or not locate.is_path(model):
        return model
    return os.path.abspath(model)


def _flags(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The options as vLLM spells them."""
    found: tuple[str, ...] = ()
    if arguments.utilisation != fit.UTILISATION:
        found += ("--gpu-memory-utilization", f"{arguments.utilisation:g}")
    if arguments.kv_dtype != "auto":
        found += ("--kv-cache-dtype", arguments.kv_dtype)
    return found + (("--enforce-eager",) if arguments.eager else ())


def _recipe(wish: Wish, library: Library, shapes: judging.Shapes) -> Recipe:
    """The first that names the model, else a generic one. Raises why the dimensions are not known."""
    if found := next((one for one in library.recipes if filters.named(wish, one)), None):
        return found
    if (dimensions := shapes(wish.model)) is None:
        raise shapes.failed[wish.model]
    return generic.recipe(wish.model, dimensions)


def _mine(wish: Wish, recipe: Recipe, every: Sequence[Sibling], outcome: Chosen | Refused) -> Sibling:
    """The checkpoint to show the sum of: what is taken, else of those that may be the one that lacks least."""
    if isinstance(outcome, Chosen):
        return next(one for one in every if one.variant == outcome.variant)
    may = [one for one in every if not filters.of_variant(wish, recipe, one.variant) and one.nearest is not None]
    named = [one for one in every if one.variant in filters.named(wish, recipe)]
    return max(may, key=lambda one: one.nearest.left if one.nearest else 0, default=(named or list(every))[0])


def _missed(mine: Sibling, here: judging.Machine, wish: Wish, refused: Refused) -> fit.Verdict:
    """The sum of what lacked least. When the reason is no sum, that of the weights on these GPUs all the same."""
    if mine.nearest is not None and mine.nearest.verdict is not None:
        return mine.nearest.verdict
    assert mine.shape is not None
    ask = replace(spot.asked(wish.args, wish.draft), max_model_len=wish.max_model_len)
    if here.devices:
        told = fit.best(mine.shape, here.devices, ask, wish.gpu_count).verdict
    else:
        told = fit.cpu(mine.shape, command.CPU_KV_BYTES, command.CPU_BLOCK, ask, here.cpu)
    return replace(told, fits=False, why=mine.why or refused.reasons[-1].rstrip("."))


def _called(here: judging.Machine) -> str:
    if here.devices:
        return "this machine"
    called = "the CPU of this machine" + ("" if here.given else ", which has no GPU (name one with --gpu)")
    return f"{called}; {here.share}" if here.share else called


def _other(recipe: Recipe, one: Sibling, folder: str) -> fit_show.Other:
    variant = recipe.variants[one.variant]
    precision = one.shape.precision if one.shape else variant.precision
    told: tuple[str, ...] = ("made while loading",) if one.variant != "default" and not variant.model_id else ()
    told += ("only when asked for",) if recipe.checkpoint(one.variant).manual else ()
    verdict = one.best.placed.verdict if one.best else None
    return fit_show.Other(folder or recipe.model_id(one.variant), one.variant, precision, told, verdict, one.why)


def of_recipe(recipe: Recipe) -> list[Subject]:
    """The variants that a recipe tells the dimensions of. Those that need to be asked for come last."""
    names = sorted(
        recipe.variants,
        key=lambda name: (bool(recipe.checkpoint(name).manual), precision_rank(recipe.variants[name].precision)),
    )
    found = []
    for name in names:
        dimensions = spot.recipe_shape(recipe, name)
        if dimensions is not None:
            online = name != "default" and not recipe.variants[name].model_id
            found.append(Subject(recipe.model_id(name), dimensions, online))
    return found


def document(view: fit_show.View) -> dict[str, object]:
    """The view as JSON."""
    verdict, chosen = view.verdict, view.chosen
    if chosen is not None:
        verdict = replace(verdict, flags=chosen.flags, env=chosen.env)
    dimensions = asdict(replace(view.shape, layer_kinds=()))
    del dimensions["layer_kinds"]
    return {
        "version": 1,
        "model": view.name,
        "recipe": (chosen.recipe or None) if chosen else None,
        "variant": chosen.variant if chosen else None,
        "source": view.source,
        "shape": {**dimensions, "precision": view.shape.precision},
        **asdict(verdict),
        "command": ["vllm", "serve", *explain.words(chosen)] if chosen else None,
        "reasons": list(chosen.reasons) if chosen else [],
        "rejected": [{"layout": asdict(layout), "why": why} for layout, why in view.passed],
        "others": [
            {
                "model": one.name,
                "variant": one.variant,
                "precision": one.precision,
                "told": list(one.told),
                "fits": one.verdict is not None,
                "kv_tokens": one.verdict.kv_tokens if one.verdict else None,
                "why": one.verdict.why if one.verdict else one.why,
            }
            for one in view.others
        ],
        "advice": list(view.advice),
    }


def main(argv: Sequence[str]) -> int:
    """`--table` prints the table of docs/hardware.md, `--tiers` of kv-tiers.md, `--packs` of workspaces.md."""
    made = {"--table": table, "--tiers": fit_tiers.markdown, "--packs": fit_tiers.packs}
    if len(argv) != 1 or argv[0] not in made:
        print("usage: python -m aicockpit.commands.fit --table | --tiers | --packs", file=sys.stderr)
        return 2
    print(made[argv[0]]())
    return 0


def table() -> str:
    """One row for each precision of each shipped recipe."""
    rows: dict[tuple[str, str], tuple[str, ModelShape]] = {}
    for one in load.shipped():
        for subject in of_recipe(one.recipe):
            kind = subject.shape.precision + (", made while loading" if subject.online else "")
            label = f"{subject.name} ({kind})"
            rows.setdefault((one.recipe.id, subject.shape.precision), (label, subject.shape))
    return fit_table.markdown(list(rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
