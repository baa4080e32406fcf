"""The gateway's ASGI edge: one list of what a request passes, in order.

    request id -> body limit, admission -> key -> route -> (openai.py) exchange -> slot -> (forward.py) engine

The hot path is plain ASGI; everything that is not per token (`/health`, `/metrics`, `/api`...) is the FastAPI
application of `admin.py`, behind the same request id, key and error envelope.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from itertools import count
from typing import Any

from aicockpit.documents.library import Library
from aicockpit.errors import (
    ApiError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Overloaded,
    RequestTimeout,
    TooLarge,
)
from aicockpit.gateway import envelope, openai
from aicockpit.gateway.auth import CONTROL, Caller, Gate
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.exchange import Exchange
from aicockpit.gateway.forward import Forwarder, Send, break_off
from aicockpit.gateway.join import Joiner
from aicockpit.gateway.lanes import Cancellable, Slots, parse_slot
from aicockpit.gateway.metrics import Metrics
from aicockpit.gateway.protocol import CONNECTION, LimitedProtocol
from aicockpit.gateway.realtime import Realtime
from aicockpit.gateway.records import Records
from aicockpit.log import REQUEST_ID
from aicockpit.types import Lane

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)
access = logging.getLogger("aicockpit.access")

CONTROL_MARK = "aicockpit.control"
OPEN_PATHS = frozenset({"/health", "/ready"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._\-]{1,64}")
_CLIENT_LEFT = 499
# All bodies together may take so many times the largest one.
_BODIES = 16
_ACCESS = "%s %s -> %d engine=%s lane=%s model=%s %.1f ms"


class ClientLeft(Exception):
    """The client closed its connection before its request was complete."""


class Visit(Cancellable):
    """One HTTP request from its first byte to the last of its answer, and what is counted of it."""

    __slots__ = ("answering", "began", "caller", "exchange", "headers", "held", "id", "left", "path", "route", "status")

    def __init__(self, task: asyncio.Task[Any], path: str, route: str, headers: dict[bytes, bytes], id: str) -> None:
        super().__init__(task)
        self.path, self.route, self.headers, self.id = path, route, headers, id
        self.began = time.monotonic()
        self.caller = ""
        self.exchange: Exchange | None = None
        self.answering = False
        self.held = 0
        self.left = False
        self.status = _CLIENT_LEFT

    def leave(self) -> None:
        self.left = True
        self.task.cancel()


class Gateway:
    """The ASGI application. `admin` answers every route that is not a route of vLLM."""

    def __init__(
        self,
        directory: Directory,
        forwarder: Forwarder,
        gate: Gate,
        metrics: Metrics,
        admin: App,
        realtime: Realtime,
        records: Records,
        joiner: Joiner | None = None,
        library: Library | None = None,
        *,
        max_body: int,
        max_inflight: int,
        body_wait: float | None,
    ) -> None:
        self.directory, self.forwarder, self.gate, self.metrics = directory, forwarder, gate, metrics
        self.admin, self.realtime, self.records, self.joiner = admin, realtime, records, joiner
        self.library = library
        self.watch: Callable[[], Coroutine[None, None, None]] | None = None  # runs while the doors are open
        self.max_body, self.max_inflight, self.body_wait = max_body, max_inflight, body_wait
        self.slots = Slots()
        self._held = 0
        self._active: set[Cancellable] = set()
        self._access = access.isEnabledFor(logging.INFO)
        self._ids = count(1)
        self._id_head = os.urandom(5).hex()

    @property
    def inflight(self) -> int:
        return len(self._active)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def control(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same application for the control socket, whose folder lets in only the user who started it."""
        scope[CONTROL_MARK] = True
        await self(scope, receive, send)

    def cancel_all(self) -> None:
        """The server stops and can wait no longer: tell every client."""
        for visit in list(self._active):
            visit.cancel(NotReady("the server is stopping", code="stopping", headers=((b"retry-after", b"10"),)))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request_id = self._request_id(headers)
        REQUEST_ID.set(request_id)
        path: str = openai.PREFIXED.get(scope["path"]) or scope["path"]
        connection: LimitedProtocol = scope[CONNECTION]
        visit = Visit(connection.task, path, openai.route_of(path), headers, request_id)
        self._active.add(visit)
        try:
            caller = self._caller(scope, path, headers)
            visit.caller = caller.id
            if visit.route == openai.OTHER:
                await self._admin(scope, receive, send, caller, visit)
            else:
                await self._engine_route(scope, receive, send, caller, visit)
        except ApiError as error:
            level = logging.WARNING if error.status >= 500 else logging.DEBUG
            logger.log(level, "%s %s: %d %s", scope["method"], scope["path"], error.status, error.message)
            await _tell(visit, error, send)
        except ClientLeft:
            pass
        except asyncio.CancelledError:
            await self._cancelled(visit, send)
        except Exception:  # the ASGI edge: a defect of ours must not look like the engine's, nor break the envelope
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await _tell(visit, InternalError("the gateway failed on this request; its log says where"), send)
        finally:
            self._active.discard(visit)
            self._held -= visit.held
            self._count(visit, scope["method"])

    async def _engine_route(self, scope: Scope, receive: Receive, send: Send, caller: Caller, visit: Visit) -> None:
        slot = parse_slot(visit.headers.get(b"x-aicockpit-slot", b""))
        call = await self._read(scope, receive, visit)
        connection: LimitedProtocol = scope[CONNECTION]
        connection.watch(visit)
        if slot:
            self.slots.take(caller.id, slot, visit)
        try:
            arrivals = self.forwarder.arrivals
            with arrivals.one():
                exchange = visit.exchange = await openai.exchange(call, self.directory, caller, self.joiner, arrivals)
            await self.forwarder.forward(exchange, send, connection.answer)
            visit.status = exchange.status
        finally:
            connection.unwatch(visit)
            if slot:
                self.slots.leave(caller.id, slot, visit)

    async def _read(self, scope: Scope, receive: Receive, visit: Visit) -> openai.Call:
        if self.inflight > self.max_inflight:
            raise Overloaded(f"{self.max_inflight} requests are in work already", headers=((b"retry-after", b"2"),))
        method, path, headers = scope["method"], visit.path, visit.headers
        allowed = openai.methods(path)
        if method not in allowed:
            listed = ", ".join(allowed)
            raise MethodNotAllowed(f"{path[:200]} takes {listed}", headers=((b"allow", listed.encode()),))
        declared = declared_length(headers)
        if 0 < declared <= self.max_body:
            self._hold(visit, declared)
        body = await read_body(receive, headers, self.max_body, self.body_wait)
        if not declared:
            self._hold(visit, len(body))
        return openai.Call(method, path, scope["query_string"], headers, scope["headers"], body, visit.id)

    def _hold(self, visit: Visit, size: int) -> None:
        """Account for a body, which is kept until the answer is complete. Raises Overloaded beyond the budget."""
        if self._held - visit.held + size > _BODIES * self.max_body:
            raise Overloaded(
                "the bodies of the requests in work take all memory they may", headers=((b"retry-after", b"2"),)
            )
        self._held += size - visit.held
        visit.held = size

    async def _cancelled(self, visit: Visit, send: Send) -> None:
        """By a newer request or a stop (its client is told), by its client, or by uvicorn, which is passed on."""
        if visit.reason is not None:
            visit.task.uncancel()
            self.metrics.cancelled.labels(visit.reason.code).inc()
            await _tell(visit, visit.reason, send)
        elif visit.left:
            self.metrics.cancelled.labels("client_left").inc()
        else:
            raise asyncio.CancelledError

    def _count(self, visit: Visit, method: str) -> None:
        exchange = visit.exchange
        model, lane = (exchange.model, exchange.lane) if exchange is not None else ("other", Lane.INTERACTIVE)
        if exchange is not None:
            self.records.add(exchange, visit.caller, visit.status, visit.began)
        self.metrics.answered(visit.route, model, lane, visit.status)
        if self._access:
            engine = exchange.engine.name if exchange is not None and exchange.engine is not None else "-"
            spent = (time.monotonic() - visit.began) * 1000
            access.info(_ACCESS, method, visit.route, visit.status, engine, lane, model, spent)

    async def _admin(self, scope: Scope, receive: Receive, send: Send, caller: Caller, visit: Visit) -> None:
        scope["aicockpit.caller"] = caller
        scope["aicockpit.request_id"] = visit.id
        identity = (b"x-request-id", visit.id.encode("latin-1"))

        async def tagged(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                visit.answering, visit.status = True, message["status"]
                message["headers"] = [*message.get("headers", ()), identity]
            await send(message)

        await self.admin(scope, receive, tagged)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request_id = self._request_id(headers)
        REQUEST_ID.set(request_id)
        task = asyncio.current_task()
        assert task is not None
        visit = Visit(task, scope["path"], "/v1/realtime", headers, request_id)
        self._active.add(visit)
        try:
            if scope["path"] != "/v1/realtime":
                raise NotFound(f"there is no WebSocket at {scope['path'][:200]}")
            self._caller(scope, scope["path"], headers)
            await self.realtime.serve(scope, receive, send, request_id)
            visit.status = 101
        except ApiError as error:
            visit.status = error.status
            await receive()
            await self.realtime.refuse(send, error, request_id)
        except asyncio.CancelledError:
            if visit.reason is None:
                raise
            visit.task.uncancel()
            await self.realtime.refuse(send, visit.reason, request_id)
        finally:
            self._active.discard(visit)
            self._count(visit, "WEBSOCKET")

    def _caller(self, scope: Scope, path: str, headers: dict[bytes, bytes]) -> Caller:
        if scope.get(CONTROL_MARK):
            return CONTROL
        if path in OPEN_PATHS:
            return Caller("open", False)
        return self.gate.check(headers)

    def _request_id(self, headers: dict[bytes, bytes]) -> str:
        """The client's own id when it is harmless, else a new one."""
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return f"req-{self._id_head}{next(self._ids):06x}"


async def _tell(visit: Visit, error: ApiError, send: Send) -> None:
    """The error as a whole answer when nothing was sent yet, else as the last event of a stream of events."""
    visit.status = error.status
    if visit.exchange is not None and visit.exchange.started:
        await break_off(visit.exchange, error, send)
    elif not visit.answering:
        await respond(send, error, visit.id)


def declared_length(headers: dict[bytes, bytes]) -> int:
    """Bytes of the body, 0 when it comes in chunks."""
    declared = headers.get(b"content-length", b"")
    return int(declared) if declared.isdigit() else 0


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int, wait_s: float | None = None) -> bytes:
    """The whole request body. Raises TooLarge before reading when the declared length says so, and ClientLeft.

    `wait_s` limits the whole upload; RequestTimeout when it passes.
    """
    if declared_length(headers) > limit:
        raise TooLarge(_too_large(limit))
    message = await receive()
    if not message.get("more_body") and message["type"] == "http.request":
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise TooLarge(_too_large(limit))
        return body
    try:
        async with asyncio.timeout(wait_s):
            return await _read_rest(receive, message, limit)
    except TimeoutError as error:
        raise RequestTimeout(f"the body was not complete after {wait_s:g} s (AICOCKPIT_BODY_WAIT)") from error


async def _read_rest(receive: Receive, message: MutableMapping[str, Any], limit: int) -> bytes:
    parts, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(_too_large(limit))
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


async def respond(send: Send, error: ApiError, request_id: str) -> None:
    """An error as a whole answer."""
    body = envelope.body(error, request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode("latin-1")),
        (b"x-aicockpit-origin", b"gateway"),
        *error.headers,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit} bytes (AICOCKPIT_MAX_BODY)"
