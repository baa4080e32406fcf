"""What a reload must not do: cut an answer, lose a name or an adapter, promise memory twice, die of a signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.roster import _taken
from aicockpit.types import Address, EngineState, Residence
from serving import serving
from test_cli import run
from test_roster import Site

pytestmark = pytest.mark.timeout(120)


def adapter_of(folder: Path) -> Path:
    made = folder / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    return made


def test_an_answer_in_work_outlives_the_restart_and_the_end_of_its_engine(tmp_path: Path) -> None:
    made = Site(tmp_path)
    made.environ["FAKE_VLLM_FLAGS"] = "--fake-token-delay 0.1"
    made.write({"name": "a"}, {"name": "b"}, {"name": "c"})
    with serving(tmp_path, **made.environ) as server:  # AICOCKPIT_STOP_WAIT=2
        made.server = server
        server.until_ready()
        for name in "abc":
            made.until(f"{name}-0", "ready")
        answers: dict[str, httpx.Response] = {}

        def long(model: str) -> None:
            answers[model] = server.post("/v1/completions", model=model, prompt="x", max_tokens=50, stream=True)

        threads = [threading.Thread(target=long, args=(model,)) for model in "ab"]
        for thread in threads:
            thread.start()
        time.sleep(1)
        made.write({"name": "a", "args": ["--max-num-seqs", "3"]}, {"name": "c"})
        began = time.monotonic()
        assert made.reload().json() == {"started": [], "restarted": ["a-0"], "stopped": ["b-0"], "kept": ["c-0"]}
        assert time.monotonic() - began < 3
        refused = made.ask("a")  # known, and soon back: a client asks again
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert made.ask("b").status_code == 404
        assert made.ask("c").status_code == 200
        # Both names again, while the engine that had one of them still answers.
        made.write({"name": "a", "args": ["--max-num-seqs", "3"]}, {"name": "b"}, {"name": "c"})
        assert made.reload().json()["started"] == ["b-0"]
        for thread in threads:
            thread.join()
        for model in "ab":
            assert answers[model].text.rstrip().endswith("[DONE]"), answers[model].text[-300:]
            made.until(f"{model}-0", "ready")
            assert made.ask(model).status_code == 200


def test_adapters_of_run_time_outlive_a_reload(tmp_path: Path) -> None:
    made, folder = Site(tmp_path), adapter_of(tmp_path)
    made.write({"name": "a", "lora": {"old": str(folder)}}, {"name": "b"})
    with serving(tmp_path, **made.environ) as server:
        made.server = server
        server.until_ready()
        made.until("a-0", "ready")
        assert server.post("/api/models/a/adapters", name="ours", path=str(folder)).status_code == 201
        headers = {"authorization": "Bearer k"}
        gone = httpx.delete(f"http://127.0.0.1:{server.port}/api/models/a/adapters/old", headers=headers)
        assert gone.status_code == 204
        before = made.engines()["a-0"]["pid"]
        made.write({"name": "a", "lora": {"old": str(folder)}}, {"name": "b"}, {"name": "c"})
        assert made.reload().json()["kept"] == ["a-0", "b-0"]
        assert made.engines()["a-0"]["pid"] == before
        assert made.names() == {"a", "b", "c", "ours"}
        made.write({"name": "a", "lora": {"old": str(folder)}, "args": ["--max-num-seqs", "3"]})
        assert made.reload().json()["restarted"] == ["a-0"]
        made.until_again("a-0", before)
        assert made.ask("ours").status_code == 200
        assert made.names() == {"a", "ours"}


def test_an_adapter_is_known_and_served_while_its_model_is_away(tmp_path: Path) -> None:
    made, folder = Site(tmp_path), adapter_of(tmp_path)
    made.write({"name": "a", "pin": False}, {"name": "b", "pin": False, "lora": {"mine": str(folder)}}, memory="4GiB")
    with serving(tmp_path, AICOCKPIT_MIN_RESIDENT="0", **made.environ) as server:
        made.server = server
        server.until_ready()
        made.until("a-0", "ready")
        assert made.names() == {"a", "b", "mine"}
        late = server.post("/api/models/b/adapters", name="late", path=str(folder))
        assert late.json() == {
            "adapters": [
                {"name": "mine", "path": str(folder), "engines": []},
                {"name": "late", "path": str(folder), "engines": []},
            ]
        }
        assert [made.ask(name).status_code for name in ("mine", "late", "a")] == [200] * 3
        made.write({"name": "a", "pin": False}, {"name": "b", "lora": {"mine": str(folder)}}, memory="6GiB")
        assert made.engines()["b-0"]["state"] == "stopped"
        assert made.reload().json()["kept"] == ["a-0", "b-0"]
        made.until("b-0", "ready")  # it is pinned now, so it is there


def test_status_tells_who_is_away_and_an_operator_starts_in_the_queue(tmp_path: Path) -> None:
    made = Site(tmp_path)
    made.write({"name": "a", "pin": False}, {"name": "b", "pin": False}, memory="4GiB")
    with serving(tmp_path, AICOCKPIT_MIN_RESIDENT="15", **made.environ) as server:
        made.server = server
        server.until_ready()
        made.until("a-0", "ready")
        assert "comes with the next request" in run(tmp_path, "status", COLUMNS="200", **made.environ).stdout
        assert server.post("/api/engines/b-0/start").status_code == 202
        end = time.monotonic() + 30
        while not (waits := made.engines()["b-0"]["waits"]):
            assert time.monotonic() < end
        assert "a-0 has just been loaded and stays for" in waits
        shown = run(tmp_path, "status", COLUMNS="200", **made.environ).stdout
        assert "1 request waits for it: a-0 " in shown
        made.until("b-0", "ready")
        assert made.engines()["a-0"]["state"] == "stopped"
        assert made.engines()["b-0"]["waits"] == ""


def test_a_hangup_while_the_server_starts_does_not_end_it(tmp_path: Path) -> None:
    made = Site(tmp_path)
    made.environ["FAKE_VLLM_FLAGS"] = "--fake-start-delay 2"
    made.write({"name": "a"})
    with serving(tmp_path, **made.environ) as server:
        made.server = server
        end = time.monotonic() + 30
        while "a-0" not in (made.engines() if _open(server.port) else {}):
            assert time.monotonic() < end
            time.sleep(0.05)
        made.write({"name": "a"}, {"name": "b"})
        os.kill(server.process.pid, signal.SIGHUP)
        server.until_ready()
        made.until("b-0", "ready")


def _open(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_only_what_is_in_memory_may_be_given_to_a_new_plan() -> None:
    def engine(state: EngineState, *needs: tuple[str, int]) -> Engine:
        address = Address(uds="/nowhere")
        return Engine("e", address, Upstream(address), state=state, residence=Residence(needs=needs))

    ready, stopped = EngineState.READY, EngineState.STOPPED
    assert _taken([engine(ready, ("cpu", 2)), engine(stopped, ("cpu", 4)), engine(ready, ("0", 8))]) == {
        "cpu": 2,
        "0": 8,
    }
