#!/usr/bin/env python3
"""Make `.venv` with the package and the right build of vLLM. Standard library only; run by the system's Python.

    python3 deploy/bootstrap.py [--extra auto|cpu|gpu|none] [--env-file FILE] [--with test] [--venv .venv] [--locked]

A second run finds its stamp and ends at once. `make start-dev` and `make test` call it. `auto` without an env file
installs what is certain: with an NVIDIA driver no engine yet, for the package is to tell which profile fits it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

MIN_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
DISK_GB = {"cpu": 3.5, "gpu": 14.0, "none": 0.5}
UV = "uv>=0.8,<1"
HEARTBEAT_S = 15.0
NETWORK_WAIT_S = "180"  # for one read; uv's own 30 s are short for wheels of hundreds of megabytes


class Wish(NamedTuple):
    """What shall be installed: the engine's extra (cpu, gpu, none), other extras, and whether by the lock file."""

    engine: str
    others: tuple[str, ...] = ()
    locked: bool = False
    venv: str = ".venv"  # its folder in the repository


class Failed(Exception):
    """Told to the user as it is."""


def fail(message: str) -> NoReturn:
    raise Failed(message)


def main(argv: list[str]) -> int:
    if sys.version_info[:2] < MIN_PYTHON:  # compared like this, since linters drop the plain form
        print(
            f"AiCockpit needs Python 3.11 or newer, this is {platform.python_version()}. "
            "Install one and name it: make start-dev PYTHON=python3.11",
            file=sys.stderr,
        )
        return 1
    try:
        install(parse(argv), ROOT)
    except Failed as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbootstrap: stopped; run it again to go on.", file=sys.stderr)
        return 130
    return 0


def parse(argv: list[str]) -> Wish:
    parser = argparse.ArgumentParser(description="Make .venv with AiCockpit and vLLM.")
    parser.add_argument("--extra", choices=["auto", "cpu", "gpu", "none"], default="auto", help="the build of vLLM")
    parser.add_argument("--with", dest="others", action="append", default=[], help="another extra, such as test")
    parser.add_argument("--env-file", default="", help="auto goes by its GPU_COUNT (default AICOCKPIT_ENV_FILE)")
    parser.add_argument("--venv", default=".venv", help="the folder to install into")
    parser.add_argument("--locked", action="store_true", help="the versions of deploy/cpu.lock (default when CI=true)")
    args = parser.parse_args(argv)
    file = args.env_file or os.environ.get("AICOCKPIT_ENV_FILE", "")
    engine = detect_engine(file, os.environ) if args.extra == "auto" else args.extra
    locked = (args.locked or os.environ.get("CI") == "true") and lockable(engine)
    if args.locked and not locked:
        fail("deploy/cpu.lock is for the CPU build on Linux x86_64 with Python 3.11; leave --locked out here.")
    return Wish(engine, tuple(sorted(set(args.others))), locked, args.venv)


def detect_engine(file: str, environ: Mapping[str, str]) -> str:
    """The build of vLLM that the start needs, as its settings say: none beside a vLLM of the user's own, GPU_COUNT=0 is
    the CPU, a number is GPUs, and otherwise the driver tells. Without an env file the profile is still to be found."""
    told = {**(read_env(Path(file)) if file else {}), **{name: text for name, text in environ.items() if text}}
    if told.get("AICOCKPIT_VLLM_COMMAND"):
        return "none"
    count = told.get("GPU_COUNT", "auto") if file else "auto"
    if count.isdigit():
        return "gpu" if int(count) else "cpu"
    if not has_driver():
        return "cpu"
    return "gpu" if file else "none"


def has_driver() -> bool:
    """An NVIDIA driver that is loaded, its device files in a container, or the library that Windows lends to WSL."""
    signs = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
    return any(Path(sign).exists() for sign in signs)


def read_env(file: Path) -> dict[str, str]:
    """NAME=VALUE lines, as much of the form as the names that are asked for here need."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        there = ", ".join(sorted(path.name.removeprefix(".env.") for path in ROOT.glob(".env.*")))
        fail(f"the env file {file} cannot be read ({error.strerror}). PROFILE is one of {there}.")
    pairs = [line.strip().removeprefix("export ").partition("=") for line in lines if not line.strip().startswith("#")]
    found = {name.strip(): text.split(" #")[0].strip().strip("\"'") for name, mark, text in pairs if mark}
    return {name: text for name, text in found.items() if text}


def lockable(engine: str) -> bool:
    here = (sys.version_info[:2], platform.system(), platform.machine())
    return engine != "gpu" and here == ((3, 11), "Linux", "x86_64")


def install(wish: Wish, root: Path) -> None:
    venv = root / wish.venv
    stamp = venv / "aicockpit-stamp.json"
    old = read_stamp(stamp)
    wish, fresh = merged(wish, old, fingerprint(root))
    if not fresh and satisfied(wish, old, fingerprint(root)):
        return
    started = time.monotonic()
    check_disk(wish.engine, root)
    if fresh and venv.exists():
        say(started, f"removing the old {wish.venv} (another Python or another build of vLLM)")
        shutil.rmtree(venv)
    stamp.unlink(missing_ok=True)
    make_venv(venv, started)
    say(started, f"step 3 of 3: installing AiCockpit{describe(wish)}")
    run_uv(uv_command(wish, root, os.environ.get("PIP_FIND_LINKS", "")), root)
    stamp.write_text(json.dumps({**wish._asdict(), "of": fingerprint(root), "python": sys.version}))
    say(started, "ready")


def describe(wish: Wish) -> str:
    engine = {"cpu": " with vLLM for the CPU (about 1 GB to download)", "gpu": " with vLLM for GPUs (about 5 GB)"}
    return engine.get(wish.engine, "")


def say(started: float, text: str) -> None:
    print(f"[{time.monotonic() - started:4.0f} s] {text}", flush=True)


def read_stamp(stamp: Path) -> dict[str, Any]:
    try:
        found = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fingerprint(root: Path) -> str:
    """Changes when a new install is due."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "deploy/cpu.lock", "deploy/cpu-overrides.txt", "deploy/bootstrap.py"):
        with contextlib.suppress(FileNotFoundError):
            digest.update(name.encode() + b"\0" + (root / name).read_bytes())
    digest.update(str(root).encode())  # scripts in .venv hold its path
    return digest.hexdigest()


