"""What is told of a machine: values only. `detect` fills them; None is "could not be read", never a guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from aicockpit.hardware.device import Vendor

VERSION = 1  # of the form of `Snapshot.to_dict`; a field may be added to a version, never removed or changed

# How two GPUs reach each other, best first. AMD's xGMI is the same kind of link as NVLink.
Kind = Literal["nvlink", "xgmi", "board", "switch", "switches", "bridge", "node", "system", "pcie"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds memory of a GPU; `used` in bytes. Its name is None when it runs in another container."""

    pid: int
    name: str | None = None
    used: int | None = None


@dataclass(frozen=True, slots=True)
class Pcie:
    """Slot: generation and lanes now, and the most that card and slot can do. An idle link lowers the generation."""

    generation: int | None = None
    width: int | None = None
    max_generation: int | None = None
    max_width: int | None = None


@dataclass(frozen=True, slots=True)
class Links:
    """NVLinks of one GPU. `fabric`: state of the NVSwitch fabric, where there is one: completed, in progress, ..."""

    active: int = 0
    inactive: int = 0
    fabric: str | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """A MIG instance; CUDA_VISIBLE_DEVICES takes its uuid. Sizes in bytes."""

    uuid: str | None = None
    name: str | None = None
    total: int | None = None
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Detail:
    """What `inspect` tells of a GPU beyond `Gpu`. Power in watts, temperature in degrees Celsius.

    `slowed`: why the card clocks below what it could, other than its power limit. `rows`: state of memory repair.
    """

    pci: str | None = None
    numa: int | None = None
    pcie: Pcie | None = None
    links: Links | None = None
    mig: bool | None = None
    instances: tuple[Instance, ...] = ()
    ecc: bool | None = None
    ecc_errors: int | None = None
    rows: Literal["good", "pending", "failed"] | None = None
    power_limit: float | None = None
    power_default: float | None = None
    persistence: bool | None = None
    compute_mode: Literal["default", "exclusive", "prohibited"] | None = None
    slowed: tuple[str, ...] | None = None
    temperature: int | None = None
    architecture: str | None = None
    partition: str | None = None
    processes: tuple[Process, ...] | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver sees it. `utilisation` is in percent, the sizes in bytes.

    `detail` is filled by `inspect` only.
    """

    index: int
    uuid: str | None = None
    name: str | None = None
    total: int | None = None
    free: int | None = None
    used: int | None = None
    utilisation: int | None = None
    capability: tuple[int, int] | None = None
    vendor: Vendor = "nvidia"
    detail: Detail | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """The way between two GPUs, by index, `a` < `b`. `links`: NVLinks between them; `p2p`: direct memory access."""

    a: int
    b: int
    kind: Kind | None = None
    links: int | None = None
    p2p: bool | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver of the GPUs. `cuda`: the newest CUDA it can run. `cuda_library`: libcuda, which CUDA programs need."""

    vendor: Vendor
    version: str | None = None
    cuda: tuple[int, int] | None = None
    cuda_library: bool | None = None
    source: str = ""  # what told us: nvml, amd-smi, rocm-smi, sysfs


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics or compute card on the PCI bus, whether or not a driver runs it. `driver`: the kernel's, if bound."""

    address: str
    vendor: Literal["nvidia", "amd", "other"]
    device: str
    driver: str | None = None


@dataclass(frozen=True, slots=True)
class Cpu:
    """`usable`: cores (hardware threads) that this process may run on; `physical`: real cores of the machine.

    `features`: those that vLLM's CPU kernels look for, by the kernel's names. `limit`: cores by the container's quota.
    """

    architecture: str
    model: str | None = None
    usable: int | None = None
    physical: int | None = None
    sockets: int | None = None
    numa_nodes: int | None = None
    features: tuple[str, ...] | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes. `limit` and `limit_used`: of the tightest control group; page cache that can be dropped is not used."""

    total: int | None = None
    available: int | None = None
    swap_total: int | None = None
    swap_used: int | None = None
    limit: int | None = None
    limit_used: int | None = None

    @property
    def free(self) -> int | None:
        """What can be taken now: the machine's or the container's rest, whichever is less."""
        rest = None if self.limit is None or self.limit_used is None else max(self.limit - self.limit_used, 0)
        known = [size for size in (self.available, rest) if size is not None]
        return min(known) if known else None


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a folder of ours lies. `path`: the folder, or its nearest parent that is there. Sizes in bytes.

    `network`: another machine's disk. `problem`: why nothing more is known.
    """

    role: str
    path: str
    mount: str | None = None
    type: str | None = None
    total: int | None = None
    free: int | None = None
    files_free: int | None = None
    network: bool | None = None
    read_only: bool | None = None
    writable: bool | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Limits of the operating system. `inotify_works`: whether one more watcher can be made now."""

    inotify_watches: int | None = None
    inotify_instances: int | None = None
    inotify_works: bool | None = None
    open_files: int | None = None
    open_files_hard: int | None = None
    shm_total: int | None = None
    shm_free: int | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The machine around the GPUs. `container`: docker, podman, kubernetes, ... or None; `wsl`: Windows' Linux."""

    system: str
    cpu: Cpu
    memory: Memory
    kernel: Kernel
    disks: tuple[Disk, ...] = ()
    container: str | None = None
    wsl: bool = False
    cards: tuple[Card, ...] = ()
    nvidia_module: str | None = None
    nvidia_files: bool | None = None
    kfd: Literal["absent", "usable", "forbidden"] = "absent"


@dataclass(frozen=True, slots=True)
class Note:
    """Something that could not be read: what, why, and what follows from not knowing it."""

    what: str
    why: str
    consequence: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one moment. `gpu_note` says why no GPU was found, when none was.

    `snapshot` fills what stands before `driver`, `inspect` everything. The GPUs are of one vendor: an engine is built
    for one.
    """

    gpus: tuple[Gpu, ...] = ()
    gpu_note: str = ""
    memory_total: int | None = None
    memory_available: int | None = None
    cpus: int | None = None
    driver: Driver | None = None
    pairs: tuple[Pair, ...] | None = None
    host: Host | None = None
    notes: tuple[Note, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with `version`."""
        return {"version": VERSION, **msgspec.to_builtins(self)}
