"""hardware/amd.py, against programs that print what amd-smi and rocm-smi print, and a `sys` tree of our own.

The forms are those of the tools' sources (ROCm 5.7 to 7); no card has been asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.hardware import amd, detect
from aicockpit.hardware.machine import Process

MIB = 1 << 20
Tool = Callable[..., Path]


def mb(value: float) -> dict[str, Any]:
    return {"value": value, "unit": "MB"}


def static(index: int, **changed: Any) -> dict[str, Any]:
    return {
        "gpu": index,
        "asic": {
            "market_name": "AMD Instinct MI300X",
            "vendor_id": "0x1002",
            "asic_serial": f"0xABCDEF012345678{index}",
            "target_graphics_version": "gfx942",
        },
        "bus": {"bdf": f"0000:{index}1:00.0", "max_pcie_width": 16, "max_pcie_speed": {"value": 32, "unit": "GT/s"}},
        "limit": {"max_power": {"value": 750, "unit": "W"}, "socket_power": {"value": 600, "unit": "W"}},
        "driver": {"name": "amdgpu", "version": "6.10.5"},
        "vram": {"type": "HBM3", "size": mb(196592)},
        "numa": {"node": 0, "affinity": 0},
        "partition": {"compute_partition": "SPX", "memory_partition": "NPS1"},
        **changed,
    }


def metric(index: int, **changed: Any) -> dict[str, Any]:
    return {
        "gpu": index,
        "usage": {"gfx_activity": {"value": 37, "unit": "%"}, "vcn_activity": ["N/A"]},
        "mem_usage": {"total_vram": mb(196592), "used_vram": mb(283), "free_vram": mb(196309)},
        "pcie": {"width": 16, "speed": {"value": 32, "unit": "GT/s"}},
        "ecc": {"total_uncorrectable_count": 0},
        "temperature": {"edge": "N/A", "hotspot": {"value": 41, "unit": "C"}},
        **changed,
    }


def process(index: int, *found: Any) -> dict[str, Any]:
    return {
        "gpu": index,
        "process_list": [{"process_info": one} for one in found or ("No running processes detected",)],
    }


def topology(kind: str = "XGMI") -> list[dict[str, Any]]:
    def link(a: int, b: int) -> dict[str, Any]:
        return {"gpu": b, "link_status": "ENABLED", "link_type": "SELF" if a == b else kind, "num_hops": int(a != b)}

    return [{"gpu": a, "bdf": f"0000:{a}1:00.0", "links": [link(a, b) for b in (0, 1)]} for a in (0, 1)]


def answers(**changed: Any) -> dict[str, Any]:
    work = {"name": "python3", "pid": 42, "mem_usage": {"value": 7, "unit": "B"}, "memory_usage": {"vram_mem": mb(5)}}
    return {
        "static": [static(0), static(1)],
        "metric": [metric(0), metric(1)],
        "process": [process(0, work), process(1)],
        "topology": topology(),
        **changed,
    }


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Makes a program on PATH that prints what it is given for its first argument (or for every)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, prints: dict[str, Any] | str, before: str = "") -> Path:
        script = ["#!/bin/sh", before, 'case "$1" in']
        for word, value in prints.items() if isinstance(prints, dict) else [("*", prints)]:
            (folder / f"{name}.{len(script)}").write_text(
                value if isinstance(value, str) else json.dumps(value, indent=4)
            )
            script.append(f'{word}) cat "{folder}/{name}.{len(script)}";;')
        path = folder / name
        path.write_text("\n".join([*script, "esac", ""]))
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A root with two cards of amdgpu's and one of another's, named against their order on the bus."""
    root = tmp_path / "root"
    for card, address, vendor in (
        ("card2", "0000:01:00.0", "0x1002"),
        ("card1", "0000:11:00.0", "0x1002"),
        ("card0", "0000:00:02.0", "0x8086"),
    ):
        device = root / "sys/bus/pci/devices" / address
        device.mkdir(parents=True)
        values = {"vendor": vendor, "class": "0x120000", "device": "0x74a1", "gpu_busy_percent": "37"}
        values |= {"mem_info_vram_total": "206141652992", "mem_info_vram_used": "296747008"}
        values |= {"unique_id": f"abcdef012345678{card[-1]}"}
        for name, value in values.items():
            (device / name).write_text(value + "\n")
        (root / "sys/class/drm" / card).mkdir(parents=True)
        (root / "sys/class/drm" / card / "device").symlink_to(device)
    (root / "sys/class/drm/card1-HDMI-A-1").mkdir()
    return root


