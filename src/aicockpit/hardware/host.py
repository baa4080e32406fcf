"""The machine around the GPUs: cores, memory, what a container leaves of them, kernel limits, cards on the PCI bus.

`detect` calls it. Everything comes from the kernel's files below `root`, which tests put elsewhere; a file that is
not there, or says something else, is None.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil

from aicockpit.hardware.disks import decoded
from aicockpit.hardware.machine import Card, Cpu, Kernel, Memory

# By the kernel's names: what picks the kernels of vLLM's CPU build, and what oneDNN uses under it.
_FEATURES = {
    *("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2"),
    *("rvv", "vx"),
}
_UNLIMITED = 1 << 60  # version 1 of control groups writes a number near 2^63
_VENDORS: dict[str, Literal["nvidia", "amd"]] = {"0x10de": "nvidia", "0x1002": "amd"}
_DISPLAY, _ACCELERATOR = "0x03", "0x12"


def cpu(root: Path = Path("/")) -> Cpu:
    """Cores and features; see `Cpu`."""
    text = _text(root / "proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features|features)\s*:\s*(.*)$", text, re.MULTILINE)
    packages, cores = set(), set()
    for folder in _numbered(root / "sys/devices/system/cpu", "cpu"):
        package, core = _number(folder / "topology/physical_package_id"), _number(folder / "topology/core_id")
        if package is not None and core is not None:
            packages.add(package)
            cores.add((package, core))
    nodes = sum(1 for _ in _numbered(root / "sys/devices/system/node", "node"))
    return Cpu(
        platform.machine(),
        model=model[1].strip() if model else None,
        usable=usable_cores(),
        physical=len(cores) or None,
        sockets=len(packages) or None,
        numa_nodes=nodes or None,
        features=tuple(sorted(_FEATURES & set(flags[1].split()))) if flags else None,
        limit=cores_limit(root),
    )


def usable_cores() -> int | None:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count()


def memory(root: Path = Path("/")) -> Memory:
    """The machine's memory, and the container's share of it."""
    limit, used = memory_limit(root)
    told = Memory(limit=limit, limit_used=used)
    try:
        whole, swap = psutil.virtual_memory(), psutil.swap_memory()
    except (OSError, RuntimeError, ValueError):
        return told
    return Memory(int(whole.total), int(whole.available), int(swap.total), int(swap.used), limit, used)


def cores_limit(root: Path = Path("/")) -> float | None:
    """Cores by the quota of the tightest control group above this process; None without one."""
    quotas = [quota for folder in _folders(root, "cpu") if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def memory_limit(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Limit and use in bytes of the control group that has the least left; None where there is no limit."""
    rooms = [room for folder in _folders(root, "memory") if (room := _room(folder)) is not None]
    return min(rooms, key=lambda room: room[0] - (room[1] or 0), default=(None, None))


def _group_mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Controller (empty: version 2), root of the mount within the hierarchy, and where it is mounted."""
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup2":
            yield "", decoded(fields[3]), decoded(fields[4])
        else:
            for name in kind[-1].split(","):
                yield name, decoded(fields[3]), decoded(fields[4])


def _group_paths(root: Path) -> dict[str, str]:
    """Where this process stands, by controller."""
    paths = {}
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(","):
            paths[name] = path
    return paths


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The process' own group and those above it, as far as they can be seen from here. Both versions may be there."""
    paths = _group_paths(root)
    for name, inside, where in _group_mounts(root):
        if name not in ("", controller) or name not in paths:
            continue
        top = root / where.lstrip("/")
        within = paths[name]
        if inside != "/" and (within == inside or within.startswith(inside + "/")):
            within = within[len(inside) :]
        own = top / within.lstrip("/")
        if not own.is_dir() or ".." in own.parts:  # in a container the path is the host's, the mount its own
            own = top
        yield own
        while own != top:
            own = own.parent
            yield own


