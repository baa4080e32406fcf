"""The commands a user types, on a real terminal: `make start-dev` to Ctrl-C. The engine is fake, all else is real."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fake_client import FAKE, free_port
from real import ROOT

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (ROOT / ".venv/bin/aicockpit").exists() and not os.environ.get("CI"), reason="no .venv yet"),
]


def plain_environ() -> dict[str, str]:
    """Without what the outer `make test` hands to an inner make."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AICOCKPIT_"))}


class Terminal:
    """`make ...` on a pseudo-terminal, as a user sees it."""

    def __init__(self, folder: Path, *command: str, **environ: str) -> None:
        self.text = ""
        env = {**plain_environ(), **environ, "TERM": "xterm-256color", "COLUMNS": "200"}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execvpe(command[0], list(command), env)
        self.tree: list[psutil.Process] = []

    def until(self, words: str, limit_s: float = 120.0) -> str:
        """Read until `words` were shown."""
        end = time.monotonic() + limit_s
        while words not in self.text:
            assert time.monotonic() < end, self.text[-4000:]
            assert self._read(0.5), f"ended without {words!r}:\n{self.text[-4000:]}"
        return self.text

    def type(self, keys: str) -> None:
        self.tree = psutil.Process(self.pid).children(recursive=True)
        os.write(self._fd, keys.encode())

    def wait(self, limit_s: float = 60.0) -> int:
        end = time.monotonic() + limit_s
        while self._read(0.2):
            assert time.monotonic() < end, self.text[-4000:]
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError, psutil.NoSuchProcess):
            for process in psutil.Process(self.pid).children(recursive=True):
                process.kill()
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def _read(self, wait_s: float) -> bool:
        """False when the other side is gone."""
        if not select.select([self._fd], [], [], wait_s)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False
        self.text += data.decode(errors="replace")
        return bool(data)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[dict[str, str]]:
    model = tmp_path / "tiny-model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (model / "tokenizer.json").write_text("{}")
    yield {
        "MODEL_NAME": str(model),
        "AICOCKPIT_VLLM_COMMAND": f"{sys.executable} {FAKE}",
        "AICOCKPIT_STATE_DIR": str(tmp_path / "state"),
        "AICOCKPIT_PORT": str(free_port()),
        "PROFILE": "cpu",
        "FAKE_VLLM_FLAGS": "--fake-start-delay 1.5",
    }
    shutil.rmtree(tmp_path / "state", ignore_errors=True)


def test_start_dev_from_nothing_to_ctrl_c(tmp_path: Path, setup: dict[str, str]) -> None:
    terminal = Terminal(tmp_path, "make", "start-dev", **setup)
    try:
        text = terminal.until("Ctrl-C stops everything.")
        assert "engine tiny-model-0" in text
        assert "model" in text
        assert f"http://127.0.0.1:{setup['AICOCKPIT_PORT']}/v1" in text
        line = re.search(r"curl http\S+chat/completions.*", text)
        assert line is not None, text
        answer = subprocess.run(["bash", "-c", line[0].strip()], capture_output=True, text=True, check=True)
        assert '"choices"' in answer.stdout
        terminal.type("\x03")
        assert terminal.wait() in (0, 2, -signal.SIGINT)  # make ends as its child did
        assert "no process is left" in terminal.text
        assert not [process for process in terminal.tree if process.is_running() and process.name() != "make"]
    finally:
        terminal.kill()


def test_ctrl_c_while_the_engine_loads(tmp_path: Path, setup: dict[str, str]) -> None:
    terminal = Terminal(tmp_path, "make", "start-dev", **{**setup, "FAKE_VLLM_FLAGS": "--fake-start-delay 60"})
    try:
        terminal.until("oading")
        terminal.type("\x03")
        terminal.wait()
        assert "no process is left" in terminal.text
        assert not [process for process in terminal.tree if process.is_running() and process.name() != "make"]
    finally:
        terminal.kill()


def test_looking_after_it(tmp_path: Path, setup: dict[str, str]) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=ROOT, env={**plain_environ(), **setup}, capture_output=True, text=True, check=False
        )

    nobody = run("make", "status")
    assert "no server runs" in nobody.stderr
    terminal = Terminal(tmp_path, "make", "start-dev", **setup)
    try:
        terminal.until("Ctrl-C stops everything.")
        status, health, logs = run("make", "status"), run("make", "health"), run("make", "logs")
        doctor = run(".venv/bin/aicockpit", "doctor")
        bench = run(".venv/bin/aicockpit", "bench", "--requests", "4", "--tokens", "8")
        second = run("make", "start-dev")
        stopped = run("make", "stop")
        terminal.wait()
        assert "tiny-model-0" in status.stdout
        assert status.returncode == 0, status
        assert health.stdout.strip() == "ready"
        assert "Loading weights" in logs.stdout
        assert doctor.returncode == 0, doctor.stdout
        assert "time to first token" in bench.stdout
        assert bench.returncode == 0, bench.stdout
        assert "another aicockpit server" in second.stderr
        assert "stopped after" in stopped.stdout
        assert "no process is left" in terminal.text
    finally:
        terminal.kill()


def test_a_start_that_fails_says_why_what_to_do_and_where_the_log_is(tmp_path: Path, setup: dict[str, str]) -> None:
    terminal = Terminal(tmp_path, "make", "start-dev", **{**setup, "FAKE_VLLM_FLAGS": "--fake-exit-text context-kv"})
    try:
        assert terminal.wait(120) != 0
    finally:
        terminal.kill()
    assert "3168" in terminal.text
    assert "--max-model-len" in terminal.text
    log = re.search(r"(\S+/logs/tiny-model-0\S*\.log)", terminal.text)
    assert log is not None, terminal.text
    assert "larger than the available KV cache" in Path(log[1]).read_text()
