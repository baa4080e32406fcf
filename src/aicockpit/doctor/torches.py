"""Which torch the engines will run on, and whether the driver can run it. Read from its files: importing takes seconds.

The oldest driver for each major version of CUDA is from NVIDIA's "CUDA Compatibility", table of minor version
compatibility.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aicockpit.doctor.finding import Finding, Mark, Wanted
from aicockpit.hardware.device import Vendor
from aicockpit.hardware.machine import Driver, Snapshot

_OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}


@dataclass(frozen=True, slots=True)
class Torch:
    """torch as its `version.py` tells it; `cuda` and `hip` are versions, None in a build without."""

    version: str
    cuda: tuple[int, int] | None = None
    hip: str | None = None

    @property
    def built(self) -> str:
        """In words, what it is built for."""
        if self.cuda:
            return f"CUDA {_dotted(self.cuda)}"
        return f"ROCm {self.hip}" if self.hip else "CPUs"


def find(program: str) -> Torch | None:
    """The torch beside a `python` or `vllm`; None without one, or for another program, which may run anywhere."""
    found = shutil.which(program)
    if found is None or not Path(found).name.startswith(("python", "vllm")):
        return None
    # As it is named first: the python of a virtual environment is a link to one without torch.
    for path in (Path(found).absolute(), Path(found).resolve()):
        for file in sorted(path.parent.parent.glob("lib*/python3*/*-packages/torch/version.py")):
            try:
                return parse(file.read_text(errors="replace"))
            except OSError:
                continue
    return None


def parse(text: str) -> Torch | None:
    """`version.py`'s assignments; None when it has no version."""
    found = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*=\s*['\"]([^'\"\n]+)['\"]", text, re.MULTILINE))
    if "__version__" not in found:
        return None
    cuda = re.match(r"(\d+)\.(\d+)", found.get("cuda", ""))
    return Torch(found["__version__"], (int(cuda[1]), int(cuda[2])) if cuda else None, found.get("hip"))


def findings(torch: Torch | None, machine: Snapshot, wanted: Wanted) -> Iterator[Finding]:
    """The row `torch`: does what is installed fit the cards and their driver?"""
    if torch is None:
        return
    vendor = machine.gpus[0].vendor if machine.gpus else None
    yield _fit(torch, vendor, machine.driver, wanted)


def _fit(torch: Torch, vendor: Vendor | None, driver: Driver | None, wanted: Wanted) -> Finding:
    name, for_gpus = f"torch {torch.version} for {torch.built}", bool(torch.cuda or torch.hip)
    if vendor is None:
        if not for_gpus:
            return Finding("torch", "torch", "ok", name)
        fix = "for the CPU: make start-dev PROFILE=cpu installs vLLM's CPU build"
        return Finding("torch", "torch", _mark(wanted, True), f"{name}, and no GPU that can be used", fix)
    if (torch.cuda if vendor == "nvidia" else torch.hip) is None:
        fix = "make start-dev installs vLLM for CUDA"
        if vendor == "amd":
            fix = "to use it install vLLM for ROCm, and name its command with AICOCKPIT_VLLM_COMMAND"
        brand = {"nvidia": "NVIDIA", "amd": "AMD"}[vendor]
        return Finding("torch", "torch", _mark(wanted, for_gpus), f"{name}: it cannot use the {brand} GPU", fix)
    able = driver.cuda if driver else None
    if torch.cuda is None or able is None or driver is None:
        return Finding("torch", "torch", "ok", name)
    told = f"{name}; driver {driver.version or 'of unknown version'} runs CUDA up to {_dotted(able)}"
    if able[0] < torch.cuda[0]:
        oldest = _OLDEST_DRIVER.get(torch.cuda[0])
        fix = f"update the NVIDIA driver to {oldest} or newer" if oldest else "update the NVIDIA driver"
        return Finding(
            "torch", "torch", wanted.mark, f"{told}: too old", f"{fix}, or install a vLLM for CUDA {able[0]}"
        )
    if able < torch.cuda:
        fix = "update the NVIDIA driver if an engine ends with 'PTX was compiled with an unsupported toolchain'"
        return Finding("torch", "torch", "warn", f"{told}: kernels that are compiled at the start may fail", fix)
    return Finding("torch", "torch", "ok", told)


def _mark(wanted: Wanted, for_gpus: bool) -> Mark:
    """How bad a build is that cannot use what is here: one for the CPU is right where the CPU is asked for."""
    if wanted.gpus or (wanted.cpu and for_gpus):
        return "bad"
    return "ok" if wanted.cpu else "warn"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
