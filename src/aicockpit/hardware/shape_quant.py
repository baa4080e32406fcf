"""How a checkpoint's weights are quantised, read from its `quantization_config`. Called by `shape`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ATTENTION_KEPT = re.compile(r"(self_attn|attention)(\.\*|\.\w+_proj)?\$?$")
_FP8 = {"fp8", "fbgemm_fp8", "deepseek_v4_fp8"}
_INT4 = {"gptq", "gptq_marlin", "awq", "awq_marlin", "auto_gptq", "auto_awq", "auto-round", "inc"}


@dataclass(frozen=True, slots=True)
class Quant:
    """`bits` of one weight of a linear layer; `group`: weights that share a scale, None when a whole channel does;
    `block`: rows and columns that share a scale (FP8)."""

    method: str  # as vLLM calls it: gptq, awq, fp8, compressed-tensors, mxfp4, modelopt, bitsandbytes, gguf ...
    bits: int
    group: int | None = None
    block: tuple[int, int] | None = None
    floating: bool = False  # fp8 and fp4, not int8 and int4
    zeros: bool = False  # a zero point beside each scale
    attention: bool = True  # False: the attention's projections keep 16 bits, as in gpt-oss
    kv: str = ""  # KV cache type that the checkpoint asks for: "fp8", "nvfp4"

    @property
    def precision(self) -> str:
        """ "int4", "int8", "fp8", "mxfp4", "nvfp4" ..."""
        if self.floating and self.bits == 4:
            return "mxfp4" if self.group == 32 else "nvfp4"
        return f"{'fp' if self.floating else 'int'}{self.bits}"

    @property
    def bytes_per_weight(self) -> float:
        """With its share of the scales: int4 in groups of 128 is 0.5 + 2/128 + 0.5/128 = 0.5195."""
        size = self.bits / 8
        if self.block:
            return size + 4 / (self.block[0] * self.block[1])
        if self.group:
            scale = 1 if self.floating else 2
            return size + scale / self.group + (size / self.group if self.zeros else 0)
        return size


def read(config: Mapping[str, Any]) -> Quant | None:
    """None when the weights are not quantised. An unknown method keeps its name and counts 16 bits a weight."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, Mapping) or not found:
        return None
    method = str(found.get("quant_method") or found.get("quant_algo") or "unknown").lower()
    kept = _kept(found)
    attention = not any(_ATTENTION_KEPT.search(name) for name in kept)
    kv = _kv(found)
    if method in _FP8 or method == "fp8":
        return Quant(method, 8, block=_block(found), floating=True, attention=attention, kv=kv)
    if method in _INT4:
        bits = _count(found.get("bits") or found.get("w_bit")) or 4
        group = _count(found.get("group_size") or found.get("q_group_size"))
        return Quant(method, bits, group, zeros=True, attention=attention, kv=kv)
    if method in ("mxfp4", "gpt_oss_mxfp4"):
        return Quant(method, 4, 32, floating=True, attention=attention, kv=kv)
    if method == "compressed-tensors":
        return _compressed(found, attention, kv)
    if method.startswith("modelopt") or method in ("fp8_pb_wo", "nvfp4"):
        return _modelopt(found, method, attention, kv)
    if method == "bitsandbytes":
        return Quant(method, 4 if found.get("load_in_4bit") else 8, attention=attention)
    if method == "gguf":
        return Quant(method, 4)
    bits = _count(found.get("bits")) or 16
    return Quant(method, bits if bits <= 16 else 16, attention=attention, kv=kv)


def _count(value: object) -> int | None:
    """A number of bits or weights; None for -1 (the whole channel) and for what is no number."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else None


def _block(found: Mapping[str, Any]) -> tuple[int, int] | None:
    sizes = found.get("weight_block_size")
    if isinstance(sizes, list | tuple) and len(sizes) == 2 and (both := [_count(size) for size in sizes]):
        rows, columns = both
        return (rows, columns) if rows and columns else None
    return None


def _kept(found: Mapping[str, Any]) -> list[str]:
    """Names of what is not quantised."""
    keys = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules")
    return [str(name) for key in keys if isinstance(found.get(key), list | tuple) for name in found[key]]


def _kv(found: Mapping[str, Any]) -> str:
    """vLLM takes it from the checkpoint when `--kv-cache-dtype` is auto (utils/torch_utils.py)."""
    inner = found.get("quantization")
    scopes = [inner, found] if isinstance(inner, Mapping) else [found]
    for scope in scopes:
        asked = scope.get("kv_cache_scheme") or scope.get("kv_cache_quant_algo")
        if isinstance(asked, Mapping):
            bits = asked.get("num_bits")
            return "fp8" if bits == 8 and asked.get("type") == "float" else "nvfp4" if bits == 4 else ""
        if isinstance(asked, str):
            return asked.lower() if asked.lower() in ("fp8", "nvfp4") else ""
    return ""


def _compressed(found: Mapping[str, Any], attention: bool, kv: str) -> Quant:
    """The first group of layers speaks for all: mixed ones are rare, and the exact bytes come from the tensors."""
    groups = found.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    scheme: Mapping[str, Any] = weights if isinstance(weights, Mapping) else {}
    bits = _count(scheme.get("num_bits")) or 8
    floating = scheme.get("type") == "float" or (not scheme and "float" in str(found.get("format")))
    block = _block({"weight_block_size": scheme.get("block_structure")})
    return Quant(
        "compressed-tensors",
        bits if bits <= 16 else 16,
        _count(scheme.get("group_size")),
        block,
        floating,
        zeros=scheme.get("symmetric") is False,
        attention=attention,
        kv=kv,
    )


def _modelopt(found: Mapping[str, Any], method: str, attention: bool, kv: str) -> Quant:
    inner = found.get("quantization")
    scope: Mapping[str, Any] = inner if isinstance(inner, Mapping) else found
    algorithm = str(scope.get("quant_algo") or method).lower()
    if "fp4" in algorithm:
        return Quant(method, 4, 32 if "mxfp4" in algorithm else 16, floating=True, attention=attention, kv=kv)
    return Quant(method, 8, floating=True, attention=attention, kv=kv)
