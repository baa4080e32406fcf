"""commands/models.py and commands/usage.py: what is printed, asked and refused. Runs are processes, as a user's."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import fake_hub
from aicockpit.commands import models
from aicockpit.commands.usage import users
from aicockpit.models.cache import Entry, listing
from aicockpit.models.hub import Hub
from aicockpit.settings import Settings, load
from fake_hub import FILES, SHA, WEIGHTS, Fault
from hub_rig import environment, requests_for, server

__all__ = ["environment", "server"]
# The command line with this command alone.
CLI = """
import argparse, sys
from aicockpit import settings
from aicockpit.commands import models
from aicockpit.errors import AicockpitError
parser = argparse.ArgumentParser("aicockpit")
commands = parser.add_subparsers(required=True)
def add(name, run, text):
    made = commands.add_parser(name, help=text)
    made.set_defaults(run=run)
    return made
models.add(add)
arguments = parser.parse_args()
try:
    sys.exit(arguments.run(settings.load(getattr(arguments, "env_file", None)), arguments))
except AicockpitError as error:
    sys.exit(f"aicockpit: {error}")
except KeyboardInterrupt:
    sys.exit(130)
"""
NEXT = "b" * 40
BIG = "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", CLI, "models", *words]


def environ(tmp_path: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "AICOCKPIT_STATE_DIR": str(tmp_path / "state"), **extra}


def run(tmp_path: Path, *words: str, code: int = 0, **extra: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*words), env=environ(tmp_path, **extra), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    found = listing(Hub("", tmp_path / "cache"), tmp_path / "state")
    return [models._row(entry) for entry in found.entries]


def test_pull_list_verify_and_remove(environment: fake_hub.Hub, tmp_path: Path) -> None:
    assert "0 models" in run(tmp_path).stdout
    environment.publish(BIG, dict(FILES))
    pulled = run(tmp_path, "pull", BIG, "ok/m")
    folders = [Path(line) for line in pulled.stdout.splitlines()]
    assert [(folder / "model.safetensors").read_bytes() for folder in folders] == [WEIGHTS] * 2
    assert f"{BIG}: asking http" in pulled.stderr
    assert json.loads(run(tmp_path, "list", "--json").stdout) == rows(tmp_path)
    (row, big) = rows(tmp_path)
    assert (row["model"], row["revision"], row["refs"], row["complete"]) == ("ok/m", SHA, ["main"], True)
    assert (row["used"], row["path"]) == (None, str(folders[1]))
    assert row["hashed"].startswith("20")
    shown = run(tmp_path, "list", COLUMNS="80").stdout
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("2 models"))
    assert re.search(rf"{BIG} +3.1 MB +- +\d min  complete", shown)
    assert "aaaaaaaa main" in shown
    assert "ok/m@aaaaaaaa: 3 files are right" in run(tmp_path, "verify", "ok/m").stdout
    assert "ok/m@aaaaaaaa: 3.1 MB in /" in run(tmp_path, "rm", "ok/m", "--yes").stdout
    assert rows(tmp_path) == [big]


def test_a_script_gets_json_from_each(environment: fake_hub.Hub, tmp_path: Path) -> None:
    (pulled,) = json.loads(run(tmp_path, "pull", "ok/m@main", "--json").stdout)
    assert (pulled["model"], pulled["source"]) == ("ok/m@main", "hub")
    (checked,) = json.loads(run(tmp_path, "verify", "--json").stdout)
    assert (checked["right"], checked["wrong"]) == (3, [])
    told = json.loads(run(tmp_path, "prune", "--older-than", "0h", "--dry-run", "--json").stdout)
    assert [(row["model"], row["why"]) for row in told["removed"]] == [("ok/m", "not used for 0 h")]
    assert (told["dry_run"], told["leftovers"], told["spared"]) == (True, [], [])
    gone = json.loads(run(tmp_path, "rm", "ok/m", "--yes", "--json").stdout)
    assert gone["freed"] == sum(len(FILES[n]) for n in ("config.json", "tokenizer.json", "model.safetensors"))
    assert rows(tmp_path) == []


def test_every_model_is_checked_before_one_is_fetched(environment: fake_hub.Hub, tmp_path: Path) -> None:
    error = run(tmp_path, "pull", "ok/m", "gated/m", "gone/m", code=1).stderr
    assert "gated/m is gated. Accept its licence" in error
    assert "There is no model gone/m" in error
    assert environment.sent == 0
    assert "is a folder here" in run(tmp_path, "pull", str(tmp_path), code=1).stderr


def test_pull_brings_a_newer_revision_and_rm_removes_one(environment: fake_hub.Hub, tmp_path: Path) -> None:
    run(tmp_path, "pull", "ok/m")
    environment.publish("ok/m", {**FILES, "config.json": b"{} "}, NEXT)
    assert run(tmp_path, "pull", "ok/m").stdout.strip().endswith(NEXT)
    assert {row["revision"]: row["refs"] for row in rows(tmp_path)} == {SHA: [], NEXT: ["main"]}
    assert "removed; " in run(tmp_path, "rm", f"ok/m@{SHA[:8]}", "--yes").stdout
    assert [row["revision"] for row in rows(tmp_path)] == [NEXT]
    assert "Did you mean ok/m?" in run(tmp_path, "rm", "ok/mm", "--yes", code=1).stderr
    run(tmp_path, "rm", f"ok/m@{SHA[:8]}", "--yes", code=1)


def test_without_a_network_pull_says_what_the_cache_has(environment: fake_hub.Hub, tmp_path: Path) -> None:
    path = run(tmp_path, "pull", "ok/m").stdout
    away = run(tmp_path, "pull", "ok/m", HF_ENDPOINT="http://127.0.0.1:9")
    assert away.stdout == path
    assert "not asked for a newer revision, the cache has aaaaaaaa" in away.stderr
    told = run(tmp_path, "pull", "ok/m", HF_HUB_OFFLINE="1")
    assert (told.stdout, "HF_HUB_OFFLINE is set" in told.stderr) == (path, True)
    assert "HF_HUB_OFFLINE is set" in run(tmp_path, "pull", "ok/n", code=1, HF_HUB_OFFLINE="1").stderr


def test_ctrl_c_ends_at_once_and_the_next_pull_goes_on(environment: fake_hub.Hub, tmp_path: Path) -> None:
    environment.fault(Fault("GET /cdn", 1, pace=300_000))  # ten seconds for all of it
    child = subprocess.Popen(command("pull", "ok/m"), env=environ(tmp_path), stderr=subprocess.PIPE, text=True)
    while environment.sent < 150_000 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = child.communicate()
    assert (child.returncode, time.monotonic() - began < 6) == (130, True)
    assert "`aicockpit models pull ok/m` goes on with it" in errors
    (row,) = rows(tmp_path)
    assert row["lack"].endswith("(a cut download)")
    assert run(tmp_path, "pull", "ok/m").stdout
    assert requests_for(environment, "GET /cdn") == 2
    assert environment.sent < len(WEIGHTS) + 300_000


def test_wrong_content_is_found_and_repaired(environment: fake_hub.Hub, tmp_path: Path) -> None:
    folder = Path(run(tmp_path, "pull", "ok/m").stdout.strip())
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(bytes(len(WEIGHTS)))
    (folder / "tokenizer.json").resolve().unlink()
    told = run(tmp_path, "verify", code=1)
    assert "1 files are right, 1 are WRONG (model.safetensors), it lacks 1 of 3 files (such as token" in told.stdout
    assert "`aicockpit models verify --repair`" in told.stderr
    assert "; mended" in run(tmp_path, "verify", "--repair").stdout
    assert blob.read_bytes() == WEIGHTS
    run(tmp_path, "verify")


def test_prune_by_age_and_space(environment: fake_hub.Hub, tmp_path: Path) -> None:
    old, new = (Path(line) for line in run(tmp_path, "pull", "ok/old", "ok/new").stdout.splitlines())
    for file in old.iterdir():
        os.utime(file, (1e9, 1e9))
    told = run(tmp_path, "prune", "--older-than", "30d", "--dry-run").stdout
    assert "ok/old@aaaaaaaa: 3.1 MB, not used for" in told
    assert "ok/new" not in told
    assert "would free 3.1 MB" in told
    assert old.exists()
    assert "say --yes" in run(tmp_path, "prune", "--older-than", "30d", code=1).stderr
    assert "freed 3.1 MB" in run(tmp_path, "prune", "--older-than", "30d", "--yes").stdout
    assert (old.exists(), new.exists()) == (False, True)
    assert "freed 0.0 MB" in run(tmp_path, "prune", "--keep", "1GB", "--yes").stdout
    assert "to keep 1.0 MB" in run(tmp_path, "prune", "--keep", "1MB", "--yes").stdout
    assert rows(tmp_path) == []


def test_rm_asks_a_person(environment: fake_hub.Hub, tmp_path: Path) -> None:
    run(tmp_path, "pull", "ok/m")
    assert "Nobody is there to ask: say --yes" in run(tmp_path, "rm", "ok/m", code=1).stderr
    for answer, code, left in ((b"n\n", 1, 1), (b"\n", 1, 1), (b"y\n", 0, 0)):
        mine, theirs = pty.openpty()
        child = subprocess.Popen(command("rm", "ok/m"), env=environ(tmp_path), stdin=theirs, stdout=subprocess.PIPE)
        os.write(mine, answer)
        out, _ = child.communicate()
        os.close(mine)
        os.close(theirs)
        assert (child.returncode, len(rows(tmp_path))) == (code, left), out
        assert b"Remove 1 and free 3.1 MB? [y/N]" in out


def test_a_model_in_use_is_not_removed(environment: fake_hub.Hub, tmp_path: Path) -> None:
    folder = run(tmp_path, "pull", "ok/m").stdout.strip()
    words = [sys.executable, "-c", "import time; time.sleep(60)", "vllm", "serve", folder]
    with subprocess.Popen(words) as engine:
        try:
            error = run(tmp_path, "rm", "ok/m", "--yes", code=1).stderr
            assert f"ok/m@aaaaaaaa is used by process {engine.pid}" in error
            assert "stays: used by process" in run(tmp_path, "prune", "--older-than", "0h", "--yes").stdout
        finally:
            engine.kill()
    assert len(rows(tmp_path)) == 1
    run(tmp_path, "rm", "ok/m", "--yes")


def entry(model: str, revision: str = SHA) -> Entry:
    path = Path("/c") / f"models--{model.replace('/', '--')}" / "snapshots" / revision
    return Entry(model, "cache", revision, ("main",), path, frozenset())


@contextmanager
def gateway(loaded: Settings, names: list[str]) -> Iterator[None]:
    """The control socket of a server whose one engine is stopped."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"engines": [{"name": "m-0", "models": names}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    loaded.run_dir.mkdir(parents=True)
    with socketserver.UnixStreamServer(str(loaded.run_dir / "gateway.sock"), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield
        made.shutdown()
        thread.join()


def test_a_model_that_a_running_server_has_unloaded_counts_as_used(tmp_path: Path) -> None:
    file = tmp_path / "aicockpit.yaml"
    file.write_text("models:\n  - model: ok/pinned@main\n    name: other\n")
    state = {"AICOCKPIT_STATE_DIR": str(tmp_path / "s"), "AICOCKPIT_FLEET": str(file)}
    loaded = load(environ=state)
    assert users(loaded)(entry("ok/m")) == ""
    with gateway(loaded, ["ok/m", "alias"]):
        user_of = users(loaded)
    assert user_of(entry("ok/m")) == "the running server (engine m-0)"
    assert user_of(entry("ok/pinned")) == "the running server (its settings)"
    assert user_of(entry("ok/x")) == ""
    assert user_of(replace(entry("ok/x"), busy=True)) == "a download"


@pytest.mark.parametrize(
    ("words", "used"),
    [
        (["vllm", "serve", "ok/m"], {SHA, NEXT}),
        (["aicockpit.models.locate", f"ok/m@{SHA}"], {SHA}),
        (["vllm", "--model", str(entry("ok/m", NEXT).path)], {NEXT}),
        (["vllm", "serve", f"/another/way/models--ok--m/snapshots/{NEXT}"], {NEXT}),
        (["less", "ok/m"], set()),
    ],
)
def test_processes_say_what_they_use(tmp_path: Path, words: list[str], used: set[str]) -> None:
    loaded = load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "s")})
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words]) as other:
        try:
            user_of = users(loaded)
        finally:
            other.kill()
    found = {one for one in (SHA, NEXT) if user_of(entry("ok/m", one)) == f"process {other.pid}"}
    assert found == used


@pytest.mark.parametrize(("text", "value"), [("12h", 43_200), ("30d", 2_592_000), ("1.5w", 907_200)])
def test_ages(text: str, value: float) -> None:
    assert models._age(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("200GB", 200 * 10**9), ("1.5 tb", 1.5 * 10**12), ("2GiB", 2**31), ("7", 7)]
)
def test_sizes(text: str, value: float) -> None:
    assert models._amount(text) == value


@pytest.mark.parametrize("text", ["", "d", "30", "-3d", "3 months"])
def test_what_is_no_age_and_no_size_is_told(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no age such as 12h"):
        models._age(text)
    with pytest.raises(argparse.ArgumentTypeError, match="is no size such as 200GB"):
        models._amount(f"x{text}")


def test_times_are_short() -> None:
    ages = [models._ago(when, 1e9) for when in (None, 1e9, 1e9 - 7200, 1e9 - 86_400 * 30, 0, 2e9)]
    assert ages == ["-", "0 min", "2 h", "30 d", "32 y", "0 min"]
