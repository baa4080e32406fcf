"""The machine: its GPUs and what is around them. What cannot be read is None; a probe never raises, never waits long.

`serve` and `/metrics` call `snapshot` (about a millisecond per GPU); a start and `aicockpit doctor` call `inspect`
(a second and more); the Makefile runs `python -m aicockpit.hardware.detect --profile`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import psutil

from aicockpit.hardware import amd, bounded, cards, disks, host, nvidia, topology
from aicockpit.hardware.device import Device
from aicockpit.hardware.machine import Driver, Gpu, Host, Note, Snapshot

__all__ = ["Gpu", "Snapshot", "devices", "inspect", "pick_profile", "snapshot", "usable_gpus", "used_memory"]

_BIG_GPU_BYTES = 79_000_000_000  # an "80 GB" card reports 79.2 to 85.9 GB
_HUGE_GPU_BYTES = 140_000_000_000  # H200; four of them hold what needs eight big ones
# The least memory of the largest card for each profile, in bytes as its driver tells: a "24 GB" card reports 23.6 to
# 25.8 GB. tests/test_profiles.py plans each profile on every card of its class.
_PROFILES = (
    ("dev32", 40_000_000_000),
    ("dev14", 22_000_000_000),
    ("dev7", 11_500_000_000),
    ("dev1.5", 8_000_000_000),
)
_LEAST_CAPABILITY = (7, 5)  # vLLM's wheels have no kernels for older cards (fit_kernels.py)
# Without NVIDIA's persistence daemon the driver wakes each card anew: one to two seconds for each.
GPU_LIMIT_S = 30.0
AMD_LIMIT_S = 20.0
DISK_LIMIT_S = 5.0


def snapshot(limit: float = GPU_LIMIT_S, root: Path = Path("/")) -> Snapshot:
    """Look at GPUs and memory now. A driver that hangs costs `limit` seconds once; later calls then return at once."""
    gpus, note = _gpus(limit, root)
    try:
        memory = psutil.virtual_memory()
        total, available = int(memory.total), int(memory.available)
    except (OSError, RuntimeError, ValueError):
        return Snapshot(gpus, note, cpus=host.usable_cores())
    return Snapshot(gpus, note, total, available, host.usable_cores())


def _gpus(limit: float, root: Path) -> tuple[tuple[Gpu, ...], str]:
    """NVIDIA's; where there are none, AMD's: an engine is built for one vendor, and desktops have an AMD chip idle."""
    answer = bounded.call("nvml", nvidia.gpus, limit)
    if isinstance(answer, bounded.Hung):
        return (), f"NVML: a call into the driver has not returned for {answer.seconds:.0f} s"
    found, note = answer
    return (found, note) if found else (amd.gpus(root), note)


def inspect(
    folders: Mapping[str, Path] = MappingProxyType({}), limit: float = GPU_LIMIT_S, root: Path = Path("/")
) -> Snapshot:
    """Look at everything. `folders`: those whose disks matter, by role; `limit`: seconds for the GPUs' drivers."""
    around = _host(folders, root)
    told = nvidia.inspect(limit)
    gpus, pairs, driver, notes = told.gpus, told.pairs, told.driver, list(told.notes)
    if not gpus and (around.kfd != "absent" or any(card.vendor == "amd" for card in around.cards)):
        theirs = amd.inspect(min(limit, AMD_LIMIT_S), root)
        gpus, pairs, driver = theirs.gpus, theirs.pairs, theirs.driver or driver
        notes += theirs.notes
    elif gpus and any(card.vendor == "amd" for card in around.cards):
        notes.append(
            Note("the AMD GPU", "NVIDIA GPUs are here, and an engine is built for one vendor", "it is not used")
        )
    notes += _unknown(gpus, around, driver)
    memory = around.memory
    return Snapshot(
        gpus, told.gpu_note, memory.total, memory.available, around.cpu.usable, driver, pairs, around, tuple(notes)
    )


