"""The server, the indexer and the requests of `warm.py`, and what it reads of their state."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console

from aicockpit.prompts.tail import TailLimits
from benchmarks.proc import ROOT, free_port

NAME = "repo"
KEY = "bench-key"
_LIMIT_S = 600.0
SUFFIXES = {".py", ".ts", ".js", ".go", ".rs", ".java", ".c", ".h", ".cpp", ".rb", ".php", ".cs"}
# Lines in front of the cursor (and up to three more), and behind it: the part that is computed while one waits. The
# rows of `warm_middle.py` have the cursor in the middle of a file.
BEFORE, AFTER = 6, 2
# Most of the window to the pack: what is measured here is how fast a head is, not what it is worth.
_WORTH = """[[row]]
pattern = "*"
lane = "completion"
pack = 2560
neighbourhood = 512
similar = 512
journal = 512
measured = false
note = "the shares of benchmarks/warm.py"
"""
# More than there is: with a number the context is sent even where a salt keeps it from being found.
_ALL = 1_000_000
# A step that begins in the last moment of a request, as its client saw it, began when the server had answered.
_EDGE_S = 0.02


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds to the first token; tokens predicted to be cached and really cached."""

    first_s: float
    prompt: int
    predicted: int
    cached: int


@dataclass(frozen=True, slots=True)
class _Heard:
    first_s: float
    request_id: str
    usage: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counters:
    """Of warming, since the server started. `longest_s`: of the steps that met no request, so were `apart`;
    `longest_met_s`: of the others.

    A step that a request meets shares the engine's passes with it, and lasts as long as the request's own prefill: its
    length tells what the request cost, not what the step did. What requests wait for beside warming is measured.
    """

    steps: int
    while_asked: int
    apart: int
    longest_s: float
    longest_met_s: float


def tally(log: str, asked: Sequence[tuple[float, float]]) -> Counters:
    """Steps from the server's log; `asked`: begin and end of each request as its client saw it, Unix seconds."""
    steps = [
        (float(found[1]), float(found[1]) + float(found[2]))
        for found in re.finditer(r"prefetch step began=([\d.]+) seconds=([\d.]+)", log)
    ]
    during = sum(any(begin + _EDGE_S < began < end - _EDGE_S for begin, end in asked) for began, _ in steps)
    apart, met = list[float](), list[float]()
    for began, one in steps:
        (met if any(began < end and begin < one for begin, end in asked) else apart).append(one - began)
    return Counters(len(steps), during, len(apart), max(apart, default=0.0), max(met, default=0.0))


