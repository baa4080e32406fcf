"""What is asked for: the models of the settings and of the optional fleet file, checked. Pure but for reading the file.

`serve` calls `ask`, has each model sized (`select.py`), and `arrange.py` makes a plan of both.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema

from aicockpit import values
from aicockpit.errors import SettingError
from aicockpit.recipes import flags
from aicockpit.recipes.where import dotted, line
from aicockpit.settings import Settings
from aicockpit.types import Address, KvTier


def _words(value: object) -> object:
    """Flags may hold numbers: `["--max-num-seqs", 16]`."""
    if isinstance(value, list):
        return [str(word) if isinstance(word, int | float) and not isinstance(word, bool) else word for word in value]
    return value


def _seconds(value: object) -> object:
    """`90`, `90s`, `10m`, `2h`."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value.strip())):
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    return value


def _bytes(value: object) -> object:
    """`12GiB`, `500M`, or bytes."""
    if isinstance(value, str):
        return values.size(value)
    return value


def _gpus(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(one, int | str) for one in value):
        return tuple(str(one) for one in value)
    raise ValueError("must be a number of 0 or more, a list of ids or UUIDs, or `auto`")


def _tier(value: object) -> KvTier:
    if isinstance(value, KvTier):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a text such as disk:100GiB, or none")
    return values.kv_tier(value)


_TIER: dict[str, Any] = {
    "type": "string",
    "pattern": r"^(none|lmcache|cpu:\d+ ?([kmgtKMGT][iI]?)?[bB]?|disk:\d+ ?([kmgtKMGT][iI]?)?[bB]?(:.+)?)$",
    "examples": ["none", "cpu:16GiB", "disk:100GiB", "disk:1TiB:/data/kv", "lmcache"],
}
_GPUS: dict[str, Any] = {
    "anyOf": [
        {"const": "auto"},
        {"type": "integer", "minimum": 0},
        {"type": "array", "items": {"type": ["integer", "string"]}, "minItems": 1},
    ]
}
Gpus = Annotated[int | Literal["auto"] | tuple[str, ...], PlainValidator(_gpus), WithJsonSchema(_GPUS)]
Tier = Annotated[KvTier, PlainValidator(_tier), WithJsonSchema(_TIER)]
Role = Literal["completion", "chat", "embedding", "rerank", "vision"]
ROLES_WITHOUT_KV = ("embedding", "rerank")
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, json_schema_extra={"type": ["number", "string"]})]
Size = Annotated[int, BeforeValidator(_bytes), Field(gt=0, json_schema_extra={"type": ["integer", "string"]})]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FleetModel(_Strict):
    """A model to serve. `gpus`: how many all its replicas have together, which ones, or `auto`; 0 is the CPU."""

    model: str = Field(
        min_length=1, description="A local folder or a Hugging Face id, `owner/name@revision` to pin it."
    )
    name: str = Field(default="", description="What clients write as `model`; default: the id, or the folder's name.")
    aliases: tuple[str, ...] = Field(default=(), description="More names.")
    role: Role | None = Field(default=None, description="What it is for; default: what its recipe says.")
    replicas: int = Field(default=1, ge=1, description="Engines of this model.")
    gpus: Gpus = Field(
        default="auto", description="GPUs of all its replicas: a number, their ids or UUIDs, or `auto`; 0 is the CPU."
    )
    memory: Size | None = Field(default=None, description="Memory on each of its GPUs, or on the host: `12GiB`.")
    context: int | None = Field(default=None, ge=1, description="Tokens of context (`--max-model-len`).")
    precision: str = Field(default="", description="Which variant: bf16, fp8, int8, int4.")
    pin: bool | None = Field(default=None, description="Never makes way; default: true, unless it has a `ttl`.")
    ttl: Seconds | None = Field(default=None, description="Goes after so long without a request: 600, `10m`.")
    sleep: bool = Field(default=False, description="Makes way by vLLM's sleep mode (GPUs) instead of ending.")
    lora: dict[str, str] | None = Field(default=None, description="Adapters: name -> folder; `{}` allows them later.")
    kv_tier: Tier | None = Field(
        default=None,
        description="Where KV goes that leaves the engine's cache (docs/kv-tiers.md); default: AICOCKPIT_KV_TIER.",
    )
    args: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(default=(), description="More vLLM flags.")
    env: dict[str, str] = Field(default={}, description="Environment variables of its engines.")

    @property
    def pinned(self) -> bool:
        return self.ttl is None if self.pin is None else self.pin

    @property
    def served(self) -> str:
        return self.name or self.model


