"""warm.py: a whole server with a fake engine: index, warm, save, restart of the server, its own indexer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fake_client import FakeVllm, free_port, start_fake
from tiny_tokenizers import byte_level

KEY = "key-of-the-warm-tests"
TOKENS = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|repo_name|>", "<|file_sep|>")

pytestmark = pytest.mark.timeout(180)


@dataclass
class Site:
    """`aicockpit serve` in front of a fake engine, with a tokenizer that the gateway knows."""

    folder: Path
    fake: FakeVllm
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "AICOCKPIT_STATE_DIR": str(self.folder / "state")}

    def start(self, *words: str, **more: str) -> None:
        environ = {
            **self.environ,
            "AICOCKPIT_PORT": str(self.port),
            "AICOCKPIT_API_KEY": KEY,
            "AICOCKPIT_ENGINE_URLS": f"unix:{self.fake.uds}" if self.fake.uds else self.fake.url,
            "AICOCKPIT_TOKENIZERS": f"fake={self.folder / 'model'}",
            "AICOCKPIT_CONTEXT": "900",
            "AICOCKPIT_CONTEXT_IDLE": "60",
            **more,
        }
        command = [sys.executable, "-m", "aicockpit.cli", "serve", *words]
        with (self.folder / "serve.log").open("ab") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environ)
        self.until(lambda: self.get("/ready")["ready"])

    def stop(self, number: int = signal.SIGINT) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)

    @contextlib.contextmanager
    def watching(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "aicockpit.cli", "watch", str(self.tree), "--name", "tree"]
        with (self.folder / "watch.log").open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=self.environ
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0

    def get(self, path: str) -> Any:
        return self.ask("GET", path).json()

    def ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, trust_env=False) as client:
            return client.request(method, path, json=body or None, timeout=30)

    def lane(self) -> dict[str, Any]:
        models = self.get("/api/workspaces/tree")["context"]["models"]
        return dict(models["fake"]["lanes"]["completion"])

    def until_warm(self) -> dict[str, Any]:
        self.until(lambda: self.lane()["epoch"] and self.lane()["state"] == "warm")
        return self.lane()

    def until(self, condition: Any, limit_s: float = 60.0) -> None:
        end = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(httpx.HTTPError, KeyError, json.JSONDecodeError):
                if condition():
                    return
            assert time.monotonic() < end, (self.folder / "serve.log").read_text()[-4000:]
            time.sleep(0.05)

    def complete(self, **fields: Any) -> dict[str, Any]:
        answer = self.ask("POST", "/v1/completions", model="fake@tree", prompt="def f(", max_tokens=1, **fields)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["usage"]["prompt_tokens_details"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").write_bytes(byte_level(TOKENS))
    for number in range(6):
        package = tmp_path / "tree/pkg"
        package.mkdir(parents=True, exist_ok=True)
        text = f'"""Module {number}."""\n\nimport os\n\n\n'
        text += f"def run{number}(path: str, count: int) -> int:\n    return count\n"
        (package / f"mod{number}.py").write_text(
            f"from pkg.mod{(number + 1) % 6} import run{(number + 1) % 6}\n" + text
        )
    with start_fake(tmp_path, "--block-size", "16", "--enable-prompt-tokens-details") as fake:
        made = Site(tmp_path, fake)
        try:
            yield made
        finally:
            if made.process is not None and made.process.poll() is None:
                made.stop()


def test_the_life_of_a_workspace(site: Site) -> None:
    site.start()
    with site.watching():
        pack = site.until_warm()["epoch"]["tokens"]
        assert pack > 100
        assert site.complete()["cached_tokens"] >= 0.9 * pack
        revision = site.get("/api/workspaces/tree")["revision"]
        (site.tree / "pkg/mod3.py").write_text("def saved_now(value: int) -> int:\n    return value\n")
        site.until(lambda: site.get("/api/workspaces/tree")["revision"] > revision)
        assert site.complete()["cached_tokens"] >= 0.9 * pack
        site.until(lambda: site.lane()["last_save_to_warm_s"] is not None)
        page = site.ask("GET", "/metrics").text
        assert 'aicockpit_context_resident_ratio{engine="external-1"' in page
        assert "aicockpit_prefetch_steps_total" in page
        told = subprocess.run(
            [sys.executable, "-m", "aicockpit.cli", "status"],
            env=site.environ,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "tree" in told
        assert "warm" in told
    before = site.lane()["epoch"]["id"]
    site.stop(signal.SIGKILL)
    site.start()  # no indexer: the store alone
    assert site.until_warm()["epoch"]["id"] == before
    assert site.complete()["cached_tokens"] >= 0.9 * pack


def test_its_own_tree_is_indexed_by_a_child_that_dies_with_it(site: Site) -> None:
    site.start("--workspace", str(site.tree))
    assert site.process is not None
    site.until_warm()
    children = psutil.Process(site.process.pid).children(recursive=True)
    indexers = [one for one in children if "watch" in one.cmdline()]
    assert len(indexers) == 1
    indexers[0].kill()
    site.stop(signal.SIGKILL)
    end = time.monotonic() + 10
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in children):
        assert time.monotonic() < end, "a child outlives its server"
        time.sleep(0.05)


def test_a_key_of_a_user_sees_the_servers_workspaces_and_its_own(site: Site) -> None:
    site.start()
    made = subprocess.run(
        [sys.executable, "-m", "aicockpit.cli", "keys", "create", "one"],
        env=site.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    key = made.stdout.strip()
    with site.watching():
        site.until_warm()
    base = f"http://127.0.0.1:{site.port}"
    with httpx.Client(base_url=base, headers={"authorization": f"Bearer {key}"}, trust_env=False) as user:
        time.sleep(0.6)
        assert user.get("/api/workspaces/tree").status_code == 200
        assert user.delete("/api/workspaces/tree").status_code == 403
        assert user.put("/api/workspaces/mine").status_code in (200, 201)
        answer = user.post("/v1/completions", json={"model": "fake@tree", "prompt": "x", "max_tokens": 1}, timeout=30)
        assert answer.headers["x-aicockpit-context"].endswith("warm")
    assert {space["name"] for space in site.get("/api/workspaces")["workspaces"]} == {"tree", "mine"}