def _quota(folder: Path) -> float | None:
    words = (_text(folder / "cpu.max") or "").split()
    if len(words) == 2:
        return int(words[0]) / int(words[1]) if words[0].isdigit() and words[1].isdigit() and int(words[1]) else None
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota is not None and period and quota > 0 else None


def _room(folder: Path) -> tuple[int, int | None] | None:
    """Limit and use of memory. What the kernel can drop at once (page cache not in use) does not count as used."""
    for limit_name, used_name, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit = _number(folder / limit_name)
        if limit is None or limit >= _UNLIMITED:
            continue
        used = _number(folder / used_name)
        dropped = re.search(rf"^{cache} (\d+)$", _text(folder / "memory.stat") or "", re.MULTILINE)
        return limit, None if used is None else max(used - (int(dropped[1]) if dropped else 0), 0)
    return None


def kernel(root: Path = Path("/")) -> Kernel:
    """Limits that a server runs into."""
    inotify = root / "proc/sys/fs/inotify"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        found = os.statvfs(root / "dev/shm")
        shm: tuple[int | None, int | None] = (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
    except OSError:
        shm = (None, None)
    return Kernel(
        _number(inotify / "max_user_watches"),
        _number(inotify / "max_user_instances"),
        inotify_works(),
        None if soft == resource.RLIM_INFINITY else soft,
        None if hard == resource.RLIM_INFINITY else hard,
        *shm,
    )


def inotify_works() -> bool | None:
    """Whether one more watcher can be made now; the instances of all of a user's programs count together."""
    if platform.system() != "Linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = int(libc.inotify_init1(os.O_CLOEXEC))
    except AttributeError:
        return None
    if fd < 0:
        return False
    os.close(fd)
    return True


def container(root: Path = Path("/")) -> str | None:
    """The kind of container that this is, by the files that its maker leaves in it."""
    if (root / "var/run/secrets/kubernetes.io").exists():
        return "kubernetes"
    if (root / "run/.containerenv").exists():
        return "podman"
    if (root / ".dockerenv").exists():
        return "docker"
    return _text(root / "run/systemd/container") or None


def wsl(root: Path = Path("/")) -> bool:
    """Windows' Linux: its GPU comes through /dev/dxg, without device files or a kernel module of NVIDIA's."""
    return "microsoft" in (_text(root / "proc/sys/kernel/osrelease") or "").lower()


def cards(root: Path = Path("/")) -> tuple[Card, ...]:
    """Graphics and compute cards of NVIDIA and AMD on the PCI bus. A container sees its host's."""
    found = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        kind, vendor = _text(folder / "class") or "", _VENDORS.get(_text(folder / "vendor") or "")
        if vendor and kind.startswith((_DISPLAY, _ACCELERATOR)):
            driver = folder / "driver"
            name = driver.resolve().name if driver.exists() else None
            found.append(Card(folder.name, vendor, _text(folder / "device") or "unknown", name))
    return tuple(found)


def nvidia_module(root: Path = Path("/")) -> str | None:
    """Version of NVIDIA's kernel module, when it is loaded; a container sees its host's."""
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", _text(root / "proc/driver/nvidia/version") or "")
    return match[1] if match else None


def nvidia_files(root: Path = Path("/")) -> bool:
    """The device files, without which a program reaches no card: a container must be given them."""
    return (root / "dev/nvidiactl").exists() or (root / "dev/dxg").exists()


def kfd(root: Path = Path("/")) -> Literal["absent", "usable", "forbidden"]:
    """AMD's compute device file."""
    path = root / "dev/kfd"
    if not path.exists():
        return "absent"
    return "usable" if os.access(path, os.R_OK | os.W_OK) else "forbidden"


def _numbered(folder: Path, stem: str) -> Iterator[Path]:
    return (path for path in folder.glob(f"{stem}*") if path.name[len(stem) :].isdigit())


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path) or ""
    return int(text) if re.fullmatch(r"-?\d+", text) else None
