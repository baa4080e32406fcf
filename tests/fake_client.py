"""Starts tests/fake_vllm.py as a real subprocess and talks to its /fake/ control routes.

The texts with which vLLM dies at start live here too, because a test wants to assert the same line that
the fake prints: EXIT_TEXTS[name].cause. This module is imported by the fake itself: keep it light.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FAKE = Path(__file__).with_name("fake_vllm.py")
START_LIMIT_S = 20.0


class ExitText(NamedTuple):
    """How vLLM dies: its exit code, the process that raises (api, engine or worker) and the root cause."""

    code: int
    where: str
    cause: str


_TEXTS = """
bad-model|1|api|huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or\
 'namespace/repo_name': '/nonexistent/model'. Use `repo_type` argument if needed.
gated|1|api|OSError: You are trying to access a gated repo. Make sure to have access to it at\
 https://huggingface.co/org/model. 401 Client Error. Access to model org/model is restricted. You must have\
 access to it and be authenticated to access it. Please log in.
offline|1|api|huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder\
 for the specified revision on the local disk and outgoing traffic has been disabled.
context-kv|1|engine|ValueError: To serve at least one request with the model's max seq len (8192), (0.18 GiB KV\
 cache is needed, which is larger than the available KV cache memory (0.07 GiB). Based on the available memory,\
 the estimated maximum model length is 3168. Try increasing `gpu_memory_utilization` or decreasing\
 `max_model_len` when initializing the engine.
context-model|1|api|pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error,\
 User-specified max_model_len (20000) is greater than the derived max_model_len\
 (max_position_embeddings=8192 or model_max_length=None in model's config.json).
kv-ram|1|worker|ValueError: Available memory on node 0 (18.38/21.46 GiB) on kv cache allocation is less than\
 requested memory for kv (100.0 GiB).
kv-int|1|api|ValueError: invalid literal for int() with base 10: '0.5'
block-size|1|engine|ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)])
port|1|api|OSError: [Errno 98] Address already in use
cuda-oom|1|worker|torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total\
 capacity of 23.64 GiB of which 1.05 GiB is free.
