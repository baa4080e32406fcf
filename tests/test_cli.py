"""The command line: exit codes, messages, keys; `serve` with a fake engine, and with engines that run already."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fake_client import FAKE, start_fake
from serving import environ, serving, supervised

pytestmark = pytest.mark.timeout(120)


def run(tmp_path: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aicockpit.cli", *arguments]
    return subprocess.run(
        command, env=environ(tmp_path, **extra), capture_output=True, text=True, check=False, cwd=tmp_path
    )


def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    for extra, words in (
        ({"AICOCKPIT_PROT": "1"}, "Did you mean AICOCKPIT_PORT?"),
        ({"AICOCKPIT_AUTH": "off", "AICOCKPIT_HOST": "0.0.0.0"}, "Bind to 127.0.0.1"),
        ({"AICOCKPIT_ENGINE_ARGS": "--swap-space 4", "MODEL_NAME": str(tmp_path)}, "--kv-offloading-size"),
    ):
        done = run(tmp_path, "serve", **extra)
        assert done.returncode == 2, done
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_keys_from_make_to_revoke(tmp_path: Path) -> None:
    made = run(tmp_path, "keys", "create", "laptop", "--admin")
    key = made.stdout.strip()
    assert key.startswith("aick_")
    listed = run(tmp_path, "keys", "list").stdout
    assert "laptop" in listed
    assert key not in listed
    assert "revoked" in run(tmp_path, "keys", "revoke", "laptop").stdout
    missing = run(tmp_path, "keys", "revoke", "laptop")
    assert (missing.returncode, "keys list" in missing.stderr) == (1, True)


@pytest.mark.parametrize("place", [1, 2])
def test_an_env_file_counts_in_front_of_an_action_and_behind_it(tmp_path: Path, place: int) -> None:
    (tmp_path / "env").write_text(f"AICOCKPIT_STATE_DIR={tmp_path / 'other'}\n")
    words = ["keys", "create", "laptop"]
    words[place:place] = ["--env-file", str(tmp_path / "env")]
    assert run(tmp_path, *words, AICOCKPIT_STATE_DIR="").returncode == 0
    assert (tmp_path / "other").is_dir()


def test_without_a_server_commands_say_so(tmp_path: Path) -> None:
    for command in ("status", "health"):
        done = run(tmp_path, command)
        assert done.returncode == 1
        assert "no server runs" in done.stderr
    assert run(tmp_path, "stop").stdout.strip() == "no server runs"
    assert "no log" in run(tmp_path, "logs").stderr


def test_a_server_without_a_model_says_that_it_is_not_ready_and_how_to_name_one(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        end = time.monotonic() + 60
        while "Ctrl-C stops everything." not in (text := server.log.read_text()):
            assert time.monotonic() < end, text
            time.sleep(0.05)
        ready = server.get("/ready")
        assert ready.status_code == 503
        assert f"AiCockpit runs, and answers no request yet: {ready.json()['reason']}." in text
        assert "AiCockpit is ready" not in text
        assert "aicockpit serve --model" in text
        assert server.get("/api/workspaces").status_code == 200


def test_a_server_with_a_model_says_that_it_is_ready(tmp_path: Path) -> None:
    with serving(tmp_path, **supervised(tmp_path)) as server:
        server.until_ready()
        end = time.monotonic() + 30
        while "Ctrl-C stops everything." not in (text := server.log.read_text()):
            assert time.monotonic() < end, text
            time.sleep(0.05)
        assert "AiCockpit is ready." in text
        assert "--model" not in text


def test_help_names_every_command(tmp_path: Path) -> None:
    text = run(tmp_path, "--help").stdout
    for command in (
        "serve",
        "status",
        "stop",
        "doctor",
        "keys",
        "bench",
        "logs",
        "health",
        "reload",
        "fit",
        "recipes",
        "models",
    ):
        assert command in text


def test_doctor_reports_bad_things_with_a_fix(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", COLUMNS="200")
    assert "memory" in done.stdout
    assert "port" in done.stdout


def engines_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children(recursive=True) if str(FAKE) in child.cmdline()]


def test_kill_9_of_the_gateway_ends_its_engines(tmp_path: Path) -> None:
    with serving(tmp_path, **supervised(tmp_path, "--fake-ignore-sigterm")) as server:
        server.until_ready()
        tree = psutil.Process(server.process.pid).children(recursive=True)
        assert engines_of(server.process.pid)
        server.process.kill()
        gone, alive = psutil.wait_procs(tree, 30)
        assert not alive
        assert gone


def test_a_replica_that_dies_is_restarted_and_the_other_answers_meanwhile(tmp_path: Path) -> None:
    with serving(tmp_path, **supervised(tmp_path), AICOCKPIT_REPLICAS="2") as server:
        server.until_ready()
        end = time.monotonic() + 30
        while any(engine["state"] != "ready" for engine in server.get("/api/engines").json()["engines"]):
            assert time.monotonic() < end
            time.sleep(0.05)
        first, _ = engines_of(server.process.pid)[:2]
        first.kill()
        codes = {server.post("/v1/completions", model="tiny", prompt="a", max_tokens=2).status_code for _ in range(30)}
        assert codes == {200}
        while sum(engine["restarts"] for engine in server.get("/api/engines").json()["engines"]) != 1:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_restart_stop_and_start_by_the_api(tmp_path: Path) -> None:
    with serving(tmp_path, **supervised(tmp_path)) as server:
        server.until_ready()
        name = server.get("/api/engines").json()["engines"][0]["name"]
        before = server.get("/api/engines").json()["engines"][0]["pid"]

        def state() -> str:
            return str(server.get("/api/engines").json()["engines"][0]["state"])

        def wait(wanted: str) -> None:
            end = time.monotonic() + 30
            while state() != wanted:
                assert time.monotonic() < end, state()
                time.sleep(0.02)

        assert server.post(f"/api/engines/{name}/stop").status_code == 202
        wait("stopped")
        refused = server.post("/v1/completions", model="tiny", prompt="a")
        assert (refused.status_code, "stopped" in refused.text) == (503, True)
        assert server.post(f"/api/engines/{name}/start").status_code == 202
        wait("ready")
        assert server.post(f"/api/engines/{name}/restart").status_code == 202
        end = time.monotonic() + 30
        while state() != "ready" or server.get("/api/engines").json()["engines"][0]["pid"] == before:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert server.get(f"/api/engines/{name}").json()["log_tail"]
        assert "aicockpit_engine_state" in server.get("/metrics").text


def test_external_engines_need_no_vllm_and_may_come_and_go(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        fake = stack.enter_context(start_fake(tmp_path, tcp=True, names=("there",)))
        server = stack.enter_context(serving(tmp_path, AICOCKPIT_ENGINE_URLS=f"{fake.url}/v1,http://127.0.0.1:9"))
        server.until_ready()
        listed = server.get("/api/engines").json()["engines"]
        assert [engine["state"] for engine in listed] == ["ready", "unreachable"]
        assert server.post("/v1/completions", model="there", prompt="a", max_tokens=2).status_code == 200
        assert server.post("/api/engines/external-1/stop").status_code == 403
        fake.process.kill()
        answer = server.post("/v1/completions", model="there", prompt="a")
        assert answer.status_code in (502, 503)


def test_orphans_of_a_crash_are_ended_at_the_next_start(tmp_path: Path) -> None:
    settings = supervised(tmp_path)
    with serving(tmp_path, **settings) as server:
        server.until_ready()
        engine = engines_of(server.process.pid)[0]
        guard = engine.parent()
        assert guard is not None
        # Both at once, as the memory killer may do it: nobody is left to end the engine but the next start.
        guard.suspend()
        server.process.kill()
        guard.kill()
    with serving(tmp_path, **settings) as second:
        second.until_ready()
        assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_a_second_ctrl_c_waits_for_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, **supervised(tmp_path, "--fake-ignore-sigterm")) as server:
        server.until_ready()
        tree = psutil.Process(server.process.pid).children(recursive=True)
        with socket.create_connection(("127.0.0.1", server.port)) as half:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nauthorization: Bearer k\r\ncontent-length: 9\r\n\r\n{")
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGINT)
            server.process.wait(8)  # the ladder alone would wait ten seconds for SIGTERM
        assert not psutil.wait_procs(tree, 5)[1]
        assert "Traceback" not in server.log.read_text()
