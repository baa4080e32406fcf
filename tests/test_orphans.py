"""The lock on the state folder, and the sweep."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aicockpit.engines.orphans import MARK, StateInUse, StateLock, end_marked, mark, sweep
from engine_rig import STUBBORN

# Starts its argument's script in a session of its own and leaves: the child is nobody's descendant then.
LEAVE = """
import subprocess, sys
command = [sys.executable, "-c", sys.argv[1]]
child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
child.stdout.readline()
print(child.pid, flush=True)
"""
SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(600)"


def orphan(value: str, script: str = SLEEP) -> psutil.Process:
    command = [sys.executable, "-W", "ignore", "-c", LEAVE, script]
    done = subprocess.run(command, env={**os.environ, MARK: value}, capture_output=True, check=True, timeout=30)
    return psutil.Process(int(done.stdout))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_one_server_per_folder(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert StateLock.holder(folder) is None
    with StateLock(folder):
        assert StateLock.holder(folder) == os.getpid()
        with (
            pytest.raises(StateInUse, match=rf"another aicockpit server \(pid {os.getpid()}\) uses"),
            StateLock(folder),
        ):
            pass
        assert StateLock.holder(folder) == os.getpid()
    assert StateLock.holder(folder) is None
    with StateLock(folder):
        pass
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_lock_ends_with_its_process_and_is_not_inherited(tmp_path: Path) -> None:
    script = f"""
import subprocess, sys, time
from pathlib import Path
from aicockpit.engines.orphans import StateLock
with StateLock(Path({str(tmp_path)!r})):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        assert StateLock.holder(tmp_path) == holder.pid
        holder.kill()
        holder.wait(20)
        with StateLock(tmp_path):
            pass
        os.kill(child, signal.SIGKILL)


def test_a_folders_mark_stays_and_is_its_own(tmp_path: Path) -> None:
    first = mark(tmp_path / "a", "e")
    assert first == mark(tmp_path / "a", "e")
    assert first == mark(tmp_path / "a") + "e"
    assert first != mark(tmp_path / "b", "e")


async def test_the_sweep_ends_what_carries_the_folders_mark_and_nothing_else(tmp_path: Path) -> None:
    ours = [orphan(mark(tmp_path / "a", name)) for name in ("x", "y")]
    other = orphan(mark(tmp_path / "b", "x"))
    try:
        ended = await sweep(tmp_path / "a")
        assert sorted(one.pid for one in ended) == sorted(process.pid for process in ours)
        assert all(gone(process) for process in ours)
        assert not any(one.killed for one in ended)
        assert not gone(other)
        assert await sweep(tmp_path / "a") == []
    finally:
        other.kill()


def test_one_engine_only(tmp_path: Path) -> None:
    first, second = orphan(mark(tmp_path, "x")), orphan(mark(tmp_path, "xy"))
    try:
        assert [one.pid for one in end_marked(mark(tmp_path, "x"))] == [first.pid]
        assert not gone(second)
    finally:
        second.kill()


def test_what_ignores_sigterm_is_killed_with_its_descendants(tmp_path: Path) -> None:
    process = orphan(mark(tmp_path, "x"), STUBBORN)
    ended = end_marked(mark(tmp_path), term_wait=0.3)
    assert len(ended) == 2
    assert all(one.killed for one in ended)
    assert gone(process)


def test_a_stopped_orphan_ends(tmp_path: Path) -> None:
    process = orphan(mark(tmp_path, "x"))
    process.suspend()
    assert [one.killed for one in end_marked(mark(tmp_path))] == [False]
    assert gone(process)


def test_own_descendants_are_spared_unless_asked_for(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEP], env={**os.environ, MARK: mark(tmp_path, "x")}, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert end_marked(mark(tmp_path)) == []
        time.sleep(0.05)
        assert child.poll() is None
        assert [one.pid for one in end_marked(mark(tmp_path), ours=True)] == [child.pid]
        assert child.wait(20) == -signal.SIGTERM