def test_the_kernels_files_tell_the_cheap_part(kernel: Path) -> None:
    first, second = amd.gpus(kernel)
    assert (first.index, first.uuid, second.uuid) == (0, "GPU-abcdef0123456782", "GPU-abcdef0123456781")
    assert (first.total, first.used, first.free) == (206141652992, 296747008, 206141652992 - 296747008)
    assert (first.utilisation, first.vendor, first.name) == (37, "amd", None)
    assert detect.snapshot(root=kernel).gpus == (first, second)


@pytest.mark.parametrize("wrap", [lambda found: found, lambda found: {"gpu_data": found}], ids=["list", "gpu_data"])
def test_amd_smi_tells_everything(tool: Tool, tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    tool("amd-smi", {name: wrap(value) for name, value in answers().items()})
    report = amd.inspect(10, tmp_path)
    gpu = report.gpus[0]
    assert (gpu.name, gpu.uuid, gpu.vendor) == ("AMD Instinct MI300X", "GPU-abcdef0123456780", "amd")
    assert (gpu.total, gpu.used, gpu.free, gpu.utilisation) == (196592 * MIB, 283 * MIB, 196309 * MIB, 37)
    assert gpu.detail is not None
    assert gpu.detail.pcie is not None
    assert (gpu.detail.pcie.generation, gpu.detail.pcie.width, gpu.detail.pcie.max_generation) == (5, 16, 5)
    assert (gpu.detail.pci, gpu.detail.numa, gpu.detail.ecc_errors) == ("0000:01:00.0", 0, 0)
    assert (gpu.detail.power_limit, gpu.detail.power_default, gpu.detail.temperature) == (600.0, 750.0, 41)
    assert (gpu.detail.architecture, gpu.detail.partition) == ("gfx942", "SPX")
    assert gpu.detail.processes == (Process(42, "python3", 5 * MIB),)
    assert report.gpus[1].detail is not None
    assert report.gpus[1].detail.processes == ()
    assert report.driver is not None
    assert (report.driver.version, report.driver.source) == ("6.10.5", "amd-smi")
    assert report.pairs is not None
    assert [(pair.a, pair.b, pair.kind, pair.p2p) for pair in report.pairs] == [(0, 1, "xgmi", True)]
    assert report.notes == ()


def test_the_form_of_links_before_rocm_6_1(tool: Tool, tmp_path: Path) -> None:
    older = [
        {
            "gpu": a,
            "link_type": {"gpu_0": "PCIE", "gpu_1": "PCIE"},
            "link_accessibility": {"gpu_0": "DISABLED", "gpu_1": "DISABLED"},
        }
        for a in (0, 1)
    ]
    tool("amd-smi", answers(topology=older))
    pairs = amd.inspect(10, tmp_path).pairs
    assert pairs is not None
    assert [(pair.kind, pair.p2p) for pair in pairs] == [("pcie", False)]


def test_missing_values_are_none_and_the_kernel_fills_in(tool: Tool, kernel: Path) -> None:
    bare = {"gpu": 0, "asic": {"market_name": "N/A", "asic_serial": "0xabcdef0123456782"}, "vram": "N/A", "bus": "N/A"}
    tool("amd-smi", answers(static=[bare], metric=[], topology=[], process="no such command"))
    report = amd.inspect(10, kernel)
    (gpu,) = report.gpus
    assert (gpu.total, gpu.utilisation, gpu.name) == (206141652992, 37, None)
    assert gpu.detail is not None
    assert (gpu.detail.processes, gpu.detail.partition, gpu.detail.power_limit) == (None, None, None)
    assert [note.what for note in report.notes] == ["amd-smi metric", "amd-smi process", "amd-smi topology"]
    assert report.notes[1].why == "no such command"


def test_warnings_before_the_json_are_passed_over(tool: Tool, tmp_path: Path) -> None:
    noisy = {name: f"WARNING: [unsupported]\n{{broken\n{json.dumps(value)}\nbye\n" for name, value in answers().items()}
    tool("amd-smi", noisy)
    assert len(amd.inspect(10, tmp_path).gpus) == 2


ROCM = {
    "card0": {
        "GPU use (%)": "12",
        "VRAM Total Memory (B)": "206141652992",
        "VRAM Total Used Memory (B)": "1000000",
        "Card Series": "AMD Instinct MI300X OAM",
        "Card Model": "0x74a1",
        "Unique ID": "0xabcdef0123456780",
        "PCI Bus": "0000:05:00.0",
        "GFX Version": "gfx942",
        "Compute Partition": "SPX",
    },
    "card1": {"VRAM Total Memory (B)": "206141652992", "Card series": "N/A", "Card Model": "0x74a1"},
    "system": {"Driver version": "6.10.5", "(Topology) Link type between DRM devices 0 and 1": "XGMI"},
}


@pytest.mark.parametrize("first", ["absent", "garbage", "fails", "empty"])
def test_rocm_smi_answers_where_amd_smi_does_not(tool: Tool, tmp_path: Path, first: str) -> None:
    if first != "absent":
        printed = {"garbage": "\x00\x1b[31mDriver?", "fails": "", "empty": "[]"}[first]
        tool("amd-smi", printed, "echo broken >&2; exit 1" if first == "fails" else "")
    tool("rocm-smi", "WARNING: AMD GPU device(s) is/are in a low-power state\n" + json.dumps(ROCM))
    report = amd.inspect(10, tmp_path)
    gpu, bare = report.gpus
    assert (gpu.name, gpu.uuid, gpu.total, gpu.utilisation) == (
        "AMD Instinct MI300X OAM",
        "GPU-abcdef0123456780",
        206141652992,
        12,
    )
    assert (bare.name, bare.free, bare.uuid) == (None, None, None)
    assert report.pairs is not None
    assert [pair.kind for pair in report.pairs] == ["xgmi"]
    assert report.driver is not None
    assert (report.driver.version, report.driver.source) == ("6.10.5", "rocm-smi")
    assert [note.what for note in report.notes] == ["amd-smi"]


def test_without_the_tools_the_kernel_tells(tool: Tool, kernel: Path) -> None:
    report = amd.inspect(10, kernel)
    assert len(report.gpus) == 2
    assert report.pairs is None
    assert report.notes[0].why == "amd-smi is not installed; rocm-smi is not installed"


def test_a_driver_that_is_not_loaded_is_told_in_the_tools_words(tool: Tool, tmp_path: Path) -> None:
    tool("amd-smi", "", "echo 'ERROR: Driver not loaded (amdgpu not found in modules)' >&2; exit 255")
    tool("rocm-smi", "Driver not initialized (amdgpu not found in modules)")  # it ends with 0
    report = amd.inspect(10, tmp_path)
    assert report.gpus == ()
    assert report.driver is None
    assert report.notes[0].why.count("amdgpu not found in modules") == 2


def test_tools_that_hang_cost_their_limit_and_leave_nothing(tool: Tool, kernel: Path, tmp_path: Path) -> None:
    for name in ("amd-smi", "rocm-smi"):
        tool(name, "", f"echo $$ >> {tmp_path}/pids; sleep 60 & echo $! >> {tmp_path}/pids; wait")
    began = time.monotonic()
    report = amd.inspect(1, kernel)
    assert time.monotonic() - began < 8
    assert len(report.gpus) == 2
    assert report.notes[0].why.count("did not end within") == 2
    deadline = time.monotonic() + 5
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [pid for pid in pids if alive(pid)] == []


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_inspect_asks_amd_when_there_is_a_card_and_no_nvidia(tool: Tool, kernel: Path) -> None:
    tool("amd-smi", answers())
    found = detect.inspect(root=kernel)
    assert [gpu.vendor for gpu in found.gpus] == ["amd", "amd"]
    assert found.driver is not None
    assert found.driver.vendor == "amd"
    assert [device.peer for device in detect.devices(found)] == ["nvlink", "nvlink"]  # xGMI is such a link
    assert found.host is not None
    assert [card.vendor for card in found.host.cards] == ["amd", "amd"]


WORDS = (
    *("value", "unit", "size", "pid", "process_list", "process_info", "links", "link_type", "gpu_data", "gpu_1"),
    *static(0),
    *metric(0),
)
VALUES = st.recursive(
    st.sampled_from([None, True, "N/A", "", "0", "MB", "XGMI", "ENABLED", 10**400]) | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(VALUES, min_size=4, max_size=4))
def test_no_answer_of_the_right_words_in_wrong_places_raises(values: list[Any]) -> None:
    entries = [list(amd._entries(value)) for value in values]
    for entry in (entry for some in entries for entry in some):
        gpu = amd._of_amd_smi(0, entry, entry, entry)
        assert gpu.total is None or gpu.total >= 0
    amd._amd_links(dict(enumerate(entry for some in entries for entry in some)))
