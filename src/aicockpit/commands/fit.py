"""`aicockpit fit MODEL`: does it fit, with every term of the sum; and the table of docs/hardware.md.

`python -m aicockpit.commands.fit --table` prints that table from the shipped recipes and the known cards, `--tiers`
that of docs/kv-tiers.md, `--packs` that of docs/context.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from aicockpit.commands import Commands, fit_show, fit_table, fit_tiers
from aicockpit.errors import ModelError, SettingError
from aicockpit.hardware import cards, detect, fit, shape
from aicockpit.hardware.device import Device
from aicockpit.hardware.shape import ModelShape, ShapeUnknown
from aicockpit.recipes import command, load, spot
from aicockpit.recipes.schema import Recipe, precision_rank
from aicockpit.settings import Settings

FITS, DOES_NOT, UNKNOWN = 0, 1, 2
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to judge. `source` says where its dimensions are from."""

    name: str
    shape: ModelShape
    source: str
    manual: str = ""  # why a recipe takes this checkpoint only when it is asked for


def add(commands: Commands) -> None:
    """Register the command."""
    text = "say whether a model fits a machine, with the arithmetic; exit code 0: it fits, 1: not, 2: cannot be known"
    parser = commands("fit", run, text)
    parser.add_argument(
        "fit_model", metavar="MODEL", help="a folder, a Hub id (owner/name[@revision]) or a recipe's id"
    )
    parser.add_argument("--gpu", default="", help='"A6000", "H100:8", "24GiB:2" or "cpu"; default: the machine here')
    parser.add_argument("--gpus", type=_positive, help="use exactly so many of them; default: as few as it takes")
    parser.add_argument("--context", type=_positive, help="tokens of the window; default: the model's own, or less")
    parser.add_argument("--kv-dtype", default="auto", choices=("auto", *fit.KV_DTYPES), help="of the KV cache (auto)")
    parser.add_argument("--utilisation", type=_share, default=fit.UTILISATION, help=f"of a GPU ({fit.UTILISATION})")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
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
    try:
        subjects = find(loaded, arguments.fit_model)
        devices, here, memory = _machine(arguments.gpu)
    except (ShapeUnknown, ModelError) as error:
        if arguments.json:
            print(json.dumps({"model": arguments.fit_model, "fits": None, "why": str(error)}))
        else:
            Console(stderr=True, highlight=False).print(f"cannot be known: {error}", markup=False, soft_wrap=True)
        return UNKNOWN
    if arguments.gpus and not 1 <= arguments.gpus <= len(devices):
        raise SettingError(f"--gpus {arguments.gpus}: there {'is' if len(devices) == 1 else 'are'} {len(devices)}.")
    ask = fit.Ask(arguments.context, arguments.utilisation, kv_dtype=arguments.kv_dtype, eager=arguments.eager)
    judged = [(subject, judge(subject.shape, devices, ask, arguments.gpus, memory)) for subject in subjects]
    own = [one for one in judged if not one[0].manual] or judged
    subject, found = min((one for one in own if one[1].verdict.fits), key=_misses, default=own[-1])
    others = tuple((one.name, one.shape.precision, told.verdict) for one, told in judged if one is not subject)
    counsel = fit.advice(subject.shape, devices, ask) if devices and not found.verdict.fits else ()
    view = fit_show.View(
        subject.name, subject.shape, subject.source, here, found, others, counsel, arguments.all, len(devices)
    )
    if arguments.json:
        print(json.dumps(document(view), indent=2))
    else:
        fit_show.show(view, out)
    return FITS if found.verdict.fits else DOES_NOT


def _misses(one: tuple[Subject, fit.Best]) -> tuple[bool, bool, bool]:
    """Of checkpoints that fit, what `recipes.select` minds before the loss of precision (docs/recipes.md, the rank)."""
    subject, verdict = one[0], one[1].verdict
    enough = min(fit.WORKING, subject.shape.max_len or fit.WORKING)
    return verdict.max_model_len < enough, verdict.layout.pipeline > 1, verdict.concurrency < spot.ROOM


def judge(
    dimensions: ModelShape,
    devices: Sequence[Device],
    ask: fit.Ask,
    count: int | None = None,
    memory: int | None = None,
) -> fit.Best:
    """On these GPUs; without any, on the CPU with the cache that an engine of ours gets, in `memory` free bytes."""
    if devices:
        return fit.best(dimensions, devices, ask, count)
    verdict = fit.cpu(dimensions, command.CPU_KV_BYTES, command.CPU_BLOCK, ask)
    if verdict.fits and memory is not None and verdict.budget.bytes > memory:
        why = f"it takes {fit.gib(verdict.budget.bytes)} of memory, and {fit.gib(memory)} are free"
        verdict = replace(verdict, fits=False, why=why)
    return fit.Best(verdict)


