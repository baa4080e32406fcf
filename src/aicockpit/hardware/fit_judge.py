"""Does a model fit these GPUs in one layout, and in words why. Pure; called by `fit_best` and exported by `fit`."""

from __future__ import annotations

from collections.abc import Sequence

from aicockpit.hardware import fit_beside, fit_kernels, shape_weights
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.fit_layout import refusal
from aicockpit.hardware.fit_terms import Stage, defaults, tightest
from aicockpit.hardware.fit_types import Ask, Layout, Verdict, gib
from aicockpit.hardware.shape import ModelShape

SHORTEST = 8192  # tokens; a code assistant with a smaller window is not worth starting unless it is asked for
WORKING = 32_768  # tokens: a repository's pack, the open file and an answer
_DEFAULT_LENGTH = 2048  # vLLM's, for a model that does not tell its window


def judge(shape: ModelShape, devices: Sequence[Device], layout: Layout, ask: Ask) -> Verdict:
    """This model in this layout on the first `layout.gpus` of these GPUs.

    Raises ValueError when there are fewer, SettingError for a KV type that is not known.
    """
    if len(devices) < layout.gpus:
        raise ValueError(f"a layout of {layout.gpus} GPUs on {len(devices)}")
    used = tuple(devices[: layout.gpus])
    stage = tightest(shape, used, layout, ask)
    able = fit_kernels.kernels(shape, used, layout, ask)
    length, shortened = _length(shape, stage, ask)
    tokens = stage.cache.tokens(stage.pool, length)
    concurrency = layout.data * tokens / length if stage.cache.groups else float(_sequences(used, ask))
    wrong = _mixed(used) or refusal(shape, layout) or able.refused or _too_full(used, ask) or _too_long(shape, length)
    short = "" if wrong else _too_small(shape, stage, length, layout)
    host, told = fit_beside.host(stage.moved, layout)
    moved = (f"{told} {fit_beside.price(shape, stage.moved)}",) if host else ()
    return Verdict(
        not wrong and not short,
        layout,
        stage.terms,
        tokens,
        length,
        concurrency,
        wrong or short or _praise(shape, tokens, length, concurrency, layout),
        (*able.notes, *_unequal(used, stage), *shortened, *moved, *ask.uncounted, *_caution(stage, shape)),
        (*layout.flags(), *able.flags, *_length_flags(shape, length), *_ask_flags(ask)),
        able.env,
        stage.budget,
        used,
        host,
    )


def _length(shape: ModelShape, stage: Stage, ask: Ask) -> tuple[int, tuple[str, ...]]:
    """The window to judge; a note when it is only part of the model's own."""
    if ask.max_model_len:
        return ask.max_model_len, ()
    own = shape.max_len or _DEFAULT_LENGTH
    length = own
    while length // 2 >= min(own, SHORTEST) and stage.cache.needed(length) > stage.pool:
        length //= 2
    if length == own or stage.cache.needed(length) > stage.pool:
        return (own if length == own else length), ()
    wants = f"the model's own window of {own:,} tokens would need {gib(stage.cache.needed(own))} of KV cache a GPU"
    return length, (f"{wants}; {length:,} is the largest half, quarter ... of it that fits",)


def _sequences(used: Sequence[Device], ask: Ask) -> int:
    return ask.max_num_seqs or defaults(used[0])[1]


def _too_full(used: Sequence[Device], ask: Ask) -> str:
    """vLLM refuses to start when less is free than its budget."""
    for device in used:
        budget = int(device.memory * ask.utilisation)
        if device.free is not None and device.free < budget:
            share = int(100 * device.free / device.memory) / 100
            name = device.name if device.index is None else f"GPU {device.index} ({device.name})"
            return (
                f"{gib(device.free)} of {name} are free, less than the budget of {gib(budget)}: vLLM refuses to start. "
                f"Stop what uses the GPU, or lower --gpu-memory-utilization to {share:g} or less"
            )
    return ""


