"""GPUs by NVML, and the host. What cannot be read is None; a probe never raises.

`serve`, `doctor` and `/metrics` call `snapshot`; the Makefile runs `python -m aicockpit.hardware.detect --profile`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import pynvml  # type: ignore[import-untyped]

_BIG_GPU_BYTES = 79_000_000_000  # an "80 GB" card reports 79.2 to 85.9 GB
_DEV32_BYTES = 44_000_000_000  # a "48 GB" card reports 47.6 to 51.5 GB; Q4 weights of 32B and a 32k window need it


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML sees it. `utilisation` is in percent, the sizes in bytes."""

    index: int
    uuid: str | None = None
    name: str | None = None
    total: int | None = None
    free: int | None = None
    used: int | None = None
    utilisation: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one moment. `gpu_note` says why no GPU was found, when none was."""

    gpus: tuple[Gpu, ...] = ()
    gpu_note: str = ""
    memory_total: int | None = None
    memory_available: int | None = None
    cpus: int | None = None


def snapshot() -> Snapshot:
    """Look at the machine now; takes about a millisecond per GPU."""
    gpus, note = _gpus()
    try:
        memory = psutil.virtual_memory()
        total, available = int(memory.total), int(memory.available)
    except (OSError, RuntimeError, ValueError):
        return Snapshot(gpus, note, cpus=_cpus())
    return Snapshot(gpus, note, total, available, _cpus())


def used_memory() -> float | None:
    """Share of the machine's memory in use, 0 to 1."""
    try:
        memory = psutil.virtual_memory()
        return 1 - float(memory.available) / float(memory.total)
    except (OSError, RuntimeError, ValueError, ZeroDivisionError):
        return None


def _cpus() -> int | None:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count()


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError) as error:
        return (), f"NVML: {error}"
    try:
        gpus = tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
        return gpus, "" if gpus else "NVML: the driver lists no GPU"
    except pynvml.NVMLError as error:
        return (), f"NVML: {error}"
    finally:
        _ask(pynvml.nvmlShutdown)


def _gpu(index: int) -> Gpu:
    handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Gpu(index)
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index,
        uuid=_text(_ask(pynvml.nvmlDeviceGetUUID, handle)),
        name=_text(_ask(pynvml.nvmlDeviceGetName, handle)),
        total=int(memory.total) if memory else None,
        free=int(memory.free) if memory else None,
        used=int(memory.used) if memory else None,
        utilisation=int(rates.gpu) if rates else None,
    )


def _ask(call: Callable[..., Any], *args: Any) -> Any:
    """None for what this driver, card or container does not tell."""
    try:
        return call(*args)
    except (pynvml.NVMLError, OSError, UnicodeDecodeError):
        return None


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def usable_gpus(machine: Snapshot, cuda_visible: str | None) -> tuple[str, ...]:
    """Ids for CUDA_VISIBLE_DEVICES of the engines: those that our own CUDA_VISIBLE_DEVICES leaves, or all.

    Like CUDA, reading stops at the first id that is not there.
    """
    known = {str(gpu.index) for gpu in machine.gpus} | {gpu.uuid for gpu in machine.gpus if gpu.uuid}
    if cuda_visible is None:
        return tuple(str(gpu.index) for gpu in machine.gpus)
    ids: list[str] = []
    for part in cuda_visible.split(","):
        name = part.strip()
        matches = name in known or (name.startswith("GPU-") and any(k.startswith(name) for k in known))
        if not (matches or (name.startswith("MIG-") and machine.gpus)) or name in ids:
            break
        ids.append(name)
    return tuple(ids)


def pick_profile(machine: Snapshot) -> tuple[str, str]:
    """The profile for this machine, and why in one sentence."""
    if not machine.gpus:
        return "cpu", f"no NVIDIA GPU found ({machine.gpu_note or 'no note'})"
    names = ", ".join(f"{gpu.name or 'unknown GPU'} {_gigabytes(gpu.total)}" for gpu in machine.gpus)
    big = sum(1 for gpu in machine.gpus if (gpu.total or 0) >= _BIG_GPU_BYTES)
    reason = f"found {len(machine.gpus)} GPU{'s' * (len(machine.gpus) > 1)} ({names})"
    if big >= 2:
        fits = "enough" if big >= 8 else f"it needs 8 of 80 GB, {big} are here"
        reason += f"; PROFILE=prod480 (make start-prod) is for machines like this: {fits} for the 480B model"
    if all(gpu.total is not None and gpu.total < _DEV32_BYTES for gpu in machine.gpus):
        reason += "; dev32 needs one GPU of 48 GB, so set a smaller MODEL_NAME in .env.dev32"
    return "dev32", reason


def _gigabytes(size: int | None) -> str:
    return "of unknown size" if size is None else f"{size / 2**30:.0f} GiB"


def main(argv: list[str]) -> int:
    """`--profile` prints the profile's name on stdout and the reason on stderr; without it, what was found."""
    machine = snapshot()
    if argv == ["--profile"]:
        profile, reason = pick_profile(machine)
        print(profile)
        print(f"profile {profile}: {reason}", file=sys.stderr)
        return 0
    print(*machine.gpus, f"{machine.gpu_note=!s}", f"{machine.cpus=} {machine.memory_total=}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
