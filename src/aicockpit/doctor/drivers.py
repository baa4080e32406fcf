"""Why there is no GPU, when there is none: from the card in the slot up to what a container was given. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from aicockpit.doctor.finding import Finding, Wanted
from aicockpit.hardware.machine import Host, Snapshot

_TOOLKIT = (
    "start the container with its GPUs: `docker run --gpus all`, or `deploy.resources.reservations.devices` in the "
    "compose file; the host needs the NVIDIA container toolkit"
)
_ROCM = "start the container with --device=/dev/kfd --device=/dev/dri --group-add video"


def findings(machine: Snapshot, wanted: Wanted) -> Iterator[Finding]:
    """The row `gpu.driver`, and `gpu.cuda-library` where only half of the driver is here."""
    driver = machine.driver
    if not machine.gpus:
        found, fix, harmless = _absent(machine)
        mark = wanted.mark if wanted.gpus or not harmless else "ok"
        yield Finding("gpu.driver", "GPU", mark, found, fix if mark != "ok" else "")
        return
    if driver is None:
        return
    cuda = f", CUDA up to {driver.cuda[0]}.{driver.cuda[1]}" if driver.cuda else ""
    name = {"nvidia": "NVIDIA driver", "amd": "AMD driver"}[driver.vendor]
    yield Finding("gpu.driver", "GPU driver", "ok", f"{name} {driver.version or 'of unknown version'}{cuda}")
    if driver.cuda_library is False:
        fix = "in a container set NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the driver's compute part"
        found = "libcuda.so.1 cannot be loaded: the GPUs are listed, and nothing can compute on them"
        yield Finding("gpu.cuda-library", "CUDA library", wanted.mark, found, fix)
    if driver.vendor == "amd" and machine.host is not None and machine.host.kfd == "forbidden":
        fix = 'sudo usermod -aG render,video "$USER", and log in again'
        yield Finding("gpu.kfd", "/dev/kfd", wanted.mark, "this user may not open it", fix)


def _absent(machine: Snapshot) -> tuple[str, str, bool]:
    """What is found, what to do, and whether a machine without a GPU is all there is to it."""
    host, note = machine.host, machine.gpu_note
    if host is None:
        return f"none found ({note})", "", False
    if "not returned" in note or "did not end within" in note or "ended by signal" in note:
        return f"unknown ({note})", "restart the machine; `dmesg` tells more (lines with NVRM or Xid)", False
    if "mismatch" in note:
        fix = "restart the machine: the driver was updated while its older kernel module ran"
        return f"{_module(host)}, its libraries are of another version", fix, False
    nvidia = [card for card in host.cards if card.vendor == "nvidia"]
    if nvidia or host.nvidia_module:
        return *_nvidia(host, note, len(nvidia)), False
    if host.wsl and host.nvidia_files:
        return f"Windows offers a GPU, NVML fails ({note})", "update the NVIDIA driver in Windows, not in Linux", False
    amd = [card for card in host.cards if card.vendor == "amd"]
    if amd:
        unbound = all(card.driver != "amdgpu" for card in amd)
        if unbound:
            return f"{_count(len(amd), 'AMD card')}, not run by amdgpu", "install AMD's driver (amdgpu-dkms)", True
        if host.container:
            return f"{_count(len(amd), 'AMD card')} on the host, none in this container", _ROCM, True
    return f"none: engines run on the CPU ({note})", "set GPU_COUNT=0 (PROFILE=cpu) on a machine without a GPU", True


def _nvidia(host: Host, note: str, cards: int) -> tuple[str, str]:
    here = _count(cards, "NVIDIA card") if cards else _module(host)
    if host.container and not host.nvidia_files:
        return f"{here} on the host, none in this container ({host.container}): {note}", _TOOLKIT
    if any(card.driver == "nouveau" for card in host.cards) and not host.nvidia_module:
        fix = "install the NVIDIA driver, keep nouveau from loading (`blacklist nouveau` in /etc/modprobe.d), restart"
        return f"{here}, run by nouveau, which cannot compute", fix
    if not host.nvidia_module:
        fix = "install the NVIDIA driver (580 or newer), or load it: sudo modprobe nvidia. Secure Boot wants it signed"
        return f"{here}, and no NVIDIA driver is loaded ({note})", fix
    if "Library Not Found" in note:
        fix = f"install the libraries of driver {host.nvidia_module} (packages nvidia-utils and libnvidia-compute)"
        return f"{_module(host)}, and libnvidia-ml.so.1 is not found", fix
    if "Permission" in note:
        return f"{_module(host)}: {note}", "this user may not open /dev/nvidia*: look at their owner and mode"
    return f"{here}, {_module(host)}: {note}", "`nvidia-smi` and `dmesg` (lines with NVRM or Xid) tell more"


def _module(host: Host) -> str:
    return f"NVIDIA's kernel module {host.nvidia_module or ''} is loaded".replace("  ", " ")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"
