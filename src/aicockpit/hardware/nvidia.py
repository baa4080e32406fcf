"""NVIDIA GPUs by NVML. `detect` calls `gpus` (cheap, in the process) and `inspect` (thorough, in a child).

The child (`python -m aicockpit.hardware.nvidia`) prints what it knows after each step, one line of JSON: when a call
hangs or the library crashes, the parent keeps what was told before.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from ctypes import byref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pynvml  # type: ignore[import-untyped]

from aicockpit.hardware import bounded
from aicockpit.hardware.machine import Detail, Driver, Gpu, Instance, Kind, Links, Note, Pair, Pcie, Process

_P2P_READ = 0  # the binding's own constant is a tuple by mistake
_ANCESTORS: dict[int, Kind] = {
    pynvml.NVML_TOPOLOGY_INTERNAL: "board",
    pynvml.NVML_TOPOLOGY_SINGLE: "switch",
    pynvml.NVML_TOPOLOGY_MULTIPLE: "switches",
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: "bridge",
    pynvml.NVML_TOPOLOGY_NODE: "node",
    pynvml.NVML_TOPOLOGY_SYSTEM: "system",
}
_FABRIC = {1: "not started", 2: "in progress", 3: "completed"}
_COMPUTE = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}
# The power limit is not among them: a card under load runs into it, as it should.
_SLOWED = {0x8: "hardware slowdown", 0x20: "temperature", 0x40: "temperature (hardware)", 0x80: "external power brake"}


@dataclass(frozen=True, slots=True)
class Report:
    """What NVML tells. `doing` names the step that was under way when nothing more came; empty at the end."""

    gpus: tuple[Gpu, ...] = ()
    gpu_note: str = ""
    driver: Driver | None = None
    pairs: tuple[Pair, ...] | None = None
    doing: str = ""
    notes: tuple[Note, ...] = ()


def gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs as they are now, and why there are none. Never raises; may hang with the driver."""
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError) as error:
        return (), _words(error)
    try:
        found = tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
        return found, "" if found else "NVML: the driver lists no GPU"
    except pynvml.NVMLError as error:
        return (), _words(error)
    finally:
        _ask(pynvml.nvmlShutdown)


def inspect(limit: float) -> Report:
    """Everything, within `limit` seconds. Never raises; what did not come in time is told in `notes`."""
    done = bounded.run((sys.executable, "-P", "-m", "aicockpit.hardware.nvidia"), limit)
    report = _last(done.out)
    if report is None:
        why = done.why or "its answer was not understood"
        return Report(gpu_note=f"NVML: the driver was not read: {why}", notes=(_lost("the NVIDIA driver", why),))
    if report.doing:
        why = done.why or "it ended early"
        note = f"NVML: no answer to {report.doing}: {why}" if not report.gpus else ""
        return replace(report, gpu_note=report.gpu_note or note, notes=(_lost(report.doing, why),))
    return report


def _words(error: Exception) -> str:
    text = str(error)
    return text if text.startswith("NVML") else f"NVML: {text}"


def _lost(what: str, why: str) -> Note:
    return Note(what, why, "what follows it is unknown; a driver that does not answer needs a restart of the machine")


def _last(text: str) -> Report | None:
    """The newest whole line; a line cut short by the end, or printed by the library, is passed over."""
    for line in reversed(text.splitlines()):
        try:
            return msgspec.json.decode(line, type=Report)
        except msgspec.DecodeError:
            continue
    return None


def read(root: Path = Path("/")) -> Iterator[Report]:
    """What the child prints: a report after each step. `root`: where `sys` is."""
    report = Report(doing="nvmlInit")
    yield report
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError) as error:
        yield Report(gpu_note=_words(error))
        return
    try:
        for report in _read(root):
            yield report
    except pynvml.NVMLError as error:
        yield replace(report, gpu_note=report.gpu_note or _words(error), doing="")
    finally:
        _ask(pynvml.nvmlShutdown)