cuda-free|1|worker|ValueError: Free memory on device cuda:0 (10.1/23.64 GiB) on startup is less than desired GPU\
 memory utilization (0.9, 21.28 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.
weights|1|worker|safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file\
 not fully covered
device-type|1|api|RuntimeError: Failed to infer device type
flood|1|worker|RuntimeError: the one line that matters in a flood of others
silent|1|none|
"""
_ROWS = [line.split("|", 3) for line in _TEXTS.replace("\\\n", "").strip().splitlines()]
EXIT_TEXTS = {name: ExitText(int(code), where, cause) for name, code, where, cause in _ROWS}


def exit_log(name: str) -> str:
    """The log of a vLLM that dies at start: noise, the root cause once, and a last line that hides it."""
    _, where, cause = EXIT_TEXTS[name]
    if where == "none":
        return ""
    who = {"api": "APIServer", "engine": "EngineCore", "worker": "Worker"}[where]
    lines = [f"({who} pid=7606) ERROR 11-21 07:53:44 [core.py:1136] {where} failed to start."] * (where != "api")
    lines += ["Traceback (most recent call last):", '  File "vllm/v1/somewhere.py", line 7, in start', f"    {cause}"]
    lines = [lines[0], *(f"({who} pid=7606) {line}" for line in lines[1:])]
    lines[-1] = lines[-1].replace(f"    {cause}", cause)
    if name == "flood":
        noise = [f"(Worker pid=7785) INFO 11-21 07:53:57 [noise.py:1] line {i} " + "x" * 120 for i in range(4000)]
        lines = [*noise, *lines, "y" * 300_000, *noise]
    if where != "api":
        lines.append("(APIServer pid=7444) RuntimeError: Engine core initialization failed. See root cause above.")
    return "\n".join(lines) + "\n"


def start_log(model: str) -> list[str]:
    """vLLM's stage lines, one group per step of starting; the first holds a WARNING that names an OSError."""
    api, core, worker = (
        f"({who}) INFO 11-21 07:53:32" for who in ("APIServer pid=1", "EngineCore pid=2", "Worker pid=3")
    )
    return [
        f"{api} [api_utils.py:347]   version 0.32.0 model {model}\n(APIServer pid=1) WARNING 11-21 07:53:18"
        " [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase. This can cause fd"
        " limit errors like `OSError: [Errno 24] Too many open files`.",
        f"{api} [model.py:733] Resolved architecture: LlamaForCausalLM",
        f"{core} [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='{model}'",
        f"{worker} [cpu_model_runner.py:68] Starting to load model {model}...",
        "Loading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]",
        "Loading safetensors checkpoint shards: 100% Completed | 2/2 [00:00<00:00, 108.44it/s]",
        f"{worker} [default_loader.py:501] Loading weights took 0.01 seconds",
        f"{core} [kv_cache_utils.py:2190] GPU KV cache size: 16,000 tokens",
        f"{worker} [cpu_model_runner.py:87] Warming up model for the compilation...",
        f"{core} [core.py:320] init engine (profile, create kv cache, warmup model) took 1.00 s",
    ]


@dataclass
class Switches:
    """One field per --fake-* flag; -1, 0, false or "" is off. fake_vllm.py's docstring says what they do."""

    keep_alive: float = 5.0
    start_delay: float = 0.0
    exit_early: int = -1
    exit_text: str = ""
    die_after: int = -1
    die_mid_stream: int = -1
    error_mid_stream: int = -1
    lone_done: int = -1
    hang_mid_stream: int = -1
    hang: bool = False
    hang_before_headers: bool = False
    ignore_sigterm: bool = False
    status: int = 0
    status_text: str = ""
    fail_first: int = -1
    garbage: bool = False
    truncate: bool = False
    token_delay: float = 0.0
    first_delay: float = 0.0
    slow_steps: float = 0.0
    chunks_per_write: int = 1
    split_writes: bool = False
    gzip: bool = False
    connection_header: bool = False
    drop_idle: bool = False
    drain: bool = False
    engine_core: bool = False
    log_flood: int = 0
    prefill_delay: float = 0.0
    lie_cached: int = -1
    no_cache: bool = False
    preemptions: int = 0
    outside: int = 0
    drop_events: int = 0
    array_events: bool = False
    no_suffix: bool = True
    embedding_model: bool = False
    no_sleep: bool = False
    no_wake: bool = False
    script: str = ""

    def change(self, values: dict[str, Any]) -> list[str]:
        """Sets what is named (die-after, die_after or fake_die_after); returns the names it does not know."""
        unknown = []
        for key, value in values.items():
            name = key.lstrip("-").replace("-", "_").removeprefix("fake_")
            if name in asdict(self):
                setattr(self, name, type(getattr(self, name))(value))
            else:
                unknown.append(key)
        return unknown


@dataclass
class Counters:
    """What GET /fake/state tells. active to aborted count POST requests other than /fake/ ones."""

    connections: int = 0
    connections_total: int = 0
    active: int = 0
    max_active: int = 0
    started: int = 0
    finished: int = 0
    aborted: int = 0
    cut_uploads: int = 0
    dropped_idle: int = 0
    idle_closed: int = 0
    websockets: int = 0
    management: int = 0
    last_abort_monotonic_s: float = 0.0
    paths: dict[str, int] = field(default_factory=dict)


class EchoSocket:
    """RFC 6455, server side, just enough: echoes text, answers ping and close."""

    def __init__(self, key: str, write: Callable[[bytes], None], close: Callable[[], None]) -> None:
        self.write, self.close = write, close
        self.buffer = b""
        self.parts: list[bytes] = []
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        write(f"{head}sec-websocket-accept: {base64.b64encode(digest).decode()}\r\n\r\n".encode())

    def feed(self, data: bytes) -> None:
        self.buffer += data
        while (frame := self.take()) is not None:
            self.frame(*frame)

    def take(self) -> tuple[bool, int, bytes] | None:
        data = self.buffer
        if len(data) < 2:
            return None
        length, at = data[1] & 127, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, at = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
        if len(data) < at + 4 + length:
            return None
        mask = data[at : at + 4] * (length // 4 + 1)
        masked = data[at + 4 : at + 4 + length]
        self.buffer = data[at + 4 + length :]
        plain = int.from_bytes(masked, "big") ^ int.from_bytes(mask[:length], "big")
        return bool(data[0] & 128), data[0] & 15, plain.to_bytes(length, "big")

    def frame(self, final: bool, kind: int, payload: bytes) -> None:
        if kind == 8:
            self.send(8, payload)
            self.close()
        elif kind == 9:
            self.send(10, payload)
        elif kind in (0, 1, 2):
            self.parts.append(payload)
            if final:
                text, self.parts = b"".join(self.parts).decode("utf-8", "replace"), []
                self.send(1, json.dumps({"type": "echo", "received": text}).encode())

    def send(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = bytes((128 | kind, size))
        else:
            head = bytes((128 | kind, 126 if size < 65536 else 127)) + size.to_bytes(2 if size < 65536 else 8, "big")
        self.write(head + payload)


@dataclass
class FakeVllm:
    """A running fake: .url for httpx (with .uds as its transport's socket when it has one)."""

    process: subprocess.Popen[bytes]
    url: str
    uds: str | None
    address: tuple[str, int] | None
    log_path: Path

    def control(self, method: str, path: str, body: bytes = b"", limit_s: float = 10.0) -> Any:
        """One request on a connection of its own, which the fake leaves out of its counts."""
        head = f"{method} {path} HTTP/1.1\r\nHost: fake\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        with self.connect(limit_s) as link:
            link.sendall(head.encode() + body)
            raw = b"".join(iter(lambda: link.recv(65536), b""))
        top, _, payload = raw.partition(b"\r\n\r\n")
        status = int(top.split(b" ", 2)[1]) if top else 0
        if status != 200:
            raise OSError(f"{method} {path}: HTTP {status} {payload[:300]!r}")
        return json.loads(payload) if payload else None

    def connect(self, limit_s: float = 10.0) -> socket.socket:
        """A raw socket to the fake (for tests that need the wire itself)."""
        if self.uds is None:
            assert self.address is not None
            return socket.create_connection(self.address, limit_s)
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(limit_s)
        try:
            link.connect(self.uds)
        except OSError:
            link.close()
            raise
        return link

    def state(self) -> dict[str, Any]:
        """The counters of GET /fake/state."""
        answer: dict[str, Any] = self.control("GET", "/fake/state")
        return answer

    def last(self, path: str = "") -> dict[str, Any]:
        """The last request (not a poll), or the last one of that path."""
        answer: dict[str, Any] = self.control("GET", f"/fake/last?path={path}" if path else "/fake/last")
        return answer

    def set(self, **switches: object) -> None:
        """Changes switches live: set(token_delay=0.1, die_mid_stream=3)."""
        self.control("POST", "/fake/set", json.dumps(switches).encode())

    def prompts(self) -> list[dict[str, Any]]:
        """Every prompt that was prefilled: at, end (monotonic s; null: in work), tokens, cached."""
        answer: list[dict[str, Any]] = self.control("GET", "/fake/prompts")
        return answer

    def forget(self, blocks: int = -1, silent: bool = False) -> None:
        """Evicts so many blocks, or clears the cache."""
        self.control("POST", "/fake/forget", json.dumps({"blocks": blocks, "silent": silent}).encode())

    def wait_state(self, limit_s: float = 10.0, **wanted: int) -> dict[str, Any]:
        """Waits until the counters have at least these values: wait_state(aborted=1)."""
        end = time.monotonic() + limit_s
        while True:
            state = self.state()
            if all(state[name] >= value for name, value in wanted.items()):
                return state
            if time.monotonic() > end:
                raise AssertionError(f"the fake never reached {wanted}: {state}")
            time.sleep(0.01)

    def log(self) -> str:
        """Everything it printed so far."""
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, limit_s: float = START_LIMIT_S) -> None:
        """Returns when /health answers; raises when the process ends first."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"the fake ended with {self.process.returncode}:\n{self.log()[-3000:]}")
            with contextlib.suppress(OSError):
                self.control("GET", "/health", limit_s=2.0)
                return
            time.sleep(0.01)
        raise AssertionError(f"the fake is not ready:\n{self.log()[-3000:]}")


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def start_fake(
    tmp_path: Path,
    *flags: str,
    model: str = "/models/fake",
    names: tuple[str, ...] = ("fake",),
    tcp: bool = False,
    name: str = "fake",
    wait: bool = True,
) -> Iterator[FakeVllm]:
    """Runs one fake on a unix socket in tmp_path (or on TCP) until the with-block ends; then kills it."""
    uds = None if tcp else str(tmp_path / f"{name}.sock")
    address = ("127.0.0.1", free_port()) if tcp else None
    where = ["--uds", uds] if uds else ["--host", "127.0.0.1", "--port", str(address[1] if address else 0)]
    command = [sys.executable, str(FAKE), "serve", model, "--served-model-name", *names, *where, *flags]
    log_path = tmp_path / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ)
        )
    url = f"http://127.0.0.1:{address[1]}" if address else "http://fake"
    fake = FakeVllm(process, url, uds, address, log_path)
    try:
        if wait:
            fake.wait_ready()
        yield fake
    finally:
        core = _children(process.pid)
        process.kill()
        process.wait()
        for pid in core:  # one that a test has stopped would stay for ever
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
