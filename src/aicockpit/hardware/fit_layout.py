"""Which layouts over GPUs a model's dimensions allow, and why not the others. Pure; called by `fit`.

The rules are vLLM's: config/model.py (heads), QKVParallelLinear (KV heads), vocab_parallel_embedding.py (vocabulary
padded to 64), fp8_utils.validate_fp8_block_shape, marlin_utils (groups of weights that share a scale).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aicockpit.hardware.device import Device
from aicockpit.hardware.fit_types import Layout
from aicockpit.hardware.shape import ModelShape

_VOCAB_PAD = 64
_PADDED = ("mxfp4", "gpt_oss_mxfp4")  # vLLM pads the experts of these itself


def layouts(shape: ModelShape, devices: Sequence[Device]) -> list[tuple[Layout, str]]:
    """Every way to use all of these GPUs, best first: "" when it is valid, else why it is not.

    Tensor parallelism answers a single request fastest, so it comes first; experts in whole pieces when slices do not
    divide; then pipelines; then attention repeated on each GPU, which spends memory.
    """
    return [(layout, refusal(shape, layout)) for layout in _every(shape, len(devices))]


def _every(shape: ModelShape, gpus: int) -> Iterator[Layout]:
    sizes = [n for n in range(gpus, 0, -1) if gpus % n == 0]
    for tensor in sizes:
        yield Layout(tensor, gpus // tensor)
        if shape.experts and tensor > 1:
            yield Layout(tensor, gpus // tensor, expert=True)
    if shape.experts:
        for tensor in sizes[1:]:
            yield Layout(tensor, 1, gpus // tensor, expert=True)


def refusal(shape: ModelShape, layout: Layout) -> str:
    """Why vLLM would refuse this layout; "" when it would not."""
    if min(layout.tensor, layout.pipeline, layout.data) < 1:
        return "every size of a layout is 1 or more"
    if layout.pipeline > shape.layers:
        return f"{layout.pipeline} stages for {shape.layers} layers"
    if layout.expert and not shape.experts:
        return "it has no experts to spread"
    if layout.data > 1 and not layout.expert:
        return "copies without shared experts are replicas: start several engines instead"
    ranks = layout.tensor * layout.data
    if layout.expert and shape.experts < ranks:
        return f"{shape.experts} experts for {ranks} GPUs"
    if layout.tensor == 1:
        return ""
    return _tensor(shape, layout.tensor) or _widths(shape, layout) or _quantised(shape, layout)


def _tensor(shape: ModelShape, tensor: int) -> str:
    if shape.heads % tensor:
        return f"{shape.heads} attention heads / {tensor} GPUs is no whole number"
    if not shape.mla and shape.kv_heads % tensor and tensor % shape.kv_heads:
        return f"{shape.kv_heads} KV heads neither divide by {tensor} GPUs nor into them"
    if shape.state and (shape.state.value_heads % tensor or shape.state.key_heads % tensor):
        s = shape.state
        return f"{s.value_heads} value or {s.key_heads} key heads of linear attention / {tensor} GPUs"
    padded = -(-shape.vocab // _VOCAB_PAD) * _VOCAB_PAD
    if padded % tensor:
        return f"a vocabulary of {shape.vocab:,}, padded to {padded:,}, / {tensor} GPUs is no whole number"
    return ""


def _widths(shape: ModelShape, layout: Layout) -> str:
    """Widths that tensor parallelism cuts must divide."""
    for name, width in _cut(shape, layout):
        if width % layout.tensor:
            return f"{name} of {width:,} / {layout.tensor} GPUs is no whole number"
    return ""


def _cut(shape: ModelShape, layout: Layout) -> list[tuple[str, int]]:
    found = []
    if shape.moe_layers < shape.layers and shape.intermediate:
        found.append(("an MLP", shape.intermediate))
    if shape.shared_intermediate:
        found.append(("a shared expert", shape.shared_intermediate))
    if shape.experts and not layout.expert:
        found.append(("an expert", shape.moe_intermediate))
    return found


def _quantised(shape: ModelShape, layout: Layout) -> str:
    """A slice must hold whole groups or blocks of weights that share a scale."""
    quant, tensor = shape.quant, layout.tensor
    if quant is None or quant.method in _PADDED:
        return ""
    unit, called = (max(quant.block), "FP8 block") if quant.block else (quant.group or 1, "quantisation group")
    if unit == 1:
        return ""
    slices = _cut(shape, layout)
    if quant.attention:
        value = shape.mla.value if shape.mla else shape.head_dim
        slices.append(("attention", shape.heads * value))
        if quant.block and not shape.mla:
            slices.append(("keys", max(shape.kv_heads, tensor) * shape.head_dim))
    for name, width in slices:
        part = width // tensor
        if part % unit:
            text = f"{name} of {width:,} / {tensor} GPUs = {part:,} is not a multiple of the {called} of {unit}"
            return text + (" (with + EP they stay whole)" if name == "an expert" else "")
    return ""


def stages(layers: int, pipeline: int) -> list[range]:
    """The layers of each stage, as vLLM cuts them (distributed/utils.py: get_pp_indices): the remainder goes to the
    last stages but one."""
    sizes = [layers // pipeline] * pipeline
    for i in range(2, layers % pipeline + 2):
        sizes[-i] += 1
    found, start = [], 0
    for size in sizes:
        found.append(range(start, start + size))
        start += size
    return found
