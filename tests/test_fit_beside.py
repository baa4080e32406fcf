"""Adapters, a draft model and weights in the host's memory: counted as vLLM allocates them, told with their price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shapes
from aicockpit.hardware import cards, fit, shape_weights
from aicockpit.hardware.device import GIB
from aicockpit.hardware.fit import Ask, Layout, Verdict
from aicockpit.hardware.shape import ModelShape, read

DEV32, PROD480, LLAMA, SMALL = (read(c) for c in (shapes.DEV32, shapes.PROD480, shapes.LLAMA_8B, shapes.SMOLLM2))


def term(verdict: Verdict, name: str) -> int:
    return next((one.bytes for one in verdict.terms if one.name == name), 0)


def judged(model: ModelShape, layout: Layout, ask: Ask, card: str = "B300") -> Verdict:
    return fit.judge(model, cards.parse(f"{card}:{layout.gpus}"), layout, ask)


def test_weights_in_the_host_s_memory_leave_the_gpu() -> None:
    plain, less = (judged(DEV32, Layout(1), Ask(32_768, offload=n * GIB), "RTX4090") for n in (0, 8))
    assert not plain.fits
    assert less.fits
    assert term(plain, "weights") - term(less, "weights") == term(less, "KV cache") - term(plain, "KV cache") == 8 * GIB
    assert less.host == 8 * GIB
    assert less.flags[-2:] == ("--cpu-offload-gb", "8")
    assert "which is slow: they cross PCIe for every token, which takes at least 0.27 s" in less.notes[0]
    assert not plain.host


def test_the_host_holds_the_part_of_every_gpu() -> None:
    found = judged(PROD480, Layout(8, expert=True), Ask(131_072, offload=8 * GIB), "A100-80GB")
    assert found.host == 64 * GIB
    assert "8.00 GiB of weights x 8 GPUs = 64.0 GiB lie in the host's memory" in " ".join(found.notes)


@given(st.integers(0, 40), st.sampled_from([Layout(1), Layout(2), Layout(1, 2)]), st.sampled_from([DEV32, LLAMA]))
def test_no_more_moves_than_layers_weigh(gibs: int, layout: Layout, model: ModelShape) -> None:
    plain, less = (judged(model, layout, Ask(8192, offload=size)) for size in (0, gibs * GIB))
    parts = shape_weights.parts(model)
    moved = less.host // layout.gpus
    assert moved <= gibs * GIB
    assert moved <= parts.rest // layout.tensor // layout.pipeline + 1
    assert term(plain, "weights") - term(less, "weights") == moved
    assert sum(one.bytes for one in less.terms) == less.budget.bytes
    assert less.kv_tokens >= plain.kv_tokens


def test_a_little_that_lacks_may_lie_in_the_host_s_memory() -> None:
    def told(context: int) -> list[str]:
        every = fit.advice(DEV32, cards.parse("RTX4090"), Ask(context))
        return [one for one in every if "--cpu-offload-gb" in one]

    (one,) = told(16_384)
    assert one.startswith("--cpu-offload-gb 3: 16,784 tokens in 4.10 GiB of KV cache a GPU (TP=1), with 3.00 GiB")
    assert "slow: they cross PCIe for every token, which takes at least 0.10 s" in one
    assert fit.judge(DEV32, cards.parse("RTX4090"), Layout(1), Ask(16_384, offload=3 * GIB)).fits
    assert not fit.judge(DEV32, cards.parse("RTX4090"), Layout(1), Ask(16_384, offload=2 * GIB)).fits
    assert told(32_768) == []  # 7 of 18 GiB are not a little


def allocated(model: ModelShape, rank: int, loras: int, tensor: int, ranks: int) -> Iterator[int]:
    """Numbers of every matrix that vLLM 0.32 makes on one GPU (lora/layers/: column, row, fused_moe, logits). `ranks`
    GPUs share whole experts; 1: `tensor` GPUs share slices of each."""
    hidden, wide, keys = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    for layer in range(model.layers):
        for out in (wide, keys, keys):
            yield from (rank * hidden, out // tensor * rank)
        yield from (rank * wide // tensor, hidden * rank)
        if layer >= model.layers - model.moe_layers:
            for _ in range(model.experts // ranks):
                inner = model.moe_intermediate // (tensor if ranks == 1 else 1)
                yield from (rank * hidden, inner * rank, rank * hidden, inner * rank, rank * inner, hidden * rank)
        else:
            inner = model.intermediate // tensor
            yield from (rank * hidden, inner * rank, rank * hidden, inner * rank, rank * inner, hidden * rank)
    if model.architecture.startswith(("Llama", "Qwen3")):
        yield from (model.vocab * rank, hidden * rank, rank * hidden, model.vocab * rank)


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        (DEV32, Layout(1)),
        (DEV32, Layout(4)),
        (LLAMA, Layout(1)),
        (LLAMA, Layout(8)),
        (SMALL, Layout(1)),
        (PROD480, Layout(4)),
        (PROD480, Layout(8, expert=True)),
        (PROD480, Layout(1, data=8, expert=True)),
    ],
)
def test_adapters_take_what_vllm_allocates(model: ModelShape, layout: Layout) -> None:
    ranks = layout.tensor * layout.data if layout.expert else 1
    numbers = sum(allocated(model, 32, 1, layout.tensor, ranks))
    found = judged(model, layout, Ask(8192, lora_rank=32, loras=2))
    assert term(found, "LoRA") == pytest.approx(2 * 2 * numbers, rel=1e-6)


def test_a_draft_model_lies_beside_the_model_in_the_last_stage() -> None:
    size = shape_weights.parts(SMALL).total
    plain, drafted = (judged(LLAMA, Layout(1), Ask(8192, draft=draft)) for draft in (None, SMALL))
    assert term(drafted, "draft model") == size
    assert term(plain, "KV cache") - term(drafted, "KV cache") == size
    assert term(judged(LLAMA, Layout(2), Ask(8192, draft=SMALL)), "draft model") == size // 2
    assert term(judged(LLAMA, Layout(2), Ask(8192, draft=SMALL, draft_tensor=1)), "draft model") == size
    last = judged(LLAMA, Layout(1, 2), Ask(8192, draft=SMALL))
    assert last.kv_tokens <= judged(LLAMA, Layout(1, 2), Ask(8192)).kv_tokens


def test_the_cpu_counts_adapters_and_a_draft_and_moves_nothing() -> None:
    ask = Ask(8192, lora_rank=16, draft=SMALL, offload=GIB)
    plain, more = fit.cpu(LLAMA, 4 * GIB, 32, Ask(8192)), fit.cpu(LLAMA, 4 * GIB, 32, ask)
    added = term(more, "LoRA") + term(more, "draft model")
    assert added > shape_weights.parts(SMALL).total
    assert more.budget.bytes - plain.budget.bytes == added
    assert "--cpu-offload-gb has no effect on the CPU" in more.notes
    assert more.host == 0


def test_what_is_not_in_the_sum_is_said() -> None:
    note = "the draft model a/x (--speculative-config) is not counted: leave room for it"
    ask = Ask(8192, uncounted=(note,))
    assert note in judged(LLAMA, Layout(1), ask).notes
    assert note in fit.cpu(LLAMA, 4 * GIB, 32, ask).notes
    assert judged(LLAMA, Layout(1), ask).kv_tokens == judged(LLAMA, Layout(1), replace(ask, uncounted=())).kv_tokens
