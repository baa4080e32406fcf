"""What of vLLM's configuration decides a block's bytes, and what of it the tier cannot serve; only the connector
imports this."""

from __future__ import annotations

import hashlib
import json
import platform
from typing import Any

import psutil
import torch
import vllm
from vllm.v1.kv_cache_interface import FullAttentionSpec

from .keys import Identity, length_counts, weights_stamp, written_since


def refusal(config: Any, cache: Any) -> str | None:
    """Why blocks of this engine are not kept; None: they are."""
    parallel = config.parallel_config
    algorithm = config.cache_config.prefix_caching_hash_algo
    if len(cache.kv_cache_groups) != 1 or not isinstance(cache.kv_cache_groups[0].kv_cache_spec, FullAttentionSpec):
        return "the model has more than one kind of attention"
    if parallel.pipeline_parallel_size != 1 or parallel.decode_context_parallel_size != 1:
        return "the model is split by layers or by context"
    if not str(algorithm).startswith("sha256"):
        return f"block names need --prefix-caching-hash-algo sha256, not {algorithm}"
    if weights_stamp(config.model_config.model, _commit(config.model_config)) is None:
        return "the model's files are not in a folder and their revision is not known"
    if str(config.load_config.load_format) == "dummy":
        return "--load-format dummy computes with random weights"
    # A worker is younger than its engine, and asked earlier: where a worker refuses, the engine does, too.
    if written_since(config.model_config.model, psutil.Process().create_time()):
        return "the model's files were written after the engine began to start; start it again"
    return None


def identity_of(config: Any, cache: Any) -> Identity:
    """The same on the scheduler's side and in every worker. Call it only when there is no `refusal`."""
    model, cached, group = config.model_config, config.cache_config, cache.kv_cache_groups[0]
    spec = group.kv_cache_spec
    commit = _commit(model)
    stamp = weights_stamp(model.model, commit)
    assert stamp is not None
    return Identity(
        model=model.model,
        revision=commit or model.revision,
        weights=stamp,
        load_format=str(config.load_config.load_format),
        settings=_settings(model),
        dtype=str(model.dtype),
        kv_dtype=str(cached.cache_dtype),
        quantization=model.quantization,
        block_tokens=cached.block_size,
        hash_algorithm=str(cached.prefix_caching_hash_algo),
        layers=tuple(
            (name, (spec.page_size_bytes, spec.num_kv_heads, spec.head_size), str(spec.dtype))
            for name in sorted(group.layer_names)
        ),
        backend=f"{cache.kv_cache_layout} {platform.machine()} {_processor()}",
        engine=vllm.__version__,
        ranks=config.parallel_config.tensor_parallel_size,
    )


def _commit(model: Any) -> str | None:
    found = getattr(model.hf_config, "_commit_hash", None)
    return str(found) if found else None


def _settings(model: Any) -> str:
    """The model's configuration after overrides. Scaled positions may depend on the context that was asked for."""
    config = model.hf_config.to_dict()
    plain = json.dumps(config, sort_keys=True, default=str)
    if length_counts(config):
        plain += f" {model.max_model_len}"
    return hashlib.sha256(plain.encode()).hexdigest()[:32]


def _processor() -> str:
    """vLLM's CPU attention packs keys by what the processor can do."""
    amx = torch.cpu._is_amx_tile_supported()
    return f"{torch.backends.cpu.get_cpu_capability()}{' AMX' if amx else ''}"
