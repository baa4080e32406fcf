"""A site on this machine to read, with whatever a site may do wrong, and the `/api/docs` routes over ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response

from aicockpit.documents.library import Library
from aicockpit.documents.store import Store
from aicockpit.documents.values import Limits, Source, Tally
from aicockpit.documents.vectors import Embedder
from aicockpit.documents.worker import read_source
from aicockpit.errors import ApiError, BadRequest
from aicockpit.gateway import documents, envelope
from aicockpit.gateway.auth import Caller

ADMIN, USER, OTHER = Caller("admin", True), Caller("user", False), Caller("other", False)
QUICK = Limits(backoff_s=0.01, read_s=2.0, request_s=3.0, connect_s=2.0, time_s=20.0)


@dataclass(frozen=True)
class Page:
    body: bytes = b""
    media: str = "text/html; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    wait_s: float = 0.0


Answering = Page | Callable[[int], Page]


def page(title: str, *links: str, body: str = "", **more: Any) -> Page:
    """An HTML page with a title, words of its own and links."""
    words = body or f"The page {title} tells about {title} and nothing else; it is long enough to be read."
    anchors = "".join(f'<a href="{link}">{link}</a> ' for link in links)
    text = f"<html><head><title>{title}</title></head><body><main><h1>{title}</h1><p>{words}</p><p>{anchors}</p>"
    return Page(f"{text}</main></body></html>".encode(), **more)


def moved(where: str, status: int = 302) -> Page:
    return Page(status=status, headers=(("location", where),))


@dataclass
class Site:
    """`pages` by path; a callable gets the number of the request to its path, from 1. `asked`: what came."""

    pages: dict[str, Answering]
    otherwise: Callable[[str], Page] = lambda path: Page(b"gone", status=404)
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str) -> Page:
        self.asked.append(path)
        found = self.pages.get(path)
        if found is None:
            return self.otherwise(path)
        return found if isinstance(found, Page) else found(self.asked.count(path))


@contextlib.contextmanager
def serving(pages: dict[str, Answering], **more: Any) -> Iterator[Site]:
    site = Site(pages, **more)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = site.answer(self.path)
            time.sleep(found.wait_s)
            with contextlib.suppress(OSError):
                self.send_response(found.status)
                for name, value in (("content-type", found.media), *found.headers):
                    if value:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(found.body)))
                self.end_headers()
                self.wfile.write(found.body)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Readers are killed in these tests."""

    server = Quiet(("127.0.0.1", 0), Handler)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Read:
    """What came of reading a site in this process."""

    store: Store
    source: Source
    tally: Tally

    def urls(self) -> set[str]:
        rows = self.store.db.rows("SELECT url FROM pages WHERE state = 'done'")
        return {row[0].partition("//")[2].partition("/")[2] for row in rows}


@contextlib.contextmanager
def store_in(folder: Path, limits: Limits = QUICK) -> Iterator[Store]:
    store = Store(folder / "documents.sqlite", limits)
    try:
        yield store
    finally:
        store.close()


async def crawled(store: Store, url: str, limits: Limits = QUICK, private: bool = True, **more: Any) -> Read:
    source = store.create("key", f"site {time.monotonic_ns()}", url, "url", private)
    await read_source(store, source, limits, **more)
    found = store.find(source.id)
    assert found is not None
    return Read(store, found, store.tally(found, found.generation))


@dataclass
class Api:
    library: Library
    app: Any
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client(self, caller: Caller) -> httpx.AsyncClient:
        async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            await self.app({**scope, "aicockpit.caller": caller, "aicockpit.request_id": "test"}, receive, send)

        made = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://gateway/api/docs", follow_redirects=True
        )
        self.clients.append(made)
        return made


@contextlib.asynccontextmanager
async def api_in(folder: Path, limits: Limits = QUICK, embedder: Embedder | None = None) -> AsyncIterator[Api]:
    app = FastAPI()

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return Response(envelope.body(error, "test"), error.status, media_type="application/json")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return await api_error(request, BadRequest(str(error.errors()[0]["msg"]), code="invalid_parameter"))

    library = Library(folder / "documents.sqlite", embedder, limits)
    library.begin()
    documents.add(app, library)
    api = Api(library, app)
    try:
        yield api
    finally:
        for client in api.clients:
            await client.aclose()
        await library.close()


async def until(client: httpx.AsyncClient, id: str, *states: str, limit_s: float = 30.0) -> dict[str, Any]:
    """The source, once it is in one of the states; by default at an end."""
    wanted = states or ("ready", "failed", "cancelled")
    end = time.monotonic() + limit_s
    while True:
        found: dict[str, Any] = (await client.get(f"/{id}")).json()
        if found["state"] in wanted:
            return found
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
