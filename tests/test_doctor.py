"""doctor/: what is wrong, and how bad it is, from machines that are made up."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aicockpit.doctor import around, drivers, everything, gpus, service, torches
from aicockpit.doctor.finding import Finding, Wanted, verdict, worst
from aicockpit.engines.orphans import StateLock
from aicockpit.hardware.machine import (
    Card,
    Cpu,
    Detail,
    Disk,
    Driver,
    Gpu,
    Host,
    Instance,
    Kernel,
    Links,
    Memory,
    Pair,
    Pcie,
    Process,
    Snapshot,
)
from aicockpit.recipes.fleet import FleetModel
from aicockpit.settings import load

GIB = 1 << 30
CPU = Cpu("x86_64", "Some CPU", 8, 8, 1, 1, ("avx2", "avx512_bf16", "avx512f"))
MEMORY = Memory(64 * GIB, 60 * GIB, 0, 0)
KERNEL = Kernel(1_048_576, 1024, True, 65_536, 65_536, 8 * GIB, 8 * GIB)
HOST = Host("Linux", CPU, MEMORY, KERNEL)
DRIVER = Driver("nvidia", "580.65.06", (13, 0), True, "nvml")
SOUND = Detail("0000:01:00.0", 0, Pcie(4, 16, 4, 16), None, False, (), True, 0, "good", 300, 300, True, "default", ())
CARD = Gpu(0, "GPU-0", "NVIDIA RTX A6000", 48 * GIB, 47 * GIB, GIB, 0, (8, 6), "nvidia", SOUND)


def of(found: Any) -> dict[str, Finding]:
    rows = {finding.id: finding for finding in found}
    assert all(row.fix for row in rows.values() if row.mark != "ok"), "what is wrong comes with what to do"
    return rows


def look(
    *cards: Gpu,
    wanted: int = 0,
    visible: str | None = None,
    ours: tuple[int, ...] = (),
    named: tuple[str, ...] = (),
    **more: Any,
) -> dict[str, Finding]:
    machine = Snapshot(tuple(cards), driver=DRIVER, host=HOST, **more)
    asked = Wanted(wanted, engine=wanted, named=named)
    return of(gpus.findings(machine, gpus.Context(asked, lambda pid: pid in ours), visible))


def with_detail(**values: Any) -> Gpu:
    return replace(CARD, detail=replace(SOUND, **values))


def test_a_sound_card_is_one_row() -> None:
    rows = look(CARD)
    assert {name for name in rows if name != "gpu.nvidia-smi"} == {"gpu.0"}
    assert rows["gpu.0"].found == ("NVIDIA RTX A6000, 47.0 GiB free of 48.0 GiB, compute capability 8.6, PCIe 4 x16")


@pytest.mark.parametrize(
    ("values", "row", "told"),
    [
        ({"mig": True}, "mig", "on, without instances"),
        ({"compute_mode": "prohibited"}, "compute-mode", "prohibited"),
        ({"links": Links(0, 18, "not started")}, "fabric", "not started"),
    ],
)
def test_a_card_that_cannot_compute_is_bad_when_a_start_would_take_it(
    values: dict[str, Any], row: str, told: str
) -> None:
    broken, sound = replace(with_detail(**values), index=1, uuid="GPU-1"), CARD
    for wanted, visible, mark in ((0, None, "warn"), (1, None, "warn"), (2, None, "bad"), (1, "GPU-1", "bad")):
        found = look(sound, broken, wanted=wanted, visible=visible)[f"gpu.{row}"]
        assert look(sound, broken, wanted=1, named=("1",))[f"gpu.{row}"].mark == "bad"
        assert (found.mark, found.found.startswith("GPU 1: "), told in found.found) == (mark, True, True)


@pytest.mark.parametrize(
    ("values", "row", "told"),
    [
        ({"mig": True, "instances": (Instance("MIG-1", "1g.5gb"),)}, "mig", "on: 1g.5gb (MIG-1)"),
        ({"compute_mode": "exclusive"}, "compute-mode", "one process"),
        ({"ecc_errors": 2}, "ecc", "2 since"),
        ({"rows": "pending"}, "rows", "next reset"),
        ({"rows": "failed"}, "rows", "no spare rows"),
        ({"links": Links(14, 4, None)}, "nvlink", "4 of 18 down"),
        ({"pcie": Pcie(1, 4, 4, 16)}, "pcie", "x4 of x16"),
        ({"slowed": ("temperature",), "temperature": 91}, "slowed", "temperature at 91 °C"),
        ({"partition": "CPX"}, "partition", "split (CPX)"),
    ],
)
def test_what_a_card_can_live_with_is_a_warning(values: dict[str, Any], row: str, told: str) -> None:
    found = look(with_detail(**values), wanted=1)[f"gpu.{row}"]
    assert (found.mark, told in found.found) == ("warn", True)


@pytest.mark.parametrize(
    "values",
    [
        {"pcie": Pcie(1, 16, 4, 16)},  # an idle link lowers its generation
        {"links": Links(0, 4, None)},  # no bridge is plugged in
        {"links": Links(18, 0, "completed")},
        {"partition": "SPX"},
        {"pcie": None, "processes": None, "slowed": None, "rows": None, "ecc_errors": None},
    ],
)
def test_what_is_no_fault_has_no_row(values: dict[str, Any]) -> None:
    assert set(look(with_detail(**values), wanted=1)) - {"gpu.nvidia-smi"} == {"gpu.0"}


def test_an_old_card_and_a_lost_one() -> None:
    rows = look(replace(CARD, capability=(7, 0)), Gpu(1), wanted=2)
    assert rows["gpu.capability"].mark == rows["gpu.lost"].mark == "bad"
    assert rows["gpu.1"].found == "unknown, memory unknown"
    assert "gpu.mixed" not in rows


def test_memory_that_others_hold_is_told_with_their_names() -> None:
    held = (Process(7, "/usr/bin/python3 -m x", 10 * GIB), Process(8, None, None), Process(9, "Xorg", GIB))
    full = replace(with_detail(processes=held), used=20 * GIB, free=28 * GIB)
    found = look(full)["gpu.memory"]
    assert found.found == "GPU 0: 20.0 GiB by python3 (pid 7, 10.0 GiB), Xorg (pid 9, 1.0 GiB), unknown (pid 8)"
    mine = look(full, ours=(7, 8, 9))
    assert "gpu.memory" not in mine
    assert mine["gpu.0"].found.endswith("in use by AiCockpit's engines")
    unseen = look(replace(full, detail=replace(SOUND, processes=())))["gpu.memory"]
    assert "not seen from here" in unseen.found


def test_the_same_fault_of_many_cards_is_one_row() -> None:
    cards = [replace(with_detail(persistence=False), index=index, uuid=f"GPU-{index}") for index in (0, 1, 2, 5)]
    assert look(*cards)["gpu.persistence"].found == "GPU 0-2, 5: off"


def test_mixed_cards_and_torn_links() -> None:
    other = replace(CARD, index=1, uuid="GPU-1", name="NVIDIA L4", total=24 * GIB)
    rows = look(CARD, other, pairs=(Pair(0, 1, "system"),), wanted=2)
    assert rows["gpu.mixed"].found == "1 x NVIDIA RTX A6000 48 GiB, 1 x NVIDIA L4 24 GiB"
    assert (rows["gpu.links"].mark, rows["gpu.links"].found) == ("ok", "by PCIe, across CPU sockets")
    three = [replace(CARD, index=index, uuid=f"GPU-{index}") for index in range(3)]
    pairs = (Pair(0, 1, "nvlink", 4), Pair(0, 2, "system"), Pair(1, 2, "system"))
    torn = look(*three, pairs=pairs, wanted=3)["gpu.links"]
    assert (torn.mark, "GPU 0-1" in torn.fix) == ("warn", True)
    assert look(*three, pairs=pairs, wanted=2)["gpu.links"].mark == "ok"
    assert look(*three, pairs=None)["gpu.links"].found.startswith("unknown")


def test_visible_devices_and_the_count() -> None:
    rows = look(CARD, visible="7,0", wanted=1)
    assert (rows["gpu.visible"].mark, rows["gpu.count"].mark) == ("warn", "bad")
    assert rows["gpu.count"].found == "1 asked for, 0 can be used"
    assert look(CARD, visible="GPU-0", wanted=1)["gpu.visible"].mark == "ok"
    assert "gpu.count" not in look(CARD, wanted=1)


NVIDIA = (Card("0000:01:00.0", "nvidia", "0x2330"),)
AMD = (Card("0000:03:00.0", "amd", "0x74a1", "amdgpu"),)
ABSENT, LOADED = "NVML Shared Library Not Found", "580.65.06"


@pytest.mark.parametrize(
    ("values", "note", "found", "fix"),
    [
        ({"cards": NVIDIA, "container": "docker"}, ABSENT, "none in this container", "--gpus all"),
        ({"container": "docker", "nvidia_module": LOADED}, ABSENT, "none in this container", "--gpus all"),
        ({"cards": NVIDIA}, ABSENT, "no NVIDIA driver is loaded", "modprobe nvidia"),
        ({"cards": (replace(NVIDIA[0], driver="nouveau"),)}, ABSENT, "run by nouveau", "blacklist nouveau"),
        ({"cards": NVIDIA, "nvidia_module": LOADED}, ABSENT, "libnvidia-ml.so.1 is not found", "of driver 580.65.06"),
        (
            {"nvidia_module": LOADED},
            "NVML: RM has detected an NVML/RM version mismatch.",
            "of another version",
            "restart",
        ),
        ({"nvidia_module": LOADED}, "NVML: Insufficient Permissions", "Insufficient Permissions", "/dev/nvidia*"),
        ({"nvidia_module": LOADED}, "NVML: Unknown Error", "Unknown Error", "dmesg"),
        ({"nvidia_module": LOADED}, "NVML: a call has not returned for 30 s", "not returned", "restart"),
        ({"wsl": True, "nvidia_files": True}, ABSENT, "Windows offers a GPU", "in Windows"),
        ({"cards": (replace(AMD[0], driver=None),)}, ABSENT, "not run by amdgpu", "amdgpu"),
        ({"cards": AMD, "container": "docker"}, ABSENT, "none in this container", "--device=/dev/kfd"),
        ({}, ABSENT, "none: engines run on the CPU", "GPU_COUNT=0"),
    ],
)
def test_why_there_is_no_gpu(values: dict[str, Any], note: str, found: str, fix: str) -> None:
    machine = Snapshot(gpu_note=note, host=replace(HOST, **values))
    asked = of(drivers.findings(machine, Wanted(1)))["gpu.driver"]
    assert (asked.mark, found in asked.found, fix in asked.fix) == ("bad", True, True)
    assert of(drivers.findings(machine, Wanted()))["gpu.driver"].mark != "bad"


def test_a_machine_without_a_gpu_is_fine_for_the_cpu() -> None:
    machine = Snapshot(gpu_note=ABSENT, host=HOST)
    assert [finding.mark for finding in drivers.findings(machine, Wanted(cpu=True))] == ["ok"]


def test_half_a_driver() -> None:
    machine = Snapshot((CARD,), driver=replace(DRIVER, cuda_library=False), host=HOST)
    rows = of(drivers.findings(machine, Wanted(1)))
    assert rows["gpu.driver"].found == "NVIDIA driver 580.65.06, CUDA up to 13.0"
    assert (rows["gpu.cuda-library"].mark, "NVIDIA_DRIVER_CAPABILITIES" in rows["gpu.cuda-library"].fix) == (
        "bad",
        True,
    )
    shut = Snapshot((replace(CARD, vendor="amd"),), driver=Driver("amd", "6.10"), host=replace(HOST, kfd="forbidden"))
    assert "render" in of(drivers.findings(shut, Wanted(1)))["gpu.kfd"].fix


@pytest.mark.parametrize(
    ("cuda", "hip", "card", "able", "wanted", "mark", "told"),
    [
        ((13, 0), None, "nvidia", (13, 0), Wanted(1), "ok", "runs CUDA up to 13.0"),
        ((12, 9), None, "nvidia", (13, 0), Wanted(1), "ok", "for CUDA 12.9"),
        ((13, 0), None, "nvidia", (12, 2), Wanted(1), "bad", "too old"),
        ((13, 0), None, "nvidia", (12, 2), Wanted(), "warn", "too old"),
        ((12, 9), None, "nvidia", (12, 2), Wanted(1), "warn", "compiled at the start"),
        ((13, 0), None, "nvidia", None, Wanted(1), "ok", "for CUDA 13.0"),
        (None, None, "nvidia", (13, 0), Wanted(1), "bad", "cannot use the NVIDIA GPU"),
        (None, None, "nvidia", (13, 0), Wanted(cpu=True), "ok", "cannot use the NVIDIA GPU"),
        ((13, 0), None, "amd", None, Wanted(1), "bad", "cannot use the AMD GPU"),
        (None, "7.0", "amd", None, Wanted(1), "ok", "for ROCm 7.0"),
        ((13, 0), None, None, None, Wanted(cpu=True), "bad", "no GPU"),
        (None, None, None, None, Wanted(cpu=True), "ok", "for CPUs"),
    ],
)  # fmt: skip
def test_the_build_the_cards_and_the_driver(
    cuda: Any, hip: Any, card: Any, able: Any, wanted: Wanted, mark: str, told: str
) -> None:
    machine = Snapshot((replace(CARD, vendor=card),) if card else (), driver=replace(DRIVER, cuda=able), host=HOST)
    (found,) = torches.findings(torches.Torch("2.13.0", cuda, hip), machine, wanted)
    assert (found.mark, told in found.found) == (mark, True)
    assert "580" in found.fix or "too old" not in found.found


def test_torch_is_read_from_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "lib/python3.12/site-packages/torch"
    folder.mkdir(parents=True)
    (folder / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n"
        "hip: Optional[str] = None\n"
    )
    program = tmp_path / "bin/vllm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert torches.find(str(program)) == torches.Torch("2.13.0+cu130", (13, 0))
    assert torches.find(str(tmp_path / "bin/absent")) is None
    wrapper = program.with_name("run-it-in-a-container")
    program.rename(wrapper)
    assert torches.find(str(wrapper)) is None
    assert torches.parse("cuda = '13.0'") is None
    assert torches.parse("__version__ = \"1\"\nhip: str = '6.3.42134-a9a80e791'") == torches.Torch(
        "1", None, "6.3.42134-a9a80e791"
    )


def host_rows(wanted: Wanted | None = None, **values: Any) -> dict[str, Finding]:
    return of(around.findings(Snapshot(host=replace(HOST, **values)), wanted or Wanted(), 4096))


@pytest.mark.parametrize(
    ("features", "architecture", "wanted", "mark"),
    [
        (("avx2", "avx512_bf16", "avx512f"), "x86_64", Wanted(cpu=True), "ok"),
        (("avx2",), "x86_64", Wanted(cpu=True), "warn"),
        ((), "x86_64", Wanted(cpu=True), "bad"),
        ((), "x86_64", Wanted(1), "ok"),
        (None, "x86_64", Wanted(cpu=True), "ok"),
        (("asimd",), "aarch64", Wanted(cpu=True), "ok"),
    ],
)
def test_the_cpu_matters_to_engines_on_it(features: Any, architecture: str, wanted: Wanted, mark: str) -> None:
    assert host_rows(wanted, cpu=replace(CPU, features=features, architecture=architecture))["cpu"].mark == mark


def test_what_a_container_leaves() -> None:
    rows = host_rows(
        container="docker", cpu=replace(CPU, limit=1.5), memory=replace(MEMORY, limit=2 * GIB, limit_used=0)
    )
    assert "1.5 cores" in rows["cpu.quota"].found
    assert (rows["memory"].mark, rows["memory"].found) == ("warn", "2.0 GiB free of 64.0 GiB, limited to 2.0 GiB here")
    assert "raise the container's limit" in rows["memory"].fix
    assert host_rows(memory=Memory(limit=GIB))["memory"].found == "unknown"
    assert "cpu.quota" not in host_rows(cpu=replace(CPU, limit=8))


def test_limits_of_the_kernel() -> None:
    small = replace(KERNEL, shm_total=64 << 20, inotify_watches=8192, open_files=1024, open_files_hard=4096)
    rows = host_rows(Wanted(2, engine=2), kernel=small)
    assert [rows[name].mark for name in ("shm", "inotify", "files")] == ["warn"] * 3
    assert "hard limit" in rows["files"].fix
    assert host_rows(Wanted(1), kernel=small)["shm"].mark == "ok"
    assert "max_user_instances" in host_rows(kernel=replace(KERNEL, inotify_works=False))["inotify"].fix
    assert host_rows(kernel=replace(KERNEL, open_files=None))["files"].found == "no limit"
    assert "inotify" not in host_rows(kernel=replace(KERNEL, inotify_watches=None))


DISK = Disk(around.STATE, "/x", "/", "ext4", 100 * GIB, 50 * GIB, 1_000_000, False, False, True)


@pytest.mark.parametrize(
    ("values", "container", "state", "models"),
    [
        ({}, None, "ok", "ok"),
        ({"writable": False}, None, "bad", "warn"),
        ({"read_only": True}, None, "bad", "warn"),
        ({"free": GIB}, None, "ok", "warn"),
        ({"free": 1 << 20}, None, "warn", "warn"),
        ({"files_free": 3}, None, "warn", "warn"),
        ({"network": True, "type": "nfs4"}, None, "warn", "ok"),
        ({"type": "tmpfs"}, None, "warn", "warn"),
        ({"type": "overlay"}, None, "ok", "ok"),
        ({"type": "overlay"}, "docker", "warn", "warn"),
        ({"problem": "the disk has not answered for 5 s"}, None, "bad", "bad"),
    ],
)
def test_disks(values: dict[str, Any], container: str | None, state: str, models: str) -> None:
    disk = replace(DISK, **values)
    rows = host_rows(container=container, disks=(disk, replace(disk, role=around.MODELS)))
    assert (rows["disk.state"].mark, rows["disk.models"].mark) == (state, models)


def test_a_port_that_is_taken_or_not_ours(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        found = service.port(load(environ={"AICOCKPIT_PORT": number}))
    assert (found.mark, "aicockpit status" in found.fix) == ("warn", True)
    assert service.port(load(environ={"AICOCKPIT_PORT": number, "AICOCKPIT_HOST": "localhost"})).mark == "ok"
    state = tmp_path / "state"
    with StateLock(state), socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        running = service.port(load(environ={"AICOCKPIT_PORT": number, "AICOCKPIT_STATE_DIR": str(state)}))
    assert (running.mark, f"pid {os.getpid()}" in running.found) == ("ok", True)
    far = service.port(load(environ={"AICOCKPIT_HOST": "192.0.2.1"}))
    assert (far.mark, "AICOCKPIT_HOST" in far.fix) == ("warn", True)


def test_the_token_is_looked_at_and_never_shown() -> None:
    assert service.token(load(environ={})).mark == "ok"
    assert service.token(load(environ={"HF_TOKEN": "hf_secret"})).found == "set"
    wrong = service.token(load(environ={"HF_TOKEN": "my secret"}))
    assert (wrong.mark, "secret" in wrong.found) == ("warn", False)


def test_what_the_settings_ask_for() -> None:
    def asked(**models: Any) -> Wanted:
        return everything.wanted_of([FleetModel(model=name, **values) for name, values in models.items()], True)

    assert asked() == Wanted()
    assert asked(a={"gpus": 0}) == Wanted(cpu=True)
    assert asked(a={"gpus": 4, "replicas": 2}, b={"gpus": 1}) == Wanted(4, engine=2)
    assert asked(a={"gpus": ["1", "GPU-7"]}, b={"gpus": ["1"]}) == Wanted(2, engine=2, named=("1", "GPU-7"))
    assert asked(a={"gpus": "auto"}) == Wanted(1, engine=1)
    assert everything.wanted_of([FleetModel(model="a", gpus="auto")], False) == Wanted(cpu=True)


def test_a_mistake_in_the_fleet_file_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("models:\n  - modle: a\n")
    (found,), models = service.models(load(environ={"AICOCKPIT_FLEET": str(file)}))
    assert (found.mark, models, "modle" in found.found) == ("bad", (), True)
    assert service.models(load(environ={"MODEL_NAME": "a/b"}))[0] == ()


def test_the_worst_row_is_the_verdict() -> None:
    rows = [Finding("a", "a", "ok", ""), Finding("b", "b", "warn", "")]
    assert (worst([]), worst(rows), verdict(rows)) == ("ok", "warn", 0)
    assert verdict([*rows, Finding("c", "c", "bad", "")]) == 1
