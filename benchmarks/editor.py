"""What a user of the VS Code extension waits for: `python benchmarks/editor.py [--write]`.

In a real extension host (code-server, the real gateway, a fake engine): activation, from the event of a change to the
request, accept. The pure path, type-through, in Node. Peers' fixed delays stand in docs/performance.md as their sources
have them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import sections
from benchmarks.gateway import machine
from benchmarks.proc import ROOT
from benchmarks.report import markdown_table

PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / "vscode-extension"


def run(*command: str) -> str:
    """Output of a command in the extension's folder, with this environment's Node."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=FOLDER, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def figures() -> dict[str, Any]:
    """Milliseconds and bytes by name."""
    run("bash", "scripts/workbench.sh")
    run("npm", "run", "--silent", "package")
    load = json.loads(run("node", "scripts/load.mjs"))
    hosted = json.loads(run("node", "test/host/run.mjs", "bench.cjs").splitlines()[-2])
    speed = run("npx", "vitest", "run", "test/unit/completion/speed.test.ts")
    pure = {
        name: (float(p50), float(p95))
        for name, p50, p95 in re.findall(r"(change to request|type-through): p50 ([\d.]+) ms, p95 ([\d.]+) ms", speed)
    }
    sizes = {one.name: one.stat().st_size for one in (FOLDER / "dist").glob("*.js")}
    return {"load": load, **hosted, "pure": pure, "sizes": sizes, "vsix": (FOLDER / "aicockpit.vsix").stat().st_size}


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    def ms(p50: float, p95: float) -> tuple[str, str]:
        return f"{p50:.2f} ms", f"{p95:.2f} ms"

    through, pure = found["pure"]["type-through"], found["pure"]["change to request"]
    activation = found["activationMs"] + found["load"]["p50"]
    extension, largest = found["sizes"]["extension.js"], max(found["sizes"].values())
    typed = found["keystroke"]
    verdict = {True: "PASS", False: "MISSED"}
    return [
        ("change event to request, in the extension host", *ms(typed["p50"], typed["p95"]), "", ""),
        ("change to request, without an editor", *ms(*pure), "", ""),
        ("type-through, without an editor", *ms(*through), "p95 <= 5 ms", verdict[through[1] <= 5]),
        ("accept: command to changed text", *ms(found["accept"]["p50"], found["accept"]["p95"]), "", ""),
        ("activation: load and activate", f"{activation:.0f} ms", "", "< 150 ms", verdict[activation < 150]),
        ("bundle: extension.js", f"{extension / 1e3:.0f} kB", "", "< 500 kB", verdict[largest < 500e3]),
        ("bundle: the chat's page", f"{found['sizes']['chat.js'] / 1e3:.0f} kB", "", "", ""),
        ("the VSIX", f"{found['vsix'] / 1e3:.0f} kB", "", "", ""),
    ]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/editor.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    chosen = parser.parse_args(words)
    table = rows(figures())
    for row in table:
        print("  ".join(row))
    if chosen.write:
        command = shlex.join(["python", "benchmarks/editor.py", *words])
        made = f"{time.strftime('%Y-%m-%d')}; {machine()}. Made by `{command}`."
        sections.write(PAGE, "editor", f"{made}\n\n{markdown_table(('', 'p50', 'p95', 'bar', 'verdict'), table)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
