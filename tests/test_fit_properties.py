"""What holds of every verdict, whatever the model, the GPUs and the wish."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

import shapes
from aicockpit.hardware import fit
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.fit import Ask, Layout
from aicockpit.hardware.shape import ModelShape, read

READ = {name: read(config) for name, config in shapes.ALL.items()}
MODELS = st.sampled_from(sorted(READ)).map(READ.__getitem__)
MEMORY = st.integers(1 * GIB, 300 * GIB)
LENGTHS = st.integers(1, 32_768)
SIZES = st.sampled_from((1, 2, 3, 4, 6, 8))
CAPABILITY = st.sampled_from((None, (7, 5), (8, 0), (8, 9), (9, 0)))


def devices(memory: int, count: int, capability: tuple[int, int] | None = (9, 0)) -> list[Device]:
    return [Device("a GPU", memory, capability=capability)] * count


def asked(length: int | None) -> Ask:
    """vLLM's own batch sizes change with a GPU's memory; here they stand still."""
    return Ask(length, batched_tokens=2048, max_num_seqs=256)


@settings(deadline=None)
@given(MODELS, MEMORY, st.integers(0, 100 * GIB), LENGTHS, SIZES)
def test_more_memory_never_gives_fewer_tokens(
    model: ModelShape, memory: int, more: int, length: int, tensor: int
) -> None:
    less, full = (
        fit.judge(model, devices(size, tensor), Layout(tensor), asked(length)) for size in (memory, memory + more)
    )
    assert less.kv_tokens <= full.kv_tokens
    assert full.fits or not less.fits


@settings(deadline=None)
@given(MODELS, MEMORY, LENGTHS, LENGTHS, SIZES)
def test_a_longer_window_never_fits_where_a_shorter_does_not(
    model: ModelShape, memory: int, one: int, other: int, count: int
) -> None:
    short, long = sorted((one, other))
    gpus = devices(memory, count)
    if fit.best(model, gpus, asked(long), count).verdict.fits:
        assert fit.best(model, gpus, asked(short), count).verdict.fits


@settings(deadline=None)
@given(MODELS, MEMORY, st.none() | LENGTHS, SIZES, st.sampled_from(("auto", "fp8")), st.integers(0, 64))
def test_terms_add_up_to_the_budget(
    model: ModelShape, memory: int, length: int | None, count: int, kind: str, rank: int
) -> None:
    ask = replace(asked(length), kv_dtype=kind, lora_rank=rank)
    gpus = devices(memory, count)
    for layout, _ in fit.layouts(model, gpus):
        verdict = fit.judge(model, gpus, layout, ask)
        assert sum(term.bytes for term in verdict.terms) == verdict.budget.bytes
        assert verdict.budget.bytes == int(memory * ask.utilisation)
        assert verdict.terms[-1].name == "KV cache"
        assert all(term.how for term in (*verdict.terms, verdict.budget))


@settings(deadline=None)
@given(MODELS, MEMORY, st.none() | LENGTHS, SIZES, CAPABILITY)
def test_a_verdict_says_why_and_what_fits_holds_a_whole_request(
    model: ModelShape, memory: int, length: int | None, count: int, capability: tuple[int, int] | None
) -> None:
    verdict = fit.best(model, devices(memory, count, capability), asked(length)).verdict
    assert verdict.why
    if verdict.fits:
        assert not fit.refusal(model, verdict.layout)
        assert verdict.layout.gpus <= count
        assert verdict.kv_tokens >= verdict.max_model_len or set(model.layer_kinds) == {"encoder"}
        assert verdict.concurrency >= 1
        assert not fit.advice(model, devices(memory, count, capability), asked(length))


@settings(deadline=None)
@given(
    st.integers(1, 128),
    st.integers(1, 32),
    st.integers(1, 40_000),
    st.integers(1, 200_000),
    st.integers(1, 16),
)
def test_a_dense_layout_is_valid_if_and_only_if_it_divides(
    heads: int, kv_heads: int, intermediate: int, vocab: int, tensor: int
) -> None:
    model = replace(
        READ["llama_8b"], heads=heads, kv_heads=kv_heads, intermediate=intermediate, vocab=vocab, head_dim=64
    )
    padded = (vocab + 63) // 64 * 64
    divides = (
        heads % tensor == 0
        and (kv_heads % tensor == 0 or tensor % kv_heads == 0)
        and intermediate % tensor == 0
        and padded % tensor == 0
    )
    assert (not fit.refusal(model, Layout(tensor))) == divides


@settings(deadline=None)
@given(MODELS, SIZES)
def test_layouts_use_every_gpu_and_come_once(model: ModelShape, count: int) -> None:
    found = [layout for layout, _ in fit.layouts(model, devices(GIB, count))]
    assert found
    assert all(layout.gpus == count for layout in found)
    assert len({*found}) == len(found)


@settings(max_examples=30, deadline=None)
@given(MODELS, MEMORY, st.none() | LENGTHS, SIZES)
def test_advice_is_sentences_and_never_crashes(model: ModelShape, memory: int, length: int | None, count: int) -> None:
    for sentence in fit.advice(model, devices(memory, count), asked(length)):
        assert sentence.endswith(".")


@settings(deadline=None)
@given(MODELS, st.integers(0, 20 * GIB), st.sampled_from((16, 32, 128)), st.none() | LENGTHS)
def test_on_the_cpu_more_cache_never_holds_fewer_tokens(
    model: ModelShape, kv_bytes: int, block: int, length: int | None
) -> None:
    one, two = (fit.cpu(model, size, block, asked(length)) for size in (kv_bytes, 2 * kv_bytes))
    assert sum(term.bytes for term in one.terms) == one.budget.bytes
    if length:
        assert one.kv_tokens <= two.kv_tokens
        assert two.fits or not one.fits
