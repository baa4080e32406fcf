"""AMD AIM profiles as recipes. Called by `aicockpit recipes import`; what cannot be kept is told, never dropped unseen.

Reads both forms: the profile's YAML (`aim_id`, `model_id`, `metadata`, `engine_args`, `env_vars`) and the container's
dry-run output (`{filename, profile: {...}, models: [...]}`, one or a list of them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aicockpit.errors import SettingError
from aicockpit.recipes import flags
from aicockpit.recipes.load import Loaded, parse, tree_of

_NEEDED = ("engine_args", "metadata")
_METADATA = ("engine", "gpu", "gpu_count", "metric", "precision", "type", "manual_selection_only")
# AIM's image sets these for itself; vLLM's own defaults are what we start.
_PRECISIONS = {"fp4": "mxfp4"}


@dataclass(frozen=True, slots=True)
class Imported:
    """`text` is the recipe's YAML. `told`: what was changed or could not be kept."""

    text: str
    loaded: Loaded
    told: tuple[str, ...]


def is_profile(tree: object) -> bool:
    """Does this YAML look like an AIM profile rather than a recipe?"""
    first = tree[0] if isinstance(tree, list) and tree else tree
    if not isinstance(first, Mapping):
        return False
    profile = first.get("profile")
    return isinstance(profile, Mapping) or all(key in first for key in _NEEDED)


def convert(path: Path) -> Imported:
    """Raises SettingError for what is no AIM profile, and for flags that vLLM does not have."""
    try:
        tree = tree_of(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the profile {path} cannot be read: {error}") from error
    if isinstance(tree, list):
        if len(tree) > 1:
            raise SettingError(f"{path} holds {len(tree)} profiles; write the one to import to a file of its own.")
        tree = tree[0] if tree else None
    if not is_profile(tree):
        raise SettingError(f"{path} is no AIM profile: it has not both of {' and '.join(_NEEDED)}.")
    told: list[str] = []
    recipe = _recipe(path, _profile(path, tree, told), told)
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110)
    return Imported(text, parse(text, path), tuple(told))


def _profile(path: Path, tree: Mapping[str, Any], told: list[str]) -> Mapping[str, Any]:
    """The two forms under one: `aim_id`, `model_id`, `metadata`, `engine_args`, `env_vars`."""
    inner = tree.get("profile")
    if not isinstance(inner, Mapping):
        return tree
    models = tree.get("models")
    for model in models if isinstance(models, list) else []:
        if isinstance(model, Mapping) and model.get("size_gb"):
            told.append(f"models: the size of {model.get('name')}, {model['size_gb']} GB, is rounded; it is not kept.")
    named, quantised = inner.get("model"), inner.get("quantized_model")
    return {**inner, "aim_id": inner.get("aim_id") or named, "model_id": quantised or inner.get("model_id") or named}


def _recipe(path: Path, profile: Mapping[str, Any], told: list[str]) -> dict[str, Any]:
    metadata, arguments, variables = (_part(path, profile, key) for key in ("metadata", "engine_args", "env_vars"))
    model, base = str(profile.get("model_id") or ""), str(profile.get("aim_id") or "")
    if not (model or base):
        raise SettingError(f"{path} is a general AIM profile, for no model in particular; recipes are for one model.")
    for key in profile:
        if key not in ("aim_id", "model_id", "model", "quantized_model", "metadata", "engine_args", "env_vars"):
            told.append(f"{key}: not kept.")
    told += [f"metadata.{key}: not kept." for key in metadata if key not in _METADATA]
    precision = str(metadata.get("precision", "bf16"))
    gpu, count = str(metadata.get("gpu", "")), metadata.get("gpu_count")
    words = _words(arguments, told)
    words = _without_removed(words, told)
    args, env = _shape_of_layout(words, count, gpu, told), _env(variables, told)
    manual = "the profile says that it is selected by hand" if metadata.get("manual_selection_only") else ""
    if metadata.get("type") in ("unoptimized", "preview"):
        manual = manual or f"the profile calls itself {metadata['type']}"
    if gpu and gpu != "NONE":
        told.append(f"metadata.gpu: the flags and variables apply to {gpu} only; other hardware runs vLLM's defaults.")
    if "metric" in metadata:
        told.append(f"metadata.metric: {metadata['metric']} is kept as a note; the choice here does not ask for it.")
    variant: dict[str, Any] = {"precision": _PRECISIONS.get(precision, precision)}
    if gpu and gpu != "NONE":
        variant |= {"supported_hardware": [gpu.lower()]}
        variant |= {"hardware_overrides": {gpu.lower(): {"extra_args": args, "extra_env": env}}}
    else:
        variant |= {"extra_args": args, "extra_env": env}
    moe = "--enable-expert-parallel" in words
    return {
        "meta": {"title": base or model, "slug": _slug(path, model or base), "tasks": ["text"]},
        "model": {"model_id": model or base, "architecture": "moe" if moe else "dense"},
        "variants": {"default": variant},
        "compatible_strategies": ["single_node_tp", *(["single_node_tep"] if moe else [])],
        "aicockpit": {
            "engine": str(metadata.get("engine", "vllm")),
            "roles": ["chat"],
            **({"checkpoints": {"default": {"manual": manual}}} if manual else {}),
            "notes": [_note(metadata)],
        },
    }


