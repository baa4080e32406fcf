"""hardware/detect.py and nvidia.py, through the real NVML bindings and a library of our own that plays the driver."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from aicockpit.hardware.detect import Gpu, Snapshot, devices, pick_profile, snapshot, usable_gpus
from aicockpit.hardware.machine import Detail, Instance, Pair
from nvml_rig import A6000, H100, HEAD, SLOTS, Rig, eight, four, gpu

GIB = 1 << 30
LOOK, INSPECT = "detect.snapshot().to_dict()", "detect.inspect().to_dict()"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_two_gpus_with_all_their_values(rig: Rig) -> None:
    lines = (*HEAD, *gpu("NVIDIA H100 80GB HBM3", H100), *gpu("NVIDIA RTX A6000", A6000, use=93))
    found = rig.ask(lines, LOOK)
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA H100 80GB HBM3", "NVIDIA RTX A6000"]
    assert found["gpus"][1] == {
        "index": 1,
        "uuid": "GPU-fake-1",
        "name": "NVIDIA RTX A6000",
        "total": 49140 << 20,
        "free": 48500 << 20,
        "used": 640 << 20,
        "utilisation": 93,
        "capability": [8, 6],
        "vendor": "nvidia",
        "detail": None,
    }
    assert (found["version"], found["gpu_note"], found["host"]) == (1, "", None)
    assert found["memory_total"] > found["memory_available"] > 0
    assert found["cpus"] == len(os.sched_getaffinity(0))


def test_memory_is_what_cuda_calls_total_where_the_driver_tells_its_reserve(rig: Rig) -> None:
    (card,) = rig.ask((*HEAD, *gpu("NVIDIA RTX A6000", A6000, reserved=600)), LOOK)["gpus"]
    assert (card["total"], card["free"]) == (48540 << 20, 48500 << 20)


def test_what_the_driver_does_not_tell_is_none(rig: Rig) -> None:
    lines = (*HEAD, *gpu("NVIDIA GB10", {"capability": "12 1"}))
    found = rig.ask(lines, INSPECT)
    (card,) = found["gpus"]
    assert card["name"] == "NVIDIA GB10"
    assert (card["total"], card["free"], card["used"], card["utilisation"]) == (None, None, None, None)
    told = {key for key, value in card["detail"].items() if value is not None}
    assert told == {"pci", "pcie", "instances", "processes"}
    assert [note["what"] for note in found["notes"]] == ["memory of GPU 0"]
    assert rig.ask(lines, "len(detect.devices(detect.inspect()))") == 0


def test_a_lost_gpu_keeps_its_place(rig: Rig) -> None:
    lines = (*HEAD, *gpu("lost", H100, "lost 1"), *gpu("NVIDIA H100", H100))
    found = rig.ask(lines, INSPECT)
    assert [(gpu["index"], gpu["name"]) for gpu in found["gpus"]] == [(0, None), (1, "NVIDIA H100")]
    assert found["pairs"] == [{"a": 0, "b": 1, "kind": None, "links": None, "p2p": None}]


@pytest.mark.parametrize(
    ("code", "told"),
    [(9, "Driver Not Loaded"), (18, "version mismatch"), (4, "Insufficient Permissions"), (999, "Unknown Error")],
)
def test_a_driver_that_fails_is_no_gpu_and_no_error(rig: Rig, code: int, told: str) -> None:
    for look in (LOOK, INSPECT):
        found = rig.ask((f"init {code}", *eight()[1:]), look)
        assert found["gpus"] == []
        assert told in found["gpu_note"]


def test_no_library_is_no_gpu_and_no_error() -> None:
    machine = snapshot()
    assert machine.memory_total
    assert machine.gpus or machine.gpu_note


def test_eight_gpus_behind_switches(rig: Rig) -> None:
    found = rig.ask(eight(), INSPECT)
    assert found["driver"] == {
        "vendor": "nvidia",
        "version": "580.65.06",
        "cuda": [13, 0],
        "cuda_library": True,
        "source": "nvml",
    }
    detail = found["gpus"][7]["detail"]
    assert detail["pci"] == "0000:17:00.0"
    assert detail["pcie"] == {"generation": 5, "width": 16, "max_generation": 5, "max_width": 16}
    assert detail["links"] == {"active": 18, "inactive": 0, "fabric": "completed"}
    assert (detail["ecc"], detail["rows"], detail["mig"], detail["processes"]) == (True, "good", False, [])
    assert (detail["power_limit"], detail["compute_mode"], detail["slowed"]) == (700.0, "default", [])
    assert len(found["pairs"]) == 28
    assert {(pair["kind"], pair["links"], pair["p2p"]) for pair in found["pairs"]} == {("nvlink", 18, True)}
    assert found["notes"] == []
    told = "[[d.peer, d.capability, d.index] for d in detect.devices(detect.inspect())]"
    assert rig.ask(eight(), told) == [["nvlink", [9, 0], index] for index in range(8)]


def test_four_gpus_in_slots(rig: Rig) -> None:
    pairs = rig.ask(four(), INSPECT)["pairs"]
    assert {(pair["kind"], pair["links"], pair["p2p"]) for pair in pairs} == {("bridge", None, True)}
    assert rig.ask(four(), "[d.peer for d in detect.devices(detect.inspect())]") == ["pcie"] * 4


def test_cards_joined_by_a_bridge_reach_the_others_by_pcie(rig: Rig) -> None:
    pairs = ("pair 0 1 50 1 1", "pair -1 -1 50 0 0")
    cards = [gpu("NVIDIA RTX A6000", A6000, links="4 0", to=f"{to} 4") for to in (1, 0)]
    lines = (*HEAD, *pairs, *cards[0], *cards[1], *gpu("NVIDIA RTX A6000", A6000, links="0 4"))
    found = rig.ask(lines, INSPECT)
    assert [(pair["kind"], pair["links"]) for pair in found["pairs"]] == [
        ("nvlink", 4),
        ("system", None),
        ("system", None),
    ]
    assert rig.ask(lines, "topology.islands([0, 1, 2], detect.inspect().pairs)") == [[0, 1], [2]]


def test_faults_that_a_card_tells_of(rig: Rig) -> None:
    broken = {"ecc_errors": 3, "rows_failed": 1, "width": 4, "slowed": 0x48, "compute_mode": 2, "persistence": 0}
    lines = (
        *HEAD,
        *gpu("NVIDIA H100", H100, "process 4242 20000", "process 90001 5", **broken, fabric=2, links="16 2"),
    )
    detail = rig.ask(lines, INSPECT)["gpus"][0]["detail"]
    assert (detail["ecc_errors"], detail["rows"], detail["compute_mode"]) == (3, "failed", "prohibited")
    assert detail["slowed"] == ["hardware slowdown", "temperature (hardware)"]
    assert detail["links"] == {"active": 16, "inactive": 2, "fabric": "in progress"}
    assert (detail["pcie"]["width"], detail["persistence"]) == (4, False)
    assert detail["processes"] == [
        {"pid": 4242, "name": "/usr/bin/program-4242", "used": 20000 << 20},
        {"pid": 90001, "name": None, "used": 5 << 20},
    ]


def test_mig_instances_are_devices_of_their_own(rig: Rig) -> None:
    parts = ("instance 19968 19950 NVIDIA A100-SXM4-40GB MIG 3g.20gb", "instance 4864 4800 NVIDIA A100 MIG 1g.5gb")
    card = gpu("NVIDIA A100-SXM4-40GB", H100, *parts, mig=1, capability="8 0")
    lines = (*HEAD, *card, *gpu("NVIDIA A100-SXM4-40GB", H100, mig=1))
    told = "[[d.name, d.memory, d.uuid, d.index, d.capability] for d in detect.devices(detect.inspect(){})]"
    whole = rig.ask(lines, told.format(""))
    assert whole == [
        ["NVIDIA A100-SXM4-40GB MIG 3g.20gb", 19968 << 20, "MIG-fake-0-0", None, [8, 0]],
        ["NVIDIA A100 MIG 1g.5gb", 4864 << 20, "MIG-fake-0-1", None, [8, 0]],
    ]
    assert rig.ask(lines, told.format(', "MIG-fake-0-1"')) == whole[1:]


def test_a_driver_older_than_the_bindings(rig: Rig) -> None:
    lines = (*HEAD, SLOTS, *gpu("NVIDIA RTX A6000", A6000, "process 7 100"), *gpu("NVIDIA RTX A6000", A6000))
    found = rig.ask(lines, INSPECT, flags=("-DOLD",))
    detail = found["gpus"][0]["detail"]
    assert (found["driver"]["cuda"], detail["processes"][0]["pid"], detail["slowed"]) == ([13, 0], 7, [])
    assert found["pairs"] == [{"a": 0, "b": 1, "kind": "bridge", "links": None, "p2p": None}]


def test_a_call_that_hangs_costs_its_answer_only(rig: Rig) -> None:
    lines = (*HEAD, *four()[3:], "hang nvmlDeviceGetTemperature")
    found = rig.ask(lines, "detect.inspect(limit=4).to_dict()")
    assert [gpu["total"] for gpu in found["gpus"]] == [49140 << 20] * 4
    assert [gpu["detail"] is None for gpu in found["gpus"]] == [False, False, False, True]
    assert found["pairs"] is None
    (note,) = found["notes"]
    assert (note["what"], note["why"]) == ("the details of GPU 3", "it did not end within 4 s")


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_a_driver_that_hangs_is_told_and_left(rig: Rig, function: str) -> None:
    lines = (*HEAD, f"hang {function}", *four()[3:])
    found = rig.ask(lines, "detect.inspect(limit=1).to_dict()")
    assert found["gpus"] == []
    assert "did not end within 1 s" in found["gpu_note"]
    assert found["host"]["memory"]["total"]


_THRICE = """
import json, threading, time
from aicockpit.hardware import detect
began = time.monotonic()
notes = [detect.snapshot(2).gpu_note for _ in range(3)]
threads = [thread.name for thread in threading.enumerate() if "nvml" in thread.name]
print(json.dumps([notes, threads, time.monotonic() - began]))
"""


def test_a_driver_that_hangs_is_asked_once_by_the_cheap_look(rig: Rig) -> None:
    done = rig.run((*HEAD, "hang nvmlDeviceGetCount_v2", *four()[3:]), "-c", _THRICE)
    notes, threads, seconds = json.loads(done.stdout)
    assert all("has not returned" in note for note in notes)
    assert len(threads) == 1
    assert seconds < 4


def test_a_library_that_crashes_takes_the_child_alone(rig: Rig) -> None:
    found = rig.ask((*HEAD, "crash nvmlDeviceGetEccMode", *four()[3:]), INSPECT)
    assert len(found["gpus"]) == 4
    assert "signal 11" in found["notes"][0]["why"]


def test_a_library_that_prints_does_not_spoil_the_answer(rig: Rig) -> None:
    found = rig.ask(('say {"gpus": 1} {', *eight()), INSPECT)
    assert len(found["gpus"]) == 8
    assert found["notes"] == []


def test_the_makefiles_call_prints_the_profile_alone_on_stdout(rig: Rig) -> None:
    done = rig.run((*HEAD, *gpu("NVIDIA RTX A6000", A6000)), "-m", "aicockpit.hardware.detect", "--profile")
    assert done.stdout == "dev32\n"
    assert "NVIDIA RTX A6000 48 GiB" in done.stderr
    left = rig.run(
        (*HEAD, *gpu("NVIDIA RTX A6000", A6000)), "-m", "aicockpit.hardware.detect", "--profile", GPU_COUNT="0"
    )
    assert (left.stdout, left.stderr) == ("cpu\n", "profile cpu: GPU_COUNT=0\n")


def machine(*sizes: int | None, **values: Any) -> Snapshot:
    return Snapshot(tuple(Gpu(i, f"GPU-{i}aa", "X", size, **values) for i, size in enumerate(sizes)))


def test_no_gpu_means_cpu_and_says_why() -> None:
    assert pick_profile(Snapshot(gpu_note="NVML: Driver Not Loaded")) == (
        "cpu",
        "no NVIDIA GPU found (NVML: Driver Not Loaded)",
    )


def test_an_amd_gpu_means_cpu_until_vllm_for_rocm_is_there() -> None:
    profile, reason = pick_profile(machine(192 * GIB, vendor="amd"))
    assert profile == "cpu"
    assert "ROCm" in reason
    assert pick_profile(machine(192 * GIB, vendor="amd"), own_vllm=True)[0] == "dev32"
    assert pick_profile(machine(24 * GIB, vendor="amd"), own_vllm=True)[0] == "dev14"


@pytest.mark.parametrize(
    ("sizes", "told", "untold"),
    [
        ((48 * GIB,), "found 1 GPU (X 48 GiB)", "prod480"),
        ((80 * GIB,), "found 1 GPU", "prod480"),
        ((80 * GIB, 80 * GIB), "it needs 8 GPUs of 80 GB, 2 are here", "fits"),
        ((80 * GIB,) * 8, "PROFILE=prod480", "needs 8"),
        ((140 * GIB,) * 4, "prod480 with GPU_COUNT=4", "needs 8"),
        ((24 * GIB, 48 * GIB), "found 2 GPUs (X 24 GiB, X 48 GiB)", "REPLICAS"),
        ((48 * GIB,) * 4, "GPU_COUNT=4 AICOCKPIT_REPLICAS=4", "prod480"),
        ((None, 48 * GIB), "of unknown size", "REPLICAS"),
    ],
)
def test_a_large_gpu_means_dev32_with_what_else_to_consider(
    sizes: tuple[int | None, ...], told: str, untold: str
) -> None:
    profile, reason = pick_profile(machine(*sizes))
    assert profile == "dev32"
    assert told in reason
    assert untold not in reason


def test_a_gpu_of_unknown_size_means_cpu() -> None:
    profile, reason = pick_profile(machine(None))
    assert profile == "cpu"
    assert "no model can be fitted to memory of unknown size" in reason


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
    found = machine(GIB, GIB, GIB)
    assert usable_gpus(found, visible) == ids
    expected = [int(name.removeprefix("GPU-")[0]) for name in ids if not name.startswith("MIG")]
    assert sorted(expected) == [device.index for device in devices(found, visible)]


def test_a_gpu_without_peers_makes_no_claim() -> None:
    (alone,) = devices(Snapshot((Gpu(0, total=GIB),), pairs=()))
    assert (alone.peer, alone.name) == (None, "unknown GPU")
    unread = devices(Snapshot((Gpu(0, total=GIB), Gpu(1, total=GIB)), pairs=None))
    assert [device.peer for device in unread] == [None, None]


def test_the_card_of_mig_instances_is_no_device() -> None:
    part = Instance("MIG-1", "part", GIB, None)
    split = Gpu(0, "GPU-0", "X", 4 * GIB, detail=Detail(mig=True, instances=(part,)))
    whole = Gpu(1, "GPU-1", "X", 4 * GIB, detail=Detail(mig=False))
    found = devices(Snapshot((split, whole), pairs=(Pair(0, 1, "system"),)))
    assert [(device.uuid, device.memory) for device in found] == [("MIG-1", GIB), ("GPU-1", 4 * GIB)]
