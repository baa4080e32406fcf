"""hardware/detect.py, through the real NVML bindings and a library of our own that plays the driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aicockpit.hardware.detect import Gpu, Snapshot, pick_profile, snapshot, usable_gpus

_SHOW = """
import dataclasses, json
from aicockpit.hardware.detect import snapshot
print(json.dumps(dataclasses.asdict(snapshot())))
"""
GIB = 1 << 30


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("fake_nvml.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


@pytest.fixture
def look(library: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(*lines: str, init: int = 0, code: tuple[str, ...] = ("-c", _SHOW)) -> Any:
        state = tmp_path / "state"
        state.write_text("\n".join([str(init), *lines]) + "\n")
        env = {**os.environ, "LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(state)}
        done = subprocess.run([sys.executable, *code], env=env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout) if code[0] == "-c" else (done.stdout, done.stderr)

    return run


def test_two_gpus_with_all_their_values(look: Callable[..., Any]) -> None:
    found = look("81559 81000 559 7 NVIDIA H100 80GB HBM3", "49140 40000 9140 93 NVIDIA RTX A6000")
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA H100 80GB HBM3", "NVIDIA RTX A6000"]
    assert found["gpus"][1] == {
        "index": 1,
        "uuid": "GPU-fake-1",
        "name": "NVIDIA RTX A6000",
        "total": 49140 << 20,
        "free": 40000 << 20,
        "used": 9140 << 20,
        "utilisation": 93,
    }
    assert found["gpu_note"] == ""
    assert found["memory_total"] > found["memory_available"] > 0
    assert found["cpus"] == len(os.sched_getaffinity(0))


def test_what_the_driver_does_not_tell_is_none(look: Callable[..., Any]) -> None:
    (gpu,) = look("-1 0 0 -1 NVIDIA GB10")["gpus"]
    assert gpu["name"] == "NVIDIA GB10"
    assert (gpu["total"], gpu["free"], gpu["used"], gpu["utilisation"]) == (None, None, None, None)


def test_a_lost_gpu_keeps_its_place(look: Callable[..., Any]) -> None:
    gpus = look("-2 0 0 0 lost", "81559 81000 559 0 NVIDIA H100")["gpus"]
    assert (gpus[0]["index"], gpus[0]["name"], gpus[1]["index"]) == (0, None, 1)


def test_a_driver_that_is_not_loaded_is_no_gpu_and_no_error(look: Callable[..., Any]) -> None:
    found = look(init=9)
    assert found["gpus"] == []
    assert "Driver Not Loaded" in found["gpu_note"]


def test_no_library_is_no_gpu_and_no_error() -> None:
    machine = snapshot()
    assert machine.memory_total
    assert machine.gpus or machine.gpu_note


def test_the_makefiles_call_prints_the_profile_alone_on_stdout(look: Callable[..., Any]) -> None:
    code = ("-m", "aicockpit.hardware.detect", "--profile")
    out, err = look("49140 40000 9140 93 NVIDIA RTX A6000", code=code)
    assert out == "dev32\n"
    assert "NVIDIA RTX A6000 48 GiB" in err


def machine(*sizes: int | None) -> Snapshot:
    return Snapshot(tuple(Gpu(i, f"GPU-{i}aa", "X", size) for i, size in enumerate(sizes)))


def test_no_gpu_means_cpu_and_says_why() -> None:
    assert pick_profile(Snapshot(gpu_note="NVML: Driver Not Loaded")) == (
        "cpu",
        "no NVIDIA GPU found (NVML: Driver Not Loaded)",
    )


@pytest.mark.parametrize(
    ("sizes", "told", "untold"),
    [
        ((48 * GIB,), "found 1 GPU (X 48 GiB)", "prod480"),
        ((80 * GIB,), "found 1 GPU", "prod480"),
        ((80 * GIB, 80 * GIB), "it needs 8 of 80 GB, 2 are here", "smaller"),
        ((80 * GIB,) * 8, "PROFILE=prod480", "needs 8"),
        ((24 * GIB, 24 * GIB), "dev32 needs one GPU of 48 GB", "prod480"),
        ((None,), "of unknown size", "smaller"),
    ],
)
def test_a_gpu_means_dev32_with_what_else_to_consider(sizes: tuple[int | None, ...], told: str, untold: str) -> None:
    profile, reason = pick_profile(machine(*sizes))
    assert profile == "dev32"
    assert told in reason
    assert untold not in reason


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ("0", "1", "2")),
        ("", ()),
        ("2,0", ("2", "0")),
        ("1,7,0", ("1",)),
        ("-1", ()),
        ("GPU-1,GPU-2aa", ("GPU-1", "GPU-2aa")),
        ("MIG-abc", ("MIG-abc",)),
        ("0,0", ("0",)),
    ],
)
def test_only_visible_gpus_are_used(visible: str | None, ids: tuple[str, ...]) -> None:
    assert usable_gpus(machine(GIB, GIB, GIB), visible) == ids
