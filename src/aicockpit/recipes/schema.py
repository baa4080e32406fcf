"""A recipe: how one model is run, in the schema of vLLM's public recipes, with what they lack under `aicockpit`.

Pure values; `load.py` reads them from YAML, `select.py` chooses among them. docs/recipes.md explains every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from aicockpit import values
from aicockpit.types import KvTier

Role = Literal["completion", "chat", "embedding", "rerank", "vision"]
ROLES: tuple[Role, ...] = ("completion", "chat", "embedding", "rerank", "vision")
# From what loses least to what loses most; one that is not listed comes last.
PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "mxfp8", "int8", "mxfp4", "nvfp4", "fp4", "int4")
_TASKS: Mapping[str, tuple[Role, ...]] = {"text": ("chat",), "multimodal": ("vision", "chat"), "embedding": ()}
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED = "generic"  # the id of what a model without a recipe gets
# Strategies of the public recipes that one engine on one machine can follow: may it use data or expert parallelism?
STRATEGIES: Mapping[str, tuple[bool, bool]] = {
    "single_node_tp": (False, False),
    "single_node_tep": (False, True),
    "single_node_dep": (True, True),
}


def _words(value: object) -> object:
    """Flags may hold numbers: `[--max-num-seqs, 16]`."""
    if isinstance(value, list):
        return [str(word) if isinstance(word, int | float) and not isinstance(word, bool) else word for word in value]
    return value


def _texts(value: object) -> object:
    """Variables may hold numbers: `{VLLM_ROCM_USE_AITER: 1}`. None is an empty map."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {k: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for k, v in value.items()}
    return value


def _map(value: object) -> object:
    return {} if value is None else value


def _list(value: object) -> object:
    return [] if value is None else value


def _tier(value: object) -> KvTier:
    if not isinstance(value, str):
        raise ValueError("must be a text such as disk:100GiB, or none")
    return values.kv_tier(value)


def _or_none(value: object) -> object:
    """Public recipes of models without a window say 0."""
    return None if value == 0 else value


Words = Annotated[tuple[str, ...], BeforeValidator(_words), BeforeValidator(_list)]
Env = Annotated[dict[str, str], BeforeValidator(_texts)]
Tier = Annotated[KvTier, PlainValidator(_tier), WithJsonSchema({"type": "string"})]
Texts = Annotated[tuple[str, ...], BeforeValidator(_list)]


class _Public(BaseModel):
    """A part of the public schema: keys that we do not use are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class _Ours(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Meta(_Public):
    """Who and what. `hardware`: GPU id -> verified or unsupported; absent makes no claim."""

    title: str = ""
    slug: str
    provider: str = ""
    description: str = ""
    tasks: Texts = ()
    related_recipes: Texts = ()
    hardware: Annotated[dict[str, str], BeforeValidator(_map)] = {}


class Model(_Public):
    """The checkpoint of the `default` variant, and flags of all variants. `context_length`: its own window, tokens."""

    model_id: str = Field(min_length=1)
    min_vllm_version: str = ""
    architecture: Literal["dense", "moe"] = "dense"
    parameter_count: str = ""
    active_parameters: str = ""
    context_length: Annotated[int | None, BeforeValidator(_or_none)] = Field(default=None, ge=1)
    base_args: Words = ()
    base_env: Env = {}


class Mode(_Public):
    """One of several ways to give a feature; only the default one is used."""

    args: Words = ()
    variants: Texts = ()


class Feature(_Public):
    """Flags that belong together and can be left out, such as tool calling."""

    description: str = ""
    args: Words = ()
    modes: Annotated[dict[str, Mode], BeforeValidator(_map)] = {}
    default_mode: str = ""
    strategies: Texts = ()


class Override(_Public):
    """More flags and variables for a generation of hardware, or a strategy."""

    extra_args: Words = ()
    extra_env: Env = {}


class Strategy(Override):
    """A strategy's own flags. `tp`: GPUs to divide the layers over, one number or by hardware."""

    tp: int | dict[str, int] | None = None


class Variant(_Public):
    """One checkpoint of the model, at one precision. `model_id` "" is the model's own."""

    model_id: str = ""
    precision: str = "bf16"
    vram_minimum_gb: float | None = None
    description: str = ""
    extra_args: Words = ()
    extra_env: Env = {}
    tp: int | dict[str, int] | None = None
    min_vllm_version: str = ""
    supported_hardware: Texts = ()
    hardware_overrides: Annotated[dict[str, Override], BeforeValidator(_map)] = {}


