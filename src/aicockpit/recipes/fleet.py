"""From settings and the optional fleet file to a plan: which engines to start, which to reach, under which names.

Pure but for reading the file. `cli.py` calls `plan`, finds each model's files, and gives both to `command.build`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from aicockpit.errors import SettingError
from aicockpit.recipes import flags
from aicockpit.recipes.command import EngineShape
from aicockpit.settings import Settings
from aicockpit.types import Address

_LONGEST_NAME = 32  # it becomes the name of a socket


def _words(value: object) -> object:
    """Flags may hold numbers: `["--max-num-seqs", 16]`."""
    if isinstance(value, list):
        return [str(word) if isinstance(word, int | float) and not isinstance(word, bool) else word for word in value]
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FleetModel(_Strict):
    """A model to serve. `gpus` counts all its GPUs, divided over `replicas`; 0 is the CPU."""

    model: str = Field(min_length=1)
    name: str = ""
    aliases: tuple[str, ...] = ()
    replicas: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0)
    args: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    env: dict[str, str] = {}


class FleetEngine(_Strict):
    """An engine that runs already. `aliases`: other name -> name that it serves."""

    url: str = Field(min_length=1)
    aliases: dict[str, str] = {}


class FleetFile(_Strict):
    """The whole file; see docs/fleet.md."""

    models: tuple[FleetModel, ...] = ()
    engines: tuple[FleetEngine, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model to find the files of, and the engines to build for it. `name` "" is: the model's own."""

    model: str
    name: str
    shapes: tuple[EngineShape, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start, what to reach, and aliases (other name -> served name) over all of it."""

    models: tuple[PlannedModel, ...]
    external: tuple[Address, ...]
    aliases: tuple[tuple[str, str], ...]


def plan(settings: Settings, gpus: Sequence[str], cores: Sequence[int]) -> Plan:
    """`gpus` and `cores` are the ids that may be used. Raises SettingError."""
    file = read(settings.fleet) if settings.fleet else FleetFile()
    wanted = [*_from_settings(settings), *file.models]
    _check_names(wanted)
    engines = [(m, shape) for m, shapes in _place(wanted, gpus, cores) for shape in shapes]
    models = tuple(
        PlannedModel(m.model, m.name, tuple(shape for owner, shape in engines if owner is m)) for m in wanted
    )
    try:
        external = tuple(dict.fromkeys((*settings.engine_urls, *(Address.parse(e.url) for e in file.engines))))
    except SettingError as error:
        raise SettingError(f"{settings.fleet}: {error}") from error
    aliases = dict(settings.aliases) | {a: real for e in file.engines for a, real in e.aliases.items()}
    return Plan(models, external, tuple(aliases.items()))


def _from_settings(settings: Settings) -> list[FleetModel]:
    if not settings.model_name:
        return []
    return [FleetModel(model=settings.model_name, replicas=settings.replicas, gpus=settings.gpu_count)]


def read(path: Path) -> FleetFile:
    """Parse the fleet file. A mistake is told with file, line, key and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return FleetFile.model_validate(yaml.safe_load(text) or {})
    except OSError as error:
        raise SettingError(f"the fleet file {path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SettingError(f"{path}, line {line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: not valid YAML: {error}") from error
    except ValidationError as error:
        lines = [_explain(path, node, e["loc"], e["type"], e["msg"]) for e in error.errors()]
        raise SettingError("\n".join(lines)) from error


def _explain(path: Path, root: Any, loc: tuple[int | str, ...], kind: str, message: str) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if kind == "extra_forbidden":
        owner = FleetFile if len(loc) == 1 else FleetModel if loc[0] == "models" else FleetEngine
        message = f"unknown key; known: {', '.join(owner.model_fields)}"
    return f"{path}, line {_line(root, loc)}: {key or 'the file'}: {message}"


def _line(node: Any, loc: Iterable[int | str]) -> int:
    """The line of the deepest node on the way to `loc`, counted from 1."""
    line = 0
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if part not in pairs:
                break
            key, node = pairs[part]
            line = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1


def _check_names(models: Sequence[FleetModel]) -> None:
    names = [name for m in models for name in (m.name or m.model, *m.aliases)]
    for name, count in Counter(names).items():
        if count > 1:
            raise SettingError(f"the name {name!r} is given to {count} models: give each its own `name` and `aliases`.")
    for m in models:
        if m.gpus % m.replicas:
            raise SettingError(f"{m.model}: {m.gpus} GPUs cannot be divided over {m.replicas} replicas.")
        flags.refuse(m.args, f"args of {m.model}")
        flags.refuse_variables(m.env, f"env of {m.model}")


def _place(
    models: Sequence[FleetModel], gpus: Sequence[str], cores: Sequence[int]
) -> list[tuple[FleetModel, list[EngineShape]]]:
    """Give each engine its own GPUs, in order; several CPU engines share out the cores."""
    _check_gpus(models, len(gpus))
    on_cpu = sum(m.replicas for m in models if not m.gpus)
    free_gpus, free_cpus = list(gpus), share(cores, on_cpu) if on_cpu > 1 else [""]
    taken: set[str] = set()
    placed = []
    aliases = _aliases(models)
    for i, m in enumerate(models):
        shapes = []
        for _ in range(m.replicas):
            count = m.gpus // m.replicas
            mine, free_gpus = tuple(free_gpus[:count]), free_gpus[count:]
            cpus = "" if m.gpus else free_cpus.pop(0)
            name = _engine_name(m, taken)
            shapes.append(EngineShape(name, aliases[i], mine, cpus, m.args, tuple(m.env.items())))
        placed.append((m, shapes))
    return placed


def _check_gpus(models: Sequence[FleetModel], usable: int) -> None:
    asked = sum(m.gpus for m in models)
    if asked > usable:
        terms = " + ".join(f"{m.gpus} for {m.name or m.model}" for m in models if m.gpus)
        raise SettingError(
            f"{asked} GPUs are asked for ({terms}), and {usable} can be used here. Lower GPU_COUNT, or `gpus` in the "
            "fleet file, set AICOCKPIT_ENGINE_URLS to engines elsewhere, or use the profile cpu."
        )


def _aliases(models: Sequence[FleetModel]) -> list[tuple[str, ...]]:
    """Each model's aliases, with the part of its name after the slash where no other model has that name."""
    short = [(m.name or m.model).rstrip("/").rpartition("/")[2] for m in models]
    counts = Counter([*short, *(alias for m in models for alias in m.aliases)])
    return [(*((base,) if counts[base] == 1 else ()), *m.aliases) for m, base in zip(models, short, strict=True)]


def share(cores: Sequence[int], parts: int) -> list[str]:
    """Cores for each of `parts` engines, as lists like `0,1`; engines share a core when there are too few."""
    if parts > len(cores):
        return [str(cores[i % len(cores)]) if cores else "" for i in range(parts)]
    bounds = [i * len(cores) // parts for i in range(parts + 1)]
    return [",".join(str(core) for core in cores[start:end]) for start, end in pairwise(bounds)]


def _engine_name(model: FleetModel, taken: set[str]) -> str:
    """A short name for logs and the socket: `smollm2-135m-instruct-0`."""
    last = (model.name or model.model).rstrip("/").rpartition("/")[2].lower()
    stem = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:_LONGEST_NAME] or "engine"
    number = 0
    while (name := f"{stem}-{number}") in taken:
        number += 1
    taken.add(name)
    return name
