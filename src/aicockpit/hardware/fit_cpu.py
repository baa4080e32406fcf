"""The KV cache of an engine on the CPU, and how far a prediction was off. Pure; exported by `fit`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from aicockpit.hardware import fit_beside, fit_kv, shape_weights
from aicockpit.hardware.device import GIB
from aicockpit.hardware.fit_types import Ask, Layout, Term, Verdict, gib
from aicockpit.hardware.shape import ModelShape

# vLLM 0.32 on the CPU takes about 2.1 GiB beside the KV cache with a model of 0.25 GiB (measured here: 2.4 GiB with
# 300 MB of cache, 2.5 with 500, 3.1 with 1 GiB).
PROCESS_GIB = 1.85
_BATCHED = 2048  # vLLM's default on the CPU
_TILES = "amx_tile"  # as the kernel calls it; x86 alone has it
_MARGIN = 0.95  # of the cache is what one longest request may take, as `recipes.command` passes it


def cpu(shape: ModelShape, kv_bytes: int, block: int, ask: Ask, features: Sequence[str] | None = None) -> Verdict:
    """What `--kv-cache-memory-bytes kv_bytes --block-size block` holds. `ask.max_model_len` None: the longest window
    that leaves 5 % of the cache. The budget is the memory that the engine will take in all. `features`: the CPU's, by
    the kernel's names; None makes no claim on what its kernels can do.
    """
    cache = fit_kv.cache(shape, ask.kv_dtype, 1, range(shape.layers), 2 * (ask.batched_tokens or _BATCHED), block)
    own = shape.max_len or _BATCHED
    longest = cache.longest(int(kv_bytes * _MARGIN), own)
    length = ask.max_model_len or max(block, longest if longest == own else longest // block * block)
    tokens = cache.tokens(kv_bytes, length)
    parts = shape_weights.parts(shape)
    terms = (
        Term("weights", parts.total, parts.how),
        Term("process", int(PROCESS_GIB * GIB), "measured: vLLM 0.32 and PyTorch, one engine"),
        *fit_beside.beside(shape, ask, Layout(1), shape.layers, (True, True)),
        Term("KV cache", kv_bytes, fit_kv.explain(shape, ask.kv_dtype, cache, 1)),
    )
    total = sum(term.bytes for term in terms)
    why = refused(shape, features) or _why(shape, cache, kv_bytes, length)
    concurrency = tokens / length
    return Verdict(
        not why,
        Layout(1),
        terms,
        tokens,
        length,
        concurrency,
        why or f"fits: {tokens:,} tokens of KV cache, {concurrency:.1f} requests at once at {length:,} tokens each",
        (*ask.uncounted, *(("--cpu-offload-gb has no effect on the CPU",) if ask.offload else ())),
        flags=("--kv-cache-memory-bytes", str(kv_bytes), "--block-size", str(block), "--max-model-len", str(length)),
        budget=Term("memory", total, "what the engine will take"),
    )


def refused(shape: ModelShape, features: Sequence[str] | None) -> str:
    """Why vLLM's CPU build has no kernel for these weights, or "". vLLM 0.32: kernels/linear/mixed_precision/cpu.py,
    kernels/linear/scaled_mm/cpu.py (blocks of FP8), layers/fused_moe/experts/cpu_moe.py (experts)."""
    quant = shape.quant
    if quant is None:
        return ""
    if quant.method in ("gptq", "awq") and quant.bits != 4:
        return f"the CPU build has kernels for {quant.method} weights of 4 bits, not of {quant.bits}"
    if features is None or _TILES in features:
        return ""
    if shape.experts and not (quant.precision == "int8" and "asimd" in features):
        what = f"experts in {quant.precision}"
    elif quant.precision == "fp8" and quant.block:
        what = f"FP8 in blocks of {quant.block[0]} x {quant.block[1]}"
    else:
        return ""
    return f"the CPU build's kernels for {what} need AMX ({_TILES} in /proc/cpuinfo), which this CPU does not have"


def cache(shape: ModelShape, length: int, block: int) -> int:
    """Bytes of KV cache of which one request of `length` tokens leaves 5 %."""
    made = fit_kv.cache(shape, "auto", 1, range(shape.layers), 2 * _BATCHED, block)
    return math.ceil(made.needed(length) / _MARGIN)


def _why(shape: ModelShape, cache: fit_kv.Cache, kv_bytes: int, length: int) -> str:
    if shape.max_len and length > shape.max_len:
        return f"a window of {length:,} tokens passes the model's own of {shape.max_len:,}"
    if cache.groups and cache.needed(length) > kv_bytes:
        return (
            f"one request of {length:,} tokens needs {gib(cache.needed(length))} of KV cache, and it has "
            f"{gib(kv_bytes)}: give --kv-cache-memory-bytes {cache.needed(length)} or more"
        )
    return ""


def error(predicted: float, reported: float) -> float:
    """How far off, as a share of what the engine reported: 0.02 is 2 % too much, -0.02 too little."""
    if reported <= 0:
        return 0.0 if predicted <= 0 else math.inf
    return predicted / reported - 1
