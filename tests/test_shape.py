"""A model's dimensions from `config.json` and safetensors headers, as its authors write them and as nobody should."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shapes
from aicockpit.hardware import shape, shape_weights
from aicockpit.hardware.shape import ModelShape, Quant, ShapeUnknown, Tensor, read

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def safetensors(path: Path, tensors: Tensors) -> None:
    """A real file, its weights zero."""
    sizes, header, at = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4, "F8_E4M3": 1}, {}, 0
    for name, (dtype, dims) in tensors.items():
        size = sizes[dtype]
        for length in dims:
            size *= length
        header[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def folder(tmp_path: Path, config: dict[str, Any], **files: Tensors) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, tensors in files.items():
        safetensors(tmp_path / f"{name}.safetensors", tensors)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen_32b", 32.8),  # as the authors publish them
        ("prod480", 480.2),
        ("smollm2", 0.1345),
        ("llama_8b", 8.03),
        ("deepseek_lite", 15.7),
        ("gpt_oss_20b", 20.9),
        ("qwen3_next", 79.7),
        ("qwen_vl", 8.29),
        ("bert", 0.1095),
        ("gemma3", 1.0),
    ],
)
def test_the_parameter_count_is_the_published_one(name: str, billions: float) -> None:
    found = read(shapes.ALL[name]).params
    assert found is not None
    assert found / 1e9 == pytest.approx(billions, rel=0.015)


def test_the_weights_of_the_two_presets() -> None:
    dev, prod = (shape_weights.parts(read(config)) for config in (shapes.DEV32, shapes.PROD480))
    assert dev.total / 1e9 == pytest.approx(19.3, abs=0.05)
    assert dev.how == "31.2 B x 0.5195 + 1.56 B x 2 = 19.3 GB"
    assert prod.total / 1e9 == pytest.approx(482, abs=0.5)
    assert prod.experts / (1 << 30) == pytest.approx(436.1, abs=0.2)


def test_a_checkpoint_s_own_bytes_count_and_the_sum_stands_beside_them_when_it_agrees() -> None:
    parts = shape_weights.parts(read(shapes.DEV32, weights=19_343_747_072))
    assert parts.total == 19_343_747_072
    assert parts.how == "19.3 GB in the checkpoint (31.2 B x 0.5195 + 1.56 B x 2)"
    assert shape_weights.parts(read(shapes.DEV32, weights=25_000_000_000)).how == "25.0 GB in the checkpoint"


@pytest.mark.parametrize(
    ("quantised", "precision", "size"),
    [
        (None, "bf16", 2.0),
        (shapes.GPTQ, "int4", 0.5 + 2 / 128 + 0.5 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8", 1 + 2 / 128 + 1 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", 0.5 + 2 / 64 + 0.5 / 64),
        (shapes.FP8, "fp8", 1 + 4 / 16384),
        ({"quant_method": "fp8"}, "fp8", 1.0),
        ({"quant_method": "mxfp4"}, "mxfp4", 0.5 + 1 / 32),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 0.5 + 1 / 16),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, "fp8", 1.0),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
            },
            "int4",
            0.5 + 2 / 128,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
            1.0,
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 0.5),
    ],
)
def test_the_quantisation_is_read_from_the_checkpoint(
    quantised: dict[str, Any] | None, precision: str, size: float
) -> None:
    found = read({**shapes.QWEN_32B, "quantization_config": quantised})
    assert found.precision == precision
    assert (found.quant.bytes_per_weight if found.quant else 2.0) == pytest.approx(size)


def test_attention_that_keeps_its_bits_and_norms_that_are_called_attention() -> None:
    gpt, prod = read(shapes.GPT_OSS_20B).quant, read(shapes.PROD480).quant
    assert gpt is not None
    assert prod is not None
    assert not gpt.attention
    assert prod.attention  # only `post_attention_layernorm` is left out


def test_a_kv_cache_type_in_the_checkpoint() -> None:
    scheme = {"num_bits": 8, "type": "float"}
    quantised = {"quant_method": "compressed-tensors", "kv_cache_scheme": scheme, "config_groups": {}}
    found = read({**shapes.LLAMA_8B, "quantization_config": quantised}).quant
    assert found is not None
    assert found.kv == "fp8"


@pytest.mark.parametrize(
    ("name", "kinds", "window"),
    [
        ("dev32", {"full": 64}, None),  # a window is given, and switched off
        ("gpt_oss_20b", {"sliding": 12, "full": 12}, 128),
        ("qwen3_next", {"linear": 36, "full": 12}, None),
        ("deepseek_lite", {"mla": 27}, None),
        ("gemma3", {"sliding": 22, "full": 4}, 512),
        ("bert", {"encoder": 12}, None),
    ],
)
def test_what_each_layer_keeps(name: str, kinds: dict[str, int], window: int | None) -> None:
    found = read(shapes.ALL[name])
    assert {kind: found.layer_kinds.count(kind) for kind in set(found.layer_kinds)} == kinds
    assert found.window == window


def test_windows_that_every_layer_has_and_shared_layers() -> None:
    mistral = read({**shapes.LLAMA_8B, "sliding_window": 4096})
    assert set(mistral.layer_kinds) == {"sliding"}
    late = read({**shapes.QWEN_32B, "use_sliding_window": True, "max_window_layers": 60})
    assert late.layer_kinds.count("sliding") == 4
    shared = read({**shapes.LLAMA_8B, "num_kv_shared_layers": 10})
    assert shared.layer_kinds.count("shared") == 10


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (shapes.LLAMA_8B, 131072),
        (shapes.DEEPSEEK_LITE, 163840),
        ({**shapes.SMOLLM2, "rope_scaling": {"type": "linear", "factor": 4.0}}, 32768),
        ({**shapes.SMOLLM2, "rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({key: value for key, value in shapes.SMOLLM2.items() if key != "max_position_embeddings"}, None),
    ],
)
def test_the_window_is_the_one_that_vllm_derives(config: dict[str, Any], length: int | None) -> None:
    assert read(config).max_len == length


def test_the_language_model_inside_a_model_that_sees() -> None:
    found = read(shapes.QWEN_VL)
    assert (found.layers, found.kv_heads, found.max_len, found.dtype) == (28, 4, 128000, "bfloat16")
    assert found.vision_params > 5e8
    assert found.architecture == "Qwen2_5_VLForConditionalGeneration"


def test_embedding_models_generate_nothing_and_tied_ones_have_one_embedding() -> None:
    embedder = read({**shapes.SMOLLM2, "architectures": ["Qwen3ForTextEmbedding"]})
    assert embedder.pooling
    assert shape_weights.count(embedder).head == 0
    loose = read({**shapes.SMOLLM2, "tie_word_embeddings": False}).params
    tied = read(shapes.SMOLLM2).params
    assert loose is not None
    assert tied is not None
    assert loose - tied == 49152 * 576


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": "5120"}, "hidden_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"num_key_value_heads": [8, 4]}, "num_key_value_heads"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"layer_types": ["mamba"] * 64}, "layer_types"),
        ({"compress_ratios": [4]}, "compress_ratios"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"head_dim": 1 << 30}, "head_dim"),
    ],
)
def test_what_is_missing_or_not_understood_is_named(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ShapeUnknown, match=key) as caught:
        read({**shapes.QWEN_32B, **change})
    assert caught.value.key == key


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({key for config in shapes.ALL.values() for key in config} | {"layer_types", "sliding_window", "n_embd"})


@given(
    base=st.sampled_from(sorted(shapes.ALL)),
    changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4),
    inner=st.dictionaries(st.sampled_from(("quant_method", "bits", "config_groups", "ignore", "depth")), JSON),
)
def test_no_config_crashes_the_reading(base: str, changes: dict[str, Any], inner: dict[str, Any]) -> None:
    config = {**shapes.ALL[base], **changes, "vision_config": inner}
    if "quantization_config" not in changes:
        config["quantization_config"] = inner
    try:
        found = read(config)
    except ShapeUnknown:
        return
    assert len(found.layer_kinds) == found.layers
    assert shape_weights.parts(found).total > 0


TINY = {
    "model.embed_tokens.weight": ("BF16", (64, 16)),
    "lm_head.weight": ("BF16", (64, 16)),
    "model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", (8, 16)),
    "model.layers.0.self_attn.q_proj.weight": ("BF16", (16, 16)),
}
TINY_CONFIG = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "intermediate_size": 8,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}


def test_a_folder_s_tensors_are_sorted_and_summed_from_their_headers(tmp_path: Path) -> None:
    found = shape.local(folder(tmp_path, TINY_CONFIG, model=TINY))
    assert found.tensors == (2048, 2048, 256, 512)
    assert found.weights == 4864
    parts = shape_weights.parts(found)
    assert (parts.embedding, parts.head, parts.experts, parts.rest) == (2048, 2048, 256, 512)


def test_shards_are_read_as_the_index_names_them(tmp_path: Path) -> None:
    names = list(TINY)
    place = folder(
        tmp_path, TINY_CONFIG, one={names[0]: TINY[names[0]]}, two={name: TINY[name] for name in names[1:]}, other=TINY
    )
    index = {"metadata": {}, "weight_map": {names[0]: "one.safetensors", names[1]: "two.safetensors"}}
    (place / shape.INDEX).write_text(json.dumps(index))
    assert shape.local(place).weights == 4864


def test_weights_of_32_bits_are_loaded_in_16(tmp_path: Path) -> None:
    wide = {name: ("F32", dims) for name, (_, dims) in TINY.items()}
    found = shape.local(folder(tmp_path, {**TINY_CONFIG, "torch_dtype": "float32"}, model=wide))
    assert found.weights == 9728
    assert shape_weights.parts(found).total == 4864
    assert "loaded in 16 bits" in shape_weights.parts(found).how


def test_broken_weights_leave_the_files_sizes_and_a_broken_config_is_told(tmp_path: Path) -> None:
    place = folder(tmp_path, TINY_CONFIG)
    assert shape.local(place).weights is None
    (place / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    assert shape.local(place).weights == 10
    (place / "config.json").write_text("{")
    with pytest.raises(ShapeUnknown, match="cannot be read"):
        shape.local(place)
    with pytest.raises(ShapeUnknown, match="there is no"):
        shape.local(tmp_path / "nowhere")


@given(st.binary(min_size=0, max_size=64))
def test_no_bytes_crash_the_header(content: bytes) -> None:
    rest = iter([content[8:]])
    try:
        found = shape.header(content[:8], lambda _: next(rest))
    except ShapeUnknown:
        return
    assert isinstance(found, dict)


def test_the_words_of_the_contract() -> None:
    found = read(shapes.DEV32, None, {"lm_head.weight": Tensor("F16", (1, 2), 4)})
    assert isinstance(found, ModelShape)
    assert isinstance(found.quant, Quant)
    assert (found.tied, found.experts, found.dtype, found.weights) == (False, 0, "float16", 4)
