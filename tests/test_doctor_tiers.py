"""What the doctor tells of a KV tier's folder (whose it is, what is in it) and of LMCache's server, and its command."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aicockpit.doctor import tiers
from aicockpit.doctor.finding import Finding
from aicockpit.doctor.lmcache import Answer
from aicockpit.doctor.lmcache import look as ask_server
from aicockpit.errors import SettingError
from aicockpit.hardware.device import GIB
from aicockpit.hardware.machine import Cpu, Gpu, Host, Kernel, Memory, Snapshot
from aicockpit.kvdisk.ledger import Ledger
from aicockpit.kvdisk.shelf import make_root
from aicockpit.recipes import fleet, lmcache, tier
from aicockpit.settings import Settings, load
from aicockpit.types import KvTier

HOST = Host(
    "Linux",
    Cpu("x86_64", "Some CPU", 8, 8, 1, 1, ("avx2", "avx512f")),
    Memory(64 * GIB, 60 * GIB, 0, 0),
    Kernel(1_048_576, 1024, True, 65_536, 65_536, 80 * GIB, 80 * GIB),
)
GPU = Gpu(0, "GPU-0", "NVIDIA RTX A6000", 48 * GIB, 47 * GIB, GIB, 0, (8, 6), "nvidia", None)
BLOCK = Path(f"m-{'ab' * 16}", "r0", "cd", f"{'cd' * 32}.kv")
FILE = Path("ab" * 8, "digest_r0", "abc", "de_g0", f"{'cd' * 16}.bin")  # vLLM's own, as models/kv_files.py knows it
NOBODY = 65534


def settings(state: Path, wish: str, gpus: int = 0, model: str = "a/m", **more: str) -> Settings:
    more |= {"AICOCKPIT_STATE_DIR": str(state), "MODEL_NAME": model, "GPU_COUNT": str(gpus)}
    return load(environ={**more, "AICOCKPIT_KV_TIER": wish})


def look(asked: Settings, host: Host = HOST) -> dict[str, Finding]:
    on_gpu = any(m.gpus for m in fleet.ask(asked).models)
    machine = Snapshot((GPU,) if on_gpu else (), host=host)
    rows = {one.id: one for one in tiers.findings(asked, fleet.ask(asked).models, machine)}
    assert all(row.fix for row in rows.values() if row.mark != "ok"), "what is wrong comes with what to do"
    assert not any(row.fix for row in rows.values() if row.mark == "ok")
    return rows


def things(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_sound_folder_is_ok_and_a_look_makes_nothing(tmp_path: Path) -> None:
    for folder in (tmp_path / "not" / "there", tmp_path):
        row = look(settings(tmp_path / "state", f"disk:1MiB:{folder}"))["kv-tier"]
        assert (row.mark, row.fix) == ("ok", "")
    assert things(tmp_path) == []
    Ledger(str(tmp_path), 1 << 20).check()
    assert look(settings(tmp_path / "state", f"disk:1MiB:{tmp_path}"))["kv-tier"].mark == "ok"
    assert things(tmp_path) == [".lock"]


def damage_mode(folder: Path) -> None:
    folder.chmod(0o777)


def damage_group(folder: Path) -> None:
    folder.chmod(0o775)


def damage_owner(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)


def damage_lock(folder: Path) -> None:
    (folder / ".lock").symlink_to("elsewhere")


def damage_kind(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("a file")


def damage_link(folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to("nowhere")


def connector(folder: Path) -> None:
    """What it asks of the root at an engine's start."""
    make_root(str(folder))
    Ledger(str(folder), 1 << 20).check()


