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
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any

from aicockpit.errors import ApiError, InternalError, MethodNotAllowed, NotFound, NotReady, Overloaded, TooLarge
from aicockpit.gateway import envelope, openai
from aicockpit.gateway.auth import CONTROL, Caller, Gate
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.forward import Exchange, Forwarder, Send, break_off
from aicockpit.gateway.lanes import Cancellable, Slots, parse_slot
from aicockpit.gateway.metrics import Metrics
from aicockpit.gateway.realtime import Realtime
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
_ACCESS = "%s %s -> %d engine=%s lane=%s model=%s %.1f ms"


class ClientLeft(Exception):
    """The client closed its connection before its request was complete."""


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
        *,
        max_body: int,
        max_inflight: int,
    ) -> None:
        self.directory, self.forwarder, self.gate, self.metrics = directory, forwarder, gate, metrics
        self.admin, self.realtime = admin, realtime
        self.max_body, self.max_inflight = max_body, max_inflight
        self.slots = Slots()
        self._active: set[Cancellable] = set()
        self.inflight = 0
        self._access = access.isEnabledFor(logging.INFO)
        self._ids = count(1)
        self._id_head = os.urandom(5).hex()

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
        for request in list(self._active):
            request.cancel(NotReady("the server is stopping", code="stopping", headers=((b"retry-after", b"10"),)))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request_id = self._request_id(headers)
        REQUEST_ID.set(request_id)
        self.inflight += 1
        exchange: Exchange | None = None
        try:
            path: str = openai.PREFIXED.get(scope["path"]) or scope["path"]
            caller = self._caller(scope, path, headers)
            if path in openai.ROUTES or openai.STORED.fullmatch(path):
                slot = parse_slot(headers.get(b"x-aicockpit-slot", b""))
                exchange = await self._counted(path, self._prepare(scope, receive, path, headers, request_id))
                exchange.key_id = caller.id
                await self._exchange(exchange, receive, send, slot)
            else:
                await self._admin(scope, receive, send, request_id, caller)
        except ApiError as error:
            level = logging.WARNING if error.status >= 500 else logging.DEBUG
            logger.log(level, "%s %s: %d %s", scope["method"], scope["path"], error.status, error.message)
            await respond(send, error, request_id)
        except ClientLeft:
            return
        except Exception:  # the ASGI edge: a defect of ours must not look like the engine's, nor break the envelope
            logger.exception("%s %s failed", scope["method"], scope["path"])
            defect = InternalError("the gateway failed on this request; its log says where")
            if exchange is not None:
                await _tell(exchange, defect, send)
            else:
                await respond(send, defect, request_id)
        finally:
            self.inflight -= 1

    async def _counted(self, path: str, preparing: Awaitable[Exchange]) -> Exchange:
        """Count the requests that never become an exchange."""
        try:
            return await preparing
        except ApiError as error:
            route = path if path in openai.ROUTES else "/v1/responses/{id}"
            self.metrics.answered(route, "other", Lane.INTERACTIVE, error.status)
            raise

    async def _prepare(
        self, scope: Scope, receive: Receive, path: str, headers: dict[bytes, bytes], request_id: str
    ) -> Exchange:
        if self.inflight > self.max_inflight:
            raise Overloaded(f"{self.max_inflight} requests are in work already", headers=((b"retry-after", b"2"),))
        route, method = openai.ROUTES.get(path), scope["method"]
        allowed = ("POST",) if route is not None else ("GET", "POST")
        if method not in allowed:
            listed = ", ".join(allowed)
            raise MethodNotAllowed(f"{path[:200]} takes {listed}", headers=((b"allow", listed.encode()),))
        body = await read_body(receive, headers, self.max_body)
        call = openai.Call(method, path, scope["query_string"], headers, scope["headers"], body, request_id)
        if route is None:
            return await openai.stored_exchange(call, self.directory)
        return await openai.exchange(call, route, self.directory)

    async def _exchange(self, exchange: Exchange, receive: Receive, send: Send, slot: bytes) -> None:
        """Forward, while watching for the client to leave and for a newer request in the same slot."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        request = Cancellable(task)
        self._active.add(request)
        if slot:
            self.slots.take(exchange.key_id, slot, request)
        done = False

        def left(_: object) -> None:
            if not done:
                task.cancel()

        watcher: asyncio.Task[object] = loop.create_task(receive())  # type: ignore[arg-type]
        watcher.add_done_callback(left)
        code = _CLIENT_LEFT
        try:
            await self.forwarder.forward(exchange, send)
            code = exchange.status
        except ApiError as error:
            code = error.status
            raise
        except asyncio.CancelledError:
            code = _CLIENT_LEFT
            if request.reason is not None:
                done = True
                task.uncancel()
                code = request.reason.status
                self.metrics.cancelled.labels(request.reason.code).inc()
                await _tell(exchange, request.reason, send)
            elif watcher.done():
                self.metrics.cancelled.labels("client_left").inc()
            else:
                raise
        finally:
            done = True
            self._active.discard(request)
            if not watcher.done():
                watcher.cancel()
            if slot:
                self.slots.leave(exchange.key_id, slot, request)
            self.metrics.answered(exchange.route, exchange.model, exchange.lane, code)
            if self._access:
                self._log(exchange, code)

    def _log(self, exchange: Exchange, code: int) -> None:
        engine = exchange.engine.name if exchange.engine is not None else "-"
        spent = (time.monotonic() - exchange.began) * 1000
        access.info(
            _ACCESS, exchange.method.decode(), exchange.path, code, engine, exchange.lane, exchange.model, spent
        )

    async def _admin(self, scope: Scope, receive: Receive, send: Send, request_id: str, caller: Caller) -> None:
        scope["aicockpit.caller"] = caller
        scope["aicockpit.request_id"] = request_id
        identity = (b"x-request-id", request_id.encode("latin-1"))

        async def tagged(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), identity]
            await send(message)

        await self.admin(scope, receive, tagged)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        request_id = self._request_id(headers)
        REQUEST_ID.set(request_id)
        try:
            if scope["path"] != "/v1/realtime":
                raise NotFound(f"there is no WebSocket at {scope['path'][:200]}")
            self._caller(scope, scope["path"], headers)
        except ApiError as error:
            await receive()
            await self.realtime.refuse(send, error, request_id)
            return
        await self.realtime.serve(scope, receive, send, request_id)

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


async def _tell(exchange: Exchange, error: ApiError, send: Send) -> None:
    """Answer a cancelled request: whole when nothing was sent yet, else as the last event of its stream."""
    if exchange.started:
        await break_off(exchange, error, send, None)
    else:
        await respond(send, error, exchange.request_id)


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole request body. Raises TooLarge before reading when the declared length says so, and ClientLeft."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(_too_large(limit))
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit:
            raise TooLarge(_too_large(limit))
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(_too_large(limit))
    return b"".join(parts)


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
