"""Which variants of a recipe are candidates at all: each rule says why not, or "". Pure; `select.py` asks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aicockpit.hardware.device import Device
from aicockpit.hardware.shape import ModelShape
from aicockpit.recipes.assemble import generation, is_hardware
from aicockpit.recipes.schema import Recipe


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `model`: a recipe's id or a Hub id. `gpu_count` None: as few as do, 0: the CPU.
    `exact`: no other checkpoint than the one named. `vllm`: the version that will run, None when unknown.
    `features` and `without`: names of a recipe's features to add to and take from those that are on. `memory`: bytes
    of the host that an engine may take, None when unknown. `args`: flags of the user's, over a recipe's. `draft`: the
    dimensions of the draft model that they name, None when unknown. `cpu`: what the host's CPU can do, by the kernel's
    names, None when unknown."""

    model: str
    precision: str = ""
    gpu_count: int | None = None
    max_model_len: int | None = None
    role: str = ""
    engine: str = "vllm"
    exact: bool = False
    vllm: str | None = None
    features: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    memory: int | None = None
    args: tuple[str, ...] = ()
    draft: ModelShape | None = None
    cpu: tuple[str, ...] | None = None


def is_folder(model: str) -> bool:
    """A path rather than a Hub id or a recipe's id."""
    return model.startswith(("/", "./", "../", "~"))


def named(wish: Wish, recipe: Recipe) -> tuple[str, ...]:
    """The variants that the wish names: by the recipe's id all, by a Hub id those with that checkpoint, by a folder
    those whose checkpoint has the folder's name."""
    if wish.model.lower() == recipe.id:
        return tuple(recipe.variants)
    if not is_folder(wish.model):
        return tuple(name for name in recipe.variants if recipe.model_id(name).lower() == wish.model.lower())
    cached = re.search(r"/models--[^/]+--([^/]+)/snapshots/[^/]+/?$", wish.model)  # the Hub's own cache
    folder = (cached[1] if cached else wish.model.rstrip("/").rpartition("/")[2]).lower()
    return tuple(name for name in recipe.variants if recipe.model_id(name).rpartition("/")[2].lower() == folder)


def of_recipe(wish: Wish, recipe: Recipe) -> str:
    """Why none of the recipe's variants will do, or ""."""
    if recipe.omni:
        return "it is for vLLM-Omni, which AiCockpit does not run"
    if wish.engine != recipe.aicockpit.engine:
        return f"it is for the engine {recipe.aicockpit.engine}, not {wish.engine}"
    if wish.role and wish.role not in recipe.roles:
        return f"its roles are {', '.join(recipe.roles) or 'none'}, not {wish.role}"
    return ""


def of_variant(wish: Wish, recipe: Recipe, name: str) -> str:
    """Why this variant will not do on any hardware, or ""."""
    variant, checkpoint, by_name = recipe.variants[name], recipe.checkpoint(name), named(wish, recipe)
    family = wish.model.lower() in (recipe.id, recipe.model.model_id.lower())
    if not family and name not in by_name:
        return f"it is another checkpoint than {wish.model}, which is named"
    if wish.exact and name not in by_name:
        return f"it is another checkpoint than {wish.model}, and no other may take its place"
    picked = name in by_name and wish.model.lower() != recipe.id
    if checkpoint.manual and not picked and wish.precision != variant.precision:
        return f"it is taken only when its precision or its name is asked for: {checkpoint.manual}"
    roles = checkpoint.roles
    if roles and wish.role and wish.role not in roles:
        return f"it is for {', '.join(roles)}, not {wish.role}"
    if roles and not wish.role and not picked:
        return f"it is for {', '.join(roles)} alone; ask for it by name or by that role"
    if wish.exact and wish.precision and variant.precision != wish.precision:
        return f"its precision is {variant.precision}, not {wish.precision}"
    least = variant.min_vllm_version or recipe.model.min_vllm_version
    if wish.vllm and least and version(wish.vllm) < version(least):
        return f"it needs vLLM {least}, and {wish.vllm} will run it"
    return ""


def of_device(recipe: Recipe, name: str, device: Device) -> str:
    """Why the recipe keeps this variant from this kind of GPU, or "". What its kernels need is `fit`'s to say."""
    for key, state in recipe.meta.hardware.items():
        if state == "unsupported" and (key in (generation(device), device.vendor) or is_hardware(key, device)):
            return f"the recipe marks {key} as unsupported"
    only = recipe.variants[name].supported_hardware
    if only and not any(key in (generation(device), device.vendor) or is_hardware(key, device) for key in only):
        return f"the recipe lists it for {', '.join(only)} only"
    return ""


def verified(recipe: Recipe, device: Device | None) -> bool:
    """Does the recipe say that it was run on this hardware?"""
    if device is None:
        return False
    states = recipe.meta.hardware.items()
    return any(state == "verified" and is_hardware(key, device) for key, state in states)


def version(text: str) -> tuple[int, ...]:
    """`0.10.1.post2` -> (0, 10, 1); what is no number ends it."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
