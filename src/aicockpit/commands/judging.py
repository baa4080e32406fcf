"""What `aicockpit fit` and `recipes explain` share: the machine to judge on, a model's dimensions, the flags of a tier.

Both ask `recipes.select`, as `serve` does, so that the three never say different things.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from aicockpit.engines.orphans import StateLock
from aicockpit.errors import AicockpitError, ModelError
from aicockpit.hardware import cards, detect, fit, host, shape
from aicockpit.hardware.device import Device
from aicockpit.hardware.shape import ModelShape, ShapeUnknown
from aicockpit.recipes import arrange, filters, flags, spot, tier
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.load import Library
from aicockpit.recipes.select import Chosen
from aicockpit.settings import Settings
from aicockpit.sizing import HOST_SHARE

CPU = "cpu"
_LEFT_OUT = (
    "The command here leaves it out: a start adds it, with a subfolder named by the weights, vLLM's version and the "
    "cards, and keeps its files within the size. In one folder vLLM would take one revision's KV for another's."
)


def emit(text: str) -> None:
    """Print; a reader that has gone (`| head`) ends it quietly. For JSON; rich does so for tables."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end


@dataclass(frozen=True, slots=True)
class Machine:
    """`given`: by name, not read here. `memory`: bytes that an engine may take of the host, `cpu`: what its CPU can do;
    None: unknown, or no matter. `share`: how `memory` comes about, in words."""

    devices: tuple[Device, ...]
    given: bool
    memory: int | None = None
    cpu: tuple[str, ...] | None = None
    share: str = ""


def machine(loaded: Settings, text: str) -> Machine:
    """`text`: the GPUs as a user names them, `cpu`, or "" for the machine here; of its memory engines may take what a
    start gives them. Raises SettingError."""
    if text and text.strip().lower() != CPU:
        return Machine(cards.parse(text), True)
    here, features = detect.snapshot(), host.cpu().features
    runs = StateLock.holder(loaded.state_dir) is not None  # what it holds now, the next start would have
    whole = here.memory_total if runs else here.memory_available
    memory = None if whole is None else int(whole * HOST_SHARE)
    share = "" if whole is None or memory is None else _share(whole, memory, runs)
    devices = () if text else detect.devices(here, loaded.cuda_visible)
    return Machine(devices, bool(text), memory, features, share)


def _share(whole: int, memory: int, runs: bool) -> str:
    of = f"all {fit.gib(whole)}, as AiCockpit runs here" if runs else f"the {fit.gib(whole)} of memory that are free"
    return f"engines may take {fit.gib(memory)}, {HOST_SHARE:.0%} of {of}".replace("%", " %")


@dataclass(slots=True)
class Shapes:
    """The dimensions of a folder, or of a Hub id as far as no recipe tells them or its files are here; each is read
    once. `wanted` is what the user named: nothing else is looked up. `sources` says where one is from, `failed` why one
    is not known."""

    loaded: Settings
    library: Library
    wanted: str
    sources: dict[str, str] = field(default_factory=dict)
    failed: dict[str, AicockpitError] = field(default_factory=dict)
    known: dict[str, ModelShape | None] = field(default_factory=dict)

    def __call__(self, model: str) -> ModelShape | None:
        if model not in self.known:
            try:
                self.known[model] = self._read(model)
            except (AicockpitError, ShapeUnknown) as error:
                self.known[model] = None
                self.failed[model] = error
        return self.known[model]

    def _read(self, model: str) -> ModelShape | None:
        from aicockpit.models import locate

        if locate.is_path(model):
            folder = Path(os.path.expanduser(model)).absolute()
            if folder.is_file():
                raise ModelError(f"{folder} is a file; name the folder that holds config.json.")
            self.sources[model] = f"{folder / 'config.json'} and the weights beside it"
            return shape.local(folder)
        name, _, revision = self.wanted.partition("@")
        asked = name.lower() == model.lower()
        if not asked and not self._has_no_facts(model):
            return None
        return self._of_hub(model, revision if asked else "")

    def _of_hub(self, repo_id: str, revision: str) -> ModelShape | None:
        """What is on disk knows best, then a recipe, then the Hub."""
        from aicockpit.models import remote, snapshots
        from aicockpit.models.hub import Hub

        hub = Hub.of_environment(self.loaded.hf_token)
        have = snapshots.cached(hub, repo_id, revision)
        complete = have is not None and not have.lack
        if not complete and not revision and self._told(repo_id):
            return None
        told = remote.look(hub, repo_id, revision, self.loaded.state_dir / "shapes")
        where = {"cache": "the download of it", "hub": hub.endpoint, "kept": f"an earlier look at {hub.endpoint}"}
        self.sources[repo_id] = f"{where[told.source]}, commit {told.commit[:12]}"
        return told.shape

    def _told(self, model: str) -> bool:
        """A recipe has the dimensions."""
        return any(
            recipe.aicockpit.shape is not None and recipe.model_id(name).lower() == model.lower()
            for recipe in self.library.recipes
            for name in recipe.variants
        )

    def _has_no_facts(self, model: str) -> bool:
        """It is a checkpoint of the recipe that was named, which leaves the dimensions to the model's own files."""
        wish = Wish(self.wanted.partition("@")[0])
        mine = (one for one in self.library.recipes if one.aicockpit.shape is None and filters.named(wish, one))
        return any(one.model_id(name).lower() == model.lower() for one in mine for name in one.variants)