def _too_long(shape: ModelShape, length: int) -> str:
    if shape.max_len and length > shape.max_len:
        return f"a window of {length:,} tokens passes the model's own of {shape.max_len:,}"
    return ""


def _too_small(shape: ModelShape, stage: Stage, length: int, layout: Layout) -> str:
    on = f"each of {layout.gpus} GPUs" if layout.gpus > 1 else stage.device.name
    if stage.pool <= 0:
        weights, total = stage.terms[0].bytes, shape_weights.parts(shape).total
        others = stage.budget.bytes - stage.pool - weights
        over = f" ({gib(total)} over {layout.gpus} GPUs)" if layout.gpus > 1 else ""
        over += f", less {gib(stage.moved)} in the host's memory," if stage.moved else ""
        return (
            f"weights of {gib(weights)}{over} and {gib(others)} beside them pass the {gib(stage.budget.bytes)} that "
            f"vLLM may use of {on} by {gib(-stage.pool)}"
        )
    if stage.cache.groups and stage.cache.needed(length) > stage.pool:
        most = stage.cache.longest(stage.pool, length)
        return (
            f"one request of {length:,} tokens needs {gib(stage.cache.needed(length))} of KV cache, and "
            f"{gib(stage.pool)} are left on {on}: enough for {most:,} tokens"
        )
    return ""


def _praise(shape: ModelShape, tokens: int, length: int, concurrency: float, layout: Layout) -> str:
    if not tokens:
        return "fits; it keeps nothing between requests"
    each = " in each of its copies" if layout.data > 1 else ""
    use = "requests are embedded at once" if shape.pooling else "requests run at once"
    return f"fits: {tokens:,} tokens of KV cache{each}, so {concurrency:.1f} {use} at {length:,} tokens each"


def _mixed(used: Sequence[Device]) -> str:
    """One engine is one build of vLLM, and CUDA shows a process one MIG instance."""
    if len({device.vendor for device in used}) > 1:
        return "NVIDIA and AMD GPUs cannot serve one model together"
    if len(used) > 1 and any(device.instance for device in used):
        return "an engine cannot be spread over MIG instances: CUDA uses one of them at a time"
    return ""


def _unequal(used: Sequence[Device], stage: Stage) -> tuple[str, ...]:
    if len({device.memory for device in used}) == 1:
        return ()
    return (f"the GPUs differ: {stage.device.name} has the least room, and every other one keeps as many tokens",)


def _caution(stage: Stage, shape: ModelShape) -> tuple[str, ...]:
    seen = ("the peak of its picture encoder is not counted; --limit-mm-per-prompt bounds it",)
    pictures = seen if shape.vision_params else ()
    if not stage.cache.per_token:
        return pictures
    return (
        *pictures,
        f"a prediction: 1 GiB more or less of overhead is {GIB // stage.cache.per_token:,} tokens",
    )


def _length_flags(shape: ModelShape, length: int) -> tuple[str, ...]:
    return () if length == shape.max_len else ("--max-model-len", str(length))


def _ask_flags(ask: Ask) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if ask.utilisation != Ask().utilisation:
        found += ("--gpu-memory-utilization", f"{ask.utilisation:g}")
    if ask.batched_tokens:
        found += ("--max-num-batched-tokens", str(ask.batched_tokens))
    if ask.max_num_seqs:
        found += ("--max-num-seqs", str(ask.max_num_seqs))
    if ask.kv_dtype != "auto":
        found += ("--kv-cache-dtype", ask.kv_dtype)
    if ask.lora_rank:
        found += ("--enable-lora", "--max-lora-rank", str(ask.lora_rank), "--max-loras", str(ask.loras))
    if ask.offload:
        found += ("--cpu-offload-gb", f"{ask.offload / GIB:g}")
    return found + (("--enforce-eager",) if ask.eager else ())