def _part(path: Path, profile: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = profile.get(key) or {}
    if not isinstance(found, Mapping):
        raise SettingError(f"{path}: {key} must be a map of names and values.")
    return found


def _note(metadata: Mapping[str, Any]) -> str:
    parts = [str(metadata[key]) for key in ("type", "metric", "gpu") if metadata.get(key)]
    return f"From an AMD AIM profile ({', '.join(parts)})." if parts else "From an AMD AIM profile."


def _slug(path: Path, model: str) -> str:
    name = model.rpartition("/")[2].lower()
    parts = path.stem.lower() if name in path.stem.lower() else f"{name}-{path.stem}".lower()
    return re.sub(r"[^a-z0-9.]+", "-", parts).strip("-.") or "aim-profile"


def _words(arguments: Mapping[str, Any], told: list[str]) -> list[str]:
    """AIM's rules: null and true are a bare flag, false is none, a list is several words, a map is JSON."""
    words: list[str] = []
    for key, value in arguments.items():
        flag = "--" + str(key).lstrip("-").replace("_", "-")
        if value is False:
            told.append(f"engine_args.{key}: false means that the flag is not given; it is left out.")
        elif value is None or value is True:
            words.append(flag)
        elif isinstance(value, list | tuple):
            words += [flag, *(str(each) for each in value)]
        else:
            words += [flag, json.dumps(value) if isinstance(value, Mapping) else str(value)]
    return words


def _without_removed(words: Sequence[str], told: list[str]) -> list[str]:
    kept: list[str] = []
    for flag, group in flags.split(words) if words else []:
        if flag in flags.REMOVED_FLAGS:
            told.append(f"{flag}: vLLM has removed it: {flags.REMOVED_FLAGS[flag]}. Left out.")
        elif flag == "--no-enable-prefix-caching":
            told.append(f"{flag}: left out; a workspace is kept warm in the prefix cache.")
        else:
            kept += group
    return kept


def _shape_of_layout(words: Sequence[str], count: object, gpu: str, told: list[str]) -> list[str]:
    """The layout is worked out for the machine that there is, so its sizes are not a recipe's."""
    kept: list[str] = []
    sizes = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size", "--enable-expert-parallel")
    for flag, group in flags.split(words) if words else []:
        if flag in sizes:
            told.append(f"{flag}: left out; the layout is chosen for the machine (the profile: {count} of {gpu}).")
        else:
            kept += group
    return kept


def _env(variables: Mapping[str, Any], told: list[str]) -> dict[str, str]:
    kept = {}
    for name, value in variables.items():
        if name in flags.REMOVED_VARIABLES:
            told.append(f"{name}: vLLM does not read it: {flags.REMOVED_VARIABLES[name]}. Left out.")
        else:
            kept[str(name)] = str(value).lower() if isinstance(value, bool) else str(value)
    return kept
