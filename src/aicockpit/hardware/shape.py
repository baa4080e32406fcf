"""What decides how much memory a model takes: its dimensions, read from `config.json` and the safetensors headers.

`models.remote` reads the same of a Hub id, `recipes` of the models that it ships; `fit` judges what comes out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aicockpit.hardware import shape_config, shape_quant, shape_weights
from aicockpit.hardware.shape_config import Config, ShapeUnknown
from aicockpit.hardware.shape_quant import Quant

__all__ = ["Mla", "ModelShape", "Quant", "ShapeUnknown", "State", "Tensor", "header", "local", "read"]

HEADER_LIMIT = 100_000_000  # safetensors' own limit of a header, in bytes
INDEX = "model.safetensors.index.json"
_MOST_LAYERS, _MOST_HEADS = 2048, 1 << 16
_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16"}
_UNGATED = {
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "gptj",
    "opt",
    "bloom",
    "falcon",
    "phi",
    "starcoder2",
    "nemotron",
    "mpt",
}
_POOLERS = ("Model", "ForSequenceClassification", "ForTokenClassification", "ForTextEmbedding", "ForMaskedLM")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors header. `dtype` as written there ("BF16"), `bytes` its size in the file."""

    dtype: str
    dims: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Mla:
    """Latent attention (DeepSeek): a token keeps `latent` + `rope` numbers a layer, whatever the number of heads."""

    latent: int
    rope: int
    nope: int
    value: int
    query: int  # rank of the query's projection, 0 when it has none


@dataclass(frozen=True, slots=True)
class State:
    """Linear attention (gated delta net): a request keeps a state of fixed size a layer. Counts, not bytes."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's dimensions. Counts are of the whole model; 0 where a model has no such thing.

    `layer_kinds` has one word a layer (see `shape_config.kinds`). `weights` are bytes as stored, exact from an index or
    headers, None when nothing told them. `tensors` are bytes of (embedding, head, experts, everything else), exact.
    """

    architecture: str
    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    experts: int
    experts_per_token: int
    moe_intermediate: int
    max_len: int | None
    dtype: str
    quant: Quant | None
    layer_kinds: tuple[str, ...]
    params: int | None = None
    weights: int | None = None
    moe_layers: int = 0
    shared_intermediate: int = 0
    gated: bool = True
    output_gate: bool = False
    window: int | None = None
    mla: Mla | None = None
    state: State | None = None
    pooling: bool = False
    vision_params: int = 0
    index_dim: int = 0  # sparse attention's index (DeepSeek V3.2)
    tensors: tuple[int, int, int, int] | None = None

    @property
    def precision(self) -> str:
        """bf16, fp16, fp8, int8, int4, mxfp4, nvfp4 ..."""
        return self.quant.precision if self.quant else _SHORT.get(self.dtype, "bf16")


def read(
    config: Mapping[str, Any], weights: int | None = None, tensors: Mapping[str, Tensor] | None = None
) -> ModelShape:
    """The shape of a `config.json`. `weights`: bytes of all tensors; `tensors`: all of them by name, when known.

    Raises ShapeUnknown, which names the key that is missing or not understood.
    """
    if not isinstance(config, Mapping) or not config:
        raise ShapeUnknown("config.json", "config.json is empty or not an object.")
    shape = _dimensions(Config(config))
    shape = replace(shape, params=shape_weights.count(shape).total, weights=weights)
    if tensors:
        sums = shape_weights.sort(tensors)
        shape = replace(shape, tensors=sums, weights=sum(sums))
    return shape


def _dimensions(c: Config) -> ModelShape:
    layers = c.needed("num_hidden_layers", "n_layer", "num_layers", "n_layers", most=_MOST_LAYERS)
    hidden = c.needed("hidden_size", "n_embd", "d_model", "dim", most=1 << 20)
    heads = c.needed("num_attention_heads", "n_head", "n_heads", most=_MOST_HEADS)
    kinds = shape_config.kinds(c, layers)
    experts = c.number("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts") or 0
    wide = _intermediate(c, hidden, experts)
    sparse = shape_config.sparse_layers(c, layers) if experts else 0
    model_type = c.word("model_type")
    return ModelShape(
        architecture=c.architecture,
        model_type=model_type,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_kv_heads(c, heads),
        head_dim=_head_dim(c, hidden, heads),
        intermediate=wide,
        vocab=c.needed("vocab_size", "padded_vocab_size", most=1 << 30),
        tied=_tied(c, model_type),
        experts=experts,
        experts_per_token=_per_token(c) if experts else 0,
        moe_intermediate=_expert_width(c, wide, model_type) if experts else 0,
        max_len=shape_config.max_length(c),
        dtype=c.dtype or "bfloat16",
        quant=shape_quant.read({**c.text, **c.whole}),
        layer_kinds=kinds,
        moe_layers=sparse,
        shared_intermediate=_shared_width(c) if experts else 0,
        gated=model_type not in _UNGATED,
        output_gate=c.flag("attn_output_gate") or model_type == "qwen3_next",
        window=c.number("sliding_window", "attention_chunk_size") if {"sliding", "chunked"} & {*kinds} else None,
        mla=_mla(c) if "mla" in kinds else None,
        state=_state(c) if "linear" in kinds else None,
        pooling=_pools(c.architecture, kinds),
        vision_params=_vision(c),
        index_dim=(c.number("index_head_dim") or 0) if c.number("index_topk") else 0,
    )


