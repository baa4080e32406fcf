"""A driver to play with: tests/fake_nvml.c built as libnvidia-ml.so.1 (and libcuda.so.1), and machines in its words."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fake_nvml.c")
H100 = {
    **{"total": 81559, "free": 81000, "used": 559, "use": 0, "capability": "9 0", "mig": 0, "ecc": 1, "ecc_errors": 0},
    **{"rows_pending": 0, "rows_failed": 0, "power": 700000, "power_default": 700000, "persistence": 1},
    **{"compute_mode": 0, "slowed": 0, "temperature": 34, "links": "18 0", "fabric": 3},
    **{"generation": 5, "width": 16, "max_generation": 5, "max_width": 16},
}
A6000 = {
    **{"total": 49140, "free": 48500, "used": 640, "use": 0, "capability": "8 6", "ecc": 1, "ecc_errors": 0},
    **{"power": 300000, "power_default": 300000, "persistence": 1, "compute_mode": 0, "slowed": 0, "temperature": 40},
    **{"generation": 1, "width": 16, "max_generation": 4, "max_width": 16},
}
RTX4090 = {**A6000, "total": 24564, "free": 24000, "used": 564, "capability": "8 9", "ecc": 0}
HEAD = ("init 0", "driver 580.65.06", "cuda 13000")
SWITCHED = "pair -1 -1 50 1 1"  # every pair by NVSwitch
SLOTS = "pair -1 -1 30 0 1"  # every pair through the host bridge


def gpu(name: str, values: Mapping[str, object], *more: str, **changed: object) -> tuple[str, ...]:
    """Lines of one GPU: its values (None leaves one out), then `more` as they are."""
    known = {key: value for key, value in {**values, **changed}.items() if value is not None}
    return (f"gpu {name}", *(f"{key} {value}" for key, value in known.items()), *more)


def eight() -> tuple[str, ...]:
    """Eight H100 behind NVSwitches."""
    return (*HEAD, SWITCHED, *(line for _ in range(8) for line in gpu("NVIDIA H100 80GB HBM3", H100)))


def four() -> tuple[str, ...]:
    """Four A6000 in slots of one host bridge."""
    return (*HEAD, SLOTS, *(line for _ in range(4) for line in gpu("NVIDIA RTX A6000", A6000)))


@functools.cache
def build(*flags: str) -> Path:
    """The folder with the two libraries, built once."""
    folder = Path(tempfile.mkdtemp(prefix="fake-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", *flags, "-o", target, SOURCE], check=True)
    (folder / "libcuda.so.1").symlink_to(target)
    return folder


@dataclass(frozen=True)
class Rig:
    """Runs Python with the fake driver in the given state."""

    folder: Path

    def environ(self, lines: Sequence[str], *flags: str, **env: str) -> dict[str, str]:
        state = self.folder / "nvml-state"
        state.write_text("\n".join(lines) + "\n")
        return {**os.environ, "LD_LIBRARY_PATH": str(build(*flags)), "FAKE_NVML": str(state), **env}

    def run(
        self, lines: Sequence[str], *argv: str, flags: Sequence[str] = (), **env: str
    ) -> subprocess.CompletedProcess[str]:
        environ = self.environ(lines, *flags, **env)
        return subprocess.run(
            [sys.executable, *argv], env=environ, capture_output=True, text=True, check=False, cwd=self.folder
        )

    def ask(self, lines: Sequence[str], code: str, flags: Sequence[str] = ()) -> Any:
        """The value of an expression over `detect` and `topology`, made there and brought here as JSON."""
        program = f"import json\nfrom aicockpit.hardware import detect, nvidia, topology\nprint(json.dumps({code}))"
        done = self.run(lines, "-c", program, flags=flags)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])