def _read(root: Path) -> Iterator[Report]:
    report = Report(driver=_driver(), doing="the list of GPUs")
    yield report
    found = [_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    report = replace(report, gpus=tuple(found), gpu_note="" if found else "NVML: the driver lists no GPU")
    remotes: dict[int, list[str]] = {}
    for index, gpu in enumerate(found):
        yield replace(report, doing=f"the details of GPU {index}")
        handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            remotes[index] = []
            found[index] = replace(gpu, detail=_detail(handle, remotes[index], root))
        report = replace(report, gpus=tuple(found))
    yield replace(report, doing="the links between GPUs")
    pairs = tuple(
        _pair(found[a], found[b], remotes.get(a, []), remotes.get(b, []))
        for a in range(len(found))
        for b in range(a + 1, len(found))
    )
    yield replace(report, pairs=pairs, doing="")


def _driver() -> Driver:
    number = _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2) or _ask(pynvml.nvmlSystemGetCudaDriverVersion)
    return Driver(
        "nvidia",
        version=_text(_ask(pynvml.nvmlSystemGetDriverVersion)),
        cuda=(number // 1000, number % 1000 // 10) if number else None,
        cuda_library=_cuda_library(),
        source="nvml",
    )


def _cuda_library() -> bool:
    """A container can be given the tools (NVML) without what computes (libcuda)."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _gpu(index: int) -> Gpu:
    handle = _ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Gpu(index)
    memory = _memory(handle)
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Gpu(
        index,
        uuid=_text(_ask(pynvml.nvmlDeviceGetUUID, handle)),
        name=_text(_ask(pynvml.nvmlDeviceGetName, handle)),
        total=memory.total if memory else None,
        free=memory.free if memory else None,
        used=memory.used if memory else None,
        utilisation=int(rates.gpu) if rates else None,
        capability=_ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle),
    )


@dataclass(frozen=True, slots=True)
class _Memory:
    total: int
    free: int
    used: int


def _memory(handle: Any) -> _Memory | None:
    """What CUDA calls total: without the driver's own reserve, about 1 %, which only the newer call tells."""
    found = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    if found is not None:
        return _Memory(int(found.total) - int(found.reserved), int(found.free), int(found.used))
    found = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return None if found is None else _Memory(int(found.total), int(found.free), int(found.used))


def _detail(handle: Any, remotes: list[str], root: Path) -> Detail:
    """`remotes` is filled with the PCI addresses at the other ends of the active NVLinks."""
    pci = _address(_ask(pynvml.nvmlDeviceGetPciInfo_v3, handle))
    mode, ecc = _ask(pynvml.nvmlDeviceGetMigMode, handle), _ask(pynvml.nvmlDeviceGetEccMode, handle)
    enabled, mig = (bool(ecc[0]) if ecc else None), (bool(mode[0]) if mode else None)
    errors = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
    persistence = _ask(pynvml.nvmlDeviceGetPersistenceMode, handle)
    return Detail(
        pci=pci,
        numa=_numa(root, pci),
        pcie=_pcie(handle),
        links=_links(handle, remotes),
        mig=mig,
        instances=_instances(handle) if mig else (),
        ecc=enabled,
        ecc_errors=_ask(pynvml.nvmlDeviceGetTotalEccErrors, handle, *errors) if enabled else None,
        rows=_rows(_ask(pynvml.nvmlDeviceGetRemappedRows, handle)),
        power_limit=_watts(_ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        power_default=_watts(_ask(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, handle)),
        persistence=None if persistence is None else bool(persistence),
        compute_mode=_COMPUTE.get(_ask(pynvml.nvmlDeviceGetComputeMode, handle)),  # type: ignore[arg-type]
        slowed=_slowed(handle),
        temperature=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        processes=_processes(handle),
    )


def _pcie(handle: Any) -> Pcie:
    return Pcie(
        _ask(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        _ask(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        _ask(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        _ask(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
    )


def _links(handle: Any, remotes: list[str]) -> Links | None:
    """None where the card has no NVLink."""
    states = [_ask(pynvml.nvmlDeviceGetNvLinkState, handle, link) for link in range(pynvml.NVML_NVLINK_MAX_LINKS)]
    known = [(link, state) for link, state in enumerate(states) if state is not None]
    if not known:
        return None
    for link, state in known:
        if state and (remote := _address(_ask(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link))):
            remotes.append(remote)
    active = sum(1 for _, state in known if state)
    return Links(active, len(known) - active, _fabric(handle))


def _fabric(handle: Any) -> str | None:
    told = pynvml.c_nvmlGpuFabricInfo_v2_t()
    if _ask(pynvml.nvmlDeviceGetGpuFabricInfoV, handle, byref(told)) is None:
        return None
    if told.state == 3 and told.status != pynvml.NVML_SUCCESS:
        return f"failed ({pynvml.NVMLError(told.status)})"
    return _FABRIC.get(told.state)


def _instances(handle: Any) -> tuple[Instance, ...]:
    found = []
    for index in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if instance is None:
            continue
        memory = _memory(instance)
        found.append(
            Instance(
                _text(_ask(pynvml.nvmlDeviceGetUUID, instance)),
                _text(_ask(pynvml.nvmlDeviceGetName, instance)),
                memory.total if memory else None,
                memory.free if memory else None,
            )
        )
    return tuple(found)


def _rows(told: Any) -> Any:
    if told is None:
        return None
    _, _, pending, failed = told
    return "failed" if failed else "pending" if pending else "good"


def _slowed(handle: Any) -> tuple[str, ...] | None:
    reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    if reasons is None:
        reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    return None if reasons is None else tuple(words for bit, words in _SLOWED.items() if reasons & bit)


def _processes(handle: Any) -> tuple[Process, ...] | None:
    """Those that compute and those that draw: both hold memory. None when the driver lists neither."""
    computing = (pynvml.nvmlDeviceGetComputeRunningProcesses_v3, pynvml.nvmlDeviceGetComputeRunningProcesses_v2)
    drawing = (pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2)
    lists = [_first(handle, *computing), _first(handle, *drawing)]
    if lists == [None, None]:
        return None
    held: dict[int, int | None] = {}
    for one in (one for some in lists if some for one in some):
        held[one.pid] = max(held.get(one.pid) or 0, one.usedGpuMemory or 0) or None
    return tuple(Process(pid, _text(_ask(pynvml.nvmlSystemGetProcessName, pid)), held[pid]) for pid in sorted(held))


def _first(handle: Any, *calls: Callable[..., Any]) -> Any:
    """The answer of the newest call that this library has."""
    return next((told for told in (_ask(call, handle) for call in calls) if told is not None), None)


def _pair(a: Gpu, b: Gpu, remotes_a: list[str], remotes_b: list[str]) -> Pair:
    one, other = (_ask(pynvml.nvmlDeviceGetHandleByIndex, gpu.index) for gpu in (a, b))
    if one is None or other is None or a.detail is None or b.detail is None:
        return Pair(a.index, b.index)
    direct = remotes_a.count(b.detail.pci or "?")
    linked = _ask(pynvml.nvmlDeviceGetP2PStatus, one, other, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    reads = _ask(pynvml.nvmlDeviceGetP2PStatus, one, other, _P2P_READ)
    p2p = None if reads is None else reads == pynvml.NVML_P2P_STATUS_OK
    if direct or (linked is not None and linked == pynvml.NVML_P2P_STATUS_OK and remotes_a and remotes_b):
        # Through switches no link leads to the other GPU itself: all of a card's links serve every pair.
        return Pair(a.index, b.index, "nvlink", direct or min(len(remotes_a), len(remotes_b)), p2p)
    level = _ask(pynvml.nvmlDeviceGetTopologyCommonAncestor, one, other)
    return Pair(a.index, b.index, None if level is None else _ANCESTORS.get(level), None, p2p)


def _address(info: Any) -> str | None:
    """`0000:3b:00.0`, as the kernel writes it; NVML has eight digits in front."""
    told = _text(info.busId) if info is not None else None
    if not told or told.count(":") != 2:
        return None
    domain, _, rest = told.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _numa(root: Path, pci: str | None) -> int | None:
    try:
        node = int((root / "sys/bus/pci/devices" / (pci or "") / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _ask(call: Callable[..., Any], *args: Any) -> Any:
    """None for what this driver, card or container does not tell."""
    try:
        return call(*args)
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError, OSError, UnicodeDecodeError):
        return None


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def main() -> int:
    """Print the reports, one a line."""
    for report in read():
        print(msgspec.json.encode(report).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