def _host(folders: Mapping[str, Path], root: Path) -> Host:
    return Host(
        platform.system(),
        host.cpu(root),
        host.memory(root),
        host.kernel(root),
        disks.disks(folders, DISK_LIMIT_S, root),
        host.container(root),
        host.wsl(root),
        host.cards(root),
        host.nvidia_module(root),
        host.nvidia_files(root),
        host.kfd(root),
    )


def _unknown(gpus: tuple[Gpu, ...], around: Host, driver: Driver | None) -> list[Note]:
    """What the probes could not tell although they answered."""
    notes = []
    for gpu in gpus:
        if gpu.total is None:
            why = "its driver does not tell it (a card that shares the machine's memory, or one that was lost)"
            notes.append(Note(f"memory of GPU {gpu.index}", why, "no model is fitted to it"))
        elif gpu.vendor == "nvidia" and gpu.capability is None:
            consequence = "kernels that need a newer card are not ruled out"
            notes.append(Note(f"compute capability of GPU {gpu.index}", "its driver does not tell it", consequence))
    if gpus and driver is not None and driver.version is None:
        notes.append(Note("the driver's version", "the driver does not tell it", "it is not compared with torch's"))
    if around.cpu.features is None:
        notes.append(Note("the CPU's features", "/proc/cpuinfo lists none", "vLLM picks its kernels when it starts"))
    if around.memory.total is None:
        notes.append(Note("memory", "the system does not tell it", "vLLM will say when it is too little"))
    return notes


def devices(machine: Snapshot, cuda_visible: str | None = None) -> tuple[Device, ...]:
    """The GPUs that fitting and selection may use: those that CUDA_VISIBLE_DEVICES leaves, MIG instances by their own.

    A GPU whose memory is unknown is left out. How GPUs reach each other is known after `inspect` only.
    """
    usable = usable_gpus(machine, cuda_visible)
    found: list[Device] = []
    for gpu in machine.gpus:
        parts = _devices(gpu, machine)
        if cuda_visible is None or any(_names(name, gpu.index, gpu.uuid) for name in usable):
            found += parts
        else:
            found += [part for part in parts if part.index is None and part.uuid in usable]
    return tuple(found)


def _names(name: str, index: int, uuid: str | None) -> bool:
    return name == str(index) or (name.startswith("GPU-") and uuid is not None and uuid.startswith(name))


def _devices(gpu: Gpu, machine: Snapshot) -> list[Device]:
    if gpu.detail is not None and gpu.detail.mig:
        return [
            Device(part.name or "MIG instance", part.total, part.free, gpu.capability, gpu.vendor, uuid=part.uuid)
            for part in gpu.detail.instances
            if part.total
        ]
    if not gpu.total:
        return []
    card = cards.known(gpu.name) if gpu.name else None
    return [
        Device(
            gpu.name or "unknown GPU",
            gpu.total,
            gpu.free,
            gpu.capability,
            gpu.vendor,
            topology.peer(gpu.index, machine.pairs),
            card.bandwidth if card else None,
            card.tflops if card else None,
            gpu.uuid,
            gpu.index,
        )
    ]


def used_memory(root: Path = Path("/")) -> float | None:
    """Share in use, 0 to 1, of the machine's memory or of the container's, whichever is nearer to its end."""
    shares = []
    try:
        memory = psutil.virtual_memory()
        shares.append(1 - float(memory.available) / float(memory.total))
    except (OSError, RuntimeError, ValueError, ZeroDivisionError):
        pass
    limit, used = host.memory_limit(root)
    if limit and used is not None:
        shares.append(used / limit)
    return max(shares, default=None)


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


