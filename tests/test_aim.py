"""recipes/aim.py: AMD AIM profiles become recipes, and what cannot be kept is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.errors import SettingError
from aicockpit.hardware import cards
from aicockpit.hardware.shape import read
from aicockpit.recipes import aim, flags, load
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.select import Chosen, Refused, select

# The keys of AMD's own profiles, values of ours.
PROFILE: dict[str, Any] = {
    "aim_id": "Qwen/Qwen3-32B",
    "model_id": "Qwen/Qwen3-32B-FP8",
    "metadata": {
        "engine": "vllm",
        "gpu": "MI300X",
        "gpu_count": 1,
        "manual_selection_only": False,
        "metric": "latency",
        "precision": "fp8",
        "type": "optimized",
    },
    "engine_args": {
        "async-scheduling": None,
        "distributed_executor_backend": "mp",
        "enable-eplb": False,
        "gpu-memory-utilization": 0.9,
        "max-model-len": 32768,
        "max-seq-len-to-capture": 32768,
        "no-enable-prefix-caching": None,
        "swap-space": 64,
        "tensor-parallel-size": 1,
        "enable-prompt-tokens-details": True,
        "cudagraph_capture_sizes": [1, 2],
        "compilation-config": {"cudagraph_mode": "FULL"},
    },
    "env_vars": {"VLLM_ROCM_USE_AITER": "1", "VLLM_USE_V1": "0", "HIP_FORCE_DEV_KERNARG": True},
}


def written(folder: Path, tree: object, name: str = "vllm-mi300x-fp8-tp1-latency.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(tree))
    return path


def profile(**changes: object) -> dict[str, Any]:
    return {**PROFILE, **changes}


def test_a_profile_becomes_a_recipe(tmp_path: Path) -> None:
    found = aim.convert(written(tmp_path, PROFILE))
    recipe = found.loaded.recipe
    assert recipe.id == "qwen3-32b-fp8-vllm-mi300x-fp8-tp1-latency"
    assert recipe.model_id("default") == "Qwen/Qwen3-32B-FP8"
    variant = recipe.variants["default"]
    assert (variant.precision, variant.supported_hardware) == ("fp8", ("mi300x",))
    override = variant.hardware_overrides["mi300x"]
    assert flags.value(override.extra_args, "--gpu-memory-utilization") == "0.9"
    assert flags.value(override.extra_args, "--async-scheduling") == ""
    assert flags.value(override.extra_args, "--cudagraph-capture-sizes") == "1 2"
    assert json.loads(flags.value(override.extra_args, "--compilation-config") or "") == {"cudagraph_mode": "FULL"}
    assert override.extra_env == {"VLLM_ROCM_USE_AITER": "1", "HIP_FORCE_DEV_KERNARG": "true"}
    again = load.parse(found.text, Path("again.yaml"))
    assert again.recipe == recipe


@pytest.mark.parametrize(
    "told",
    [
        "--swap-space: vLLM has removed it: use --kv-offloading-size",
        "--max-seq-len-to-capture: vLLM has removed it",
        "--no-enable-prefix-caching: left out; a workspace is kept warm",
        "--tensor-parallel-size: left out; the layout is chosen for the machine (the profile: 1 of MI300X)",
        "engine_args.enable-eplb: false means that the flag is not given",
        "VLLM_USE_V1: vLLM does not read it",
        "metadata.gpu: the flags and variables apply to MI300X only",
        "metadata.metric: latency is kept as a note",
    ],
)
def test_what_is_not_kept_is_told(told: str, tmp_path: Path) -> None:
    sentences = aim.convert(written(tmp_path, PROFILE)).told
    assert [text for text in sentences if text.startswith(told)], sentences


def test_every_key_is_kept_or_told(tmp_path: Path) -> None:
    found = aim.convert(written(tmp_path, profile(comment="x", metadata={**PROFILE["metadata"], "owner": "y"})))
    text = found.text + "\n".join(found.told)
    for key in (*PROFILE["engine_args"], *PROFILE["env_vars"], "comment", "owner"):
        assert key.replace("_", "-") in text.replace("_", "-"), key


def test_it_is_chosen_on_its_own_hardware_only(tmp_path: Path) -> None:
    recipe = aim.convert(written(tmp_path, PROFILE)).loaded.recipe
    config = (
        next(one.recipe for one in load.shipped() if one.recipe.id == "qwen2.5-coder-32b").config("gptq_int8") or {}
    )
    wish = Wish("Qwen/Qwen3-32B-FP8")
    found = select(wish, [recipe], cards.parse("MI300X"), lambda _: read(config))
    assert isinstance(found, Chosen)
    assert flags.value(found.flags, "--max-model-len") in (None, "32768")
    assert dict(found.env)["VLLM_ROCM_USE_AITER"] == "1"
    other = select(wish, [recipe], cards.parse("H100"), lambda _: read(config))
    assert isinstance(other, Refused)
    assert "lists it for mi300x only" in other.reasons[1]


@pytest.mark.parametrize("change", [{"type": "unoptimized"}, {"type": "preview"}, {"manual_selection_only": True}])
def test_one_that_is_not_for_everyone_waits_to_be_asked_for(change: dict[str, object], tmp_path: Path) -> None:
    recipe = aim.convert(written(tmp_path, profile(metadata={**PROFILE["metadata"], **change}))).loaded.recipe
    assert recipe.checkpoint("default").manual


def test_the_container_s_dry_run_is_read_too(tmp_path: Path) -> None:
    inner = {key: PROFILE[key] for key in ("metadata", "engine_args", "env_vars")}
    tree = [
        {
            "filename": "x.yaml",
            "profile": {"model": "Qwen/Qwen3-32B", "quantized_model": "Qwen/Qwen3-32B-FP8", **inner},
            "models": [{"name": "Qwen/Qwen3-32B-FP8", "source": "hf://Qwen/Qwen3-32B-FP8", "size_gb": 33}],
        }
    ]
    found = aim.convert(written(tmp_path, tree))
    assert found.loaded.recipe.model.model_id == "Qwen/Qwen3-32B-FP8"
    assert any("33 GB, is rounded; it is not kept" in text for text in found.told)
    with pytest.raises(SettingError, match="holds 2 profiles"):
        aim.convert(written(tmp_path, tree * 2))


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"meta": {}}, "is no AIM profile"),
        ([], "is no AIM profile"),
        ({"metadata": {}, "engine_args": {}, "env_vars": {}}, "general AIM profile, for no model in particular"),
        (profile(engine_args={"made-up": 1}), "--made-up is not a flag of vLLM"),
    ],
)
def test_what_is_none_is_refused(tree: object, told: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=told):
        aim.convert(written(tmp_path, tree))
    with pytest.raises(SettingError, match="cannot be read"):
        aim.convert(tmp_path / "none.yaml")


def test_a_mixture_of_experts_keeps_its_layouts_open(tmp_path: Path) -> None:
    args = {**PROFILE["engine_args"], "enable-expert-parallel": None}
    recipe = aim.convert(written(tmp_path, profile(engine_args=args))).loaded.recipe
    assert "single_node_tep" in recipe.compatible_strategies


@settings(deadline=None)
@given(
    tree=st.dictionaries(
        st.sampled_from([*PROFILE, "profile", "models"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=6),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
            max_leaves=5,
        ),
    )
)
def test_no_profile_breaks_it(tree: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.getbasetemp(), tree, "fuzz.yaml")
    try:
        told = aim.convert(path).text
    except SettingError as error:
        told = str(error)
    assert told
