"""Processes of the benchmark: pinned to a core, measured with their children, ended by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.model import HEADERS

ROOT = Path(__file__).resolve().parent.parent


class NotStarted(Exception):
    """A process ended, or did not answer in time; the text says why."""


def cores() -> tuple[int, int]:
    """The gateway's core, and the core of the stub, the load and ourselves; the same one when there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[min(1, len(usable) - 1)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def plain_environment(folder: Path) -> dict[str, str]:
    """The environment of a measured process: no settings and no secrets of the user's."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}


@dataclass(slots=True)
class Running:
    """A started process with its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def tree(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu(self) -> float:
        """CPU seconds used so far by the process and its children, those that ended included."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory(self) -> int:
        """Resident bytes now, of the process and its children."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-2:])[-300:] or "it said nothing"

    def stop(self) -> None:
        """SIGTERM to the whole tree, then SIGKILL to what is left after five seconds."""
        tree = self.tree()
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(tree, timeout=5)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


def start(command: Sequence[str], core: int, log: Path, environment: Mapping[str, str]) -> Running:
    """Start a process that may only run on `core`; its output goes to `log`."""
    pinned = ["taskset", "-c", str(core), *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(process, log)


def answer(port: int, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request to a process of ours; status 0 when nobody answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=HEADERS)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def wait_until_200(running: Running, port: int, path: str, limit: float, body: bytes | None = None) -> None:
    """Wait for a 200 on `path`. Raises NotStarted when the process ends or `limit` seconds pass."""
    end = time.monotonic() + limit
    status, text = 0, b""
    while time.monotonic() < end:
        if running.process.poll() is not None:
            raise NotStarted(f"it ended with code {running.process.returncode}: {running.last_words()}")
        status, text = answer(port, path, body)
        if status == 200:
            return
        time.sleep(0.2)
    said = text.decode(errors="replace")[:200] or running.last_words()
    raise NotStarted(f"no 200 from {path} within {limit:.0f} s (last status {status}): {said}")