def pick_profile(machine: Snapshot, cuda_visible: str | None = None, own_vllm: bool = False) -> tuple[str, str]:
    """The profile for this machine, and why in one sentence. The largest card decides, for each takes one GPU.

    `own_vllm`: AICOCKPIT_VLLM_COMMAND names a vLLM, which may be one for AMD's GPUs.
    """
    if not machine.gpus:
        return "cpu", f"no NVIDIA GPU found ({machine.gpu_note or 'no note'})"
    names = ", ".join(f"{gpu.name or 'unknown GPU'} {_gigabytes(gpu.total)}" for gpu in machine.gpus)
    reason = f"found {len(machine.gpus)} GPU{'s' * (len(machine.gpus) > 1)} ({names})"
    if machine.gpus[0].vendor == "amd" and not own_vllm:
        return "cpu", f"{reason}; vLLM for ROCm is not installed here: see docs/hardware.md, AMD GPUs"
    gpus, why = _fitting(machine, cuda_visible)
    sizes = [gpu.total for gpu in gpus if gpu.total]
    largest = max(sizes, default=0)
    profile, least = next((one for one in _PROFILES if largest >= one[1]), ("cpu", 0))
    if profile == "cpu":
        return "cpu", f"{reason}; {why or 'the smallest profile for GPUs needs one of 8 GB'}"
    return profile, reason + _several(sum(size >= least for size in sizes)) + _prod480(sizes)


def _fitting(machine: Snapshot, cuda_visible: str | None) -> tuple[list[Gpu], str]:
    """The GPUs that an engine may use; why there is none, or ""."""
    visible = usable_gpus(machine, cuda_visible)
    gpus = [
        gpu
        for gpu in machine.gpus
        if cuda_visible is None or any(_names(name, gpu.index, gpu.uuid) for name in visible)
    ]
    if not gpus:
        return [], f"CUDA_VISIBLE_DEVICES={cuda_visible} leaves none of them whole (PROFILE=NAME chooses a profile)"
    told = [gpu for gpu in gpus if gpu.total is not None]
    if not told:
        return [], "no model can be fitted to memory of unknown size (AICOCKPIT_ENGINE_URLS uses a vLLM that runs)"
    able = [gpu for gpu in told if gpu.capability is None or gpu.capability >= _LEAST_CAPABILITY]
    return able, "" if able else "vLLM needs compute capability 7.5 or more, which they do not have"


def _several(count: int) -> str:
    return f"; one is used, and GPU_COUNT={count} AICOCKPIT_REPLICAS={count} puts a copy on each" if count > 1 else ""


def _prod480(sizes: Sequence[int]) -> str:
    big, huge = (sum(size >= least for size in sizes) for least in (_BIG_GPU_BYTES, _HUGE_GPU_BYTES))
    if big < 2:
        return ""
    if big >= 8:
        return "; PROFILE=prod480 (make start-prod) fits too: the 480B model on 8 of them"
    if huge >= 4:
        return "; PROFILE=prod480 with GPU_COUNT=4 (make start-prod) fits too: the 480B model on 4 of them"
    return f"; prod480 is not for here: it needs 8 GPUs of 80 GB, {big} are here"


def _gigabytes(size: int | None) -> str:
    return "of unknown size" if size is None else f"{size / 2**30:.0f} GiB"


def main(argv: list[str]) -> int:
    """`--profile` prints the profile's name on stdout and the reason on stderr; without it, what was found."""
    machine = snapshot()
    if argv == ["--profile"]:
        own_vllm = bool(os.environ.get("AICOCKPIT_VLLM_COMMAND"))
        profile, reason = pick_profile(machine, os.environ.get("CUDA_VISIBLE_DEVICES") or None, own_vllm)
        if os.environ.get("GPU_COUNT", "").strip() == "0":
            profile, reason = "cpu", "GPU_COUNT=0"
        print(profile)
        print(f"profile {profile}: {reason}", file=sys.stderr)
        return 0
    print(*machine.gpus, f"{machine.gpu_note=!s}", f"{machine.cpus=} {machine.memory_total=}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
