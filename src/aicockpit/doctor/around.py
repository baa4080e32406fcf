"""What is wrong with the machine around the GPUs: cores, memory, kernel limits, disks. Pure."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from aicockpit.console import size
from aicockpit.doctor.finding import Finding, Mark, Wanted
from aicockpit.hardware.machine import Cpu, Disk, Host, Kernel, Memory, Snapshot

STATE, MODELS = "state folder", "model cache"
_DISK_NEEDED = 4 << 30
_STATE_NEEDED = 256 << 20
_MEMORY_NEEDED = 3 << 30
_SWAPPED = 1 << 30
_SHM_NEEDED = 1 << 30
_WATCHES = 65_536
_FILES = 256  # besides the requests: logs, engines, workspaces
_IN_MEMORY = ("tmpfs", "ramfs")
_OF_CONTAINER = ("overlay", "aufs", "fuse.fuse-overlayfs")


def findings(machine: Snapshot, wanted: Wanted, inflight: int) -> Iterator[Finding]:
    """`inflight`: requests that may be in work at once; each takes two open files."""
    host = machine.host
    if host is None:
        return
    place = f"{host.system} {host.cpu.architecture}" + (f" in {_article(host.container)}" if host.container else "")
    yield Finding("python", "Python", "ok", f"{platform.python_version()} on {place}{' (WSL)' * host.wsl}")
    yield _cpu(host.cpu, wanted)
    yield from _quota(host.cpu)
    yield _memory(host.memory, wanted)
    yield from _shm(host, wanted)
    yield from _kernel(host.kernel, inflight)
    for disk in host.disks:
        yield from _disk(disk, host)


def _article(container: str) -> str:
    return "a Kubernetes pod" if container == "kubernetes" else f"a {container} container"


def _cpu(cpu: Cpu, wanted: Wanted) -> Finding:
    cores = f"{cpu.usable} cores" if cpu.usable else "cores unknown"
    parts = [cpu.model or "unknown", cores]
    if cpu.sockets and cpu.sockets > 1:
        parts.append(f"{cpu.sockets} sockets")
    if cpu.numa_nodes and cpu.numa_nodes > 1:
        parts.append(f"{cpu.numa_nodes} NUMA nodes")
    if cpu.features is None:
        return Finding("cpu", "CPU", "ok", ", ".join([*parts, "features unknown"]))
    mark, fix = _features(cpu, wanted)
    return Finding("cpu", "CPU", mark, ", ".join([*parts, " ".join(cpu.features) or "no vector units known"]), fix)


def _features(cpu: Cpu, wanted: Wanted) -> tuple[Mark, str]:
    """What vLLM's CPU build does with these features (its platforms/cpu.py chooses among three sets of kernels)."""
    has, x86 = set(cpu.features or ()), cpu.architecture in ("x86_64", "AMD64", "i686")
    if x86 and "avx2" not in has:
        return ("bad" if wanted.cpu else "ok"), "vLLM's CPU build needs AVX2: serve from a GPU or another machine"
    if x86 and "avx512f" not in has:
        return (
            "warn" if wanted.cpu else "ok",
            "without AVX-512 vLLM's CPU build takes its AVX2 kernels, which are slower",
        )
    if x86 and wanted.cpu and "avx512_bf16" not in has:
        return "ok", "without AVX512_BF16 bfloat16 is computed as float32"
    return "ok", ""


def _quota(cpu: Cpu) -> Iterator[Finding]:
    if cpu.limit is None or cpu.usable is None or cpu.limit >= cpu.usable:
        return
    found = f"the time of {cpu.limit:g} cores, and {cpu.usable} are seen: threads of an engine wait for each other"
    fix = "give the container whole cores (--cpuset-cpus) instead of a share (--cpus)"
    yield Finding("cpu.quota", "CPU quota", "warn", found, fix)


def _memory(memory: Memory, wanted: Wanted) -> Finding:
    if memory.total is None or memory.free is None:
        return Finding("memory", "memory", "warn", "unknown", "vLLM will say when it is too little")
    limit = f", limited to {size(memory.limit)} here" if memory.limit and memory.limit < memory.total else ""
    swap = f", {size(memory.swap_used)} swapped out" if memory.swap_used and memory.swap_used > _SWAPPED else ""
    good = memory.free >= _MEMORY_NEEDED
    fix = "an engine on the CPU takes 3 GiB and more; end other programs"
    if limit and (memory.available or 0) >= _MEMORY_NEEDED:
        fix = "an engine on the CPU takes 3 GiB and more; raise the container's limit"
    found = f"{size(memory.free)} free of {size(memory.total)}{limit}{swap}"
    return Finding("memory", "memory", "ok" if good else "warn", found, "" if good else fix)