@dataclass(slots=True)
class Rig:
    """A running server with a copy of a repository."""

    process: subprocess.Popen[bytes]
    base: str
    state: Path
    tree: Path
    log: Path
    asked: list[tuple[float, float]] = field(default_factory=list)
    watcher: subprocess.Popen[bytes] | None = None
    client: httpx.Client = field(init=False)
    model: str = ""

    def __post_init__(self) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        self.client = httpx.Client(base_url=self.base, headers=headers, timeout=120, trust_env=False)

    # What it reads.

    def lane(self) -> dict[str, Any]:
        """Status of the completions' context."""
        status = self.client.get(f"/api/workspaces/{NAME}").raise_for_status().json()
        models = status["context"]["models"]
        return dict(models[self.model]["lanes"]["completion"]) if self.model in models else {}

    def engine(self) -> dict[str, Any]:
        return dict(self.client.get("/api/engines").raise_for_status().json()["engines"][0])

    def pack_tokens(self) -> int:
        return int(self.lane()["epoch"]["tokens"])

    def epoch(self) -> str:
        """Its id names what is in the pack."""
        return str(self.lane()["epoch"]["id"])

    def counters(self) -> Counters:
        return tally(self.log.read_text(), self.asked)

    def engine_told(self) -> str:
        card = self.client.get("/v1/models").json()["data"][0]
        return f"vLLM on the CPU with {self.model}, context of {card.get('max_model_len')} tokens"

    def repo_told(self) -> str:
        info = self.client.get(f"/api/workspaces/{NAME}").json()
        return f"of {info['files']} files, {info['bytes'] / 1e6:.1f} MB"

    # What it waits for.

    def until(self, condition: Any, what: str) -> None:
        end = time.monotonic() + _LIMIT_S
        while True:
            try:
                if condition():
                    return
            except (httpx.HTTPError, KeyError):
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"never {what}; the end of the server's log:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def wait_ready(self) -> None:
        self.until(lambda: self.client.get("/ready").status_code == 200, "ready")
        self.model = self.client.get("/v1/models").json()["data"][0]["id"]

    def wait_warm(self) -> None:
        def warm() -> bool:
            lane = self.lane()
            return bool(lane["epoch"]) and all(one["state"] == "warm" for one in lane["engines"].values())

        self.until(warm, "warm")

    def wait_journal_warm(self) -> float:
        """Seconds from the save to its entry being warm, as the server measured it."""
        self.wait_warm()
        return float(self.lane()["last_save_to_warm_s"] or 0.0)

    # What it does.

    def watch(self) -> None:
        command = [sys.executable, "-m", "aicockpit.cli", "watch", str(self.tree), "--name", NAME]
        env = {**os.environ, "AICOCKPIT_STATE_DIR": str(self.state)}
        quiet = subprocess.DEVNULL
        self.watcher = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env=env)

    def stop_watch(self) -> None:
        if self.watcher is not None:
            self.watcher.send_signal(signal.SIGINT)
            self.watcher.wait(20)
            self.watcher = None

    def kill_engine(self) -> None:
        """kill -9 of vLLM's EngineCore, as a crash would."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        cores = [one for one in tree if "EngineCore" in " ".join(one.cmdline()) or "EngineCore" in one.name()]
        for one in cores or tree[-1:]:
            one.kill()
        self.until(lambda: self.client.get("/ready").status_code != 200, "down")

    def restart_engine(self) -> None:
        """As an operator does; unlike crashes, these are not counted against it."""
        self.client.post(f"/api/engines/{self.engine()['name']}/restart").raise_for_status()
        self.until(lambda: self.client.get("/ready").status_code != 200, "down")

    def places(self, count: int) -> list[tuple[str, str, str]]:
        """(path, text before the cursor, text behind it): early in a file, so that the tail is short."""
        chance = random.Random(1)
        files = sorted(path for path in self.tree.rglob("*") if path.suffix in SUFFIXES and path.stat().st_size > 2000)
        found = []
        for number in range(count):
            path = files[chance.randrange(len(files))]
            lines = path.read_text("utf-8", "replace").splitlines(keepends=True)
            at = min(len(lines) - 1, BEFORE + number % 4)
            tail = "".join(lines[at : at + AFTER])
            found.append((path.relative_to(self.tree).as_posix(), "".join(lines[:at]), tail))
        return found

    def focus(self, path: str, line: int | None = None) -> None:
        """As an editor does when a file is opened, with the line (from 1) where its cursor is, or without."""
        told = {"path": path} if line is None else {"path": path, "line": line}
        self.client.post(f"/api/workspaces/{NAME}/focus", json=told).raise_for_status()

    def wait_place(self, path: str, line: int, patience_s: float) -> bool:
        """Whether what an open file needs at that line is warm in time, as the status says."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            one = next((one for one in self.lane()["focus"] if one["path"] == path), None)
            searched = one is not None and not one["similar"].startswith(("searching", "to be searched"))
            if one is not None and searched and one["runway_line"] == line and one["warm_on"]:
                return True
            time.sleep(0.02)
        return False

    def open(self, path: str) -> None:
        """As an editor does a while before one types in a file, but for the cursor's line: it is not told."""
        self.focus(path)
        before = -1
        while (now := self.counters().steps) != before or not self.quiet():
            before = now
            time.sleep(0.3)

    def quiet(self) -> bool:
        """Nothing is being warmed."""
        lanes = [self.lane()]
        return all(one["state"] == "warm" for lane in lanes for one in lane["engines"].values())

    def save(self, number: int, not_this: str) -> None:
        """Add a function to another file, and wait until the gateway has it (not until it is warm)."""
        before = self.client.get(f"/api/workspaces/{NAME}").json()["revision"]
        files = sorted(path for path in self.tree.rglob("*.py") if path.relative_to(self.tree).as_posix() != not_this)
        path = files[(number * 31) % len(files)]
        with path.open("a") as file:
            file.write(
                f"\n\ndef saved_{number}(first: int, second: int) -> int:\n    return first + second + {number}\n"
            )
        self.until(lambda: self.client.get(f"/api/workspaces/{NAME}").json()["revision"] > before, "at the gateway")

    def churn(self, stop: threading.Event) -> None:
        """Keep the warming busy: new heads, one after the other, each with other first words."""
        number = 0
        while not stop.is_set():
            number += 1
            name = f"churn{number}"
            folder = self.tree / "churn"
            folder.mkdir(exist_ok=True)
            for part in range(40):
                text = "\n".join(
                    f"def {name}_{part}_{i}(alpha: int, beta: int) -> int:\n    return {i}" for i in range(6)
                )
                (folder / f"m{part}.py").write_text(f"import churn.m{(part + 1) % 40}\n{text}\n")
            if self.watcher is None:
                self.watch()
            stop.wait(4)

    def complete(self, path: str, prefix: str, suffix: str, salt: str = "") -> Answer:
        """One completion in the workspace. A salt makes the engine find nothing of it."""
        body: dict[str, Any] = {"prompt": prefix, "suffix": suffix, "path": path, "workspace": NAME, "max_tokens": 4}
        if salt:
            body |= {"cache_salt": salt, "context": _ALL}
        heard = self._stream(body)
        context = self.client.get(f"/api/requests/{heard.request_id}").raise_for_status().json()["context"]
        return Answer(
            heard.first_s, context["prompt_tokens"] or 0, context["predicted_cached"], context["cached_tokens"] or 0
        )

    def bare(self, path: str, prefix: str, suffix: str) -> float:
        """Seconds to the first token of the same completion without context, of which nothing is cached.

        Cut as an editor would: the gateway leaves a prompt without context as it is.
        """
        limits = TailLimits()
        begun, rest = prefix.split("\n")[-limits.prefix_lines :], suffix.split("\n")[: limits.suffix_lines]
        prefix, suffix = "\n".join(begun), "\n".join(rest)
        body = {"prompt": prefix, "suffix": suffix, "path": path, "workspace": NAME, "max_tokens": 4}
        return self._stream(body | {"context": "none", "cache_salt": f"bare-{time.monotonic_ns()}"}).first_s

    def ask(self, prompt: str) -> float:
        """Seconds to the first token of a request in no workspace."""
        return self._stream({"prompt": prompt, "max_tokens": 4}).first_s

    def prompt_tokens(self, path: str, prefix: str, suffix: str) -> list[int]:
        """The whole prompt that a completion in the workspace gets: header, pack and tail."""
        body = {"prompt": prefix, "suffix": suffix, "path": path, "workspace": NAME, "max_tokens": 1}
        body |= {"model": self.model, "return_token_ids": True}
        answer = self.client.post("/v1/completions", json=body).raise_for_status().json()
        return list(answer["choices"][0]["prompt_token_ids"])

    def send(self, tokens: Sequence[int], salt: str = "") -> Answer:
        """Such a prompt, in no workspace."""
        body: dict[str, Any] = {"prompt": list(tokens), "max_tokens": 4, "stream_options": {"include_usage": True}}
        heard = self._stream(body | ({"cache_salt": salt} if salt else {}))
        details = heard.usage.get("prompt_tokens_details") or {}
        return Answer(heard.first_s, int(heard.usage["prompt_tokens"]), 0, int(details.get("cached_tokens") or 0))

    def _stream(self, body: dict[str, Any]) -> _Heard:
        body = {"model": self.model, "temperature": 0, "stream": True, **body}
        began, clock = time.monotonic(), time.time()
        first = float("nan")
        usage: dict[str, Any] = {}
        with self.client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise SystemExit(f"{answer.status_code}: {answer.read().decode()[:500]}")
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if first != first and event["choices"]:
                    first = time.monotonic() - began
                usage = event.get("usage") or usage
            request_id = answer.headers["x-request-id"]
        self.asked.append((clock, time.time()))
        return _Heard(first, request_id, usage)


