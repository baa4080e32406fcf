"""Small values that several packages speak. Imports nothing of ours but errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from aicockpit.errors import SettingError


class Lane(StrEnum):
    """Who waits for the answer. A lower `priority` is served earlier by vLLM's scheduler."""

    INTERACTIVE = "interactive"
    AGENT = "agent"
    BACKGROUND = "background"

    @property
    def priority(self) -> int:
        return _PRIORITY[self]


_PRIORITY = {Lane.INTERACTIVE: 0, Lane.AGENT: 10, Lane.BACKGROUND: 20}


class EngineState(StrEnum):
    """States of an engine; `engines/process.py` says what each call means in each of them."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    SLEEPING = "sleeping"  # its process lives, its weights are in the host's memory, its KV cache is gone
    BACKOFF = "backoff"  # crashed; the next start is scheduled
    FAILED = "failed"  # gave up, or the start can never work
    UNREACHABLE = "unreachable"  # an external engine that does not answer


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens: a Unix socket, or host and port. `key` is sent as its bearer token."""

    host: str = ""
    port: int = 0
    uds: str = ""
    tls: bool = False
    base: str = ""
    key: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """`http://host[:port][/base]`, `https://:KEY@host`, `unix:/path/engine.sock`.

        A trailing `/v1` is dropped, since users paste the base URL that SDKs want.
        Raises SettingError when it is none of these.
        """
        if url.startswith("unix:"):
            return cls(uds=url.removeprefix("unix:").replace("//", "/", 1))
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise SettingError(f"engine URL {url!r} is not a URL: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingError(
                f"engine URL {url!r} must look like http://host:port, https://host or unix:/path/engine.sock"
            )
        tls = parts.scheme == "https"
        base = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        key = unquote(parts.password or parts.username or "")
        return cls(parts.hostname, port or (443 if tls else 80), tls=tls, base=base, key=key)

    @property
    def url(self) -> str:
        """The address as text, without its key."""
        if self.uds:
            return f"unix:{self.uds}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.base}"


@dataclass(frozen=True, slots=True)
class KvEventsAddress:
    """ZMQ endpoints of an engine's KV events: where it publishes, and where a gap can be read again."""

    publish: str
    replay: str


@dataclass(frozen=True, slots=True)
class KvTier:
    """Where KV goes that leaves an engine's cache. `bytes`: the tier's size; `path`: of `disk`, None for our own."""

    kind: Literal["none", "cpu", "disk", "lmcache"] = "none"
    bytes: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        """As it is written in a setting: `disk:100GiB:/data/kv`."""
        size = str(self.bytes) if self.bytes else ""
        for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
            if self.bytes and self.bytes % (1 << power) == 0:
                size = f"{self.bytes >> power}{unit}"
                break
        return ":".join(part for part in (self.kind, size, str(self.path or "")) if part)


@dataclass(frozen=True, slots=True)
class Residence:
    """How long an engine stays in memory. `needs`: bytes by device (a GPU's id, or `cpu`) while it does.

    One that is not pinned makes way for others and is brought back by a request; after `ttl_s` seconds without one it
    goes by itself. `sleeps`: it goes to vLLM's sleep level 1 instead of ending; `asleep`: bytes by device that it holds
    then, its weights on the host and what stays on each GPU.
    """

    pinned: bool = True
    ttl_s: float | None = None
    needs: tuple[tuple[str, int], ...] = ()
    sleeps: bool = False
    asleep: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to start one supervised engine: what `recipes/command.py` decides and `engines/` runs.

    `role`: what its model is for, "" when nobody said; no part of the process.
    """

    name: str
    model: str
    served_names: tuple[str, ...]
    argv: tuple[str, ...]
    uds: str
    env: tuple[tuple[str, str], ...] = ()
    gpus: tuple[str, ...] = ()
    kv_events: KvEventsAddress | None = None
    residence: Residence = field(default_factory=Residence)
    predicted_kv_tokens: int | None = None
    role: str = ""