class FleetEngine(_Strict):
    """An engine that runs already. `aliases`: other name -> name that it serves."""

    url: str = Field(min_length=1, description="`http://host:port`, `https://:KEY@host`, `unix:/path/engine.sock`.")
    aliases: dict[str, str] = Field(default={}, description="Other name -> a name that the engine serves.")


class FleetFile(_Strict):
    """The whole file; see docs/fleet.md."""

    models: tuple[FleetModel, ...] = Field(default=(), description="Engines that AiCockpit starts.")
    engines: tuple[FleetEngine, ...] = Field(default=(), description="Engines that run already.")
    memory: Size | None = Field(default=None, description="Memory of the host for engines on the CPU and KV tiers.")


@dataclass(frozen=True, slots=True)
class Asked:
    """What settings and file ask for together. `aliases`: other name -> served name; `memory`: bytes of the host;
    `kv_tier`: for models that do not name one."""

    models: tuple[FleetModel, ...] = ()
    external: tuple[Address, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    memory: int | None = None
    kv_tier: KvTier | None = None


def ask(settings: Settings) -> Asked:
    """Read the fleet file, if there is one. Raises SettingError."""
    file = read(settings.fleet) if settings.fleet else FleetFile()
    wanted = (*_from_settings(settings), *file.models)
    _check(wanted, flags.reader(settings))
    try:
        external = tuple(dict.fromkeys((*settings.engine_urls, *(Address.parse(e.url) for e in file.engines))))
    except SettingError as error:
        raise SettingError(f"{settings.fleet}: {error}") from error
    aliases = dict(settings.aliases) | {a: real for e in file.engines for a, real in e.aliases.items()}
    return Asked(wanted, external, tuple(aliases.items()), file.memory, settings.kv_tier)


def _from_settings(settings: Settings) -> tuple[FleetModel, ...]:
    if not settings.model_name:
        return ()
    gpus: int | Literal["auto"] = "auto" if settings.gpu_count is None else settings.gpu_count
    precision = "" if settings.prec == "auto" else settings.prec
    return (FleetModel(model=settings.model_name, replicas=settings.replicas, gpus=gpus, precision=precision),)


def read(path: Path) -> FleetFile:
    """Parse the fleet file. A mistake is told with file, line, key and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return FleetFile.model_validate(yaml.safe_load(text) or {})
    except OSError as error:
        raise SettingError(f"the fleet file {path} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SettingError(f"{path}, line {at}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"{path}: not valid YAML: {error}") from error
    except ValidationError as error:
        lines = [_explain(path, node, e["loc"], e["type"], e["msg"]) for e in error.errors()]
        raise SettingError("\n".join(lines)) from error


def _explain(path: Path, root: Any, loc: tuple[int | str, ...], kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        owner = FleetFile if len(loc) == 1 else FleetModel if loc[0] == "models" else FleetEngine
        message = f"unknown key; known: {', '.join(owner.model_fields)}"
    return f"{path}, line {line(root, loc)}: {dotted(loc) or 'the file'}: {message}"


def _check(models: Sequence[FleetModel], reader: str | None) -> None:
    names = [name for m in models for name in (m.served, *m.aliases, *(m.lora or ()))]
    for name, count in Counter(names).items():
        if count > 1:
            raise SettingError(f"the name {name!r} is given {count} times: give each model, alias and adapter its own.")
    for m in models:
        gpus = len(m.gpus) if isinstance(m.gpus, tuple) else m.gpus
        if gpus != "auto" and gpus % m.replicas:
            raise SettingError(f"{m.model}: {gpus} GPUs cannot be divided over {m.replicas} replicas.")
        if m.sleep and (m.pinned or gpus == 0):
            why = "it is pinned: give it a `ttl`, or `pin: false`" if m.pinned else "engines on the CPU cannot sleep"
            raise SettingError(f"{m.model}: `sleep` has no meaning, since {why}.")
        if m.ttl is not None and m.pinned:
            raise SettingError(f"{m.model}: `ttl` has no meaning, since it is pinned: leave out one of the two.")
        if m.kv_tier and m.kv_tier.kind != "none" and m.role in ROLES_WITHOUT_KV:
            raise SettingError(f"{m.model}: `kv_tier` has no meaning for {m.role}: nothing is kept between requests.")
        flags.refuse(m.args, f"args of {m.model}", reader)
        flags.refuse_variables(m.env, f"env of {m.model}")


def schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors; shipped as deploy/aicockpit.schema.json."""
    made = FleetFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "AiCockpit fleet file"}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
