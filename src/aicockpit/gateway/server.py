"""The gateway built from its parts, and served on two doors: the address users reach, and the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uvicorn

from aicockpit.documents.library import Library
from aicockpit.errors import SettingError
from aicockpit.gateway import admin, documents, folders, operate, workspaces
from aicockpit.gateway.app import App, Gateway
from aicockpit.gateway.auth import Gate, KeyStore
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.embeddings import EngineEmbedder
from aicockpit.gateway.exchange import Residents
from aicockpit.gateway.folders import Folders
from aicockpit.gateway.forward import Forwarder, Waits
from aicockpit.gateway.join import Contexts, Joiner
from aicockpit.gateway.metrics import EngineCollector, Metrics
from aicockpit.gateway.parity import Parity
from aicockpit.gateway.protocol import LimitedProtocol
from aicockpit.gateway.realtime import Realtime
from aicockpit.gateway.records import Records
from aicockpit.gateway.routing import Limits
from aicockpit.gateway.voices import Voices
from aicockpit.gateway.warm_metrics import Figure, WarmCollector
from aicockpit.hardware.detect import Gpu
from aicockpit.settings import Settings
from aicockpit.workspace.store import Store

# Longer than the pools of common clients keep an idle connection, so that they close first.
_KEEP_ALIVE_S = 75
_REALTIME_FIRST_S = 30.0
_LOOK_S = 0.02


class WarmContexts(Contexts, workspaces.Warm, Protocol):
    """The server's warm contexts, as its requests and its routes see them."""


@dataclass(frozen=True, slots=True)
class Workspaces:
    """What keeps repositories warm, where the server has it."""

    store: Store
    contexts: WarmContexts
    residents: Residents
    voices: Voices
    figures: Callable[[], Sequence[Figure]]
    folders: Folders


def build(
    settings: Settings,
    controls: admin.Controls,
    aliases: Mapping[str, str],
    fixed_keys: tuple[str, ...],
    read_gpus: Callable[[], Sequence[Gpu]],
    used_memory: Callable[[], float | None],
    warm: Workspaces | None = None,
    operations: operate.Operations | None = None,
) -> Gateway:
    """All the gateway's objects; `fixed_keys` are valid beside the stored ones."""
    metrics = Metrics()
    directory = Directory(controls.engines, aliases, lambda: controls.preparing)
    limits = Limits(settings.engine_queue, settings.background_slots)
    waits = Waits(settings.first_byte_wait, settings.token_wait)
    collector = EngineCollector(controls.engines, read_gpus)
    records = Records()
    forwarder = Forwarder(limits, waits, metrics, settings.background_queue, settings.background_wait)
    figures = WarmCollector(warm.figures if warm is not None else list)
    metrics.registry.register(figures)
    names = functools.partial(workspaces.names, warm.store) if warm is not None else lambda _: ()
    app = admin.build(controls, directory, metrics, collector, records, used_memory, figures.refresh, names)
    if operations is not None:
        operate.add(app, operations)
        forwarder.waker = operations
    joiner: Joiner | None = None
    if warm is not None:
        workspaces.add(app, warm.store, warm.contexts, directory.first_name, warm.folders)
        folders.add(app, warm.store, warm.folders)
        forwarder.residents = warm.residents
        find = functools.partial(workspaces.visible, warm.store)
        joiner = Joiner(warm.contexts, warm.residents, find, warm.voices, Parity(metrics.registry))
        joiner.waker = operations
    library = Library(settings.state_dir / "documents.sqlite", EngineEmbedder(directory, forwarder))
    documents.add(app, library)
    gateway = Gateway(
        directory,
        forwarder,
        Gate(KeyStore(settings.state_dir), fixed_keys, open_to_all=not settings.auth),
        metrics,
        app,
        Realtime(directory, forwarder, settings.connect_wait, settings.max_body, _REALTIME_FIRST_S),
        records,
        joiner,
        library,
        max_body=settings.max_body,
        max_inflight=settings.max_inflight,
        body_wait=settings.body_wait,
    )
    gateway.watch = functools.partial(admin.watch, controls, collector)
    return gateway


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the CLI owns the signals, since engines must be stopped too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Doors:
    """Serves a gateway. `open` binds and returns; `close` lets requests in work finish, within a limit."""

    def __init__(self, gateway: Gateway, host: str, port: int, control: Path, drain_s: float) -> None:
        self._host, self._port, self._control, self._drain_s = host, port, control, drain_s
        self._gateway, self._hurried = gateway, False
        self._servers = [self._server(gateway, websockets=True), self._server(gateway.control, websockets=False)]
        self._tasks: list[asyncio.Task[None]] = []
        self._watch: asyncio.Task[None] | None = None
        self.port = port

    async def open(self) -> None:
        """Raises SettingError when the address or port cannot be had."""
        sockets = [bind(self._host, self._port), _bind_control(self._control)]
        self.port = sockets[0].getsockname()[1]
        for server, door in zip(self._servers, sockets, strict=True):
            self._tasks.append(asyncio.create_task(server.serve(sockets=[door])))
        while not all(server.started for server in self._servers):
            await asyncio.sleep(0.01)
        if self._gateway.library is not None:
            self._gateway.library.begin()
        if self._gateway.watch is not None:
            self._watch = asyncio.create_task(self._gateway.watch(), name="watch engines")

    async def close(self) -> None:
        """Take no new connection, let requests in work finish within the limit, tell the rest, and close."""
        for server in self._servers:
            server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                while self._gateway.inflight and not self._hurried:
                    await asyncio.sleep(_LOOK_S)
        self._gateway.cancel_all()
        if self._watch is not None:
            self._watch.cancel()
            self._tasks.append(self._watch)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._gateway.library is not None:
            await self._gateway.library.close()
        self._control.unlink(missing_ok=True)

    def hurry(self) -> None:
        """Do not wait for requests in work."""
        self._hurried = True
        self._gateway.cancel_all()

    def _server(self, app: App, websockets: bool) -> _Server:
        config = uvicorn.Config(
            app,
            interface="asgi3",
            loop="none",
            http=LimitedProtocol,
            ws="websockets-sansio" if websockets else "none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(self._drain_s) + 2,
        )
        return _Server(config)


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises SettingError saying who may hold the port and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left at 0 asyncio does not set TCP_NODELAY, and small answers wait 40 ms for an ACK.
    door = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
        door.listen(2048)
    except OSError as error:
        door.close()
        raise SettingError(
            f"cannot listen on {host}:{port}: {error.strerror}. Another program may hold the port "
            f"(`ss -ltnp 'sport = :{port}'` shows it); stop it, or set AICOCKPIT_PORT to another port."
        ) from error
    door.setblocking(False)
    return door


def _bind_control(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.bind(str(path))
    path.chmod(0o600)
    door.listen(16)
    door.setblocking(False)
    return door
