"""hardware/host.py and disks.py, on trees of files like the kernel's; hardware/bounded.py with what hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from aicockpit.hardware import bounded, detect, disks, host
from aicockpit.hardware.machine import Memory

GIB = 1 << 30
MOUNT = "31 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(path: str, **values: str) -> dict[str, str]:
    return {f"sys/fs/cgroup{path}/{name.replace('_', '.', 1)}": value + "\n" for name, value in values.items()}


def test_the_tightest_group_above_is_the_limit(tmp_path: Path) -> None:
    stat = "anon 1\ninactive_file 1073741824\nactive_file 5"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "proc/self/mountinfo": MOUNT,
            **group("", cpu_max="max 100000"),
            **group("/a", cpu_max="150000 100000", memory_max=str(8 * GIB), memory_current=str(6 * GIB)),
            **group("/a/b", cpu_max="max 100000", memory_max=str(16 * GIB), memory_current=str(2 * GIB)),
            "sys/fs/cgroup/a/memory.stat": stat,
        },
    )
    assert host.cores_limit(root) == 1.5
    assert host.memory_limit(root) == (8 * GIB, 5 * GIB)  # page cache that is not in use can be dropped


def test_a_container_sees_its_group_at_the_mount_itself(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../docker/0123\n",
            "proc/self/mountinfo": MOUNT,
            **group("", cpu_max="200000 100000", memory_max=str(GIB), memory_current="1000"),
        },
    )
    assert (host.cores_limit(root), host.memory_limit(root)) == (2.0, (GIB, 1000))


def test_the_share_in_use_is_the_containers_where_that_is_nearer_to_its_end(tmp_path: Path) -> None:
    limits = group("", memory_max=str(GIB), memory_current=str(GIB * 63 // 64))
    root = tree(tmp_path, {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": MOUNT, **limits})
    assert detect.used_memory(root) == 63 / 64
    machine = detect.used_memory(tmp_path / "none")
    assert machine is not None
    assert 0 < machine < 63 / 64


def test_version_1_beside_version_2(tmp_path: Path) -> None:
    mounts = [
        "1 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        "2 0 0:2 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
        "3 0 0:3 /docker/x /sys/fs/cgroup/cpu\\040set rw - cgroup cgroup rw,cpu,cpuacct",
        "4 0",
    ]
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/x/sub\n3:cpu,cpuacct:/docker/x\n0::/\n",
            "proc/self/mountinfo": "\n".join(mounts),
            "sys/fs/cgroup/memory/sub/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "4294967296\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "3221225472\n",
            "sys/fs/cgroup/cpu set/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu set/cpu.cfs_period_us": "100000\n",
        },
    )
    assert (host.cores_limit(root), host.memory_limit(root)) == (0.5, (4 * GIB, 3 * GIB))


@pytest.mark.parametrize("text", ["", "max\n", "-1 100000", "100000 0", "a b", "\x00"])
def test_no_quota_and_nonsense_are_no_limit(tmp_path: Path, text: str) -> None:
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": MOUNT, **group("", cpu_max=text, memory_max="max")}
    root = tree(tmp_path, files)
    assert (host.cores_limit(root), host.memory_limit(root)) == (None, (None, None))


def test_what_is_left_is_the_lesser_of_machine_and_container() -> None:
    assert Memory(64 * GIB, 30 * GIB, limit=8 * GIB, limit_used=6 * GIB).free == 2 * GIB
    assert Memory(64 * GIB, GIB, limit=8 * GIB, limit_used=6 * GIB).free == GIB
    assert Memory(64 * GIB, 30 * GIB, limit=8 * GIB, limit_used=9 * GIB).free == 0
    assert Memory(64 * GIB, 30 * GIB).free == 30 * GIB
    assert Memory().free is None


def test_cores_sockets_nodes_and_features(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f amx_tile amx_bf16 avx2\n"
    }
    for cpu in range(8):
        topology = f"sys/devices/system/cpu/cpu{cpu}/topology"
        files |= {f"{topology}/physical_package_id": f"{cpu // 4}\n", f"{topology}/core_id": f"{cpu % 2}\n"}
    files |= {
        "sys/devices/system/cpu/cpufreq/x": "",
        "sys/devices/system/node/node0/x": "",
        "sys/devices/system/node/node1/x": "",
    }
    cpu_found = host.cpu(tree(tmp_path, files))
    assert (cpu_found.model, cpu_found.physical, cpu_found.sockets, cpu_found.numa_nodes) == ("Some CPU", 4, 2, 2)
    assert cpu_found.features == ("amx_bf16", "amx_tile", "avx2", "avx512f")
    assert cpu_found.usable == len(os.sched_getaffinity(0))


def test_an_arm_cpu(tmp_path: Path) -> None:
    found = host.cpu(
        tree(tmp_path, {"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm asimddp i8mm bf16\n"})
    )
    assert found.features == ("asimd", "asimddp", "bf16", "i8mm")


def test_nothing_to_read_is_none(tmp_path: Path) -> None:
    found = host.cpu(tmp_path)
    assert (found.model, found.physical, found.sockets, found.numa_nodes, found.features) == (None,) * 5
    assert host.container(tmp_path) is None
    assert host.cards(tmp_path) == ()
    assert host.nvidia_module(tmp_path) is None
    assert (host.nvidia_files(tmp_path), host.kfd(tmp_path), host.wsl(tmp_path)) == (False, "absent", False)
    limits = host.kernel(tmp_path)
    assert (limits.inotify_watches, limits.inotify_instances, limits.shm_total) == (None, None, None)


def test_cards_on_the_bus_with_the_kernels_driver(tmp_path: Path) -> None:
    bus = "sys/bus/pci/devices"
    tree(
        tmp_path,
        {
            **{
                f"{bus}/0000:01:00.0/{n}": v
                for n, v in {"vendor": "0x10de\n", "class": "0x030200\n", "device": "0x2330\n"}.items()
            },
            **{
                f"{bus}/0000:02:00.0/{n}": v
                for n, v in {"vendor": "0x1002\n", "class": "0x120000\n", "device": "0x74a1\n"}.items()
            },
            **{
                f"{bus}/0000:03:00.0/{n}": v
                for n, v in {"vendor": "0x10de\n", "class": "0x0c0330\n", "device": "0x1\n"}.items()
            },
            "sys/bus/pci/drivers/nouveau/x": "",
        },
    )
    (tmp_path / bus / "0000:01:00.0/driver").symlink_to(tmp_path / "sys/bus/pci/drivers/nouveau")
    found = [(card.address, card.vendor, card.driver) for card in host.cards(tmp_path)]
    assert found == [("0000:01:00.0", "nvidia", "nouveau"), ("0000:02:00.0", "amd", None)]


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:12:13 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)",
    ],
)
def test_the_kernel_modules_version(tmp_path: Path, line: str) -> None:
    tree(tmp_path, {"proc/driver/nvidia/version": line + "\nGCC version: 12.3.0\n"})
    assert host.nvidia_module(tmp_path) == "580.65.06"


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (".dockerenv", "docker"),
        ("run/.containerenv", "podman"),
        ("var/run/secrets/kubernetes.io/x", "kubernetes"),
        ("run/systemd/container", "lxc"),
    ],
)
def test_containers_by_what_their_maker_leaves(tmp_path: Path, file: str, kind: str) -> None:
    assert host.container(tree(tmp_path, {file: "lxc\n"})) == kind


def test_a_machine_whose_watchers_are_used_up() -> None:
    program = (
        "import ctypes; libc = ctypes.CDLL(None)\n"
        "from aicockpit.hardware import host; import resource\n"
        "assert host.inotify_works()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))\n"
        "import os; os.open('/dev/null', 0)\n"
        "print(host.inotify_works())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_mount_of_a_folder(tmp_path: Path) -> None:
    lines = [
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
        "23 22 0:5 / /data rw - nfs4 server:/x rw",
        "24 22 0:6 / /data/my\\040models ro shared:7 master:1 - fuse.sshfs user@x rw",
        "25 22 0:7 / /data/my\\040models rw - xfs /dev/vdb rw",
        "broken",
    ]
    root = tree(tmp_path, {"proc/self/mountinfo": "\n".join(lines)})
    assert disks.mount(Path("/database"), root) == ("/", "ext4")
    assert disks.mount(Path("/data/x"), root) == ("/data", "nfs4")
    assert disks.mount(Path("/data/my models/x"), root) == ("/data/my models", "xfs")
    assert disks.mount(Path("/"), tmp_path / "none") == (None, None)


def test_a_folder_that_is_not_there_yet_lies_where_its_parent_does(tmp_path: Path) -> None:
    found = disks.disk("role", tmp_path / "a/b/c")
    assert (found.path, found.network, found.writable, found.problem) == (str(tmp_path), False, True, "")
    assert found.free
    assert found.total
    assert found.free <= found.total


def test_a_network_disk_is_told(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", {"proc/self/mountinfo": f"1 0 0:5 / {tmp_path} rw - nfs4 server:/x rw\n"})
    found = disks.disk("role", tmp_path, root)
    assert (found.mount, found.type, found.network) == (str(tmp_path), "nfs4", True)


def test_a_folder_that_may_not_be_looked_at_has_a_problem(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "loop" in disks.disk("role", loop).problem
    file = tmp_path / "file"
    file.touch()
    assert disks.disk("role", file / "below").problem == "it is a file, not a folder"


def test_a_link_counts_as_where_it_leads(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/proc/sys/not/there")
    assert disks.disk("role", link).mount == "/proc"


def test_a_disk_that_does_not_answer_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def slow(path: Path) -> None:
        release.wait(30)
        raise OSError("the server is gone")

    monkeypatch.setattr(os, "statvfs", slow)
    try:
        (found,) = disks.disks({"models": tmp_path}, 0.2)
    finally:
        release.set()
    assert found.problem.startswith("the disk has not answered")
    assert (found.free, found.type) == (None, None)


def test_a_call_that_hangs_is_not_asked_again_until_it_is_back() -> None:
    release, calls = threading.Event(), []

    def slow() -> int:
        calls.append(1)
        release.wait(30)
        return 7

    assert isinstance(bounded.call("test", slow, 0.1), bounded.Hung)
    began = time.monotonic()
    again = bounded.call("test", slow, 10)
    assert isinstance(again, bounded.Hung)
    assert (time.monotonic() - began < 5, len(calls)) == (True, 1)
    assert bounded.call("other", lambda: 3, 10) == 3
    release.set()
    while isinstance(found := bounded.call("test", slow, 5), bounded.Hung):
        time.sleep(0.01)
    assert found == 7


def test_programs_that_cannot_run_or_end_badly_say_why(tmp_path: Path) -> None:
    assert "No such file" in bounded.run((str(tmp_path / "absent"),), 5).why
    assert bounded.run(("sh", "-c", "echo a; echo broken >&2; exit 3"), 5) == bounded.Ran(
        "a\n", "broken\n", "it ended with code 3: broken"
    )
    assert bounded.run(("sh", "-c", "kill -9 $$"), 5).why == "it was ended by signal 9 (Killed)"
    assert bounded.run(("sh", "-c", "echo half; sleep 60"), 2).out == "half\n"
    assert bounded.run(("printf", "\\377"), 5).out == "\ufffd"


def test_a_grandchild_that_keeps_the_pipe_does_not_hold_us() -> None:
    began = time.monotonic()
    done = bounded.run(
        (sys.executable, "-c", "import os, time\nif os.fork() == 0: os.setsid(); time.sleep(8)\nelse: time.sleep(60)"),
        0.3,
    )
    assert "did not end" in done.why
    assert time.monotonic() - began < 6
