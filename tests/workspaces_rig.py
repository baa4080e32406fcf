"""The `/api/workspaces` routes over ASGI, and what a client of theirs sends."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response

from aicockpit.errors import ApiError
from aicockpit.gateway import envelope, workspaces
from aicockpit.gateway.auth import Caller
from aicockpit.workspace.blobs import digest
from aicockpit.workspace.store import Change, Store, StoreLimits

ALL = "http://gateway/api/workspaces"
LIMITS = StoreLimits(workspaces=4, files=50, bytes=100_000, file=20_000, manifest=20_000, push=60_000, reported=3)


class Asked(workspaces.Cold):
    """Notes what it is told; fails when it should."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.broken = False

    async def changed(self, id: int, changes: Sequence[Change]) -> None:
        self.told.append(("changed", id, sorted(change.path for change in changes)))
        if self.broken:
            raise RuntimeError("a defect of the warm side")

    async def focus(self, id: int, path: str, line: int | None, model: str | None) -> None:
        self.told.append(("focus", id, path, line, model))

    async def deleted(self, id: int) -> None:
        self.told.append(("deleted", id))

    def status(self, id: int) -> dict[str, Any]:
        return {"epoch": f"of {id}"}


@dataclass
class Site:
    store: Store
    warm: Asked
    app: Any
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client(self, caller: Caller) -> httpx.AsyncClient:
        async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            await self.app({**scope, "aicockpit.caller": caller, "aicockpit.request_id": "test"}, receive, send)

        made = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ALL)
        self.clients.append(made)
        return made


@contextlib.asynccontextmanager
async def site_in(
    folder: Path, limits: StoreLimits = LIMITS, first_name: Callable[[str], str] = str
) -> AsyncIterator[Site]:
    app = FastAPI()

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return Response(envelope.body(error, "test"), error.status, media_type="application/json")

    store, warm = Store(folder, limits), Asked()
    workspaces.add(app, store, warm, first_name)
    site = Site(store, warm, app)
    try:
        yield site
    finally:
        for client in site.clients:
            await client.aclose()
        store.close()


def rows(tree: dict[str, bytes]) -> list[list[object]]:
    return [[path, digest(data).hex(), len(data), 1] for path, data in tree.items()]


def framed(*contents: bytes) -> bytes:
    return b"".join(digest(data) + len(data).to_bytes(4, "big") + data for data in contents)


async def post(client: httpx.AsyncClient, tree: dict[str, bytes], base: int | None = None, **more: Any) -> Any:
    answer = await client.post("/tree/manifest", json={"base": base, "files": rows(tree), "removed": [], **more})
    return answer.json()


async def push(client: httpx.AsyncClient, body: bytes, packed: bool = True) -> httpx.Response:
    headers = {"content-type": "application/octet-stream"} | ({"content-encoding": "gzip"} if packed else {})
    return await client.post("/tree/blobs", content=gzip.compress(body) if packed else body, headers=headers)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
