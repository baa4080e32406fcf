"""`aicockpit serve` as a process, with the fake vLLM as its engines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from fake_client import FAKE, free_port


def environ(tmp_path: Path, **extra: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AICOCKPIT_")}
    return {**clean, "AICOCKPIT_STATE_DIR": str(tmp_path / "state"), **extra}


@dataclass
class Serving:
    process: subprocess.Popen[str]
    port: int
    log: Path

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers={"authorization": "Bearer k"}, timeout=30)

    def post(self, path: str, /, **body: object) -> httpx.Response:
        url, headers = f"http://127.0.0.1:{self.port}{path}", {"authorization": "Bearer k"}
        return httpx.post(url, headers=headers, json=body, timeout=30)

    def until_ready(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                if self.get("/ready").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


@contextlib.contextmanager
def serving(tmp_path: Path, **extra: str) -> Iterator[Serving]:
    port, log = free_port(), tmp_path / "serve.log"
    env = environ(tmp_path, AICOCKPIT_PORT=str(port), AICOCKPIT_API_KEY="k", AICOCKPIT_STOP_WAIT="2", **extra)
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "aicockpit.cli", "serve"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            text=True,
        )
    try:
        yield Serving(process, port, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def supervised(tmp_path: Path, flags: str = "") -> dict[str, str]:
    model = tmp_path / "tiny"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (model / "tokenizer.json").write_text("{}")
    command = f"{sys.executable} {FAKE}"
    return {"MODEL_NAME": str(model), "AICOCKPIT_VLLM_COMMAND": command, "FAKE_VLLM_FLAGS": flags}
