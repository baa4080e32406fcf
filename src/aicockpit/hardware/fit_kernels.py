"""What a GPU's kernels can do with a checkpoint's format: refusals, flags, environment, notes. Pure; called by `fit`.

Minimum capabilities are the `get_min_capability` of vLLM 0.32, model_executor/layers/quantization/*.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aicockpit.hardware.device import Device
from aicockpit.hardware.fit_types import Ask, Layout
from aicockpit.hardware.shape import ModelShape

_GONE = {
    "bitsandbytes": "bitsandbytes is no longer a vLLM format (removed upstream)",
    "gguf": "GGUF is no longer a vLLM format (removed upstream)",
}
# vLLM 0.32, model_executor/layers/quantization/__init__.py, with the least compute capability of each.
_LEAST: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("awq", "auto_awq", "awq_marlin", "fp8", "humming", "torchao", "inc", "quark"), (7, 5)),
    **dict.fromkeys(("gptq", "auto_gptq", "gptq_marlin", "auto-round"), (6, 0)),
    **dict.fromkeys(("compressed-tensors", "moe_wna16"), (7, 0)),
    **dict.fromkeys(("modelopt_fp4", "modelopt_mixed", "online"), (7, 5)),
    **dict.fromkeys(("modelopt", "modelopt_mxfp8", "fbgemm_fp8", "experts_int8"), (8, 0)),
    **dict.fromkeys(("mxfp4", "gpt_oss_mxfp4", "deepseek_v4_fp8"), (8, 0)),
    "fp_quant": (10, 0),
}
_VLLM_LEAST = (7, 5)  # what vLLM's wheels are compiled for: documentation of vLLM 0.21 and later, "GPU"
_BF16_LEAST = (8, 0)
_FP8_LEAST = (8, 9)
_HOPPER = (9, 0)


@dataclass(frozen=True, slots=True)
class Kernels:
    """`refused` "" when the format runs. `flags` and `env` are what it needs to run well."""

    refused: str = ""
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def kernels(shape: ModelShape, devices: Sequence[Device], layout: Layout, ask: Ask) -> Kernels:
    """The weakest of the GPUs decides. An unknown capability makes no claim."""
    method = shape.quant.method if shape.quant else ""
    if method in _GONE:
        what = "its original repository, or an AWQ, GPTQ or FP8 one"
        return Kernels(f"{_GONE[method]}; use another build of the model, for example {what}")
    if method and method not in _LEAST and not method.startswith("modelopt"):
        return Kernels(f"vLLM has no quantisation {method!r}; use another build of the model (AWQ, GPTQ, FP8)")
    known = [device.capability for device in devices if device.vendor == "nvidia" and device.capability]
    if not known:
        return Kernels(notes=_unclaimed(shape, devices))
    least = min(known)
    wanted = max(_VLLM_LEAST, _LEAST.get(method, _VLLM_LEAST))
    if least < wanted:
        what = f"{method} weights" if method and wanted > _VLLM_LEAST else "vLLM's kernels"
        return Kernels(
            f"{what} need compute capability {_dotted(wanted)}, and {_weakest(devices)} has {_dotted(least)}"
        )
    flags, env, notes = _fp8(shape, least)
    if least < _BF16_LEAST and shape.dtype != "float16":
        flags += ("--dtype", "half")
        notes += (f"{_weakest(devices)} has no bfloat16: --dtype half",)
    if ask.kv_dtype.startswith("fp8") and least < _FP8_LEAST:
        notes += (f"an FP8 KV cache on capability {_dotted(least)} is converted at every read: slower",)
    if layout.tensor > 1 and any(device.peer != "nvlink" for device in devices):
        notes += ("tensor parallelism crosses PCIe here: expect it to be slower than over NVLink",)
    return Kernels("", flags, env, notes)


def _fp8(
    shape: ModelShape, least: tuple[int, int]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Below capability 8.9 FP8 is a way to store: Marlin computes in 16 bits. DeepGEMM is for Hopper and later."""
    if shape.precision != "fp8":
        return (), (), ()
    env = (("VLLM_USE_DEEP_GEMM", "0"),) if least < _HOPPER else ()
    if least >= _FP8_LEAST:
        return (), env, ()
    note = f"FP8 on capability {_dotted(least)}: weights stay in 8 bits, the arithmetic is 16 bits (Marlin)"
    # Without it, starts on Ampere fail with `fp8e4nv not supported` (vLLM issue 54318).
    return ("--moe-backend", "marlin") if shape.experts else (), env, (note,)


def _unclaimed(shape: ModelShape, devices: Sequence[Device]) -> tuple[str, ...]:
    if any(device.vendor == "amd" for device in devices):
        text = "activation and other overheads were measured on NVIDIA GPUs; on AMD they are a guess"
        return (text,)
    fmt = f"{shape.precision} weights" if shape.quant else "this model"
    return (f"the GPU's compute capability is unknown: whether it runs {fmt} is not checked",)


def _weakest(devices: Sequence[Device]) -> str:
    known = [device for device in devices if device.capability]
    return min(known, key=lambda device: device.capability or (0, 0)).name


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