class Yarn(_Ours):
    """How a window is stretched past the model's own: vLLM wants it spelled out, the base of RoPE included."""

    factor: float = Field(gt=1)
    original: int = Field(ge=1)
    theta: float = Field(gt=0)


class Window(_Ours):
    """Tokens. `working` is enough for the model's work, `floor` the least worth starting. None: what select.py says."""

    working: int | None = Field(default=None, ge=1)
    floor: int | None = Field(default=None, ge=1)
    yarn: Yarn | None = None


class Shape(_Ours):
    """Keys of the model's `config.json` that decide its memory, so that it can be judged without a network."""

    config: dict[str, Any]
    source: str
    verified: bool


class Checkpoint(_Ours):
    """What is known of one variant's files. `weights`: bytes of all tensors. `source`: `index`: the checkpoint's own
    index; `parameters`: its published count x bytes; `arithmetic`: from the shape; `card`: the author's rounded figure.
    `manual`: why it is taken only when asked for. `roles` when fewer than the recipe's."""

    weights: int | None = Field(default=None, ge=1)
    source: Literal["index", "parameters", "arithmetic", "card"] = "arithmetic"
    verified: bool = False
    quantization: dict[str, Any] = {}
    revision: str = ""
    manual: str = ""
    roles: tuple[Role, ...] = ()


class AiCockpit(_Ours):
    """What the public schema has no place for. `fim`: the form of fill-in-the-middle, "" when the model has none.
    `kv_tier`: for users who name none."""

    engine: str = "vllm"
    roles: tuple[Role, ...] = ()
    fim: str = ""
    licence: str = ""
    gated: bool = False
    kv_tier: Tier | None = None
    window: Window = Window()
    shape: Shape | None = None
    checkpoints: dict[str, Checkpoint] = {}
    notes: tuple[str, ...] = ()


class Recipe(_Public):
    """One file."""

    meta: Meta
    model: Model
    features: Annotated[dict[str, Feature], BeforeValidator(_map)] = {}
    opt_in_features: Texts = ()
    variants: dict[str, Variant]
    compatible_strategies: Texts = ("single_node_tp",)
    strategy_overrides: Annotated[dict[str, Strategy], BeforeValidator(_map)] = {}
    hardware_overrides: Annotated[dict[str, Override], BeforeValidator(_map)] = {}
    omni: dict[str, Any] | None = None
    aicockpit: AiCockpit = AiCockpit()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if not _SLUG.fullmatch(self.meta.slug):
            raise ValueError("meta.slug must be letters, digits, dots and dashes")
        if "default" not in self.variants:
            raise ValueError(f"variants has no `default`; it has: {', '.join(self.variants) or 'none'}")
        for name in self.opt_in_features:
            if name not in self.features:
                raise ValueError(f"opt_in_features names {name!r}; features has: {', '.join(self.features) or 'none'}")
        for name in self.aicockpit.checkpoints:
            if name not in self.variants:
                known = ", ".join(self.variants)
                raise ValueError(f"aicockpit.checkpoints names {name!r}, which is no variant; they are: {known}")
        return self

    @property
    def id(self) -> str:
        return self.meta.slug.lower()

    @property
    def roles(self) -> tuple[Role, ...]:
        """As told under `aicockpit`, else what the public `tasks` imply; rerankers call themselves embedding there."""
        told = self.aicockpit.roles or tuple(role for task in self.meta.tasks for role in _TASKS.get(task, ()))
        if told or "embedding" not in self.meta.tasks:
            return tuple(dict.fromkeys(told))
        return ("rerank",) if "rerank" in self.model.model_id.lower() else ("embedding",)

    def model_id(self, variant: str) -> str:
        return self.variants[variant].model_id or self.model.model_id

    def checkpoint(self, variant: str) -> Checkpoint:
        return self.aicockpit.checkpoints.get(variant) or Checkpoint()

    def config(self, variant: str) -> dict[str, Any] | None:
        """The `config.json` of a variant as far as it decides memory; None when the recipe does not tell."""
        if self.aicockpit.shape is None:
            return None
        quantization = self.checkpoint(variant).quantization
        return {**self.aicockpit.shape.config, **({"quantization_config": quantization} if quantization else {})}


def precision_rank(precision: str) -> int:
    """0 loses least."""
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)