def _shm(host: Host, wanted: Wanted) -> Iterator[Finding]:
    total = host.kernel.shm_total
    if total is None:
        needed, fix = wanted.engine > 1, "an engine over several GPUs needs it: mount a tmpfs of 1 GiB or more"
        found = "not there or not readable"
        yield Finding("shm", "/dev/shm", "warn" if needed else "ok", found, fix if needed else "")
        return
    small = total < _SHM_NEEDED and wanted.engine > 1
    fix = "the processes of an engine over several GPUs talk through it: docker run --shm-size=8g (or --ipc=host)"
    yield Finding("shm", "/dev/shm", "warn" if small else "ok", size(total), fix if small else "")


def _kernel(kernel: Kernel, inflight: int) -> Iterator[Finding]:
    watches, instances = kernel.inotify_watches, kernel.inotify_instances
    if watches is not None and instances is not None:
        found, fix = f"{watches:,} folders, {instances:,} watchers", ""
        if kernel.inotify_works is False:
            found, fix = f"{found}: none is left for one more", "sudo sysctl fs.inotify.max_user_instances=1024"
        elif watches < _WATCHES:
            fix = "a larger tree is polled instead: sudo sysctl fs.inotify.max_user_watches=1048576"
        yield Finding("inotify", "inotify", "warn" if fix else "ok", found, fix)
    needed = 2 * inflight + _FILES
    soft, hard = kernel.open_files, kernel.open_files_hard
    if soft is None:
        yield Finding("files", "open files", "ok", "no limit")
    elif soft >= needed:
        yield Finding("files", "open files", "ok", f"{soft:,}")
    else:
        known = (
            "ulimit -n" if hard is None or hard >= needed else "raise the hard limit (LimitNOFILE, --ulimit nofile) to"
        )
        fix = f"{known} {needed} before the start, or lower AICOCKPIT_MAX_INFLIGHT"
        yield Finding("files", "open files", "warn", f"{soft:,}; {inflight:,} requests at once need {needed:,}", fix)


def _disk(disk: Disk, host: Host) -> Iterator[Finding]:
    name = "disk.state" if disk.role == STATE else "disk.models"
    setting = "AICOCKPIT_STATE_DIR" if disk.role == STATE else "HF_HOME"
    if disk.problem:
        yield Finding(name, disk.role, "bad", f"{disk.path}: {disk.problem}", f"set {setting} to a folder that answers")
        return
    room = "room unknown" if disk.free is None else f"{size(disk.free)} free"
    found = f"{disk.path}: {room} ({disk.type or 'unknown file system'}{', network' if disk.network else ''})"
    mark, fix = _fault(disk, host, setting)
    yield Finding(name, disk.role, mark, found, fix)


def _fault(disk: Disk, host: Host, setting: str) -> tuple[Mark, str]:
    state = disk.role == STATE
    if disk.read_only or disk.writable is False:
        why = "it is mounted read-only" if disk.read_only else "this user may not write there"
        return ("bad" if state else "warn"), f"{why}: set {setting} to a folder of yours"
    if disk.free is not None and disk.free < (_STATE_NEEDED if state else _DISK_NEEDED):
        return "warn", "logs and keys need room; free some" if state else "models need room; free some"
    if disk.files_free is not None and disk.files_free < 1000:
        return "warn", "the file system has no room for more files (inodes): remove some"
    if disk.network and state:
        return "warn", f"locks and sockets on a network disk can fail: set {setting} to a folder on a local one"
    if disk.network:
        return "ok", "models load as fast as the network brings them"
    if disk.type in _IN_MEMORY:
        return "warn", f"it is memory, and gone after a restart: set {setting} to a folder on a disk"
    if host.container and disk.type in _OF_CONTAINER:
        return "warn", f"it is gone with the container: mount a volume, and set {setting} to it"
    return "ok", ""