def merged(wish: Wish, old: dict[str, Any], now: str) -> tuple[Wish, bool]:
    """The wish with what is installed already and shall stay; and whether .venv must be made from nothing."""
    if not old:
        return wish, False
    if old.get("python") != sys.version or (old.get("engine") not in ("none", wish.engine) and wish.engine != "none"):
        return wish, True
    engine = old["engine"] if wish.engine == "none" else wish.engine
    others = tuple(sorted({*wish.others, *old.get("others", [])}))
    locked = wish.locked or (bool(old.get("locked")) and old.get("of") == now)
    return Wish(engine, others, locked and lockable(engine), wish.venv), False


def satisfied(wish: Wish, old: dict[str, Any], now: str) -> bool:
    installed = Wish(old.get("engine", ""), tuple(old.get("others", ())), bool(old.get("locked")), wish.venv)
    return installed == wish and old.get("of") == now


def check_disk(engine: str, root: Path) -> None:
    free, needed = shutil.disk_usage(root).free / 1e9, DISK_GB[engine]
    if free < needed:
        fail(f"{needed:g} GB are needed in {root}, {free:.1f} GB are free. Free some space and run it again.")


def make_venv(venv: Path, started: float) -> None:
    python = venv / "bin" / "python"
    if not python.exists():
        say(started, f"step 1 of 3: making {venv.name}")
        try:
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, stdout=subprocess.DEVNULL)
        except subprocess.CalledProcessError:
            shutil.rmtree(venv, ignore_errors=True)
            fail(
                f"`{sys.executable} -m venv` failed, see above. On Debian and Ubuntu install the package python3-venv."
            )
    if (venv / "bin" / "uv").exists():
        return
    say(started, "step 2 of 3: installing uv, the installer")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV]
    if subprocess.run(command).returncode and subprocess.run(command).returncode:
        fail("pip could not install uv, see above. Check the network, the proxy and pip's index settings.")


def uv_command(wish: Wish, root: Path, find_links: str) -> list[str]:
    """The one install command. Without byte code each of vLLM's three processes would start 13 s later wherever
    PYTHONDONTWRITEBYTECODE is set; compiling costs 33 s on two cores."""
    extras = [*([] if wish.engine == "none" else [wish.engine]), *wish.others]
    target = f"{root}[{','.join(extras)}]" if extras else str(root)
    tools = root / wish.venv / "bin"
    command = [str(tools / "uv"), "pip", "install", "--python", str(tools / "python")]
    command += ["--compile-bytecode", "--editable", target]
    if wish.locked:
        command += ["--constraints", str(root / "deploy/cpu.lock")]
    if wish.engine == "cpu":
        command += ["--overrides", str(root / "deploy/cpu-overrides.txt")]
        folder = cpu_torch_folder(find_links)
        command += ["--find-links", folder] if folder else ["--torch-backend", "cpu"]
    return command


def cpu_torch_folder(find_links: str) -> str:
    """The folder of PIP_FIND_LINKS that holds a CPU build of torch for this Python; "" when none does."""
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    for place in find_links.split():
        folder = Path(place.removeprefix("file://"))
        if folder.is_dir() and any(folder.glob(f"torch-*+cpu-{tag}-*_{platform.machine()}.whl")):
            return str(folder)
    return ""


def run_uv(command: list[str], root: Path) -> None:
    """Twice if need be: networks fail for moments, and what was downloaded is kept."""
    environment = {"UV_HTTP_TIMEOUT": NETWORK_WAIT_S, **os.environ}
    environment.pop("VIRTUAL_ENV", None)
    started = time.monotonic()
    if not sys.stderr.isatty():
        command = [*command, "--quiet"]  # no bars there, but a list of 170 packages
    with subprocess.Popen(command, cwd=root, env=environment) as first:
        while (code := patient(first)) is None:
            say(started, "still installing")
    if code == 0:
        return
    print("bootstrap: that failed; once more, in case it was the network", flush=True)
    again = subprocess.run(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)
    if again.returncode:
        fail(f"uv could not install:\n{again.stderr[-4000:]}\n{advice(again.stderr)}")


def patient(child: subprocess.Popen[bytes]) -> int | None:
    """The exit code; None when the child still runs after a while and nobody sees uv's own bars."""
    try:
        return child.wait(timeout=None if sys.stderr.isatty() else HEARTBEAT_S)
    except subprocess.TimeoutExpired:
        return None


def advice(text: str) -> str:
    lower = text.lower()
    if "no space left" in lower or "os error 28" in lower:
        return "The disk is full: free some space (uv keeps a cache, `.venv/bin/uv cache clean`) and run it again."
    if any(sign in lower for sign in ("dns error", "connect", "timed out", "timeout", "tls", "certificate")):
        return (
            "The network failed: check it and the proxy settings. The CPU build of torch comes from PyTorch's own "
            "index; where that is out of reach, put its wheel into a folder and set PIP_FIND_LINKS to it."
        )
    if "no solution found" in lower:
        return "These versions do not go together on this Python and platform. Python 3.11 on Linux x86_64 is tested."
    return "Run it again; if it fails the same way, remove .venv first."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
