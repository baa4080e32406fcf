"""A gateway with the real routes and store, and the real indexer beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from aicockpit.errors import ApiError
from aicockpit.gateway import envelope, workspaces
from aicockpit.gateway.auth import CONTROL, Caller
from aicockpit.indexer.agent import Options, Progress, run
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.store import Change, Info, Store, StoreLimits

FILES = 600


class Noted(workspaces.Cold):
    """Builds the tree once more, from nothing but what the warm side is told."""

    def __init__(self) -> None:
        self.tree: dict[str, bytes | None] = {}
        self.wrong: list[Change] = []

    async def changed(self, id: int, changes: Sequence[Change]) -> None:
        for change in changes:
            if self.tree.get(change.path) != change.old:
                self.wrong.append(change)
            self.tree[change.path] = change.new


@dataclass
class Site:
    """A gateway of one store, which can be stopped and started, and the indexer of `root`."""

    folder: Path
    root: Path
    limits: StoreLimits = field(default_factory=StoreLimits)
    caller: Caller = CONTROL
    store: Store | None = None
    warm: Noted = field(default_factory=Noted)
    said: list[Progress] = field(default_factory=list)
    bodies: int = 0
    # What becomes of the next requests: "" passes, "lost" never arrives, "deaf" is done and its answer is lost.
    breaks: list[str] = field(default_factory=list)
    _server: uvicorn.Server | None = None
    _serving: asyncio.Task[None] | None = None
    _watching: asyncio.Task[None] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"unix:{self.folder}/g.sock"

    async def open(self) -> None:
        """Start the gateway."""
        self.store = Store(self.folder / "store", self.limits)
        app = FastAPI()

        @app.exception_handler(ApiError)
        async def api_error(request: Request, error: ApiError) -> Response:
            return Response(envelope.body(error, "test"), error.status, media_type="application/json")

        workspaces.add(app, self.store, self.warm)

        async def outer(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            self.bodies += scope["path"].endswith("/blobs")
            kind = self.breaks.pop(0) if self.breaks else ""
            if kind == "lost":
                raise ConnectionResetError
            sink = send if not kind else nobody
            await app({**scope, "aicockpit.caller": self.caller, "aicockpit.request_id": "test"}, receive, sink)

        config = uvicorn.Config(outer, uds=f"{self.folder}/g.sock", lifespan="off", log_level="critical", ws="none")
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        self._serving = asyncio.create_task(self._server.serve())
        await self.until(lambda: self._server is not None and self._server.started)

    async def close(self) -> None:
        """Stop the gateway."""
        if self._server is not None and self._serving is not None and self.store is not None:
            self._server.should_exit = self._server.force_exit = True
            await self._serving
            self.store.close()
            self._server = self._serving = self.store = None

    def watch(self, **changes: Any) -> None:
        """Start the indexer."""
        self._stop = asyncio.Event()
        options = Options(self.root, self.folder / "state", self.address, name="w", **changes)
        self._watching = asyncio.create_task(run(options, self.said.append, self._stop))

    async def unwatch(self) -> None:
        """Stop the indexer; raises what it has ended of."""
        self._stop.set()
        if self._watching is not None:
            task, self._watching = self._watching, None
            await task

    @property
    def info(self) -> Info:
        assert self.store is not None
        found = next((info for info in self.store.list() if info.name == "w"), None)
        assert found is not None
        return found

    def stored(self) -> dict[str, bytes]:
        """path -> content as the store has it; the hash of a row, its size and its blob must agree."""
        assert self.store is not None
        found = {}
        for file in self.store.files(self.info.id):
            data = self.store.blob(file.hash)
            assert data is not None, f"no blob of {file.path}"
            assert (digest(data), len(data)) == (file.hash, file.size), file.path
            found[file.path] = data
        return found

    def on_disk(self) -> dict[str, bytes]:
        """path -> content of what git lists and is a plain file."""
        listed = git(self.root, "ls-files", "-z", "-co", "--exclude-standard").split(b"\0")
        found = {}
        for path in {path for path in listed if path}:
            place = os.path.join(os.fsencode(self.root), path)
            if os.path.isfile(place) and not os.path.islink(place):
                with open(place, "rb") as file:
                    found[path.decode("utf-8", "backslashreplace")] = file.read()
        return found

    async def equal(self, limit_s: float = 30.0) -> None:
        """The store comes to hold what git lists now, and the warm side was told of exactly that."""
        wanted = self.on_disk()
        hashes = {path: digest(data) for path, data in wanted.items()}

        def same() -> bool:
            if self._watching is not None and self._watching.done():
                self._watching.result()
            if self.store is None or not self.store.list():
                return False
            return {file.path: file.hash for file in self.store.files(self.info.id)} == hashes

        await self.until(same, limit_s)
        assert self.stored() == wanted
        assert (self.info.files, self.info.bytes) == (len(wanted), sum(map(len, wanted.values())))
        await self.until(lambda: {path: hash for path, hash in self.warm.tree.items() if hash} == hashes)
        assert not self.warm.wrong

    async def until(self, true: Callable[[], bool], limit_s: float = 30.0) -> None:
        end = time.monotonic() + limit_s
        while not true():
            assert time.monotonic() < end, self.said[-3:]
            await asyncio.sleep(0.02)


async def nobody(message: MutableMapping[str, Any]) -> None:
    """Takes an answer to nowhere."""


def git(root: Path, *words: str) -> bytes:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.excludesFile=/dev/null", *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True).stdout


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def many(branch: str, count: int = FILES) -> dict[str, str]:
    return {f"pkg{n % 40}/sub{n % 7}/mod{n}.py": f"# {branch}\ndef f{n}():\n    return {n}\n" for n in range(count)}


@contextlib.asynccontextmanager
async def repository(folder: Path) -> AsyncIterator[Site]:
    """An open gateway, and beside it an empty repository which nothing watches yet."""
    root = folder / "tree"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    made = Site(folder, root)
    await made.open()
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):
            await made.unwatch()
        await made.close()
