"""What would fit, when a model does not: sentences with the arithmetic of each. Pure; exported by `fit`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from aicockpit.hardware import cards, fit_beside, shape_weights
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.fit_best import best
from aicockpit.hardware.fit_judge import SHORTEST
from aicockpit.hardware.fit_kernels import kernels
from aicockpit.hardware.fit_layout import layouts, refusal
from aicockpit.hardware.fit_terms import tightest
from aicockpit.hardware.fit_types import Ask, Verdict, gib
from aicockpit.hardware.shape import ModelShape, Quant

_LEAST_WINDOW = 1024
_STEP = 1024
_HIGH = 0.95  # of a GPU's memory; more leaves too little for what else runs on it
_COUNTS = (1, 2, 4, 8)
_CARDS = 4
_LITTLE = 0.25  # of a GPU's weights: more in the host's memory is no way to work


def advice(shape: ModelShape, devices: Sequence[Device], ask: Ask) -> tuple[str, ...]:
    """Nothing when it fits. Otherwise, from the least change to the largest: a shorter window, a smaller cache type,
    more of the memory, a part of the weights in the host's memory where little lacks, a smaller build of the model,
    room for another model, more or other GPUs."""
    if not devices:
        return tuple(_cards(shape, (), ask))
    if best(shape, devices, ask).verdict.fits:
        return ()
    if ask.max_model_len and shape.max_len and ask.max_model_len > shape.max_len:
        own = f"No machine holds {ask.max_model_len:,} tokens: the model's own window is {shape.max_len:,}."
        return (*_window(shape, devices, ask), own)
    return (
        *_window(shape, devices, ask),
        *_cache_type(shape, devices, ask),
        *_utilisation(shape, devices, ask),
        *_offload(shape, devices, ask),
        *_builds(shape, devices, ask),
        *_room(shape, devices, ask),
        *_cards(shape, devices, ask),
    )


def _window(shape: ModelShape, devices: Sequence[Device], ask: Ask) -> Iterator[str]:
    limit = min(ask.max_model_len or SHORTEST, shape.max_len or SHORTEST)
    longest = 0
    for gpus in range(1, len(devices) + 1):
        for layout, why in layouts(shape, devices[:gpus]):
            if not why:
                stage = tightest(shape, devices[:gpus], layout, ask)
                longest = max(longest, stage.cache.longest(stage.pool, limit))
    length = longest // _STEP * _STEP
    if length >= _LEAST_WINDOW:
        told = best(shape, devices, replace(ask, max_model_len=length)).verdict
        if told.fits:
            yield f"A window of {length:,} tokens fits ({told.layout}): --max-model-len {length}."


def _cache_type(shape: ModelShape, devices: Sequence[Device], ask: Ask) -> Iterator[str]:
    if ask.kv_dtype != "auto" or (shape.quant and shape.quant.kv):
        return
    told = best(shape, devices, replace(ask, kv_dtype="fp8")).verdict
    if told.fits:
        yield f"--kv-cache-dtype fp8 halves the KV cache: {_told(told)}."


def _utilisation(shape: ModelShape, devices: Sequence[Device], ask: Ask) -> Iterator[str]:
    if ask.utilisation >= _HIGH:
        return
    told = best(shape, devices, replace(ask, utilisation=_HIGH)).verdict
    if told.fits:
        yield f"--gpu-memory-utilization {_HIGH} instead of {ask.utilisation:g}: {_told(told)}."


def _offload(shape: ModelShape, devices: Sequence[Device], ask: Ask) -> Iterator[str]:
    """On all GPUs, in whole GiB; with its price."""
    if ask.max_model_len is None:
        ask = replace(ask, max_model_len=min(SHORTEST, shape.max_len or SHORTEST))
    found = best(shape, devices, ask, len(devices)).verdict
    stage = tightest(shape, found.devices, found.layout, ask)
    lack = stage.cache.needed(found.max_model_len) - stage.pool
    more = fit_beside.steps(lack)
    if not 0 < more <= _LITTLE * (stage.terms[0].bytes + stage.moved):
        return
    told = best(shape, devices, replace(ask, offload=stage.moved + more), len(devices)).verdict
    if told.fits:
        gigabytes = f"--cpu-offload-gb {told.host // told.layout.gpus / GIB:g}"
        price = fit_beside.price(shape, told.host // told.layout.gpus)
        yield f"{gigabytes}: {_told(told)}, with {gib(told.host)} of weights in the host's memory. That is {price}."


def _builds(shape: ModelShape, devices: Sequence[Device], ask: Ask) -> Iterator[str]:
    """The same model in fewer bits; nobody has checked that such a build exists or is good."""
    bits = shape.quant.bits if shape.quant else 16
    builds = (("FP8", Quant("fp8", 8, floating=True)), ("Int4 (AWQ or GPTQ)", Quant("awq", 4, 128, zeros=True)))
    for name, quant in builds:
        if quant.bits >= bits:
            continue
        small = replace(shape, quant=quant, weights=None, tensors=None)
        told = best(small, devices, ask).verdict
        if told.fits:
            total = shape_weights.gb(shape_weights.parts(small).total)
            yield f"A build of it in {name}, about {total} of weights, fits: {_told(told)}. Check its quality."
            return


def _room(shape: ModelShape, devices: Sequence[Device], ask: Ask) -> Iterator[str]:
    """How large another model may be, with the cache of this one; nothing when it is not memory that lacks."""
    found = best(shape, devices, ask, len(devices))
    layout = found.verdict.layout
    if refusal(shape, layout) or kernels(shape, found.verdict.devices, layout, ask).refused:
        return
    wanted = replace(ask, max_model_len=found.verdict.max_model_len)
    stage = tightest(shape, found.verdict.devices, layout, wanted)
    weights = next(term.bytes for term in stage.terms if term.name == "weights")
    free = weights + stage.pool - stage.cache.needed(found.verdict.max_model_len)
    share = layout.tensor * layout.pipeline
    total = shape_weights.parts(shape).total
    if 0 < free * share < total:
        on = f"{len(devices)} x {devices[0].name}" if len(devices) > 1 else devices[0].name
        yield (
            f"A smaller model: weights of up to {gib(free * share)} leave room for {found.verdict.max_model_len:,} "
            f"tokens on {on} (these are {gib(total)})."
        )


def _cards(shape: ModelShape, devices: Sequence[Device], ask: Ask) -> Iterator[str]:
    """The same card more often, then the least memory among known machines."""
    if devices and len({device.name for device in devices}) == 1:
        fresh = replace(devices[0], free=None)
        for count in _COUNTS:
            if count > len(devices) and (told := best(shape, [fresh] * count, ask, count).verdict).fits:
                yield f"{count} x {devices[0].name}: {_told(told)}."
                break
    vendor = devices[0].vendor if devices else None
    options: list[tuple[int, str]] = []
    for card in cards.catalogue():
        if vendor and card.vendor != vendor:
            continue
        device = card.device()
        for count in _COUNTS:
            told = best(shape, [device] * count, ask, count).verdict
            if told.fits and not (devices and device.name == devices[0].name):
                options.append((count * card.memory, f"{count} x {card.short} ({told.kv_tokens:,} tokens)"))
                break
    if options:
        names = [text for _, text in sorted(options)[:_CARDS]]
        yield f"Machines that hold it, smallest first: {', '.join(names)}."
    else:
        window = f" with {ask.max_model_len:,} tokens" if ask.max_model_len else ""
        yield f"No machine of up to 8 known cards holds it{window}."


def _told(verdict: Verdict) -> str:
    pool = gib(verdict.terms[-1].bytes)
    return f"{verdict.kv_tokens:,} tokens in {pool} of KV cache a GPU ({verdict.layout})"