@pytest.mark.parametrize(
    "damage",
    [damage_mode, damage_group, damage_owner, damage_lock, damage_kind, damage_link],
    ids=lambda one: one.__name__,
)
def test_a_folder_that_the_connector_refuses_is_bad(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    if damage is damage_owner and os.geteuid():
        pytest.skip("only root gives folders away")
    folder = tmp_path / "kv"
    folder.mkdir()
    damage(folder)
    before = things(tmp_path)
    with pytest.raises(OSError, match=str(folder)):
        connector(folder)
    row = look(settings(tmp_path / "state", f"disk:1MiB:{folder}"))["kv-tier"]
    assert (row.mark, str(folder) in row.found, "disk:SIZE:FOLDER" in row.fix) == ("bad", True, True)
    assert things(tmp_path) == before


def starts_on_a_gpu(folder: Path) -> bool:
    """Does a start take the folder for a model's files?"""
    try:
        tier.prepare(tier.Tier("", files=folder / "mark"), settings(folder / "state", "disk:1MiB"))
    except SettingError:
        return False
    (folder / "mark").rmdir()
    return True


def test_on_gpus_what_a_start_refuses_is_bad_and_what_others_could_change_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    folder.mkdir()
    for mode, mark in ((0o700, "ok"), (0o1777, "ok"), (0o775, "warn"), (0o777, "bad")):
        folder.chmod(mode)
        row = look(settings(tmp_path / "state", f"disk:1MiB:{folder}", 1))["kv-tier"]
        assert (row.mark, "may write in" in row.found) == (mark, mark != "ok")
        assert starts_on_a_gpu(folder) == (mark != "bad")
    folder.rmdir()
    folder.write_text("a file")
    assert look(settings(tmp_path / "state", f"disk:1MiB:{folder}", 1))["kv-tier"].mark == "bad"


def told(asked: Settings) -> list[str]:
    row = look(asked)["kv-tier"]
    return [row.mark, row.found]


def as_nobody(call: Callable[[], list[str]]) -> list[str]:
    """What a user without rights gets: in a process of its own, since rights do not come back."""
    if os.geteuid():
        pytest.skip("only root becomes somebody else")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, json.dumps(call()).encode())
        except BaseException as error:  # noqa: BLE001  # the parent is to tell it
            os.write(writer, json.dumps([repr(error)]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told: list[str] = json.loads(pipe.read())
    os.waitpid(child, 0)
    return told


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_folder_that_cannot_be_made_is_bad(gpus: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "closed").mkdir(mode=0o700)
        for folder in (top / "kv", top / "closed" / "kv"):
            asked = settings(top / "state", f"disk:1MiB:{folder}", gpus)
            row = as_nobody(partial(told, asked))
            assert row[0] == "bad", row
            assert f"{folder} cannot be written" in row[1]


def test_a_folder_for_reading_serves_the_cpu_and_not_vllms_own_tier() -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        (top / BLOCK).parent.mkdir(parents=True)
        (top / BLOCK).write_bytes(bytes(10))
        for gpus, mark, says in ((0, "warn", "can be read and not written"), (1, "bad", "cannot be written")):
            asked = settings(top / "state", f"disk:1MiB:{top}", gpus)
            row = as_nobody(partial(told, asked))
            assert (row[0], says in row[1]) == (mark, True), row


def qwen_next(folder: Path) -> Path:
    folder.mkdir()
    kinds = ["linear_attention", "full_attention"]
    config = {"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "num_hidden_layers": 2}
    config |= {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
    config |= {"vocab_size": 100, "max_position_embeddings": 512, "torch_dtype": "bfloat16", "layer_types": kinds}
    config |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16}
    config |= {"linear_value_head_dim": 16, "linear_conv_kernel_dim": 4, "head_dim": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_linear_attention_is_told_as_a_start_tells_it(tmp_path: Path) -> None:
    model = str(qwen_next(tmp_path / "model"))
    with pytest.raises(SettingError) as refused:
        tier.wanted("m", KvTier("disk", GIB), tier.Place("cpu"), tmp_path, (), "", ("linear",))
    row = look(settings(tmp_path / "state", "disk:1MiB", model=model))["kv-tier"]
    assert row.mark == "bad"
    why, fix = row.found.partition(": ")[2], row.fix
    assert f"m: kv_tier disk:1GiB cannot be had: {why}. Instead, {fix}." == str(refused.value)
    assert look(settings(tmp_path / "state", "disk:1MiB", 1, model))["kv-tier"].mark == "ok"


def fill(folder: Path, name: Path, size: int) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.parametrize(("gpus", "own", "other"), [(0, BLOCK, FILE), (1, FILE, BLOCK)])
def test_only_what_the_tier_removes_counts_against_its_size(tmp_path: Path, gpus: int, own: Path, other: Path) -> None:
    folder = tmp_path / "kv"
    stays = [fill(folder, name, 3 << 20) for name in (Path("photos/one.jpg"), other, own.with_suffix(".bak"))]
    half = fill(folder, own.with_name(f"{own.name}_1.tmp"), 10) if gpus else fill(folder, Path("x.tmp"), 10)
    os.utime(half, (1, 1))
    asked = settings(tmp_path / "state", f"disk:1MiB:{folder}", gpus)
    assert "kv-tier.room" not in look(asked), "a server would remove none of this"
    fill(folder, own, 2 << 20)
    assert look(asked)["kv-tier.room"].found == f"{folder} holds 2.0 MiB of 1.0 MiB"
    assert all(path.exists() for path in (half, *stays)), "a look removes nothing"


def test_a_full_disk_is_told_with_what_else_lies_there(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    fill(folder, Path("photos/one.jpg"), 3 << 20)
    fill(folder, BLOCK, 2 << 20)
    found = look(settings(tmp_path / "state", f"disk:1000TiB:{folder}"))["kv-tier.room"].found
    assert f"{folder} may grow to 1000.0 TiB" in found
    assert found.endswith("other things in it take 3.0 MiB, which stays")


def test_cpu_and_gpus_in_one_folder_each_take_their_size(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("models: [{model: a, gpus: 0}, {model: b, gpus: 1}]")
    asked = load(
        environ={
            "AICOCKPIT_FLEET": str(file),
            "AICOCKPIT_STATE_DIR": str(tmp_path / "state"),
            "AICOCKPIT_KV_TIER": f"disk:600TiB:{tmp_path}",
        }
    )
    assert f"{tmp_path} may grow to 1200.0 TiB" in look(asked)["kv-tier.room"].found


# LMCache's server.


@contextmanager
def serving(answers: dict[str, tuple[int, str]]) -> Iterator[int]:
    """An HTTP server of this machine; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answers.get(self.path, (404, "{}"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


WELL = {"/healthcheck": (200, '{"status": "healthy"}'), "/lmc_version": (200, f'"{tier.LMCACHE}"')}


@pytest.mark.parametrize(
    ("answers", "engines", "mark", "says"),
    [
        (WELL, True, "ok", f"of version {tier.LMCACHE}"),
        ({"/healthcheck": WELL["/healthcheck"]}, True, "ok", "its server answers"),
        ({**WELL, "/lmc_version": (200, '"0.4.1"')}, True, "warn", "of version 0.4.1 and not"),
        (WELL, False, "bad", "where engines look"),
        ({"/healthcheck": (503, '{"status": "unhealthy", "reason": "not initialized"}')}, True, "bad", "not init"),
        ({"/healthcheck": (200, "<html>")}, True, "bad", "is not LMCache (status 200)"),
        ({"/healthcheck": (200, "x" * 200_000)}, True, "bad", "is not LMCache"),
        ({}, True, "bad", "is not LMCache (status 404)"),
    ],
)  # fmt: skip
def test_a_server_is_asked_how_it_is(
    tmp_path: Path, answers: dict[str, tuple[int, str]], engines: bool, mark: str, says: str
) -> None:
    with serving(answers) as http, socket.create_server(("127.0.0.1", 0)) as theirs:
        port = theirs.getsockname()[1]
        if not engines:
            theirs.close()
        found = ask_server(lmcache.Server(1, 1, tmp_path, port, http))
    assert (found.mark, says in found.found) == (mark, True), found


def test_no_server_is_bad_and_a_silent_one_does_not_hold_the_doctor_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
        silent = ask_server(lmcache.Server(1, 1, tmp_path, *ports))
    assert (silent.mark, "nothing answers" in silent.found) == ("warn", True)
    gone = ask_server(lmcache.Server(1, 1, tmp_path, *ports))
    assert (gone.mark, gone.found.startswith("no server listens")) == ("bad", True)


def parsed(command: str) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Its flags, by a parser that knows those of LMCache 0.5.6 that are used."""
    words = shlex.split(command)
    flags = words[words.index("server") + 1 :]
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name, kind in (("host", str), ("http-host", str), ("port", int), ("http-port", int), ("l1-size-gb", str)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--eviction-policy", choices=["LRU", "ARC", "IsolatedLRU", "noop"], required=True)
    parser.add_argument("--l2-adapter", type=json.loads, required=True)
    found = parser.parse_args(flags)
    return found, found.l2_adapter


def test_the_command_is_complete_and_its_sizes_are_the_machines(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    flags, files = parsed(lmcache.server(folder, 64 * GIB, 400 * GIB, 8000).command)
    assert (flags.port, flags.http_port, flags.l1_size_gb) == (tier.LMCACHE_PORT, 8080, "16")
    assert (files["type"], files["base_path"], files["max_capacity_gb"]) == ("fs_native", str(folder), 100)
    assert files["eviction"]["eviction_policy"] == "LRU", "without it LMCache removes nothing"
    flags, files = parsed(lmcache.server(folder, 64 * GIB, None, 8080).command)
    assert flags.http_port == 8081, "8080 is AiCockpit's own"
    assert files["max_capacity_gb"] == "GIB", "what nobody knows is yours to say"
    flags, _ = parsed(lmcache.server(folder, None, 1, 8000).command)
    assert flags.l1_size_gb == "GIB"
    assert (lmcache.PORT, lmcache.VERSION) == (tier.LMCACHE_PORT, tier.LMCACHE), "engines look there"


def test_its_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "kv of 'LMCache'"
    command = lmcache.server(folder, None, GIB, 8000).command
    assert os.system(command.partition(" && ")[0]) == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_doctor_looks_for_the_server_and_tells_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings(tmp_path, "lmcache", 1, AICOCKPIT_VLLM_COMMAND="vllm serve")
    seen: list[lmcache.Server] = []

    def answer(mark: Any) -> Callable[[lmcache.Server], Answer]:
        return lambda server: seen.append(server) or Answer(mark, "as it is")  # type: ignore[func-returns-value]

    monkeypatch.setattr(tiers, "look", answer("bad"))
    row = look(asked)["kv-tier"]
    assert (row.mark, row.found.endswith("; as it is")) == ("bad", True)
    assert row.fix == f"start lmcache==0.5.6 before the engines: {seen[0].command}"
    assert (seen[0].gib, seen[0].folder) == (16, tmp_path / "lmcache")
    limited = replace(HOST, memory=replace(HOST.memory, limit=8 * GIB, limit_used=0))
    look(asked, limited)
    assert seen[1].gib == 2, "a container's limit is what there is"
    monkeypatch.setattr(tiers, "look", answer("ok"))
    assert look(asked)["kv-tier"].mark == "ok"
    look(settings(tmp_path, "disk:1MiB", 1))
    assert len(seen) == 3, "who asks for no LMCache is not kept waiting"
