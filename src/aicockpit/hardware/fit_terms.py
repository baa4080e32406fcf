"""The parts of one GPU's memory, each with its sum: weights, activation, other, KV cache. Pure; called by `fit_judge`.

The sum is vLLM's own (v1/worker/gpu_worker.py: determine_available_memory), with measured constants in place of its
measurement: budget = total memory x utilisation; KV cache = budget - weights - activation - other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aicockpit.hardware import fit_beside, fit_kv, shape_weights
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.fit_layout import stages
from aicockpit.hardware.fit_types import Ask, Layout, Term, gib
from aicockpit.hardware.shape import ModelShape

# Peak of a forward pass with its CUDA graphs, GiB: llm-d-planner 0.3.3, configuration/vllm_memory_constants.json
# (vLLM 0.19 on an H100 with 8,192 batched tokens, 49 runs of 28 models; the same for every length of context).
ACTIVATION_GIB = {
    "LlamaForCausalLM": 1.89,
    "Qwen2ForCausalLM": 2.25,
    "Qwen3ForCausalLM": 2.21,
    "Mistral3ForConditionalGeneration": 2.10,
    "PixtralForConditionalGeneration": 2.10,
    "DeepseekV2ForCausalLM": 1.93,
    "GraniteForCausalLM": 0.85,
    "LlavaNextForConditionalGeneration": 0.79,
    "MixtralForCausalLM": 1.21,
    "Phi3ForCausalLM": 1.52,
    "Qwen2MoeForCausalLM": 2.47,
    "Qwen3MoeForCausalLM": 2.68,
    "Gemma2ForCausalLM": 3.65,
    "Gemma3ForCausalLM": 3.94,
    "GemmaForCausalLM": 3.63,
}
ACTIVATION_DENSE_GIB, ACTIVATION_MOE_GIB, ACTIVATION_VISION_GIB = 2.0, 2.5, 2.0
ACTIVATION_TOKENS = 8192
# CUDA's context and, with tensor parallelism, NCCL's buffers, GiB (same source).
OTHER_ONE_GIB, OTHER_PIPELINE_GIB, OTHER_TENSOR_GIB = 0.27, 0.07, 2.10


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage on its smallest GPU. `moved`: bytes of its weights that lie in the host's memory."""

    device: Device
    cache: fit_kv.Cache
    terms: tuple[Term, ...]
    budget: Term
    moved: int = 0

    @property
    def pool(self) -> int:
        return self.terms[-1].bytes


def defaults(device: Device) -> tuple[int, int]:
    """vLLM's (max_num_batched_tokens, max_num_seqs) of a server on this GPU (0.32, engine/arg_utils.py)."""
    if device.memory >= 160 * GIB:
        return 16384, 1024
    if device.memory >= 70 * GIB and "a100" not in device.name.lower():
        return 8192, 1024
    return 2048, 256


def tightest(shape: ModelShape, used: Sequence[Device], layout: Layout, ask: Ask) -> Stage:
    """The stage whose KV cache holds the shortest request: vLLM gives every stage the blocks of the smallest."""
    cuts = stages(shape.layers, layout.pipeline) if layout.pipeline <= shape.layers else [range(shape.layers)]
    ranks = layout.tensor * layout.pipeline
    found = []
    for number, layers in enumerate(cuts):
        mine = [
            used[copy * ranks + number * layout.tensor + slot]
            for copy in range(layout.data)
            for slot in range(layout.tensor)
        ]
        device = min(mine, key=lambda one: one.memory)
        found.append(_stage(shape, device, layout, ask, layers, (number == 0, number == len(cuts) - 1)))
    return min(found, key=lambda stage: stage.pool / max(1, stage.cache.per_block))


def _stage(
    shape: ModelShape, device: Device, layout: Layout, ask: Ask, layers: range, ends: tuple[bool, bool]
) -> Stage:
    batched = ask.batched_tokens or defaults(device)[0]
    # Async scheduling lets two batches be in flight (0.32, config/vllm.py: max_concurrent_batches).
    in_flight = batched * (layout.pipeline if layout.pipeline > 1 else 2)
    cache = fit_kv.cache(shape, ask.kv_dtype, layout.tensor, layers, in_flight)
    budget = int(device.memory * ask.utilisation)
    weights, moved = _weights(shape, layout, len(layers), ends, ask)
    terms = [
        weights,
        _activation(shape, batched),
        _other(layout),
        Term("CUDA graphs", 0, "none: eager" if ask.eager else "measured within the activation"),
    ]
    terms += fit_beside.beside(shape, ask, layout, len(layers), ends)
    pool = budget - sum(term.bytes for term in terms)
    how = fit_kv.explain(shape, ask.kv_dtype, cache, layout.tensor)
    terms.append(Term("KV cache", pool, f"what is left; {how}"))
    told = f"{gib(device.memory)} of {device.name} x {ask.utilisation:g}"
    return Stage(device, cache, tuple(terms), Term("budget", budget, told), moved)


def _weights(shape: ModelShape, layout: Layout, layers: int, ends: tuple[bool, bool], ask: Ask) -> tuple[Term, int]:
    """Of one GPU, and how many bytes more lie in the host's memory. A tied embedding lies at both ends of a
    pipeline."""
    parts = shape_weights.parts(shape)
    first, last = ends
    share = layers / shape.layers
    embedding = parts.embedding * (first or (last and not parts.head)) + parts.head * last
    cut = (embedding + parts.rest * share) / layout.tensor
    if layout.expert and shape.experts:
        ranks = layout.tensor * layout.data
        held = -(-shape.experts // ranks)
        size = int(cut + parts.experts * share * held / shape.experts)
        how = f"{parts.how}: {held} of {shape.experts} experts of {gib(parts.experts * share)}"
        how += f" + {gib(embedding + parts.rest * share)}" + (f" / {layout.tensor}" if layout.tensor > 1 else "")
    else:
        size = int(cut + parts.experts * share / layout.tensor)
        how = parts.how + (f", {layers} of {shape.layers} layers" if layout.pipeline > 1 else "")
        how += f" / {layout.tensor} GPUs" if layout.tensor > 1 else ""
    moved = fit_beside.moved(ask, size - int(embedding / layout.tensor))
    return Term("weights", size - moved, how + (f" - {gib(moved)} in the host's memory" if moved else "")), moved


def _activation(shape: ModelShape, batched: int) -> Term:
    kind = shape.architecture
    size = ACTIVATION_GIB.get(kind)
    if size is None:
        kind = (
            "models with experts" if shape.experts else "models with vision" if shape.vision_params else "dense models"
        )
        size = ACTIVATION_MOE_GIB if shape.experts else ACTIVATION_VISION_GIB
        size = size if shape.experts or shape.vision_params else ACTIVATION_DENSE_GIB
    how = f"{size:g} GiB measured for {kind} at {ACTIVATION_TOKENS:,} batched tokens"
    if batched > ACTIVATION_TOKENS:
        size *= batched / ACTIVATION_TOKENS
        how += f" x {batched:,} / {ACTIVATION_TOKENS:,}"
    return Term("activation", int(size * GIB), how)


def _other(layout: Layout) -> Term:
    if layout.tensor * layout.data > 1:
        return Term("CUDA and NCCL", int(OTHER_TENSOR_GIB * GIB), "measured with tensor parallelism")
    if layout.pipeline > 1:
        return Term("CUDA and NCCL", int(OTHER_PIPELINE_GIB * GIB), "measured with a pipeline")
    return Term("CUDA", int(OTHER_ONE_GIB * GIB), "measured on one GPU")
