"""kvdisk/keys.py: what tells weights apart when names, sizes and times do not, and when the longest context counts."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.kvdisk.keys import adapter_stamp, length_counts, weights_stamp, written_since

SAMPLE = 1 << 16
LATE = time.time() + 3600


def put(path: Path, content: bytes | bytearray) -> str | None:
    """As an image of SOURCE_DATE_EPOCH leaves it: a new file of one time for all."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(path)
    os.utime(path, (1, 1))
    return weights_stamp(str(path.parent), None)


@pytest.mark.parametrize("size", [1, SAMPLE - 1, SAMPLE + 1, 3 * SAMPLE, 50 * SAMPLE])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_another_fine_tune_of_the_same_name_size_and_time_is_another_model(
    tmp_path: Path, size: int, place: float
) -> None:
    weights = tmp_path / "model.safetensors"
    one = bytearray(size)
    before = put(weights, one)
    assert put(weights, one) == before, "a copy of the same"
    one[int((size - 1) * place)] = 1
    assert put(weights, one) != before


def test_an_adapter_of_the_same_name_size_and_time_is_another(tmp_path: Path) -> None:
    stamps = set()
    for content in (b"one", b"two"):
        put(tmp_path / "adapter_model.safetensors", content)
        stamps.add(adapter_stamp(str(tmp_path), LATE))
    assert len(stamps) == 2


def test_the_models_own_code_counts_as_its_weights_do(tmp_path: Path) -> None:
    put(tmp_path / "model.safetensors", b"weights")
    started = time.time() + 0.001
    time.sleep(0.02)
    before = put(tmp_path / "modeling_mine.py", b"scale = 1")
    assert put(tmp_path / "modeling_mine.py", b"scale = 2") != before
    assert written_since(str(tmp_path), started), "the engine may have imported what stood there before"


def test_a_large_checkpoint_is_sampled_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = hashlib.sha256

    class Counting:
        def __init__(self, data: bytes = b"") -> None:
            self._digest = real(data)

        def update(self, data: bytes) -> None:
            read.append(len(data))
            self._digest.update(data)

        def hexdigest(self) -> str:
            return str(self._digest.hexdigest())

    for number in range(30):  # 141 GB of holes
        with (tmp_path / f"model-{number:05d}.safetensors").open("wb") as file:
            file.truncate(4_700_000_000)
    monkeypatch.setattr(hashlib, "sha256", Counting)
    stamp = weights_stamp(str(tmp_path), None)
    assert sum(read) == 30 * 5 * SAMPLE
    assert weights_stamp(str(tmp_path), None) == stamp
    assert sum(read) == 30 * 5 * SAMPLE, "what has not changed is not read again"


PLAIN: list[dict[str, Any]] = [
    {"model_type": "llama"},
    {"model_type": "llama", "rope_scaling": None, "rope_theta": 10000.0},
    {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
    {"rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_theta": 1e4}}},
    {"text_config": {"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}}},
    {"type": "something else", "auto_map": {}},
]
SCALED: list[Any] = [
    None,
    [],
    {},
    {"rope_scaling": {"type": "longrope"}},
    {"rope_scaling": {"rope_type": "su"}},
    {"rope_scaling": "dynamic"},
    {"text_config": {"rope_parameters": {"rope_type": "dynamic"}}},
    {"rope_parameters": {"full_attention": {"rope_type": "longrope"}, "sliding_attention": {"rope_type": "default"}}},
    {"rope_parameters": {"rope_type": "default", "one": {"rope_type": "longrope"}}},
    {"text_config": {"model_type": "llama4_text"}},
    {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"}},
]


@pytest.mark.parametrize("config", PLAIN)
def test_plain_positions_do_not_depend_on_the_longest_context(config: dict[str, Any]) -> None:
    assert not length_counts(config)


@pytest.mark.parametrize("config", SCALED)
def test_scaled_or_unknown_positions_may(config: Any) -> None:
    assert length_counts(config)


NAMES = st.sampled_from(["a", "rope_type", "type", "rope_scaling", "model_type"])
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@given(VALUES)
def test_a_long_rope_is_seen_wherever_it_stands(config: Any) -> None:
    assert length_counts({"somewhere": [config, {"rope_scaling": {"type": "longrope"}}]})
