"""Recipes from YAML: those shipped in `data/`, and a folder of the user's that overrides them by id.

Called by `aicockpit recipes` and at the start of a server. A mistake is told with file, line and key.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from aicockpit.errors import SettingError
from aicockpit.recipes import flags
from aicockpit.recipes.schema import RESERVED, AiCockpit, Checkpoint, Recipe, Shape, Window, Yarn
from aicockpit.recipes.where import dotted, line

DATA = Path(__file__).with_name("data")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML has its C part
# Keys of the public schema that inform readers; that they have no effect surprises nobody.
_SILENT = frozenset(
    ("guide", "date_added", "date_updated", "difficulty", "performance_headline", "label", "description", "platforms")
)
# Others of its keys, which would be taken for misspelt ones.
_PUBLIC = frozenset(("default_hardware", "default_strategy", "strategy_hardware", "hardware_notes", "hardware", "env"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A recipe and where it is from. `notes`: sentences on keys that are kept but have no effect here."""

    recipe: Recipe
    path: Path
    shipped: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Library:
    """All recipes by id."""

    by_id: Mapping[str, Loaded]

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """In the order of preference: the user's own first."""
        return tuple(one.recipe for one in sorted(self.by_id.values(), key=lambda one: one.shipped))

    def find(self, name: str) -> Loaded:
        """By id, or by the Hub id of any of its checkpoints. Raises SettingError with the nearest names."""
        if name in self.by_id:
            return self.by_id[name]
        for one in self.by_id.values():
            if any(one.recipe.model_id(variant).lower() == name.lower() for variant in one.recipe.variants):
                return one
        raise SettingError(f"no recipe has the id {name!r}, or a checkpoint of that name.{self._nearest(name)}")

    def _nearest(self, name: str) -> str:
        ids = {recipe.model_id(variant): recipe.id for recipe in self.recipes for variant in recipe.variants}
        lowered = {each.lower(): each for each in (*self.by_id, *ids)}
        near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(lowered[each] for each in near)}?" if near else ""
        return f"{hint} `aicockpit recipes list` shows all."


def library(folder: Path | None = None) -> Library:
    """The shipped recipes, and those of the user's `folder`, which win. Raises SettingError."""
    found = {one.recipe.id: one for one in shipped()}
    for path in _yaml_files(folder) if folder else ():
        one = read(path)
        earlier = found.get(one.recipe.id)
        if earlier is not None and not earlier.shipped:
            raise SettingError(f"{path}: the id {one.recipe.id!r} is that of {earlier.path} too. Change one meta.slug.")
        found[one.recipe.id] = one
    return Library({name: found[name] for name in sorted(found, key=_natural)})


def _natural(name: str) -> list[tuple[float, str]]:
    """3b before 14b."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(float(part), "") if place % 2 else (0.0, part) for place, part in enumerate(parts)]


@functools.cache
def shipped() -> tuple[Loaded, ...]:
    """What the package brings, read once."""
    return tuple(read(path, shipped=True) for path in sorted(DATA.glob("*.yaml")))


def _yaml_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise SettingError(f"AICOCKPIT_RECIPES={folder} is not a folder. Make it, or leave the setting empty.")
    return sorted(path for path in folder.rglob("*.y*ml") if path.suffix in (".yaml", ".yml") and path.is_file())


def read(path: Path, shipped: bool = False) -> Loaded:
    """One file. Raises SettingError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the recipe {path} cannot be read: {error}") from error
    return parse(text, path, shipped)


def parse(text: str, path: Path, shipped: bool = False) -> Loaded:
    """Raises SettingError, one line for each mistake: `FILE, line N: key: what is wrong`."""
    tree = tree_of(text, path)
    root = yaml.compose(text, Loader=_LOADER)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        raise SettingError(_told(error, root, path)) from error
    if recipe.id == RESERVED:
        at = f"{path}, line {line(root, ('meta', 'slug'))}: meta.slug"
        raise SettingError(f"{at}: {RESERVED!r} is what a model without a recipe gets; choose another.")
    errors, notes = [], []
    for where, key, known in _unknown(recipe, ()):
        at = f"{path}, line {line(root, (*where, key))}: {dotted((*where, key))}"
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if key in _SILENT:
            continue
        if near and key not in _PUBLIC:
            errors.append(f"{at}: unknown key. Did you mean `{near[0]}`?")
        else:
            notes.append(f"{at}: kept, but it has no effect here.")
    if recipe.omni:
        notes.append(f"{path}: it is for vLLM-Omni, another server; it is shown but never chosen.")
    for where, words in () if recipe.omni else _flag_lists(recipe):
        at = f"{path}, line {line(root, where)}: {dotted(where)}"
        try:
            kept, left = flags.spare(words)
            notes += [f"{at}: {why}." for why in left]
            notes += flags.refuse(kept, at)
        except SettingError as error:
            errors.append(str(error))
    if errors:
        raise SettingError("\n".join(errors))
    return Loaded(recipe, path, shipped, tuple(notes))


def tree_of(text: str, path: Path) -> Any:
    """A YAML file's content. Raises SettingError."""
    try:
        return yaml.load(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SettingError(f"{path}, line {at}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise SettingError(f"{path}: not valid YAML: {error}") from error


def _told(error: ValidationError, root: Any, path: Path) -> str:
    """pydantic's errors, each on a line of its own with the line of the file."""
    lines = []
    for one in error.errors():
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "missing":
            message = "is needed"
        elif one["type"] == "extra_forbidden":
            message = f"unknown key; known: {', '.join(_fields(one['loc']))}"
        lines.append(f"{path}, line {line(root, one['loc'])}: {dotted(one['loc']) or 'the file'}: {message}")
    return "\n".join(lines)


def _fields(where: Sequence[int | str]) -> list[str]:
    """What our own part of the schema knows where `where` stands; the public parts forbid nothing."""
    parts: dict[str, type[BaseModel]] = {"window": Window, "shape": Shape, "checkpoints": Checkpoint}
    inside = parts.get(str(where[1]), AiCockpit) if len(where) > 2 else AiCockpit
    return list((Yarn if "yarn" in where[:-1] else inside).model_fields)


def _unknown(value: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, list[str]]]:
    """Keys that no part of the schema knows: (where, key, what is known there)."""
    if isinstance(value, BaseModel):
        known = list(type(value).model_fields)
        for key in value.model_extra or {}:
            yield where, key, known
        for name in known:
            yield from _unknown(getattr(value, name), (*where, name))
    elif isinstance(value, dict) and any(isinstance(each, BaseModel) for each in value.values()):
        for name, each in value.items():
            yield from _unknown(each, (*where, name))


def _flag_lists(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every list of flags in a recipe."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if name in ("args", "extra_args", "base_args") and inner:
                yield (*where, name), inner
            yield from _flag_lists(inner, (*where, name))
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _flag_lists(each, (*where, str(name)))
