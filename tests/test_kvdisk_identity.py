"""Which engines keep nothing: asked of vLLM's configuration as the connector does, in a process that imports vLLM."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ASK = """
import json, sys
from types import SimpleNamespace as Made
from vllm.config import LoadConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec
from aicockpit.kvdisk.identity import refusal
group = Made(kv_cache_spec=FullAttentionSpec.__new__(FullAttentionSpec), layer_names=[])
print("READY", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    config = Made(
        parallel_config=Made(pipeline_parallel_size=1, decode_context_parallel_size=1),
        cache_config=Made(prefix_caching_hash_algo="sha256"),
        model_config=Made(model=asked["model"], hf_config=Made(_commit_hash=asked.get("commit"))),
        load_config=LoadConfig(load_format=asked["format"]),
    )
    print(json.dumps(refusal(config, Made(kv_cache_groups=[group]))), flush=True)
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_weights_that_are_random_or_were_written_meanwhile_are_not_kept(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    time.sleep(1.5)  # a process's start is known to a second
    child = subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None

    def ask(model: str, format: str = "auto", commit: str | None = None) -> str | None:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"model": model, "format": format, "commit": commit}) + "\n")
        child.stdin.flush()
        found: str | None = json.loads(child.stdout.readline())
        return found

    while "READY" not in (line := child.stdout.readline()):
        assert line, "it ended"
    assert ask(str(old)) is None
    assert "random" in (ask(str(old), "DUMMY") or "")
    (new / "fresh").write_bytes(b"others")
    os.replace(new / "fresh", new / "model.safetensors")
    assert "start it again" in (ask(str(new)) or "")
    assert ask("someone/some-model", commit="abc") is None
    assert "not known" in (ask("someone/some-model") or "")
    child.stdin.close()
    assert child.wait(30) == 0
    child.stdout.close()


REAL = """
import json, os, sys
from dataclasses import asdict
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from aicockpit.kvdisk.identity import identity_of
def identity(more):
    args = {"model": sys.argv[1], "enforce_eager": True, "max_model_len": 256, **more}
    config = EngineArgs(**args).create_engine_config()
    model = config.model_config
    spec = FullAttentionSpec(
        config.cache_config.block_size,
        num_kv_heads=model.get_num_kv_heads(config.parallel_config),
        head_size=model.get_head_size(),
        dtype=kv_cache_dtype_str_to_dtype(config.cache_config.cache_dtype, model),
    )
    group = KVCacheGroupSpec(["model.layers.0.self_attn.attn", "model.layers.1.self_attn.attn"], spec)
    return asdict(identity_of(config, KVCacheConfig(1, [], [group], kv_cache_layout="LBHNC")))
print("READY", flush=True)
for line in sys.stdin:
    print(json.dumps({name: identity(more) for name, more in json.loads(line).items()}), flush=True)
"""
LLAMA = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 1024},
    **{"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "max_position_embeddings": 2048},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
}
LONG = {
    **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 1024},
    **{"short_factor": [1.0] * 32, "long_factor": [2.0] * 32},
}


@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_what_vllm_itself_makes_of_its_flags_tells_engines_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    os.utime(weights, (1, 1))
    linear = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    wide: dict[str, object] = {"max_model_len": 2048}
    wishes: dict[str, dict[str, object]] = {
        **{"plain": {}, "again": {"max_num_seqs": 8, "seed": 3}, "longer": wide},
        **{"fp8": {"kv_cache_dtype": "fp8"}, "float32": {"dtype": "float32"}, "two": {"tensor_parallel_size": 2}},
        **{"blocks": {"block_size": 32}, "hash": {"prefix_caching_hash_algo": "sha256_cbor"}},
        **{"rope": {"hf_overrides": {"rope_parameters": linear}}, "format": {"load_format": "safetensors"}},
        "long": {"hf_overrides": {"rope_parameters": LONG}},
        "long, longer": {"hf_overrides": {"rope_parameters": LONG}, **wide},
    }
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    child = subprocess.Popen(
        [sys.executable, "-c", REAL, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None

    def ask(**asked: dict[str, object]) -> dict[str, dict[str, object]]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(asked) + "\n")
        child.stdin.flush()
        while not (line := child.stdout.readline()).startswith("{"):
            assert line, "it ended"
        found: dict[str, dict[str, object]] = json.loads(line)
        return found

    found = ask(**wishes)
    plain = found["plain"]

    def other(name: str, than: str = "plain") -> set[str]:
        return {field for field, value in found[name].items() if value != found[than][field]}

    assert other("again") == other("longer") == set()
    assert other("fp8") == {"kv_dtype", "layers"}
    assert "dtype" in other("float32")
    assert other("two") == {"ranks", "layers"}
    assert other("blocks") == {"block_tokens", "layers"}
    assert other("hash") == {"hash_algorithm"}
    assert other("format") == {"load_format"}
    assert other("rope") == other("long") == other("long, longer", "long") == {"settings"}
    weights.write_bytes(b"WEIGHTS")  # another fine-tune out of an image that gives every file one time
    os.utime(weights, (1, 1))
    found |= ask(tuned={})
    assert other("tuned") == {"weights"}
    assert plain["backend"].startswith("LBHNC ")  # type: ignore[attr-defined]
    child.stdin.close()
    assert child.wait(30) == 0
    child.stdout.close()
