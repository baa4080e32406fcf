"""Does it fit: the figures that were checked by hand, the refusals, and what would fit instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import shapes
from aicockpit.errors import SettingError
from aicockpit.hardware import cards, fit, fit_kv, fit_layout
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.fit import Ask, Layout, Verdict
from aicockpit.hardware.shape import ModelShape, read

DEV32, PROD480 = read(shapes.DEV32), read(shapes.PROD480)


def gpus(text: str) -> tuple[Device, ...]:
    return cards.parse(text)


def shaped(config: dict[str, Any], **changes: Any) -> ModelShape:
    return read({**config, **changes})


def term(verdict: Verdict, name: str) -> float:
    """GiB of a term."""
    return next(one.bytes for one in verdict.terms if one.name.startswith(name)) / GIB


@pytest.mark.parametrize(
    ("card", "pool", "tokens", "concurrency"),
    [
        ("A6000", 23.1, 94_500, 2.9),
        ("L40S", 20.3, 83_200, 2.5),
        ("A100-80GB", 52.3, 214_000, 6.5),
        ("A100-40GB", 15.7, 64_000, 2.0),
    ],
)
def test_the_32b_preset_on_one_card(card: str, pool: float, tokens: int, concurrency: float) -> None:
    verdict = fit.judge(DEV32, gpus(card), Layout(1), Ask(32_768))
    assert verdict.fits
    assert term(verdict, "weights") == pytest.approx(18.0, abs=0.05)
    assert term(verdict, "KV cache") == pytest.approx(pool, abs=0.06)
    assert verdict.kv_tokens == pytest.approx(tokens, rel=0.01)
    assert verdict.concurrency == pytest.approx(concurrency, abs=0.05)
    assert verdict.flags == ()  # 32,768 is the model's own window, and one GPU is vLLM's default


@pytest.mark.parametrize(("utilisation", "tokens"), [(0.92, 4_400), (0.95, 7_300)])
def test_the_32b_preset_does_not_fit_24_gb(utilisation: float, tokens: int) -> None:
    verdict = fit.judge(DEV32, gpus("RTX4090"), Layout(1), Ask(32_768, utilisation))
    assert not verdict.fits
    assert verdict.kv_tokens == pytest.approx(tokens, rel=0.03)
    assert "one request of 32,768 tokens needs 8.00 GiB of KV cache" in verdict.why


def test_24_gb_are_told_what_would_fit() -> None:
    told = " ".join(fit.advice(DEV32, gpus("RTX4090"), Ask(32_768)))
    assert "A window of 4,096 tokens fits" in told
    assert "weights of up to 11.1 GiB leave room for 32,768 tokens" in told
    assert "2 x NVIDIA GeForce RTX 4090: 67,744 tokens" in told
    assert "1 x RTX5090" in told
    assert not fit.advice(DEV32, gpus("A6000"), Ask(32_768))


def test_the_480b_preset_is_refused_on_4_cards_of_80_gb_with_the_arithmetic() -> None:
    found = fit.best(PROD480, gpus("A100-80GB:4"), Ask())
    assert not found.verdict.fits
    assert term(found.verdict, "weights") == pytest.approx(112.3, abs=0.1)
    assert term(found.verdict, "KV cache") == pytest.approx(-44, abs=0.3)
    assert "weights of 112.3 GiB (449.1 GiB over 4 GPUs)" in found.verdict.why
    told = " ".join(fit.advice(PROD480, gpus("A100-80GB:4"), Ask()))
    assert "Int4 (AWQ or GPTQ), about 252.3 GB of weights, fits: 157,936 tokens in 9.34 GiB" in told
    assert "8 x NVIDIA A100-SXM4-80GB: 404,160 tokens" in told


@pytest.mark.parametrize("card", ["A100-80GB", "H100"])
def test_the_480b_preset_on_8_cards_of_80_gb_needs_expert_parallelism(card: str) -> None:
    eight = gpus(f"{card}:8")
    found = fit.best(PROD480, eight, Ask(131_072))
    assert found.verdict.layout == Layout(8, expert=True)
    assert found.verdict.kv_tokens == pytest.approx(404_000, rel=0.01)
    assert found.verdict.concurrency == pytest.approx(3.08, abs=0.03)
    assert {"--tensor-parallel-size", "--enable-expert-parallel"} <= {*found.verdict.flags}
    why = dict(fit.layouts(PROD480, eight))[Layout(8)]
    assert "2,560 / 8 GPUs = 320 is not a multiple of the FP8 block of 128" in why
    alone = fit.judge(PROD480, eight, Layout(1, data=8, expert=True), Ask(131_072))
    assert not alone.fits
    assert term(alone, "KV cache") == pytest.approx(0.5, abs=0.1)
    assert fit.best(PROD480, eight, Ask(262_144)).verdict.concurrency == pytest.approx(1.5, abs=0.05)


def test_the_480b_preset_on_4_h200() -> None:
    found = fit.best(PROD480, gpus("H200:4"), Ask())
    assert found.verdict.layout == Layout(4)
    assert found.verdict.kv_tokens == pytest.approx(196_000, rel=0.01)
    assert found.verdict.max_model_len == 131_072
    assert any("262,144 tokens would need 15.5 GiB" in note for note in found.verdict.notes)
    assert fit.judge(PROD480, gpus("H200:4"), Layout(4, expert=True), Ask(131_072)).fits


def test_fp8_on_ampere_gets_marlin_and_never_deep_gemm() -> None:
    ampere = fit.best(PROD480, gpus("A100-80GB:8"), Ask(131_072)).verdict
    assert ampere.flags[3:5] == ("--moe-backend", "marlin")
    assert ("VLLM_USE_DEEP_GEMM", "0") in ampere.env
    hopper = fit.best(PROD480, gpus("H100:8"), Ask(131_072)).verdict
    assert "--moe-backend" not in hopper.flags
    assert not hopper.env
    ada = fit.best(shaped(shapes.LLAMA_8B, quantization_config=shapes.FP8), gpus("L40S"), Ask()).verdict
    assert "--moe-backend" not in ada.flags
    assert ada.env == (("VLLM_USE_DEEP_GEMM", "0"),)


def test_three_gpus_are_a_pipeline_and_one_is_enough_when_it_is() -> None:
    assert fit.best(DEV32, gpus("A6000:3"), Ask(), count=3).verdict.layout == Layout(1, 3)
    assert fit.best(DEV32, gpus("A6000:3"), Ask()).verdict.layout == Layout(1)
    assert fit.best(DEV32, gpus("RTX4090:8"), Ask()).verdict.layout == Layout(2)


def test_the_larger_and_the_free_gpu_is_taken_first() -> None:
    small, large = gpus("L4,A6000")
    assert fit.best(DEV32, (small, large), Ask()).verdict.devices == (large,)
    busy = replace(large, free=2 * GIB, index=0)
    free = replace(large, free=large.memory, index=1)
    assert fit.best(DEV32, (busy, free), Ask()).verdict.devices == (free,)
    refused = fit.best(DEV32, (busy,), Ask()).verdict
    assert "2.00 GiB of GPU 0 (NVIDIA RTX A6000) are free, less than the budget of 43.6 GiB" in refused.why
    assert "--gpu-memory-utilization to 0.04" in refused.why


def test_unequal_gpus_keep_what_the_smallest_keeps_and_vendors_do_not_mix() -> None:
    both = fit.judge(DEV32, gpus("A6000,RTX5090"), Layout(2), Ask())
    alone = fit.judge(DEV32, gpus("RTX5090:2"), Layout(2), Ask())
    assert both.kv_tokens == alone.kv_tokens
    assert any("the GPUs differ" in note for note in both.notes)
    mixed = fit.judge(DEV32, gpus("A100-80GB,MI300X"), Layout(2), Ask())
    assert not mixed.fits
    assert "NVIDIA and AMD" in mixed.why


@pytest.mark.parametrize(
    ("change", "tensor", "why"),
    [
        ({}, 3, "40 attention heads / 3"),
        ({"num_attention_heads": 48, "num_key_value_heads": 8}, 3, "8 KV heads neither divide by 3"),
        ({"num_attention_heads": 48, "num_key_value_heads": 6, "vocab_size": 152000}, 4, "6 KV heads"),
        ({"num_attention_heads": 42, "num_key_value_heads": 7, "vocab_size": 151936}, 7, "a vocabulary of 151,936"),
        ({"intermediate_size": 27650}, 4, "an MLP of 27,650 / 4"),
        ({"intermediate_size": 29568}, 8, "29,568 / 8 GPUs = 3,696 is not a multiple of the quantisation group of 128"),
        ({}, 8, ""),
        ({}, 4, ""),
    ],
)
def test_what_tensor_parallelism_must_divide(change: dict[str, Any], tensor: int, why: str) -> None:
    found = fit.refusal(shaped(shapes.DEV32, **change), Layout(tensor))
    assert (why in found) if why else not found


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        (Layout(1, 65), "65 stages for 64 layers"),
        (Layout(2, expert=True), "no experts"),
        (Layout(1, data=2), "replicas"),
        (Layout(0), "1 or more"),
    ],
)
def test_layouts_that_make_no_sense_are_told(layout: Layout, why: str) -> None:
    assert why in fit.refusal(DEV32, layout)


def test_a_pipeline_is_cut_as_vllm_cuts_it() -> None:
    assert [len(one) for one in fit_layout.stages(62, 8)] == [7, 8, 8, 8, 8, 8, 8, 7]
    assert [len(one) for one in fit_layout.stages(64, 3)] == [21, 22, 21]
    assert [len(one) for one in fit_layout.stages(10, 4)] == [2, 3, 3, 2]


@pytest.mark.parametrize(
    ("quantised", "card", "why"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "A6000", "no longer a vLLM format"),
        ({"quant_method": "gguf"}, "A6000", "no longer a vLLM format"),
        ({"quant_method": "hqq"}, "A6000", "vLLM has no quantisation 'hqq'"),
        ({"quant_method": "mxfp4"}, "T4", "mxfp4 weights need compute capability 8.0, and Tesla T4 has 7.5"),
        ({"quant_method": "gptq", "bits": 4}, "V100-32GB", "vLLM's kernels need compute capability 7.5"),
    ],
)
def test_formats_that_do_not_run_are_refused(quantised: dict[str, Any], card: str, why: str) -> None:
    verdict = fit.judge(shaped(shapes.SMOLLM2, quantization_config=quantised), gpus(card), Layout(1), Ask())
    assert not verdict.fits
    assert why in verdict.why


def test_old_cards_compute_in_half_precision_and_unknown_ones_make_no_claim() -> None:
    assert fit.judge(read(shapes.SMOLLM2), gpus("T4"), Layout(1), Ask()).flags == ("--dtype", "half")
    unknown = fit.judge(PROD480, gpus("80GiB:8"), Layout(8, expert=True), Ask(131_072))
    assert unknown.fits
    assert any("capability is unknown" in note for note in unknown.notes)
    amd = fit.judge(DEV32, gpus("MI300X"), Layout(1), Ask())
    assert any("on AMD they are a guess" in note for note in amd.notes)


def test_latent_attention_keeps_little_and_no_gpu_shares_it() -> None:
    lite = read(shapes.DEEPSEEK_LITE)
    one, two = (fit_kv.cache(lite, "auto", tensor, range(27), 4096) for tensor in (1, 2))
    assert one.per_token == two.per_token == 27 * (512 + 64) * 2


def test_grouped_heads_are_shared_until_each_gpu_has_one() -> None:
    sizes = [fit_kv.cache(DEV32, "auto", tensor, range(64), 4096).per_token for tensor in (1, 2, 8, 16)]
    assert sizes == [262_144, 131_072, 32_768, 32_768]


def test_windows_hold_more_requests_and_states_do_not_grow() -> None:
    gpt = fit_kv.cache(read(shapes.GPT_OSS_20B), "auto", 1, range(24), 4096)
    assert gpt.blocks(131_072) == 131_072 // 16 + (127 + 4096 + 15) // 16 + 1
    hybrid = fit_kv.cache(read(shapes.QWEN3_NEXT), "auto", 1, range(48), 4096)
    assert hybrid.groups == (("linear", 12), ("linear", 12), ("linear", 12), ("full", 12))
    assert hybrid.block % 16 == 0
    assert hybrid.blocks(hybrid.block) == 7  # one of attention, two for each group of states


def test_an_encoder_keeps_nothing_and_fits_by_its_weights() -> None:
    verdict = fit.judge(read(shapes.BERT), gpus("T4"), Layout(1), Ask())
    assert verdict.fits
    assert verdict.kv_tokens == 0
    assert "keeps nothing" in verdict.why


def test_an_fp8_cache_doubles_the_tokens_and_an_unknown_type_is_refused() -> None:
    plain = fit.judge(DEV32, gpus("L40S"), Layout(1), Ask())
    small = fit.judge(DEV32, gpus("L40S"), Layout(1), Ask(kv_dtype="fp8"))
    assert small.kv_tokens == pytest.approx(2 * plain.kv_tokens, abs=16)
    assert small.flags[-2:] == ("--kv-cache-dtype", "fp8")
    with pytest.raises(SettingError, match="'fp3' is not known"):
        fit.judge(DEV32, gpus("L40S"), Layout(1), Ask(kv_dtype="fp3"))
    scheme = {"num_bits": 8, "type": "float"}
    own = shaped(shapes.LLAMA_8B, quantization_config={**shapes.FP8, "kv_cache_scheme": scheme})
    assert fit_kv.width(own, "auto") == 1


def test_adapters_batches_and_eager_mode_are_terms_and_flags() -> None:
    plain = fit.judge(DEV32, gpus("A6000"), Layout(1), Ask())
    asked = Ask(lora_rank=64, loras=2, eager=True, batched_tokens=16_384, max_num_seqs=8, utilisation=0.9)
    more = fit.judge(DEV32, gpus("A6000"), Layout(1), asked)
    assert term(more, "LoRA") == pytest.approx(2 * 64 * 64 * 2 * 131_072 / GIB, rel=0.01)  # 131,072 numbers a layer
    assert term(more, "activation") == pytest.approx(4.5)
    assert more.kv_tokens < plain.kv_tokens
    assert {"--enable-lora", "--enforce-eager", "--max-num-seqs", "--gpu-memory-utilization"} <= {*more.flags}


def test_vllm_s_own_batch_sizes() -> None:
    assert [fit.defaults(gpus(name)[0]) for name in ("A6000", "A100-80GB", "H100", "B200")] == [
        (2048, 256),
        (2048, 256),
        (8192, 1024),
        (16384, 1024),
    ]


def test_a_window_past_the_model_s_own_is_refused() -> None:
    verdict = fit.judge(DEV32, gpus("A100-80GB"), Layout(1), Ask(65_536))
    assert not verdict.fits
    assert "passes the model's own of 32,768" in verdict.why


def test_too_few_gpus_for_a_layout_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="2 GPUs on 1"):
        fit.judge(DEV32, gpus("A6000"), Layout(2), Ask())
    with pytest.raises(ValueError, match="of 0 GPUs"):
        fit.best(DEV32, (), Ask())
    assert "Machines that hold it" in fit.advice(DEV32, (), Ask(32_768))[0]


@pytest.mark.parametrize(
    ("kv_bytes", "length", "reported"),
    [(500_000_000, None, 21_696), (500_000_000, 8_192, 21_696)],  # vLLM 0.32 on the CPU, SmolLM2-135M, blocks of 32
)
def test_the_cpu_s_prediction_is_what_vllm_reported(kv_bytes: int, length: int | None, reported: int) -> None:
    verdict = fit.cpu(read(shapes.SMOLLM2), kv_bytes, 32, Ask(length))
    assert abs(fit.error(verdict.kv_tokens, reported)) < 0.05
    assert verdict.kv_tokens == reported
    assert verdict.max_model_len == 8192
    assert sum(one.bytes for one in verdict.terms) == verdict.budget.bytes


def test_the_cpu_refuses_a_window_that_its_cache_does_not_hold() -> None:
    verdict = fit.cpu(read(shapes.SMOLLM2), 100_000_000, 32, Ask(8_192))
    assert not verdict.fits
    assert "--kv-cache-memory-bytes 188743680 or more" in verdict.why
    assert fit.cpu(read(shapes.SMOLLM2), 100_000_000, 32, Ask()).fits


@pytest.mark.parametrize(("predicted", "reported", "error"), [(102, 100, 0.02), (98, 100, -0.02), (0, 0, 0.0)])
def test_the_error_of_a_prediction(predicted: float, reported: float, error: float) -> None:
    assert fit.error(predicted, reported) == pytest.approx(error)
    assert fit.error(1, 0) == float("inf")
