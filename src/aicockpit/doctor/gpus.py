"""What is wrong with the GPUs that are here. Pure: `everything` hands in what `detect.inspect` told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from aicockpit.console import size
from aicockpit.doctor.finding import Finding, Mark, Wanted
from aicockpit.hardware import detect, topology
from aicockpit.hardware.machine import Detail, Gpu, Process, Snapshot

OLDEST = (7, 5)  # what vLLM's wheels are compiled for: documentation of vLLM 0.21 and later, "GPU"
_TAKEN = 0.08  # vLLM wants 92 % of a card's memory free when it starts


@dataclass(frozen=True, slots=True)
class Context:
    """What a check of one GPU needs besides the GPU. `ours`: is this process one of AiCockpit's own?

    `needed`: the GPUs that a start would take, by index or UUID.
    """

    wanted: Wanted
    ours: Callable[[int], bool]
    needed: tuple[str, ...] = ()

    def mark(self, gpu: Gpu) -> Mark:
        """How bad it is that nothing can compute on this GPU."""
        ids = (str(gpu.index), gpu.uuid or "?")
        return "bad" if any(ids[0] == name or ids[1].startswith(name) for name in self.needed) else "warn"


Check = Callable[[Gpu, Detail, Context], "tuple[str, Mark] | None"]


def findings(machine: Snapshot, context: Context, cuda_visible: str | None) -> Iterator[Finding]:
    """A row for each GPU, then one for each thing that is wrong, naming the GPUs it concerns."""
    for gpu in machine.gpus:
        yield Finding(f"gpu.{gpu.index}", f"GPU {gpu.index}", "ok", _words(gpu, context))
    if not machine.gpus:
        return
    usable = detect.usable_gpus(machine, cuda_visible)
    context = replace(context, needed=context.wanted.named or usable[: context.wanted.gpus])
    for name, what, fix, check in _CHECKS:
        told = [(gpu, *one) for gpu in machine.gpus if (one := check(gpu, gpu.detail or Detail(), context))]
        if told:
            mark: Mark = "bad" if any(one[2] == "bad" for one in told) else told[0][2]
            yield Finding(f"gpu.{name}", what, mark, _joined((gpu.index, text) for gpu, text, _ in told), fix)
    yield from _together(machine, context.wanted)
    yield from _visible(usable, context.wanted, cuda_visible)
    if machine.gpus[0].vendor == "nvidia" and shutil.which("nvidia-smi") is None:
        found = "not on PATH: AiCockpit does not need it, other tools may"
        yield Finding("gpu.nvidia-smi", "nvidia-smi", "ok", found)


def _words(gpu: Gpu, context: Context) -> str:
    detail = gpu.detail or Detail()
    memory = "memory unknown"
    if gpu.total is not None:
        memory = f"{size(gpu.free)} free of {size(gpu.total)}" if gpu.free is not None else size(gpu.total)
    parts = [gpu.name or "unknown", memory]
    if gpu.capability:
        parts.append(f"compute capability {gpu.capability[0]}.{gpu.capability[1]}")
    if detail.architecture:
        parts.append(detail.architecture + (f" ({detail.partition})" if detail.partition else ""))
    if detail.pcie and detail.pcie.width and detail.pcie.max_generation:
        parts.append(f"PCIe {detail.pcie.max_generation} x{detail.pcie.width}")
    if detail.links and detail.links.active:
        parts.append(f"{detail.links.active} NVLinks")
    if detail.power_limit and detail.power_default and detail.power_limit < detail.power_default:
        parts.append(f"limited to {detail.power_limit:.0f} of {detail.power_default:.0f} W")
    if any(context.ours(process.pid) for process in detail.processes or ()):
        parts.append("in use by AiCockpit's engines")
    return ", ".join(parts)


def _lost(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    return ("it does not answer", context.mark(gpu)) if gpu.name is None and gpu.uuid is None else None


def _too_old(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    if gpu.capability is None or gpu.capability >= OLDEST:
        return None
    return f"{gpu.name} has {gpu.capability[0]}.{gpu.capability[1]}", context.mark(gpu)


def _occupied(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    if not gpu.total or gpu.used is None or gpu.used < gpu.total * _TAKEN:
        return None
    others = [process for process in detail.processes or () if not context.ours(process.pid)]
    if detail.processes and not others:
        return None
    who = ", ".join(_who(process) for process in sorted(others, key=lambda one: -(one.used or 0))[:3])
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"{size(gpu.used)} by {who or 'programs that are not seen from here'}{more}", "warn"


def _who(process: Process) -> str:
    name = (process.name or "unknown").rsplit("/", 1)[-1].split(" ", 1)[0]
    return f"{name} (pid {process.pid}{f', {size(process.used)}' if process.used else ''})"


def _mig(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    if not detail.mig:
        return None
    if not detail.instances:
        return "on, without instances: nothing can compute on it", context.mark(gpu)
    return "on: " + ", ".join(f"{one.name or 'instance'} ({one.uuid})" for one in detail.instances), "warn"


def _partition(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    split = detail.partition and detail.partition.upper() not in ("SPX", "N/A")
    return (f"split ({detail.partition})", "warn") if split else None


def _ecc(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    return (f"{detail.ecc_errors} since the driver was loaded", "warn") if detail.ecc_errors else None


def _rows(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    words = {"pending": "a broken row is to be replaced at the next reset", "failed": "no spare rows are left"}
    return (words[detail.rows], "warn") if detail.rows in words else None


def _mode(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    if detail.compute_mode == "prohibited":
        return "prohibited: no program may compute", context.mark(gpu)
    return ("exclusive: one process only", "warn") if detail.compute_mode == "exclusive" else None


def _fabric(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    state = detail.links.fabric if detail.links else None
    return (state, context.mark(gpu)) if state not in (None, "completed") else None


def _links(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    """Some links down among active ones. All of them down is a card without a bridge, which is no fault."""
    links = detail.links
    if links is None or not links.inactive or not links.active:
        return None
    return f"{links.inactive} of {links.active + links.inactive} down", "warn"


def _narrow(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    """Lanes only: an idle card lowers its generation by itself."""
    slot = detail.pcie
    if slot is None or not slot.width or not slot.max_width or slot.width >= slot.max_width:
        return None
    return f"x{slot.width} of x{slot.max_width}", "warn"


def _slowed(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    heat = f" at {detail.temperature} °C" if detail.temperature is not None else ""
    return (", ".join(detail.slowed) + heat, "warn") if detail.slowed else None


def _sleepy(gpu: Gpu, detail: Detail, context: Context) -> tuple[str, Mark] | None:
    return ("off", "ok") if detail.persistence is False else None


_CHECKS: tuple[tuple[str, str, str, Check], ...] = (
    ("lost", "GPU lost", "`dmesg` tells why (Xid); restart the machine, and look at the card's power and seat", _lost),
    ("capability", "too old", "vLLM's kernels begin at compute capability 7.5: take a newer card", _too_old),
    (
        "memory",
        "memory taken",
        "end these programs, or lower --gpu-memory-utilization (AICOCKPIT_ENGINE_ARGS)",
        _occupied,
    ),
    ("mig", "MIG", "name instances in CUDA_VISIBLE_DEVICES (one engine each), or: sudo nvidia-smi -mig 0", _mig),
    ("partition", "partitions", "whole cards take larger models: sudo amd-smi set -C SPX", _partition),
    (
        "ecc",
        "memory errors",
        "more of them mean a failing card; after a reset they count anew: sudo nvidia-smi -r",
        _ecc,
    ),
    ("rows", "memory repair", "pending: reset the card or restart the machine; none left: replace the card", _rows),
    ("compute-mode", "compute mode", "sudo nvidia-smi -c DEFAULT", _mode),
    ("fabric", "NVLink fabric", "CUDA fails until it is up: sudo systemctl restart nvidia-fabricmanager", _fabric),
    ("nvlink", "NVLink down", "`nvidia-smi nvlink -s` shows which; reseat the bridge, or reset the cards", _links),
    ("pcie", "PCIe lanes", "models load slower: look at the slot, the riser and the firmware's settings", _narrow),
    ("slowed", "slowed down", "look at cooling and power supply", _slowed),
    ("persistence", "persistence", "first starts take seconds less with it: sudo nvidia-smi -pm 1", _sleepy),
)


def _joined(told: Iterable[tuple[int, str]]) -> str:
    """`GPU 0-7: off`, or `GPU 0: ...; GPU 3: ...`."""
    by_text: dict[str, list[int]] = {}
    for index, text in told:
        by_text.setdefault(text, []).append(index)
    return "; ".join(f"GPU {_ranges(indices)}: {text}" for text, indices in by_text.items())


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _together(machine: Snapshot, wanted: Wanted) -> Iterator[Finding]:
    if len(machine.gpus) < 2:
        return
    if kinds := topology.mixed(machine.gpus):
        fix = "give each model cards of one kind, by UUID: the smallest limits an engine, CUDA counts the fastest first"
        yield Finding("gpu.mixed", "mixed cards", "warn", kinds, fix)
    if machine.pairs is None:
        found, fix = "unknown how the GPUs reach each other", "they count as linked by PCIe"
        yield Finding("gpu.links", "GPU links", "ok", found, fix)
        return
    islands = topology.islands((gpu.index for gpu in machine.gpus), machine.pairs)
    found, torn = topology.summary(machine.pairs), len(islands[0]) > 1 and wanted.engine > len(islands[0])
    fix = f"an engine over GPU {_ranges(list(islands[0]))} stays on its fast links" if torn else ""
    yield Finding("gpu.links", "GPU links", "warn" if torn else "ok", found, fix)


def _visible(usable: tuple[str, ...], wanted: Wanted, cuda_visible: str | None) -> Iterator[Finding]:
    if cuda_visible is not None:
        asked = [name.strip() for name in cuda_visible.split(",") if name.strip()]
        found = f"CUDA_VISIBLE_DEVICES={cuda_visible} leaves {', '.join(usable) or 'none'}"
        missed = len(asked) > len(usable)
        fix = "it is read up to the first name that is not here, or is named twice" if missed else ""
        yield Finding("gpu.visible", "visible GPUs", "warn" if missed else "ok", found, fix)
    if wanted.gpus > len(usable):
        fix = "lower GPU_COUNT (or `gpus` in the fleet file), or take the profile cpu (GPU_COUNT=0)"
        yield Finding("gpu.count", "GPU count", "bad", f"{wanted.gpus} asked for, {len(usable)} can be used", fix)
