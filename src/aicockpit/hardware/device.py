"""One GPU as fitting and selection know it: in this machine (`detect.devices`) or only imagined (`cards.parse`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 1 << 30

Vendor = Literal["nvidia", "amd"]
Peer = Literal["nvlink", "pcie"]


@dataclass(frozen=True, slots=True)
class Device:
    """What is unknown is None: an unknown `free` counts as all of it, an unknown `capability` makes no claim about
    kernels, an unknown `peer` counts as PCIe."""

    name: str  # as the driver tells it: "NVIDIA RTX A6000"
    # Bytes that CUDA or HIP calls total: vLLM's budget is a share of it. NVML's `total` is larger by its `reserved`,
    # about 1 % (nvmlDeviceGetMemoryInfo_v2 tells it).
    memory: int
    free: int | None = None  # bytes
    capability: tuple[int, int] | None = None  # CUDA compute capability, (8, 6); None on AMD
    vendor: Vendor = "nvidia"
    peer: Peer | None = None  # how it reaches the other GPUs of its machine
    bandwidth: float | None = None  # GB/s of its memory
    tflops: float | None = None  # 16-bit, dense
    uuid: str | None = None
    index: int | None = None

    @property
    def instance(self) -> bool:
        """A MIG instance: it has a UUID of its own, and no number."""
        return self.index is None and self.uuid is not None
