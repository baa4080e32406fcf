"""recipes/{filters,assemble,spot,search,select,advise}.py: what is taken, in which order one falls back, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.errors import SettingError
from aicockpit.hardware import cards, fit
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.shape import ModelShape, read
from aicockpit.recipes import flags, load
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.load import library, parse
from aicockpit.recipes.schema import Recipe
from aicockpit.recipes.select import Chosen, Refused, select

ROOT = Path(__file__).resolve().parent.parent
RECIPES = library().recipes
INT4 = "Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4"
FP8 = "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"


def nothing(_: str) -> ModelShape | None:
    return None


def gpus(text: str) -> tuple[Device, ...]:
    return cards.parse(text)


def choose(wish: Wish, machine: str = "", recipes: tuple[Recipe, ...] = RECIPES) -> Chosen:
    found = select(wish, recipes, gpus(machine) if machine else (), nothing)
    assert isinstance(found, Chosen), found
    assert found.verdict.fits
    assert len(found.devices) == (found.layout.gpus if machine else 0)
    return found


def refuse(wish: Wish, machine: str = "", recipes: tuple[Recipe, ...] = RECIPES) -> Refused:
    found = select(wish, recipes, gpus(machine) if machine else (), nothing)
    assert isinstance(found, Refused), found
    return found


def why_not(found: Chosen | Refused, candidate: str) -> str:
    return next(one.reason for one in found.rejected if one.candidate.startswith(candidate))


def recipe(more: str = "", variants: str = "  default: {precision: bf16}\n") -> Recipe:
    head = "meta: {slug: mine}\nmodel: {model_id: me/mine, context_length: 32768}\nvariants:\n"
    shape = RECIPES_BY_ID["qwen2.5-coder-7b"].aicockpit.shape
    assert shape
    tail = f"aicockpit: {{shape: {shape.model_dump()}}}\n" if "aicockpit:" not in more else ""
    return parse(head + variants + more + tail, Path("mine.yaml")).recipe


RECIPES_BY_ID = {one.id: one for one in RECIPES}


def test_dev32_on_one_a6000() -> None:
    found = choose(Wish(INT4, "int4", 1), "A6000")
    assert (found.recipe, found.variant, found.model_id) == ("qwen2.5-coder-32b", "gptq_int4", INT4)
    assert abs(found.verdict.kv_tokens - 94_500) < 500
    assert found.verdict.max_model_len == 32_768
    assert "2.9 requests" in found.reasons[0]


def test_dev32_on_a_24_gb_card_is_refused_with_what_fits_there() -> None:
    found = refuse(Wish(INT4), "RTX4090")
    assert "one request of 32,768 tokens needs 8.00 GiB of KV cache" in found.reasons[1]
    assert found.advice[0].startswith("Qwen/Qwen2.5-Coder-14B-Instruct-GPTQ-Int4 fits 1 x NVIDIA GeForce RTX 4090")
    assert any("--max-model-len 4096" in text for text in found.advice)


def test_prod480_on_eight_a100() -> None:
    found = choose(Wish(FP8, "fp8", 8), "A100-80GB:8")
    assert found.layout == fit.Layout(8, expert=True)
    assert found.verdict.max_model_len == 131_072
    for flag in ("--enable-expert-parallel", "--moe-backend", "--tool-call-parser"):
        assert flags.value(found.flags, flag) in ("", "marlin", "qwen3_coder")
    assert dict(found.env)["VLLM_USE_DEEP_GEMM"] == "0"
    assert "404,384 tokens" in found.reasons[0]


def test_prod480_on_four_a100_is_refused_with_the_arithmetic() -> None:
    found = refuse(Wish(FP8, "fp8", 4), "A100-80GB:4")
    assert "weights of 112.3 GiB (449.0 GiB over 4 GPUs)" in found.reasons[1]
    assert "QuantTrio/Qwen3-Coder-480B-A35B-Instruct-AWQ fits 4 x" in found.advice[0]
    assert "its quality is unchecked" in found.advice[0]
    assert any(text.startswith("8 x NVIDIA A100-SXM4-80GB") for text in found.advice)
    assert not [text for text in found.advice if "A build of it" in text]


@pytest.mark.parametrize(
    ("profile", "machine"),
    [("dev7", "T4"), ("dev14", "L4"), ("dev32", "A6000"), ("prod480", "A100-80GB:8"), ("cpu", "")],
)
def test_the_presets_ask_for_what_their_recipe_gives(profile: str, machine: str) -> None:
    values = dotenv_values(ROOT / f".env.{profile}")
    args = (values["AICOCKPIT_ENGINE_ARGS"] or "").split()
    model, count = values["MODEL_NAME"] or "", values["GPU_COUNT"] or "0"
    precision = {"auto": "", None: ""}.get(values["PREC"], values["PREC"]) or ""
    wish = Wish(model, precision, int(count), flags.number(flags.value(args, "--max-model-len")))
    found = choose(wish, machine)
    assert found.model_id == model
    for flag in ("--enable-expert-parallel", "--max-model-len"):
        asked = flags.value(args, flag)
        assert asked in (None, flags.value(found.flags, flag), str(found.verdict.max_model_len))


def test_of_a_family_the_least_lossy_that_leaves_room_is_taken() -> None:
    assert choose(Wish("qwen2.5-coder-32b"), "H200").variant == "default"
    one = choose(Wish("qwen2.5-coder-32b"), "A6000")
    assert one.variant == "gptq_int4"
    assert "fewer than two of its longest requests" in why_not(one, "gptq_int8 on 1 x")
    assert "it comes later in the recipe: gptq_int4" in why_not(one, "awq on 1 x")
    two = choose(Wish("qwen2.5-coder-32b"), "A6000:2")
    assert (two.variant, two.layout) == ("default", fit.Layout(2))
    assert "its weights lose more" in why_not(two, "gptq_int4 on 1 x")


def test_no_more_gpus_than_do_and_what_the_others_could_do() -> None:
    found = choose(Wish("qwen2.5-coder-7b"), "L40S:4")
    assert len(found.devices) == 1
    assert any("GPU_COUNT=4 with AICOCKPIT_REPLICAS=4" in text for text in found.reasons)
    assert "it takes more GPUs" in why_not(found, "default on 2 x")
    assert "a pipeline" in why_not(found, "default on 3 x")
    assert len(choose(Wish("qwen2.5-coder-7b", gpu_count=4), "L40S:4").devices) == 4


def test_falling_back_fewer_gpus_first() -> None:
    found = choose(Wish("qwen2.5-coder-7b", "bf16", 8), "L40S:4")
    assert (found.precision, len(found.devices)) == ("bf16", 4)
    assert "Asked was qwen2.5-coder-7b, bf16, 8 GPUs; taken is fewer GPUs than asked." in found.reasons[1]


def test_falling_back_then_another_precision() -> None:
    found = choose(Wish("Qwen/Qwen2.5-Coder-32B-Instruct"), "A6000")
    assert found.model_id == INT4
    assert found.reasons[1].startswith(
        "Asked was Qwen/Qwen2.5-Coder-32B-Instruct, bf16; taken is another precision. def"
    )
    assert "weights of 61.0 GiB" in found.reasons[1]
    three = choose(Wish("qwen2.5-coder-32b", "bf16", 3), "A6000:3")
    assert (three.precision, len(three.devices)) == ("bf16", 3)


def test_a_checkpoint_that_is_named_is_not_replaced() -> None:
    exact = refuse(Wish("Qwen/Qwen2.5-Coder-32B-Instruct", exact=True), "A6000")
    assert "no other may take its place" in why_not(exact, "gptq_int4")
    assert f"{INT4} fits 1 x NVIDIA RTX A6000" in exact.advice[0]
    pinned = refuse(Wish("Qwen/Qwen2.5-Coder-32B-Instruct@main"), "A6000")
    assert pinned.rejected == exact.rejected
    other = refuse(Wish(INT4.replace("Int4", "Int8"), max_model_len=32768), "RTX4090")
    assert "another checkpoint than" in why_not(other, "gptq_int4")


def test_a_revision_is_handed_on() -> None:
    found = choose(Wish(f"{INT4}@abc123"), "A6000")
    assert (found.model_id, found.revision) == (INT4, "abc123")


def test_a_window_that_is_asked_for_is_kept() -> None:
    found = choose(Wish("llama-3.1-8b", "bf16", max_model_len=8192), "RTX4090")
    assert flags.value(found.flags, "--max-model-len") == "8192"
    own = choose(Wish("llama-3.1-8b", "bf16"), "RTX4090")
    assert own.verdict.max_model_len == 32768
    assert any(text.startswith("The model's own window is 131,072 tokens; 32,768 is taken") for text in own.reasons)


def test_a_longer_window_is_stretched_where_the_recipe_says_how() -> None:
    found = choose(Wish("Qwen/Qwen2.5-Coder-7B-Instruct", max_model_len=131072), "H200")
    overrides = flags.value(found.flags, "--hf-overrides") or ""
    assert '"max_position_embeddings": 131072' in overrides
    assert '"rope_theta": 1000000.0' in overrides
    assert flags.value(found.flags, "--max-model-len") == "131072"
    assert any("short ones lose a little" in text for text in found.reasons)
    small = refuse(Wish("qwen2.5-coder-0.5b", max_model_len=65536), "H200")
    assert "passes the model's own" in small.reasons[1]


def test_roles() -> None:
    assert choose(Wish("qwen2.5-coder-7b", role="completion"), "L40S").variant == "default"
    assert choose(Wish("Qwen/Qwen2.5-Coder-7B", role="completion"), "L40S").variant == "base"
    assert "it is for completion, not chat" in refuse(Wish("Qwen/Qwen2.5-Coder-7B", role="chat"), "L40S").reasons[1]
    assert "its roles are chat, not completion" in refuse(Wish("gpt-oss-20b", role="completion"), "L40S").reasons[1]


def test_features_are_turned_on_and_off() -> None:
    assert flags.value(choose(Wish("qwen2.5-coder-7b"), "L40S").flags, "--tool-call-parser") is None
    on = choose(Wish("qwen2.5-coder-7b", features=("tool_calling",)), "L40S")
    assert flags.value(on.flags, "--tool-call-parser") == "hermes"
    off = choose(Wish("gpt-oss-20b", without=("reasoning",)), "L40S")
    assert flags.value(off.flags, "--reasoning-parser") is None
    with pytest.raises(SettingError, match=r"gpt-oss-20b has no feature 'x'; it has: tool_calling, reasoning"):
        select(Wish("gpt-oss-20b", features=("x",)), RECIPES, gpus("L40S"), nothing)


def test_overrides_of_the_config_add_up() -> None:
    found = choose(Wish("qwen3-embedding-0.6b", features=("matryoshka",)), "L4")
    assert flags.value(found.flags, "--hf-overrides") == '{"is_matryoshka": true}'
    assert flags.value(found.flags, "--runner") == "pooling"


def test_hardware_s_own_flags_and_variables() -> None:
    assert dict(choose(Wish("gpt-oss-20b"), "MI300X").env)["VLLM_ROCM_USE_AITER"] == "1"
    assert "VLLM_ROCM_USE_AITER" not in dict(choose(Wish("gpt-oss-20b"), "H100").env)
    mine = recipe(
        "hardware_overrides: {hopper: {extra_args: [--seed, 1]}, nvidia: {extra_args: [--seed, 2]}}\n",
        "  default: {precision: bf16, hardware_overrides: {h200: {extra_args: [--max-num-seqs, 7]}}}\n",
    )
    of = {name: choose(Wish("mine"), name, (mine,)).flags for name in ("H100", "H200", "L40S")}
    assert [flags.value(of[name], "--seed") for name in of] == ["1", "1", "2"]
    assert [flags.value(of[name], "--max-num-seqs") for name in of] == [None, "7", None]


def test_the_recipe_s_word_on_hardware() -> None:
    barred = recipe("", "  default: {precision: bf16, supported_hardware: [mi300x]}\n")
    assert "lists it for mi300x only" in refuse(Wish("mine"), "H100", (barred,)).reasons[1]
    assert choose(Wish("mine"), "MI300X", (barred,))
    text = barred.model_copy(update={"meta": barred.meta.model_copy(update={"hardware": {"hopper": "unsupported"}})})
    assert "marks hopper as unsupported" in refuse(Wish("mine"), "H100", (text,)).reasons[1]
    two = "  default: {precision: bf16}\n  other: {model_id: me/other, precision: bf16}\n"
    seen = recipe("", two)
    verified = seen.model_copy(update={"meta": seen.meta.model_copy(update={"hardware": {"l40s": "verified"}})})
    assert choose(Wish("mine"), "H100:1,L40S:1", (verified,)).devices[0].name == "NVIDIA L40S"


def test_a_variant_that_needs_a_newer_vllm() -> None:
    found = choose(Wish("codestral-22b", vllm="0.31.1"), "H100")
    assert found.variant == "default"
    assert why_not(found, "fp8_online") == "it needs vLLM 0.32.0, and 0.31.1 will run it"
    assert choose(Wish("codestral-22b", vllm="0.32.0"), "A6000").flags == ("--quantization", "fp8_per_tensor")


def test_strategies_of_the_recipe_bar_layouts() -> None:
    moe = RECIPES_BY_ID["qwen3-coder-480b-a35b"].model_copy(update={"compatible_strategies": ("single_node_tp",)})
    found = select(Wish(FP8, gpu_count=8), (moe,), gpus("A100-80GB:8"), nothing)
    assert not (isinstance(found, Chosen) and found.layout.expert)
    capped = recipe("", "  default: {precision: bf16, tp: 1}\n")
    assert choose(Wish("mine", gpu_count=2), "L40S:2", (capped,)).layout == fit.Layout(1, 2)
    by_card = recipe("", "  default: {precision: bf16, tp: {l40s: 1, default: 2}}\n")
    assert choose(Wish("mine", gpu_count=2), "H100:2", (by_card,)).layout == fit.Layout(2)
    assert choose(Wish("mine", gpu_count=2), "L40S:2", (by_card,)).layout == fit.Layout(1, 2)


def test_flags_of_the_recipe_count_in_the_arithmetic() -> None:
    plain = choose(Wish("mine"), "L40S", (recipe(),)).verdict
    args = "extra_args: [--gpu-memory-utilization, 0.5, --max-model-len, 4096, --kv-cache-dtype, fp8]"
    lean = choose(Wish("mine"), "L40S", (recipe("", f"  default: {{precision: bf16, {args}}}\n"),)).verdict
    assert lean.max_model_len == 4096
    assert lean.budget.bytes < plain.budget.bytes
    odd = recipe("", "  default: {precision: bf16, extra_args: [--kv-cache-dtype, nvfp4]}\n")
    assert "'nvfp4' is not known" in refuse(Wish("mine"), "L40S", (odd,)).reasons[1]


def test_trust_is_not_a_recipe_s_to_give() -> None:
    trusting = recipe("", "  default: {precision: bf16, extra_args: [--trust-remote-code, --port, 1]}\n")
    found = choose(Wish("mine"), "L40S", (trusting,))
    assert found.flags == ()
    assert any("--trust-remote-code is not a recipe's to set" in text for text in found.reasons)


def test_a_user_s_recipe_comes_before_a_shipped_one_for_the_same_model() -> None:
    own = recipe().model_copy(update={"model": RECIPES_BY_ID["qwen2.5-coder-7b"].model})
    found = choose(Wish("Qwen/Qwen2.5-Coder-7B-Instruct"), "L40S", (own, *RECIPES))
    assert found.recipe == "mine"
    assert "its recipe comes later" in why_not(found, "qwen2.5-coder-7b: default on 1 x")


def test_a_folder_with_a_checkpoint_s_name_gets_its_recipe() -> None:
    folder = "/srv/models/Qwen3-Coder-30B-A3B-Instruct/"
    found = choose(Wish(folder), "H100")
    assert (found.recipe, found.model_id) == ("qwen3-coder-30b-a3b", folder)
    assert flags.value(found.flags, "--tool-call-parser") == "qwen3_coder"
    assert any(text.startswith("The folder has the name of Qwen/Qwen3-Coder-30B") for text in found.reasons)
    cached = choose(Wish("/root/.cache/hub/models--Qwen--Qwen2.5-Coder-7B-Instruct-AWQ/snapshots/0a1b"), "L4")
    assert (cached.recipe, cached.variant) == ("qwen2.5-coder-7b", "awq")


def test_a_model_without_a_recipe_gets_generic_flags() -> None:
    config = RECIPES_BY_ID["qwen2.5-coder-7b"].config("default") or {}
    found = select(Wish("a/b"), RECIPES, gpus("L40S"), lambda name: read(config) if name == "a/b" else None)
    assert isinstance(found, Chosen)
    assert (found.recipe, found.variant, found.model_id, found.flags) == ("", "default", "a/b", ())
    assert "No recipe names this model" in found.reasons[-1]
    too_large = select(Wish("a/b"), RECIPES, (Device("Tiny", 8 * GIB),), lambda _: read(config))
    assert isinstance(too_large, Refused)
    assert too_large.reasons[0] == "a/b does not fit 1 x Tiny."
    assert too_large.advice


def test_a_model_that_nobody_knows() -> None:
    found = refuse(Wish("Qwen/Qwen2.5-Coder-7B-Instrukt"), "L40S")
    assert "nobody can tell whether it fits" in found.reasons[0]
    assert found.advice[0].startswith("Did you mean Qwen/Qwen2.5-Coder-7B-Instruct")


def test_on_the_cpu() -> None:
    found = choose(Wish("smollm2-135m", gpu_count=0))
    assert found.devices == ()
    assert "on the CPU: fits" in found.reasons[0]
    assert "is to have 2 GPUs, and there is none" in refuse(Wish("smollm2-135m", gpu_count=2)).reasons[0]
    both = select(Wish("smollm2-135m", gpu_count=0), RECIPES, gpus("L4"), nothing)
    assert isinstance(both, Chosen)
    assert both.devices == ()


def test_on_the_cpu_the_window_is_worth_it_and_the_memory_is_there() -> None:
    found = choose(Wish("qwen2.5-coder-14b", gpu_count=0))
    assert found.verdict.max_model_len >= 8192
    assert int(flags.value(found.flags, "--kv-cache-memory-bytes") or 0) > 500_000_000
    small = refuse(Wish("qwen2.5-coder-14b", "bf16", 0, exact=True, memory=24 * GIB))
    assert "of memory, and there are 24.0 GiB" in small.reasons[1]
    less = choose(Wish("qwen2.5-coder-14b", gpu_count=0, memory=24 * GIB))
    assert less.variant == "gptq_int4"
    assert "weights of 4 bits, not of 8" in why_not(less, "gptq_int8 on the CPU")
    assert "of memory, and there are" in why_not(less, "default on the CPU")


def test_unlike_gpus_are_not_mixed_and_busy_ones_come_last() -> None:
    busy = Device("NVIDIA L4", 22 * GIB, free=GIB, capability=(8, 9), index=0)
    idle = Device("NVIDIA L4", 22 * GIB, free=22 * GIB, capability=(8, 9), index=1)
    found = select(Wish("qwen2.5-coder-7b"), RECIPES, (busy, idle, *gpus("A6000")), nothing)
    assert isinstance(found, Chosen)
    assert [device.index for device in found.devices] == [1]
    assert not [one for one in found.rejected if " + " in one.candidate]
    full = select(Wish("qwen2.5-coder-7b"), RECIPES, (busy,), nothing)
    assert isinstance(full, Refused)
    assert "vLLM refuses to start" in full.reasons[1]


def test_manual_checkpoints_wait_to_be_asked_for() -> None:
    found = choose(Wish("qwen3-coder-480b-a35b"), "H200:8")
    assert "only when its precision or its name is asked for" in why_not(found, "awq")
    assert choose(Wish("qwen3-coder-480b-a35b", "int4"), "H200:8").variant == "awq"
    assert choose(Wish("QuantTrio/Qwen3-Coder-480B-A35B-Instruct-AWQ"), "H200:8").variant == "awq"


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([*(one.id for one in RECIPES), INT4, FP8]),
    st.sampled_from(["", "bf16", "fp8", "int8", "int4"]),
    st.sampled_from([None, 0, 1, 2, 3, 8]),
    st.sampled_from([None, 4096, 32768, 200_000]),
    st.sampled_from(["", "L4:2", "A6000:3", "A100-80GB:8", "MI300X", "RTX4090:1,L40S:2", "T4"]),
)
def test_whatever_is_asked_is_answered_with_reasons(
    model: str, precision: str, count: int | None, window: int | None, machine: str
) -> None:
    devices = gpus(machine) if machine else ()
    wish = Wish(model, precision, count, window)
    found = select(wish, RECIPES, devices, nothing)
    assert found == select(wish, RECIPES, devices, nothing)
    assert found.reasons
    assert all(one.candidate and one.reason for one in found.rejected)
    if isinstance(found, Chosen):
        assert found.verdict.fits
        assert window in (None, found.verdict.max_model_len)
        assert count is None or len(found.devices) <= count
        taken = found.precision == precision or any("Asked was" in text for text in found.reasons)
        assert not precision or taken
    else:
        assert found.rejected or not devices


def test_shipped_recipes_are_read_once() -> None:
    assert load.shipped() is load.shipped()
