"""A store that is killed while it works, and one whose disk is full. Both in processes of their own."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aicockpit.workspace.store import Store
from store_child import NAME, OWNER, fingerprint

CHILD = Path(__file__).with_name("store_child.py")
KILLS = 25


def test_killed_at_any_moment_it_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    folder, chance = tmp_path / "store", random.Random(7)
    revision, mark, kept = 0, fingerprint([]), 0
    for round_ in range(KILLS):
        child = subprocess.Popen([sys.executable, CHILD, "sync", folder, str(round_)], stdout=subprocess.PIPE)
        assert child.stdout
        first = child.stdout.readline()
        time.sleep(chance.random() * 0.15)
        child.kill()
        child.wait()
        lines = (first + child.stdout.read()).decode().splitlines(keepends=True)
        child.stdout.close()
        promised = {revision: mark}
        acknowledged = revision
        for kind, number, found in (line.split() for line in lines if line.endswith("\n")):
            promised[int(number)] = found
            acknowledged = max(acknowledged, int(number)) if kind == "ack" else acknowledged
        store = Store(folder)
        info = store.find(OWNER, NAME)
        assert info
        files = store.files(info.id)
        assert info.revision in (acknowledged, acknowledged + 1)
        assert fingerprint(files) == promised[info.revision]
        assert (len(files), sum(found.size for found in files)) == (info.files, info.bytes)
        assert [found.path for found in files if store.blob(found.hash) is None] == []
        with contextlib.closing(sqlite3.connect(folder / "workspaces.db")) as db:
            rows = db.execute("SELECT hash FROM blobs").fetchall()
        assert [hash.hex() for (hash,) in rows if store.blob(hash) is None] == []
        state = int(store.get_state(info.id, "epoch") or 0)
        assert kept <= state <= acknowledged + 1
        kept = state
        revision, mark = info.revision, fingerprint(files)
        store.close()
    assert revision > KILLS // 5, "the writers were killed before they wrote"


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*own_mounts, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no process mount a small disk of its own")
    script = 'mount -t tmpfs -o size=3m small "$1" && exec "$2" "$3" full "$1/store"'
    command = [*own_mounts, "sh", "-c", script, "sh", str(tmp_path), sys.executable, str(CHILD)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is full, so nothing was changed: free some space" in done.stdout
    assert done.stdout.endswith("fine\n")


def test_how_long_a_workspace_was_not_used_outlives_a_restart(tmp_path: Path) -> None:
    ahead = 0.0

    def clock() -> float:
        return time.time() + ahead

    store = Store(tmp_path / "used", clock=clock)
    id = store.create("me", "repo").id
    ahead += 100
    assert store.unused_s(id) == pytest.approx(100, abs=1)
    store.touch(id)
    assert store.unused_s(id) == pytest.approx(0, abs=1)
    store.close()
    ahead += 50
    store = Store(tmp_path / "used", clock=clock)
    assert store.unused_s(id) == pytest.approx(50, abs=1)
    assert store.unused_s(id + 1) == 0
    store.close()
