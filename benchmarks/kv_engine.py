"""One bare engine on the CPU, with the KV disk tier or without, for `kv_tier.py` and the tests with real vLLM."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.proc import ROOT, free_port

START_LIMIT_S = 300.0
GIGABYTE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Completion:
    """`seconds` of the whole request; `cached`: prompt tokens that were not computed."""

    seconds: float
    tokens: tuple[int, ...]
    cached: int


@dataclass(slots=True)
class Engine:
    """A started engine; `kill` is SIGKILL to all of its processes."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path

    def complete(
        self, prompt: Sequence[int], count: int = 1, *, wish: Mapping[str, Any] | None = None, **more: Any
    ) -> Completion:
        """Greedy. `wish`: the request's `kv_transfer_params`."""
        body = {
            "model": "m",
            "prompt": list(prompt),
            "max_tokens": count,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            **({"kv_transfer_params": dict(wish)} if wish is not None else {}),
            **more,
        }
        began = time.perf_counter()
        answer = self.client.post("/v1/completions", json=body)
        seconds = time.perf_counter() - began
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code} {answer.text[:500]}")
        found = answer.json()
        details = found["usage"]["prompt_tokens_details"] or {}
        return Completion(seconds, tuple(found["choices"][0]["token_ids"]), details.get("cached_tokens") or 0)

    def forget(self) -> None:
        """Empty the engine's own cache, once the last request let go of it; the tier keeps what it has."""
        for _ in range(50):
            if self.client.post("/reset_prefix_cache").status_code == 200:
                return
            time.sleep(0.02)
        raise RuntimeError("the engine's cache cannot be emptied")

    def tokens(self, text: str) -> list[int]:
        return list(
            self.client.post("/tokenize", json={"model": "m", "prompt": text}).raise_for_status().json()["tokens"]
        )

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all samples with these labels."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            found = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    def stored(self) -> int:
        """Blocks written so far; the engine tells with its steps, so a small one is made."""
        self.complete([1] * 5)
        return int(self.metric("aicockpit_kv_disk_stored_blocks_total"))

    def settled(self, limit_s: float = 60.0) -> int:
        """Blocks written, once no more come: three looks, a moment apart, find the same."""
        found, same, end = self.stored(), 0, time.monotonic() + limit_s
        while same < 2 and time.monotonic() < end:
            time.sleep(0.25)
            last, found = found, self.stored()
            same = same + 1 if found == last else 0
        return found

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.client.close()

    def stop(self) -> None:
        """SIGTERM to its front, SIGKILL to what is left after 20 seconds."""
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.kill()


def command(model: Path, port: int, tier: Mapping[str, Any] | None, flags: Sequence[str]) -> list[str]:
    """`tier`: the connector's extra config; None: no tier."""
    transfer = {
        "kv_connector": "DiskPrefixConnector",
        "kv_connector_module_path": "aicockpit.kvdisk.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": dict(tier or {}),
    }
    return [
        *(sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"),
        *("--model", str(model), "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", "2560", "--max-num-seqs", "8", "--enable-prompt-tokens-details", "--enforce-eager"),
        *("--block-size", "32", "--kv-cache-memory-bytes", "300M"),
        *(("--kv-transfer-config", json.dumps(transfer)) if tier is not None else ()),
        *flags,
    ]


@contextmanager
def engine(
    model: Path, log: Path, tier: Mapping[str, Any] | None = None, flags: Sequence[str] = (), cores: str = "0-1"
) -> Iterator[Engine]:
    """A ready engine, ended at the end. `tier`: its folder and options. `cores`: where it computes.

    Raises:
        RuntimeError: it ended, or was not ready in time; the text has the end of its log.
    """
    port = free_port()
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "PYTHONPATH": str(ROOT / "src"),
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            command(model, port, tier, flags),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False)
    made = Engine(process, client, log)
    try:
        _wait(made)
        yield made
        if process.poll() is None:
            made.stop()
    finally:
        made.kill()


def _wait(made: Engine) -> None:
    end = time.monotonic() + START_LIMIT_S
    while True:
        with suppress(httpx.HTTPError):
            if made.client.get("/health").status_code == 200:
                return
        if made.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the engine is not ready; the end of its log:\n{made.log.read_text()[-3000:]}")
        time.sleep(0.1)


def texts(count: int, at_least: int) -> list[str]:
    """So many pieces of this repository's own text, none the beginning of another."""
    paths = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.md")])
    pieces = [
        text[at : at + 12_000] for text in (path.read_text() for path in paths) for at in range(0, len(text), 12_000)
    ]
    return [piece for piece in pieces if len(piece) >= at_least][:count]


def together(calls: Sequence[Any], apart_s: float = 0.0) -> list[Any]:
    """Call all at once, each in a thread, or begun `apart_s` after each other; their results in order. The first error
    is raised."""
    results: list[Any] = [None] * len(calls)

    def run(at: int) -> None:
        try:
            results[at] = calls[at]()
        except (httpx.HTTPError, RuntimeError) as problem:
            results[at] = problem

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(calls))]
    for thread in threads:
        thread.start()
        time.sleep(apart_s)
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results
