"""The VS Code extension: its own checks, its package, and a real workbench with it in front of the real gateway.

Node comes with the `test` extra; `npm install`, by the lock file, and `scripts/workbench.sh` bring the rest into the
extension's folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from real import KEY, MODEL, Server

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "vscode-extension"
SHOTS = FOLDER / ".e2e" / "shots"
BIN = Path(sys.executable).parent
# Exactly these: a part that is not played any more, or ends early, must not pass.
HOST_TESTS, STEPS, REAL_STEPS = 12, 48, 5

pytestmark = [pytest.mark.editor, pytest.mark.timeout(900)]


def run(*command: str, limit_s: float = 600.0, **environ: str) -> str:
    """Output of a command in the extension's folder, with this environment's Node; fails with that output."""
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable, **environ}
    for name in ("NODE_OPTIONS", "ONLY", "KEEP"):  # parts of a run are no run
        env.pop(name, None)
    done = subprocess.run(
        command,
        cwd=FOLDER,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


@pytest.fixture(scope="module")
def packages() -> None:
    """node_modules as the lock file says; a second run with the same lock file takes what is there."""
    lock, stamp = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.aicockpit"
    if not stamp.is_file() or stamp.read_bytes() != lock.read_bytes():
        run("npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error")
        stamp.write_bytes(lock.read_bytes())


@pytest.fixture(scope="module")
def vsix(packages: None) -> Path:
    run("npm", "run", "--silent", "package")
    return FOLDER / "aicockpit.vsix"


@pytest.fixture(scope="module")
def workbench(packages: None) -> None:
    """code-server and Chromium. Missing ones fail in CI; elsewhere the tests that need them are left out, said so."""
    done = subprocess.run(
        ["bash", "scripts/workbench.sh"],
        cwd=FOLDER,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode == 3 and os.environ.get("CI") != "true":
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr


def passed(output: str) -> int:
    """Steps that a script of ours passed, from its last line."""
    found = re.search(r"(\d+) passed, 0 failed\s*$", output)
    assert found is not None, output[-8000:]
    return int(found[1])


def test_types_lint_and_unit_tests(packages: None) -> None:
    run("npm", "run", "--silent", "types")
    run("npm", "run", "--silent", "lint")
    output = run("npm", "run", "--silent", "test")
    assert re.search(r"Tests\s+\d+ passed", re.sub(r"\x1b\[[0-9;]*m", "", output)), output[-4000:]


def test_the_package_is_small_and_holds_only_what_runs(vsix: Path) -> None:
    with zipfile.ZipFile(vsix) as archive:
        sizes = {info.filename.removeprefix("extension/"): info.file_size for info in archive.infolist()}
    assert vsix.stat().st_size < 500_000
    assert max(size for name, size in sizes.items() if name.startswith("dist/")) < 500_000, sizes
    assert {name.split("/")[0] for name in sizes} <= {
        *("dist", "media", "package.json", "LICENSE.txt", "readme.md", "changelog.md"),
        *("extension.vsixmanifest", "[Content_Types].xml"),
    }, sorted(sizes)
    assert len(json.loads((FOLDER / "package.json").read_text())["contributes"]["configuration"]["properties"]) <= 25


def test_the_package_s_page_asks_no_other_host(vsix: Path) -> None:
    with zipfile.ZipFile(vsix) as archive:
        names = [name for name in archive.namelist() if name.endswith(".md")]
        pages = {name: archive.read(name).decode() for name in names}
    assert {"extension/readme.md", "extension/changelog.md"} <= set(pages)
    for name, text in pages.items():
        assert not re.search(r"!\[[^\]]*\]\(|<img\b", text), f"{name} has a picture"
        for target in re.findall(r"\]\(([^)\s]+)\)|<(?:a\s+href=\"|)(https?:[^>\"]+)", text):
            assert "".join(target).startswith(("#", "command:")), f"{name} links to {target}"
    page, source = pages["extension/readme.md"], (FOLDER / "README.md").read_text()
    assert re.findall(r"^#+ .*", page, re.MULTILINE) == re.findall(r"^#+ .*", source, re.MULTILINE)


def test_in_the_extension_host(workbench: None, vsix: Path) -> None:
    assert passed(run("node", "test/host/run.mjs", limit_s=240, SHOTS=str(SHOTS))) == HOST_TESTS


def test_in_a_real_workbench(workbench: None, vsix: Path) -> None:
    assert passed(run("node", "test/e2e/run.mjs", limit_s=400, SHOTS=str(SHOTS))) == STEPS


@pytest.mark.real
def test_with_a_real_model(workbench: None, vsix: Path, server: Server) -> None:
    environ = {"SERVER_URL": f"http://127.0.0.1:{server.port}", "SERVER_KEY": KEY, "SERVER_MODEL": MODEL}
    assert passed(run("node", "test/e2e/real.mjs", limit_s=300, SHOTS=str(SHOTS), **environ)) == REAL_STEPS
