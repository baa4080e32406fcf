"""The words of fitting: how a model is laid over GPUs, what is asked of it, and what came out. `fit` exports them."""

from __future__ import annotations

from dataclasses import dataclass

from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.shape import ModelShape

# The share of a GPU that vLLM takes (0.32, config/cache.py: gpu_memory_utilization).
UTILISATION = 0.92
KV_DTYPES = {"bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


@dataclass(frozen=True, slots=True)
class Layout:
    """How many GPUs share each layer (`tensor`), follow each other (`pipeline`), and repeat the attention (`data`).

    `expert`: each GPU keeps whole experts instead of a slice of every one.
    """

    tensor: int
    pipeline: int = 1
    data: int = 1
    expert: bool = False

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        sizes = [f"{name}={n}" for name, n in (("TP", self.tensor), ("PP", self.pipeline), ("DP", self.data)) if n > 1]
        return " x ".join(sizes or ["TP=1"]) + (" + EP" if self.expert else "")

    def flags(self) -> tuple[str, ...]:
        """As `vllm serve` takes it."""
        sizes = (
            ("--tensor-parallel-size", self.tensor),
            ("--pipeline-parallel-size", self.pipeline),
            ("--data-parallel-size", self.data),
        )
        found = tuple(word for name, n in sizes if n > 1 for word in (name, str(n)))
        return (*found, *(("--enable-expert-parallel",) if self.expert else ()))


@dataclass(frozen=True, slots=True)
class Ask:
    """What a user wants. `max_model_len` None: the model's own window, or the largest part of it that fits.

    `batched_tokens` and `max_num_seqs` None: vLLM's defaults for the GPU. `kv_dtype`: vLLM's name of it.
    `lora_rank` > 0 keeps `loras` adapters of that rank. `offload`: bytes of weights a GPU to keep in the host's memory.
    `draft` proposes tokens, on `draft_tensor` GPUs (0: as many as the model's layers are on). `uncounted`: sentences on
    what was asked for and is not in the sum.
    """

    max_model_len: int | None = None
    utilisation: float = UTILISATION
    batched_tokens: int | None = None
    max_num_seqs: int | None = None
    kv_dtype: str = "auto"
    eager: bool = False
    lora_rank: int = 0
    loras: int = 1
    offload: int = 0
    draft: ModelShape | None = None
    draft_tensor: int = 0
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a GPU's memory. `how` is the sum behind it, to be checked by hand. Bytes below 0: what lacks."""

    name: str
    bytes: int
    how: str

    def __str__(self) -> str:
        return f"{self.name} {gib(self.bytes)} = {self.how}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`terms` are of the tightest GPU and add up to `budget`; the last one is the KV cache.

    `kv_tokens` is what one engine keeps (with data parallelism: each of `layout.data`), `concurrency` how many requests
    of `max_model_len` tokens run at once over all of them. `flags` and `env` are for `vllm serve`. `host`: bytes of the
    host's memory that weights of all its GPUs take.
    """

    fits: bool
    layout: Layout
    terms: tuple[Term, ...]
    kv_tokens: int
    max_model_len: int
    concurrency: float
    why: str
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    budget: Term = Term("budget", 0, "")
    devices: tuple[Device, ...] = ()
    host: int = 0


@dataclass(frozen=True, slots=True)
class Best:
    """The verdict to act on. One that does not fit is the one that came nearest."""

    verdict: Verdict


def gib(size: float) -> str:
    """Three digits: "18.0 GiB", "2.25 GiB", "93.4 MiB", "0 GiB"."""
    if not size:
        return "0 GiB"
    value, unit = (size / GIB, "GiB") if abs(size) >= GIB / 10 else (size / (1 << 20), "MiB")
    return f"{value:.{1 if abs(value) >= 9.995 else 2}f} {unit}"
