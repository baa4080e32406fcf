"""The second walk with nothing faked: a save on disk, the indexer, the store, real vLLM, a warm completion."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from real import KEY, MODEL, ROOT, Server, kill_core

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

NAME = "my-tree"


@dataclass
class Project:
    """A source tree that `aicockpit watch` keeps in step with the server."""

    server: Server
    tree: Path
    watcher: subprocess.Popen[bytes] | None = None

    def watch(self) -> None:
        env = {**os.environ, "AICOCKPIT_STATE_DIR": str(self.server.state)}
        command = [sys.executable, "-m", "aicockpit.cli", "watch", str(self.tree), "--name", NAME]
        with (self.tree.parent / "watch.log").open("ab") as out:
            self.watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)

    def stop(self) -> None:
        if self.watcher is not None:
            self.watcher.send_signal(signal.SIGINT)
            assert self.watcher.wait(20) == 0
            self.watcher = None

    def status(self) -> dict[str, Any]:
        return dict(self.server.get(f"/api/workspaces/{NAME}"))

    def lane(self, kind: str = "completion") -> dict[str, Any]:
        models = self.status()["context"]["models"]
        return dict(models[MODEL]["lanes"][kind]) if MODEL in models else {"engines": {}, "epoch": None}

    def until_warm(self, kind: str = "completion") -> dict[str, Any]:
        def warm() -> bool:
            lane = self.lane(kind)
            return bool(lane["epoch"]) and [one["state"] for one in lane["engines"].values()] == ["warm"]

        self.server.until(warm, 180)
        return self.lane(kind)


@pytest.fixture(scope="module")
def project(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    tree = tmp_path_factory.mktemp("project") / NAME
    shutil.copytree(ROOT / "src/aicockpit/engines", tree / "engines", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "src/aicockpit/errors.py", tree / "errors.py")
    server.forget_workspaces()
    made = Project(server, tree)
    made.watch()
    try:
        made.until_warm()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base, api_key=KEY, max_retries=0) as made:
        yield made


def cached(answer: Any) -> int:
    return int(answer.usage.prompt_tokens_details.cached_tokens or 0)


def test_the_first_epoch_is_warm_before_anybody_asks(project: Project, sdk: openai.OpenAI) -> None:
    lane = project.lane()
    pack = lane["epoch"]["tokens"]
    assert pack > 300
    assert lane["epoch"]["files"][0]["why"]
    engine = next(iter(lane["engines"].values()))
    assert engine["exact"], "KV events tell what is resident"
    answer = sdk.completions.create(
        model=f"{MODEL}@{NAME}",
        prompt="from errors import ",
        max_tokens=2,
        temperature=0,
        extra_body={"path": "new.py"},
    )
    assert answer.usage is not None
    assert cached(answer) >= 0.9 * pack
    assert answer.usage.prompt_tokens > pack


def test_after_a_save_the_next_completion_is_warm(project: Project, sdk: openai.OpenAI) -> None:
    pack = project.lane()["epoch"]["tokens"]
    revision = project.status()["revision"]
    with (project.tree / "errors.py").open("a") as file:
        file.write("\n\nclass DiskAsleep(AicockpitError):\n    def wake(self, seconds: float) -> None: ...\n")
    project.server.until(lambda: project.status()["revision"] > revision, 20)
    headers = {"x-aicockpit-workspace": NAME, "x-aicockpit-path": "engines/engine.py"}
    for _ in range(3):  # at once, and while the journal's entry is being warmed
        answer = sdk.completions.create(
            model=MODEL, prompt="def wake", max_tokens=2, temperature=0, extra_headers=headers
        )
        assert cached(answer) >= 0.9 * pack

    def warmed() -> bool:
        lane = project.lane()
        told = lane["epoch"] and (lane["epoch"]["journal_tokens"] > 0 or "DiskAsleep" in str(lane["epoch"]))
        return bool(told) and lane["last_save_to_warm_s"] is not None

    project.server.until(warmed, 180)


def test_a_stream_hides_the_usage_that_only_we_asked_for(project: Project, sdk: openai.OpenAI) -> None:
    stream = sdk.completions.create(model=f"{MODEL}@{NAME}", prompt="import ", max_tokens=3, temperature=0, stream=True)
    chunks = list(stream)
    assert all(chunk.choices for chunk in chunks)
    request_id = str(stream.response.headers["x-request-id"])
    project.server.until(lambda: project.server.get(f"/api/requests/{request_id}"), 20)  # recorded after the last byte
    record = project.server.get(f"/api/requests/{request_id}")
    assert record["context"]["cached_tokens"] >= record["context"]["predicted_cached"] > 0
    assert "warm" in record["choice"]


def test_a_chat_begins_with_the_warm_pack(project: Project, sdk: openai.OpenAI) -> None:
    lane = project.until_warm("chat")
    head = next(iter(lane["engines"].values()))["serves_tokens"]
    question: Any = [{"role": "user", "content": "Which classes are there?"}]
    for messages in (question, [{"role": "system", "content": "Be brief."}, *question]):
        answer = sdk.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=2, temperature=0, extra_body={"workspace": NAME}
        )
        assert cached(answer) >= 0.9 * head > 300


def test_a_suffix_is_accepted_although_vllm_refuses_it(project: Project, server: Server) -> None:
    body = {"model": MODEL, "prompt": "def add(a, b):\n    return", "suffix": "\n", "max_tokens": 2}
    with server.client() as client:
        answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-aicockpit-fim"]


def test_without_a_workspace_nothing_is_touched(project: Project, sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model=MODEL, prompt="one two three", max_tokens=1, temperature=0)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens < 10


def test_after_kill_9_the_pack_is_warmed_again_without_the_indexer(project: Project, sdk: openai.OpenAI) -> None:
    before = project.lane()["epoch"]["id"]
    project.stop()
    kill_core(project.server.process.pid)
    project.server.until(lambda: project.server.engine()["state"] != "ready", 60)
    project.server.until(lambda: project.server.engine()["state"] == "ready", 300)
    lane = project.until_warm()
    assert lane["epoch"]["id"] == before
    began = time.monotonic()
    answer = sdk.completions.create(model=f"{MODEL}@{NAME}", prompt="import ", max_tokens=1, temperature=0)
    assert cached(answer) >= 0.9 * lane["epoch"]["tokens"]
    assert time.monotonic() - began < 60
