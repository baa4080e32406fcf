"""hardware/fit_advice.py, recipes/advise.py: what a refusal says would do is true; and what the CPU's kernels can."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aicockpit import settings
from aicockpit.errors import SettingError
from aicockpit.hardware import cards, fit
from aicockpit.hardware.device import GIB
from aicockpit.hardware.fit import Ask
from aicockpit.hardware.shape import ModelShape, read
from aicockpit.recipes import fleet, spot
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.load import library
from aicockpit.recipes.select import Chosen, Refused, select
from aicockpit.sizing import Sizer

RECIPES = library().recipes
BY_ID = {one.id: one for one in RECIPES}
OLD = ("avx2", "avx512f")
AMX = (*OLD, "amx_tile", "amx_int8")
ARM = ("asimd", "i8mm")


def dimensions(recipe: str, variant: str = "default") -> ModelShape:
    found = spot.recipe_shape(BY_ID[recipe], variant)
    assert found is not None
    return found


def outcome(wish: Wish, machine: str = "") -> Chosen | Refused:
    return select(wish, RECIPES, cards.parse(machine) if machine else (), lambda _: None)


def advice(wish: Wish, machine: str) -> str:
    found = outcome(wish, machine)
    assert isinstance(found, Refused)
    return " ".join(found.advice)


@pytest.mark.parametrize(("model", "card"), [("qwen2.5-coder-7b", "V100-32GB"), ("gpt-oss-20b", "T4")])
def test_no_smaller_model_helps_where_the_kernels_refuse(model: str, card: str) -> None:
    told = advice(Wish(model), card)
    assert "smaller model" not in told
    assert "Machines that hold it, smallest first" in told


def test_a_smaller_model_is_smaller() -> None:
    """Of every recipe on every card, at three windows."""
    seen = 0
    for recipe in RECIPES:
        shape = dimensions(recipe.id)
        for card in ("L4", "RTX4090", "A6000", "V100-32GB", "T4", "H100"):
            for length in (8192, 65_536, 131_072):
                told = " ".join(fit.advice(shape, cards.parse(card), Ask(length)))
                sizes = re.search(r"weights of up to ([\d.]+) GiB .* \(these are ([\d.]+) GiB\)", told)
                if sizes:
                    seen += 1
                    assert float(sizes[1]) <= float(sizes[2]), told
    assert seen > 20


def test_a_window_by_yarn_is_what_the_advice_counts_with() -> None:
    told = advice(Wish("qwen2.5-coder-32b", max_model_len=131_072), "A6000")
    assert "A window of 94,208 tokens fits" in told
    assert "2 x NVIDIA RTX A6000" in told
    assert "Machines that hold it" in told
    assert isinstance(outcome(Wish("qwen2.5-coder-32b", max_model_len=94_208), "A6000"), Chosen)
    assert isinstance(outcome(Wish("qwen2.5-coder-32b", max_model_len=131_072), "A100-80GB"), Chosen)
    assert isinstance(outcome(Wish("qwen2.5-coder-32b", max_model_len=131_072), "H100"), Chosen)


def test_a_window_that_no_machine_holds_is_told_as_such() -> None:
    told = advice(Wish("qwen2.5-coder-0.5b", max_model_len=65_536), "A6000")
    assert "No machine holds 65,536 tokens: the model's own window is 32,768." in told
    assert "A window of 32,768 tokens fits" in told
    for untrue in ("smaller model", "Machines that hold it", "known cards"):
        assert untrue not in told


def test_where_nothing_known_holds_it_the_window_is_named() -> None:
    told = " ".join(fit.advice(dimensions("qwen3-coder-480b-a35b"), cards.parse("L4"), Ask(262_144)))
    assert "Machines that hold it" in told
    vast = read({**(BY_ID["qwen3-coder-480b-a35b"].config("default") or {}), "num_hidden_layers": 500})
    assert "No machine of up to 8 known cards holds it with 262,144 tokens." in fit.advice(
        vast, cards.parse("L4"), Ask(262_144)
    )


def test_a_window_too_short_for_the_work_names_the_checkpoint_that_reaches_it() -> None:
    found = outcome(Wish("meta-llama/Llama-3.1-8B-Instruct"), "L4")
    assert isinstance(found, Chosen)
    (said,) = [text for text in found.reasons if "shorter than the 32,768 tokens" in text]
    assert "RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic (fp8) holds 32,768 tokens on 1 x NVIDIA L4" in said
    by_name = outcome(Wish("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic"), "L4")
    assert isinstance(by_name, Chosen)
    assert by_name.verdict.max_model_len == 32_768
    enough = outcome(Wish("meta-llama/Llama-3.1-8B-Instruct"), "A6000")
    assert not any("shorter than the" in text for text in enough.reasons)


def test_names_keep_their_letters() -> None:
    for name, starts in (
        ("mistralai/Codestral-22B-v0.1", "mistralai/Codestral"),
        ("gpt-oss-20b", "openai/gpt"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama"),
    ):
        found = outcome(Wish(name), "H100")
        assert found.reasons[0].startswith(starts)
        assert not any(re.match(r"(Mistralai|Meta-llama|Openai|VLLM)\b", text) for text in found.reasons)
        assert any(text.startswith("A prediction") for text in found.reasons)


CPU_CASES = [
    ("gpt-oss-20b", "default", OLD, "experts in mxfp4 need AMX"),
    ("gpt-oss-20b", "default", AMX, ""),
    ("gpt-oss-20b", "default", ARM, "experts in mxfp4 need AMX"),
    ("gpt-oss-20b", "default", None, ""),
    ("qwen3-coder-30b-a3b", "fp8", OLD, "experts in fp8 need AMX"),
    ("qwen3-coder-30b-a3b", "default", OLD, ""),
    ("qwen3-coder-480b-a35b", "awq", OLD, "experts in int4 need AMX"),
    ("qwen2.5-coder-7b", "gptq_int4", OLD, ""),
    ("qwen2.5-coder-7b", "gptq_int8", AMX, "weights of 4 bits, not of 8"),
    ("llama-3.1-8b", "w8a8_int8", OLD, ""),
]


@pytest.mark.parametrize(("recipe", "variant", "features", "why"), CPU_CASES)
def test_what_the_kernels_of_a_cpu_can_do(
    recipe: str, variant: str, features: tuple[str, ...] | None, why: str
) -> None:
    shape = dimensions(recipe, variant)
    told = fit.cpu_refused(shape, features)
    assert bool(told) == bool(why)
    assert why in told
    verdict = fit.cpu(shape, 1 << 30, 32, Ask(8192), features)
    assert verdict.fits is not bool(why)


def test_fp8_in_blocks_and_experts_in_int8() -> None:
    config = BY_ID["qwen2.5-coder-7b"].config("default") or {}
    blocks = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert "FP8 in blocks of 128 x 128 need AMX" in fit.cpu_refused(
        read({**config, "quantization_config": blocks}), OLD
    )
    experts = BY_ID["qwen3-coder-30b-a3b"].config("default") or {}
    groups = {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}}}
    int8 = {**experts, "quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    assert "experts in int8 need AMX" in fit.cpu_refused(read(int8), OLD)
    assert not fit.cpu_refused(read(int8), ARM)


def test_serve_refuses_experts_that_this_cpu_has_no_kernel_for(tmp_path: Path) -> None:
    values = {"MODEL_NAME": "gpt-oss-20b", "AICOCKPIT_STATE_DIR": str(tmp_path), "AICOCKPIT_VLLM_COMMAND": "vllm serve"}
    loaded = settings.load(environ=values)
    (model,) = fleet.ask(loaded).models
    with pytest.raises(SettingError, match="experts in mxfp4 need AMX"):
        Sizer(loaded, RECIPES, (), lambda _: None, 64 * GIB, cpu=OLD).size(model)
    assert Sizer(loaded, RECIPES, (), lambda _: None, 64 * GIB, cpu=AMX).size(model).gpus == 0
