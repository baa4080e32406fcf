"""A child of test_fit_vllm.py: vLLM's own division of a KV cache, for random models. Prints one JSON line for each.

Only what divides memory is asked; no engine is started and no weights exist.
"""

from __future__ import annotations

import json
import random
import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from aicockpit.hardware import fit_kv
from aicockpit.hardware.shape import read

torch = import_module("torch")
layouts = import_module("vllm.v1.attention.backends.utils")
kv_cache_utils = import_module("vllm.v1.core.kv_cache_utils")
specs_of = import_module("vllm.v1.kv_cache_interface")

BASE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 32000,
    "max_position_embeddings": 131072,
}
LINEAR = {
    "model_type": "qwen3_next",
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
MLA = {
    "model_type": "deepseek_v2",
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}


def config(rng: random.Random) -> dict[str, Any]:
    layers = rng.choice((12, 24, 25, 26, 36, 48))
    one = {
        **BASE,
        "num_hidden_layers": layers,
        "num_key_value_heads": rng.choice((1, 2, 4, 8)),
        "head_dim": rng.choice((64, 128, 256)),
    }
    every = rng.choice((0, 0, 1, 2, 6))
    window = {"sliding_window": rng.choice((128, 1024, 4096))}
    if every:
        types = ["full_attention" if every > 1 and (i + 1) % every == 0 else "sliding_attention" for i in range(layers)]
        return {**one, **window, "layer_types": types}
    return {**one, **rng.choice(({}, LINEAR, MLA))}


def theirs(shape: Any, made: fit_kv.Cache, pool: int, length: int, in_flight: int) -> tuple[int, int]:
    """Tokens that vLLM would report, and bytes that one request needs."""
    plain = {"block_size": made.block, "num_kv_heads": shape.kv_heads, "head_size": shape.head_dim}
    plain["dtype"] = torch.bfloat16
    page = made.block * 2 * shape.kv_heads * shape.head_dim * 2
    kinds = {
        "full": lambda: specs_of.FullAttentionSpec(**plain),
        "sliding": lambda: specs_of.SlidingWindowSpec(**plain, sliding_window=shape.window),
        "mla": lambda: specs_of.MLAAttentionSpec(**{**plain, "num_kv_heads": 1, "head_size": 512 + 64}),
        "linear": lambda: specs_of.MambaSpec(
            block_size=made.block,
            shapes=((3, 2 * 16 * 128 + 32 * 128), (32, 128, 128)),
            dtypes=(torch.bfloat16, torch.bfloat16),
            page_size_padded=page,
            mamba_cache_mode="align",
        ),
    }
    specs = {f"layer.{i}": kinds[kind]() for i, kind in enumerate(shape.layer_kinds)}
    layout = layouts._layout_from_name("LBNHC")
    asked = SimpleNamespace(
        model_config=SimpleNamespace(max_model_len=length),
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, tensor_parallel_size=1),
        max_in_flight_tokens=in_flight,
        attention_config=SimpleNamespace(hisparse_config=None),
        speculative_config=None,
        cache_config=SimpleNamespace(
            num_gpu_blocks_override=None,
            prefix_cache_retention_interval=None,
            mamba_cache_mode="align",
            get_resolved_kv_cache_layout=lambda: layout,
        ),
    )
    groups = kv_cache_utils.get_kv_cache_groups(asked, specs)
    found = kv_cache_utils.get_kv_cache_config_from_groups(asked, groups, pool)
    tokens, _ = kv_cache_utils.get_kv_cache_capacity(asked, found)
    return tokens, kv_cache_utils._max_memory_usage_bytes_from_groups(asked, groups)


def main(count: int) -> None:
    for name in ("_annotate_eagle_groups", "_warn_if_unannotated_eagle_mamba", "get_hisparse_kv_cache_groups"):
        setattr(kv_cache_utils, name, lambda *_, **__: None)  # drafts and host memory: nothing to do here
    setattr(kv_cache_utils, "_uses_trailing_mtp_layers", lambda *_: False)  # noqa: B010
    rng = random.Random(1)
    for _ in range(count):
        one = config(rng)
        shape = read(one)
        in_flight, length = rng.choice((2048, 4096, 16384)), rng.choice((4096, 5000, 32768, 131072))
        pool = rng.randrange(1 << 30, 40 << 30)
        made = fit_kv.cache(shape, "auto", 1, range(shape.layers), in_flight)
        tokens, needed = theirs(shape, made, pool, length, in_flight)
        row = {"ours": [made.tokens(pool, length), made.needed(length)], "vllm": [tokens, needed], "config": one}
        print(json.dumps(row))


if __name__ == "__main__":
    main(int(sys.argv[1]))
