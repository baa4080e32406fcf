"""What an engine's flags add to the model or take off the GPU: adapters, a draft model, weights in the host's memory.

Pure; called by `fit_terms` and `fit_cpu`. The sizes are those that vLLM 0.32 allocates (lora/layers/*.py,
model_executor/offloader/uva.py).
"""

from __future__ import annotations

from aicockpit.hardware import shape_weights
from aicockpit.hardware.device import GIB
from aicockpit.hardware.fit_types import Ask, Layout, Term, gib
from aicockpit.hardware.shape import ModelShape

# Whose embedding and head take adapters, too (vLLM 0.32, `embedding_modules` in model_executor/models/*.py).
_ENDS = ("Llama", "Qwen3", "Mixtral", "Granite", "Exaone", "Nemotron", "Solar", "Apertus", "Cohere", "Jamba", "PhiMoE")
_PCIE = 32e9  # bytes a second, PCIe 4.0 x16 without any overhead


def beside(shape: ModelShape, ask: Ask, layout: Layout, layers: int, ends: tuple[bool, bool]) -> list[Term]:
    """Of one GPU with `layers` of the model's layers, at which ends of a pipeline: the last holds the draft model."""
    found = [_adapters(shape, ask, layout, layers, sum(ends))] if ask.lora_rank else []
    if ask.draft is not None and ends[1]:
        found.append(_draft(ask.draft, ask.draft_tensor or layout.tensor))
    return found


def moved(ask: Ask, layers: int) -> int:
    """Bytes that leave a GPU for the host: what was asked for, of the `layers` bytes of layers on it. vLLM moves
    parameters of layers alone; the embedding and the head stay."""
    return min(ask.offload, layers)


def price(shape: ModelShape, size: int) -> str:
    """What `size` bytes of a GPU's weights in the host's memory cost."""
    seconds = f"{size / _PCIE:.2f} s at the 32 GB/s of PCIe 4.0 x16"
    if shape.experts:
        return f"slow: what a token's experts have of them crosses PCIe each time, {seconds} if it is all of them"
    return f"slow: they cross PCIe for every token, which takes at least {seconds}"


def _adapters(shape: ModelShape, ask: Ask, layout: Layout, layers: int, ends: int) -> Term:
    """Two thin matrices of `lora_rank` beside each projection of each layer, in 16 bits, for each adapter.

    Tensor parallelism cuts the side of a matrix that it cuts in the projection; the other is whole on every GPU.
    `ends`: of the embedding and the head, how many are here; theirs are whole. Latent and linear attention count as
    plain attention of their heads: near, not exact.
    """
    mixed = layers * shape.moe_layers / shape.layers  # of a stage, those with experts
    dense = layers - mixed
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    whole = (4 * layers + 3 * dense) * shape.hidden
    cut = layers * attention + 3 * dense * shape.intermediate
    if shape.experts:
        ranks = layout.tensor * layout.data if layout.expert else 1
        held = mixed * -(-shape.experts // ranks)
        inner = shape.moe_intermediate * (layout.tensor if layout.expert else 1)  # whole experts are not cut
        whole, cut = whole + 3 * held * shape.hidden, cut + 3 * held * inner
        if shape.shared_intermediate:
            whole, cut = whole + 3 * mixed * shape.hidden, cut + 3 * mixed * shape.shared_intermediate
    if shape.architecture.startswith(_ENDS):
        whole += ends * (shape.vocab + shape.hidden)
    numbers = int(whole + cut / layout.tensor)
    size = ask.loras * ask.lora_rank * numbers * 2
    how = f"{ask.loras} x rank {ask.lora_rank} x {numbers:,} numbers beside {layers} layers x 2 bytes"
    return Term("LoRA", size, how)


def _draft(draft: ModelShape, tensor: int) -> Term:
    parts = shape_weights.parts(draft)
    how = parts.how + (f" / {tensor} GPUs" if tensor > 1 else "")
    return Term("draft model", parts.total // tensor, how)


def host(moved_here: int, layout: Layout) -> tuple[int, str]:
    """(bytes of the host's memory over all GPUs, a sentence on it); nothing when nothing was moved."""
    total = moved_here * layout.gpus
    if not total:
        return 0, ""
    over = f" x {layout.gpus} GPUs = {gib(total)}" if layout.gpus > 1 else ""
    return total, f"{gib(moved_here)} of weights{over} lie in the host's memory (--cpu-offload-gb), which is"


def steps(lack: int) -> int:
    """The least whole GiB, in bytes, that hold `lack`."""
    return -(-lack // GIB) * GIB