@contextmanager
def start_rig(
    folder: Path, repo: Path, budget: int, say: Console, tier: str = "none", model: str = ""
) -> Iterator[Rig]:
    """`aicockpit serve` with the CPU profile, a `kv_tier` and a copy of the repository; all are gone afterwards."""
    tree = folder / NAME
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", ".bench", "node_modules", "__pycache__", ".*_cache", ".hypothesis"
    )
    shutil.copytree(repo, tree, symlinks=True, ignore=ignored)
    port, log = free_port(), folder / "serve.log"
    (folder / "worth.toml").write_text(_WORTH)
    env = {
        **os.environ,
        "AICOCKPIT_WORTH": str(folder / "worth.toml"),
        "AICOCKPIT_STATE_DIR": str(folder / "state"),
        "AICOCKPIT_PORT": str(port),
        "AICOCKPIT_API_KEY": KEY,
        "AICOCKPIT_CONTEXT": str(budget),
        "AICOCKPIT_LOG_LEVEL": "debug",
        "AICOCKPIT_KV_TIER": tier,
        **({"MODEL_NAME": model} if model else {}),
        "AICOCKPIT_ENGINE_ARGS": "--max-num-seqs 16 --kv-cache-memory-bytes 1000000000",
    }
    command = [sys.executable, "-m", "aicockpit.cli", "serve", "--env-file", str(ROOT / ".env.cpu")]
    say.print("starting the server with real vLLM")
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env)
    rig = Rig(process, f"http://127.0.0.1:{port}", folder / "state", tree, log)
    try:
        rig.wait_ready()
        yield rig
    finally:
        rig.stop_watch()
        rig.client.close()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