def wish(
    loaded: Settings, library: Library, model: str, here: Machine, args: Sequence[str] = (), gpus: int | None = None
) -> Wish:
    """What is asked for on that machine, with the user's own flags for engines under `args`."""
    words = flags.merge(loaded.engine_args, args)

    def of_draft(name: str) -> ModelShape | None:
        return Shapes(loaded, library, name)(name)

    return Wish(
        model,
        gpu_count=gpus,
        max_model_len=flags.number(flags.value(words, "--max-model-len")),
        vllm=flags.reader(loaded),
        memory=here.memory,
        args=words,
        draft=spot.draft(words, library.recipes, of_draft),
        cpu=here.cpu,
    )


def with_tier(loaded: Settings, library: Library, chosen: Chosen, shapes: Shapes, role: str = "") -> Chosen:
    """With the flags and variables of the KV tier that the setting or the recipe asks for, or why they are not there.

    vLLM's names of KV files tell neither the weights' revision nor its own version. A start finds a folder by both;
    a command that is kept and run again later could not, so of files on GPUs it has no flag."""
    recipe = library.by_id[chosen.recipe].recipe if chosen.recipe else None
    role = role or next(iter(recipe.roles if recipe else ()), "")
    wanted = arrange.wish(None, role, loaded.kv_tier, chosen.kv_tier)
    if wanted.kind == "none":
        return chosen
    place = tier.place(loaded, bool(chosen.devices))
    if chosen.devices and chosen.devices[0].vendor == "amd":
        place = replace(place, platform="rocm")
    known = shapes.known.get(chosen.model_id)
    if known is None and recipe is not None:
        known = spot.recipe_shape(recipe, chosen.variant)
    layers = known.layer_kinds if known else ()
    given = flags.merge(chosen.flags, loaded.engine_args)
    found = tier.judged(wanted, place, tier.folder(loaded), given, layers=layers)
    if isinstance(found, tier.NoTier):
        return _with(chosen, f"There is no kv_tier {wanted} here: {found.told}")
    takes = f" Each engine takes {fit.gib(found.memory)} of the host's memory for it." if found.memory else ""
    said = f"kv_tier {wanted}: {found.reason}.{takes}"
    notes = [f"kv_tier {wanted}: {note}" for note in found.notes]
    if found.files:
        return _with(chosen, f"{said} {_LEFT_OUT}", *notes)
    theirs = {*os.environ, *dict(chosen.env)}
    env = tuple(pair for pair in found.env if pair[0] not in theirs)
    chosen = replace(chosen, flags=(*chosen.flags, *found.flags), env=(*chosen.env, *env))
    return _with(chosen, said, *notes)


def _with(chosen: Chosen, *reasons: str) -> Chosen:
    return replace(chosen, reasons=(*chosen.reasons, *reasons))