def _kv_heads(c: Config, heads: int) -> int:
    if c.flag("multi_query") and c.number("num_key_value_heads", "n_head_kv") is None:
        return 1
    names = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups")
    found = c.number(*names, "n_kv_heads") or heads
    if found > _MOST_HEADS:
        raise ShapeUnknown("num_key_value_heads", f"config.json says num_key_value_heads: {found}, which no model has.")
    return found


def _head_dim(c: Config, hidden: int, heads: int) -> int:
    size = c.number("head_dim", "hidden_size_per_head", "kv_channels") or hidden // heads
    if not 1 <= size <= 1 << 16:
        raise ShapeUnknown("head_dim", f"config.json gives a head_dim of {size} ({hidden} / {heads}).")
    return size


def _intermediate(c: Config, hidden: int, experts: int) -> int:
    found = c.number(
        "intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "n_inner", "hidden_dim", "ffn_dim"
    )
    if found is None and c.word("model_type") in ("gpt2", "gpt_bigcode", "gptj", "bloom", "falcon", "mpt"):
        return 4 * hidden
    if found is None and experts:
        return 0  # all layers hold experts
    if not found or found > 1 << 24:
        raise ShapeUnknown("intermediate_size", "config.json has no intermediate_size that a model can have.")
    return found


def _expert_width(c: Config, wide: int, model_type: str) -> int:
    found = c.number("moe_intermediate_size", "expert_intermediate_size", "ffn_dim", "moe_ffn_hidden_size")
    if model_type.startswith("llama4"):
        found = c.number("intermediate_size")
    if not (found or wide) or (found or wide) > 1 << 24:
        raise ShapeUnknown("moe_intermediate_size", "config.json does not tell the size of an expert.")
    return found or wide


def _shared_width(c: Config) -> int:
    if own := c.number("shared_expert_intermediate_size", "shared_intermediate_size"):
        return own
    return (c.number("n_shared_experts", "num_shared_experts") or 0) * (c.number("moe_intermediate_size") or 0)


def _per_token(c: Config) -> int:
    names = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k", "moe_k")
    return c.number(*names) or 0


def _tied(c: Config, model_type: str) -> bool:
    default = model_type in ("gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_bigcode", "starcoder2", "cohere")
    return c.flag("tie_word_embeddings", default)


def _mla(c: Config) -> Mla:
    return Mla(
        c.needed("kv_lora_rank", most=1 << 20),
        c.needed("qk_rope_head_dim", most=1 << 20),
        c.needed("qk_nope_head_dim", most=1 << 20),
        c.needed("v_head_dim", most=1 << 20),
        c.number("q_lora_rank") or 0,
    )


def _state(c: Config) -> State:
    return State(
        c.needed("linear_num_key_heads", most=_MOST_HEADS),
        c.needed("linear_num_value_heads", most=_MOST_HEADS),
        c.needed("linear_key_head_dim", most=1 << 16),
        c.needed("linear_value_head_dim", most=1 << 16),
        c.needed("linear_conv_kernel_dim", most=1 << 10),
    )


def _pools(architecture: str, kinds: tuple[str, ...]) -> bool:
    """Embedding, reranking, classifying: nothing is generated."""
    return "encoder" in kinds or architecture.endswith(_POOLERS)


def _vision(c: Config) -> int:
    """Parameters of a picture encoder, about: four projections of the width and two or three of the inner one."""
    part = c.whole.get("vision_config")
    if not isinstance(part, Mapping):
        return 0
    own = Config(part)
    try:
        depth = own.number("depth", "num_hidden_layers", "layers") or 0
        width = own.number("hidden_size", "width", "embed_dim") or 0
        inner = own.number("intermediate_size") or 4 * width
    except ShapeUnknown:
        return 0
    return min(depth, 1 << 10) * (4 * width * width + 3 * width * inner)


def local(folder: Path) -> ModelShape:
    """The shape of a model in a folder, its weights counted exactly from the safetensors headers.

    Raises ShapeUnknown when `config.json` cannot be read; weights that cannot be read are unknown, not an error.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ShapeUnknown("config.json", f"there is no {path}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ShapeUnknown("config.json", f"{path} cannot be read: {error}.") from error
    files = _files(folder)
    found: dict[str, Tensor] = {}
    try:
        for file in files:
            with file.open("rb") as stream:
                found |= header(stream.read(8), stream.read)
    except (OSError, ShapeUnknown):
        return read(config, _size(folder, files))
    return read(config, None, found) if found else read(config, _size(folder, files))


def _files(folder: Path) -> list[Path]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        files = sorted(folder.glob("*.safetensors"))
        return [file for file in files if not file.name.startswith("consolidated")] or files


def _size(folder: Path, files: list[Path]) -> int | None:
    """Bytes of the weight files, when their headers do not tell."""
    try:
        return sum(file.stat().st_size for file in files or sorted(folder.glob("*.bin"))) or None
    except OSError:
        return None


def header(start: bytes, more: Callable[[int], bytes]) -> dict[str, Tensor]:
    """The tensors of a safetensors file: its first 8 bytes, and what gives the next n bytes. Raises ShapeUnknown."""
    try:
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= HEADER_LIMIT:
            raise ValueError(f"a header of {length} bytes")
        return entries(json.loads(more(length)))
    except (struct.error, ValueError, TypeError, RecursionError) as error:
        raise ShapeUnknown("safetensors", f"a safetensors header cannot be read: {error}.") from error


def entries(told: Mapping[str, Any]) -> dict[str, Tensor]:
    """A header's JSON as tensors. Raises ValueError or TypeError for what is not one."""
    found = {}
    for name, entry in told.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if not 0 <= begin <= end:
            raise ValueError(f"{name} lies at {begin} to {end}")
        found[name] = Tensor(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), end - begin)
    return found
