"""Does LMCache's own process answer, which `kv_tier: lmcache` needs beside the engines? `tiers.py` asks."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

import httpx

from aicockpit.doctor.finding import Mark
from aicockpit.recipes.lmcache import HOST, VERSION, Server

PROBE_S = 1.0
_LARGEST = 1 << 16  # bytes of an answer that are looked at


@dataclass(frozen=True, slots=True)
class Answer:
    """What a look found, for people, and how bad it is. An engine without a server waits five minutes and ends."""

    mark: Mark
    found: str


def look(asked: Server) -> Answer:
    """Ask the server how it is, within two seconds or so. Nothing that answers oddly raises."""
    healthy, told = _health(asked.health)
    reached = _listens(asked.port)
    if healthy and reached:
        version = _version(asked)
        if version and version != VERSION:
            return Answer("warn", f"its server answers at {asked.health}, of version {version} and not {VERSION}")
        return Answer("ok", f"its server answers at {asked.health}" + f", of version {version}" * bool(version))
    if healthy:
        return Answer("bad", f"a server answers at {asked.health}, and not on port {asked.port}, where engines look")
    if told:
        return Answer("bad", f"{asked.health}: {told}")
    if reached:
        return Answer("warn", f"something listens on port {asked.port}, and nothing answers at {asked.health}")
    return Answer("bad", f"no server listens on port {asked.port} or answers at {asked.health}")


def _health(url: str) -> tuple[bool, str]:
    """(is it well, what else it says; "" for no answer)."""
    found = _get(url)
    if found is None:
        return False, ""
    status, said = found
    if isinstance(said, dict) and said.get("status") == "healthy" and status == httpx.codes.OK:
        return True, ""
    if isinstance(said, dict) and said.get("status") == "unhealthy":
        return False, f"the server is not well: {str(said.get('reason') or 'it does not say why')[:200]}"
    return False, f"what answers is not LMCache (status {status})"


def _version(asked: Server) -> str:
    """ "" when it does not say."""
    found = _get(asked.health.replace("/healthcheck", "/lmc_version"))
    return found[1][:40] if found and found[0] == httpx.codes.OK and isinstance(found[1], str) else ""


def _get(url: str) -> tuple[int, Any] | None:
    """(status, the JSON it answers, None for something else); None: nobody answers."""
    until, text = time.monotonic() + 2 * PROBE_S, b""
    try:
        # A proxy of the environment is not asked for what is on this machine.
        with httpx.Client(timeout=PROBE_S, trust_env=False) as client, client.stream("GET", url) as answer:
            status = answer.status_code
            for piece in answer.iter_bytes():
                text += piece
                if len(text) > _LARGEST or time.monotonic() > until:
                    return status, None
    except httpx.HTTPError:
        return None
    try:
        return status, json.loads(text)
    except ValueError:
        return status, None


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), PROBE_S):
            return True
    except OSError:
        return False
