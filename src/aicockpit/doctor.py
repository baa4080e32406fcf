"""`aicockpit doctor`: what this machine has, what is wrong with it, what to do. A failing probe never raises."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from aicockpit.console import size
from aicockpit.errors import SettingError
from aicockpit.hardware import detect
from aicockpit.recipes import command
from aicockpit.settings import Settings

Mark = Literal["ok", "warn", "bad"]
_DISK_NEEDED = 4 << 30
_MEMORY_NEEDED = 6 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: what was looked at, what was found, and what to do when it is not good."""

    what: str
    mark: Mark
    found: str
    fix: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Look at everything a start needs."""
    machine = detect.snapshot()
    return [
        *_machine(machine),
        *_gpus(machine),
        _engine(settings),
        *_folders(settings),
        _port(settings),
        _token(settings),
    ]


def _machine(host: detect.Snapshot) -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    cores = f"{host.cpus} cores" if host.cpus else "cores unknown"
    if host.memory_total is None:
        yield Finding("memory", "warn", f"unknown, {cores}", "vLLM will say when it is too little")
        return
    free = host.memory_available if host.memory_available is not None else 0
    good = free >= _MEMORY_NEEDED
    found = f"{size(free)} free of {size(host.memory_total)}, {cores}"
    yield Finding(
        "memory",
        "ok" if good else "warn",
        found,
        "" if good else "an engine on the CPU takes 3 to 5 GiB; end other programs",
    )


def _gpus(machine: detect.Snapshot) -> Iterator[Finding]:
    if not machine.gpus:
        found = f"none found ({machine.gpu_note})"
        yield Finding("GPU", "warn", found, "fine for the profile cpu; for a GPU install the NVIDIA driver")
    for gpu in machine.gpus:
        memory = (
            f"{size(gpu.free)} free of {size(gpu.total)}" if gpu.free is not None and gpu.total else "memory unknown"
        )
        yield Finding(f"GPU {gpu.index}", "ok", f"{gpu.name or 'unknown'}, {memory}")


def _engine(settings: Settings) -> Finding:
    try:
        words = command.command(settings)
    except SettingError as error:
        if settings.engine_urls:
            return Finding("vLLM", "ok", "not installed; external engines are named")
        return Finding("vLLM", "bad", "not installed beside AiCockpit", str(error))
    return Finding("vLLM", "ok", " ".join(words))


def _folders(settings: Settings) -> Iterator[Finding]:
    folder = settings.state_dir
    while not folder.exists():
        folder = folder.parent
    if os.access(folder, os.W_OK):
        yield Finding("state folder", "ok", str(settings.state_dir))
    else:
        yield Finding(
            "state folder", "bad", f"{folder} cannot be written", "set AICOCKPIT_STATE_DIR to a folder of yours"
        )
    free = shutil.disk_usage(folder).free
    good = free >= _DISK_NEEDED
    yield Finding("disk", "ok" if good else "warn", f"{size(free)} free", "" if good else "models need room; free some")


def _port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            fix = "a running AiCockpit is fine (`aicockpit status`); else set AICOCKPIT_PORT"
            return Finding("port", "warn", f"{where}: {error.strerror}", fix)
    return Finding("port", "ok", f"{where} is free")


def _token(settings: Settings) -> Finding:
    if settings.hf_token:
        return Finding("HF_TOKEN", "ok", "set")
    return Finding("HF_TOKEN", "ok", "not set: gated models cannot be fetched")


def verdict(findings: list[Finding]) -> int:
    """The exit code: 1 when something is bad."""
    return 1 if any(finding.mark == "bad" for finding in findings) else 0
