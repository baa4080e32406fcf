"""The editor's own pusher against a real gateway: it sends what `aicockpit watch` sends of the same tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aicockpit.workspace.store import Store
from fake_client import start_fake
from serving import Serving, environ, serving
from test_extension import packages, run

__all__ = ["packages"]  # a fixture

pytestmark = [pytest.mark.editor, pytest.mark.timeout(300)]

NODE = Path(sys.executable).parent / "node"
KEY = "-----BEGIN PRIVATE KEY-----\n"
FILES = {
    ".gitignore": "*.log\n/build/\nnode_modules\n!keep.log\ngen/\n",
    ".aicockpitignore": "!.env.example\n!gen/\ngen/skip/\n/docs/private/\n",
    **{"a.py": "print(1)\n", "x.log": "no", "keep.log": "yes", "build/o": "no", "node_modules/q/i.js": "no"},
    **{"src/b.ts": "export {}\n" * 50, "src/.gitignore": "*.tmp\n", "src/c.tmp": "no"},
    **{
        "src/é ü.txt": "ü",
        "src/sp ace.md": "# x",
        "empty.txt": "",
        "nl\nname.py": "odd",
        "dup1": "same",
        "dup2": "same",
    },
    **{".env": "K=1", ".env.example": "K=", "deep/.env.local": "x", "id_rsa": "x"},
    **{"gen/api.py": "x=1", "gen/skip/y.py": "no", "gen/z.log": "no", "docs/private/s.md": "no", "docs/p.md": "ok"},
    **{"fix.json": f"a\n{KEY}", "fix.py": f"a='''\n{KEY}'''"},
    **{"conf/credentials/x.py": "1", "conf/credentials.json": "no", "tracked/inside.log": "t"},
}


def plant(root: Path) -> None:
    """A tree with everything that the rules treat specially."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "bin.dat").write_bytes(b"a\0b")
    (root / "edge.txt").write_text("x" * (1 << 20))
    (root / "large.txt").write_text("x" * ((1 << 20) + 1))
    (root / "latin.txt").write_bytes(b"\xff\xfe caf\xe9")
    (root / "link").symlink_to("a.py")
    (root / "dirlink").symlink_to("src")
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xffname.txt")).write_text("odd name")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    for words in (("init", "-q"), ("add", "-A"), ("add", "-f", "tracked/inside.log"), ("commit", "-qm", "x")):
        subprocess.run((*git, *words), cwd=root, check=True, capture_output=True)
    (root / "inner").mkdir()
    (root / "inner/i.py").write_text("1")
    subprocess.run((*git, "init", "-q"), cwd=root / "inner", check=True, capture_output=True)
    for number in range(300):
        (root / f"many/{number % 7}").mkdir(parents=True, exist_ok=True)
        (root / f"many/{number % 7}/m{number}.py").write_text(f"v={number}\n" * 40)


@contextmanager
def pusher(program: Path, server: Serving, root: Path, ledger: Path) -> Iterator[subprocess.Popen[str]]:
    words = [str(NODE), str(program), f"http://127.0.0.1:{server.port}", "by-editor", str(root), str(ledger)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, text=True, env={**os.environ, "AICOCKPIT_API_KEY": "k"}
    ) as child:
        try:
            yield child
            assert child.stdin is not None
            child.stdin.close()
            assert child.wait(30) == 0
        finally:
            child.kill()


def said(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Its next line: the server has everything."""
    assert child.stdout is not None
    found: dict[str, Any] = json.loads(child.stdout.readline())
    return found


def watch(server: Serving, root: Path, tmp_path: Path) -> None:
    """`aicockpit watch` until the server has everything."""
    words = ("watch", str(root), "--name", "by-watch", "--gateway", f"http://127.0.0.1:{server.port}")
    with subprocess.Popen(
        [sys.executable, "-m", "aicockpit.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ(tmp_path, AICOCKPIT_API_KEY="k"),
    ) as child:
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line)
            if line.startswith("in sync"):
                break
        child.terminate()
        assert lines[-1].startswith("in sync"), lines


def stored(state: Path) -> dict[str, dict[str, str]]:
    """Path and hash of each file of each workspace."""
    store = Store(state)
    try:
        return {info.name: {f.path: f.hash.hex() for f in store.files(info.id)} for info in store.list()}
    finally:
        store.close()


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    request.getfixturevalue("packages")
    made = tmp_path_factory.mktemp("pusher") / "push.cjs"
    words = ("test/integration/push.ts", "--bundle", "--platform=node", "--format=cjs", "--log-level=warning")
    run("npx", "esbuild", *words, f"--outfile={made}")
    return made


def test_the_editor_sends_what_the_watcher_sends(program: Path, tmp_path: Path) -> None:
    root, ledger = tmp_path / "tree", tmp_path / "ledger"
    root.mkdir()
    plant(root)
    with start_fake(tmp_path) as fake, serving(tmp_path, AICOCKPIT_ENGINE_URLS=f"unix:{fake.uds}") as server:
        server.until_ready()
        with pusher(program, server, root, ledger) as child:
            first = said(child)
            (root / "a.py").write_text("saved\n")
            (root / "src/new.py").write_text("new\n")
            (root / "dup2").unlink()
            assert child.stdin is not None
            child.stdin.write("a.py\nsrc/new.py\ndup2\n")
            child.stdin.flush()
            saved = said(child)
        with pusher(program, server, root, ledger) as child:
            again = said(child)
        watch(server, root, tmp_path)
    assert (first["revision"], saved["revision"], again["revision"]) == (1, 2, 2)
    assert (saved["files"], again["bodies"]) == (first["files"], 0), "a new one came, one went; nothing is sent twice"
    found = stored(tmp_path / "state/workspaces")
    # The editor cannot open a file whose name is not UTF-8, so it does not send it.
    assert found["by-watch"].pop("bad\\xffname.txt")
    assert found["by-editor"] == found["by-watch"]
    names = set(found["by-editor"])
    assert {"a.py", "src/new.py", "src/é ü.txt", "nl\nname.py", "gen/api.py", ".env.example", "edge.txt"} <= names
    assert not names & {"x.log", "dup2", ".env", "id_rsa", "fix.json", "gen/skip/y.py", "bin.dat", "large.txt", "link"}