def _machine(text: str) -> tuple[tuple[Device, ...], str, int | None]:
    """GPUs, how to call the machine, and its free memory when it is the one here. Raises SettingError."""
    on_cpu = text.strip().lower() == CPU
    if text and not on_cpu:
        return cards.parse(text), "", None
    machine = detect.snapshot()
    devices = () if on_cpu else detect.devices(machine, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if devices:
        return devices, "this machine", None
    name = "the CPU of this machine" + ("" if on_cpu else ", which has no GPU (name one with --gpu)")
    return (), name, machine.memory_available


def find(loaded: Settings, model: str) -> list[Subject]:
    """What MODEL means: a folder, a recipe (each of its checkpoints, the least compressed first), or a Hub id.

    Raises ModelError, ShapeUnknown; SettingError with the nearest names for a word that is none of these.
    """
    from aicockpit.models import files, locate

    if locate.is_path(model):
        folder = Path(os.path.expanduser(model)).absolute()
        if folder.is_file():
            raise ModelError(f"{folder} is a file; name the folder that holds config.json.")
        return [Subject(model, shape.local(folder), f"{folder / 'config.json'} and the weights beside it")]
    library = load.library(loaded.recipes)
    if (one := library.by_id.get(model.lower())) and (found := of_recipe(one.recipe)):
        return found
    repo_id, revision = files.split(model)
    if "/" not in repo_id:
        library.find(repo_id)
    known = [] if revision else [s for r in library.recipes for s in of_recipe(r) if s.name.lower() == repo_id.lower()]
    return [_of_hub(loaded, repo_id, revision, known)]


def of_recipe(recipe: Recipe) -> list[Subject]:
    """The checkpoints that a recipe tells the dimensions of. Those that need to be asked for come last."""
    names = sorted(
        recipe.variants,
        key=lambda name: (bool(recipe.checkpoint(name).manual), precision_rank(recipe.variants[name].precision)),
    )
    found: dict[str, Subject] = {}
    for name in names:
        dimensions = spot.recipe_shape(recipe, name)
        if dimensions is not None:
            manual = recipe.checkpoint(name).manual
            subject = Subject(recipe.model_id(name), dimensions, f"the recipe {recipe.id}", manual)
            found.setdefault(subject.name, subject)
    return list(found.values())


def _of_hub(loaded: Settings, repo_id: str, revision: str, known: Sequence[Subject]) -> Subject:
    """What is on disk knows best, then a recipe, then the Hub."""
    from aicockpit.models import remote, snapshots
    from aicockpit.models.hub import Hub

    hub = Hub.of_environment(loaded.hf_token)
    have = snapshots.cached(hub, repo_id, revision)
    if known and (have is None or have.lack):
        return known[0]
    told = remote.look(hub, repo_id, revision, loaded.state_dir / "shapes")
    where = {"cache": "the download of it", "hub": hub.endpoint, "kept": f"an earlier look at {hub.endpoint}"}
    return Subject(repo_id, told.shape, f"{where[told.source]}, commit {told.commit[:12]}")


def document(view: fit_show.View) -> dict[str, object]:
    """The view as JSON."""
    verdict = view.found.verdict
    dimensions = asdict(replace(view.shape, layer_kinds=()))
    del dimensions["layer_kinds"]
    return {
        "version": 1,
        "model": view.name,
        "source": view.source,
        "shape": {**dimensions, "precision": view.shape.precision},
        **asdict(verdict),
        "rejected": [{"layout": asdict(layout), "why": why} for layout, why in view.found.rejected],
        "others": [
            {"model": name, "precision": precision, "fits": one.fits, "kv_tokens": one.kv_tokens, "why": one.why}
            for name, precision, one in view.others
        ],
        "advice": list(view.advice),
    }


def main(argv: Sequence[str]) -> int:
    """`--table` prints the table of docs/hardware.md, `--tiers` that of docs/kv-tiers.md, `--packs` of context.md."""
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
            rows.setdefault((one.recipe.id, subject.shape.precision), (subject.name, subject.shape))
    return fit_table.markdown(list(rows.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
