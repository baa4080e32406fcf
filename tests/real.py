"""One `aicockpit serve` with real vLLM on the CPU, started from nothing, for all tests that can share it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parent.parent
KEY = "key-of-the-real-tests"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
START_LIMIT_S = 600.0


@dataclass
class Server:
    """The running command: `base` is the URL that SDKs take."""

    process: subprocess.Popen[bytes]
    port: int
    state: Path
    log: Path
    fleet: Path

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=120, trust_env=False)

    def get(self, path: str) -> Any:
        with self.client() as client:
            return client.get(path).raise_for_status().json()

    def forget_workspaces(self) -> None:
        """Delete what other tests left: workspaces share the KV cache, and packs shrink."""
        with self.client() as client:
            for one in client.get("/api/workspaces").raise_for_status().json()["workspaces"]:
                client.delete(f"/api/workspaces/{one['name']}").raise_for_status()

    def engine(self) -> dict[str, Any]:
        return dict(self.get("/api/engines")["engines"][0])

    def engine_metric(self, name: str) -> float:
        """A gauge or counter of the engine itself, read on its own socket."""
        transport = httpx.HTTPTransport(uds=self.engine()["url"].removeprefix("unix:"))
        with httpx.Client(transport=transport, base_url="http://engine") as client:
            page = client.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(rf"{name}[{{ ]", line))

    def until(self, condition: Any, limit_s: float = 120.0) -> None:
        end = time.monotonic() + limit_s
        while True:
            try:
                if condition():
                    return
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.1)


def start(folder: Path, port: int, *arguments: str, **environ: str) -> Server:
    """Start the server; it is not ready yet."""
    state, log, fleet = folder / "state", folder / "serve.log", folder / "fleet.yaml"
    fleet.write_text("models: []\n")
    env = {
        **os.environ,
        "AICOCKPIT_STATE_DIR": str(state),
        "AICOCKPIT_PORT": str(port),
        "AICOCKPIT_API_KEY": KEY,
        "AICOCKPIT_FLEET": str(fleet),
        "HF_HOME": str(folder / "hf"),
        **environ,
    }
    command = [sys.executable, "-m", "aicockpit.cli", "serve", "--env-file", str(ROOT / ".env.cpu"), *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env)
    return Server(process, port, state, log, fleet)


def stop(server: Server) -> list[psutil.Process]:
    """Ctrl-C; returns what is left of its process tree afterwards."""
    tree = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(signal.SIGINT)
    try:
        server.process.wait(60)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
        raise
    return [process for process in tree if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def kill_core(pid: int) -> None:
    """kill -9 of the EngineCore somewhere below a process."""
    tree = psutil.Process(pid).children(recursive=True)
    next(one for one in tree if "EngineCore" in one.name() or "EngineCore" in " ".join(one.cmdline())).kill()


@contextlib.contextmanager
def watching(server: Server, tree: Path, name: str) -> Iterator[None]:
    """`aicockpit watch` on a tree, with its output beside it."""
    env = {**os.environ, "AICOCKPIT_STATE_DIR": str(server.state)}
    command = [sys.executable, "-m", "aicockpit.cli", "watch", str(tree), "--name", name]
    with (tree.parent / "watch.log").open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
