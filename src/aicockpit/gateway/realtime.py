"""`/v1/realtime`: a WebSocket to the engine that serves the model, messages handed on both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import msgspec
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from aicockpit.engines.engine import Engine
from aicockpit.errors import ApiError, BadGateway, BadRequest
from aicockpit.gateway import envelope
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.forward import Forwarder, Send
from aicockpit.types import Lane

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# RFC 6455 close codes: policy violation, internal error.
_REFUSED, _FAILED = 1008, 1011


class Realtime:
    """Proxies WebSockets. The model is named by `?model=`, or by the first message (`session.update`)."""

    def __init__(
        self, directory: Directory, forwarder: Forwarder, connect_wait: float, max_message: int, first_wait: float
    ) -> None:
        self._directory, self._forwarder = directory, forwarder
        self._connect_wait, self._max_message, self._first_wait = connect_wait, max_message, first_wait

    async def serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Accept, find the engine, pump until either side closes."""
        await receive()  # websocket.connect
        await send({"type": "websocket.accept", "subprotocol": _subprotocol(scope)})
        try:
            asked, first = await self._model(scope, receive)
            if asked is None:
                return
            model, engines = self._directory.find(asked)
            await self._forwarder.awake(engines)
            engine = self._forwarder.pick(engines, Lane.INTERACTIVE)
            query = scope.get("query_string", b"").decode("latin-1")
            if model != asked:
                query, first = _renamed(query, model), first and _with_model(first, model)
            await self._proxy(engine, query, first, receive, send)
        except ApiError as error:
            await self.refuse(send, error, request_id)

    async def refuse(self, send: Send, error: ApiError, request_id: str) -> None:
        """Tell why in an `error` event where the socket is open, then close with a code and the reason."""
        text = envelope.body(error, request_id).decode()
        code = _REFUSED if error.status < 500 else _FAILED
        with suppress(RuntimeError):  # not accepted yet: the close alone becomes HTTP 403
            await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.close", "code": code, "reason": error.message[:120]})

    async def _model(self, scope: Scope, receive: Receive) -> tuple[str | None, MutableMapping[str, Any] | None]:
        named = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("model")
        if named:
            return named[0], None
        try:
            async with asyncio.timeout(self._first_wait):
                message = await receive()
        except TimeoutError as error:
            raise BadRequest(f"no model named within {self._first_wait:g} s: use ?model=NAME") from error
        if message["type"] != "websocket.receive":
            return None, None
        return _named_in(message), message

    async def _proxy(
        self, engine: Engine, query: str, first: MutableMapping[str, Any] | None, receive: Receive, send: Send
    ) -> None:
        try:
            with self._forwarder.occupied(engine, Lane.INTERACTIVE):
                async with self._dial(engine, query) as upstream:
                    if first is not None:
                        await _to_engine(upstream, first)
                    await _pump(upstream, receive, send, engine)
        except (OSError, WebSocketException, TimeoutError) as error:
            raise BadGateway(f"engine {engine.name}: {error}") from error

    def _dial(self, engine: Engine, query: str) -> connect:
        address = engine.address
        path = "/v1/realtime" + (f"?{query}" if query else "")
        options: dict[str, Any] = {
            "open_timeout": self._connect_wait,
            "max_size": self._max_message,
            "compression": None,
        }
        if address.key:
            options["additional_headers"] = {"Authorization": f"Bearer {address.key}"}
        if address.uds:
            return unix_connect(address.uds, uri=f"ws://localhost{path}", **options)
        return connect(address.url.replace("http", "ws", 1) + path, proxy=None, **options)


async def _pump(upstream: ClientConnection, receive: Receive, send: Send, engine: Engine) -> None:
    """Both directions until one side closes; the other is closed with the same code."""
    up = asyncio.create_task(_client_to_engine(upstream, receive))
    down = asyncio.create_task(_engine_to_client(upstream, send, engine))
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        if down.done() and not up.done():
            await send(
                {
                    "type": "websocket.close",
                    "code": upstream.close_code or _FAILED,
                    "reason": upstream.close_reason or "",
                }
            )
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _client_to_engine(upstream: ClientConnection, receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code") or 1000
            await upstream.close(code if 1000 <= code < 5000 and code not in (1004, 1005, 1006, 1015) else 1000)
            return
        await _to_engine(upstream, message)


async def _to_engine(upstream: ClientConnection, message: MutableMapping[str, Any]) -> None:
    text = message.get("text")
    with suppress(ConnectionClosed):
        await upstream.send(text if text is not None else message["bytes"])


async def _engine_to_client(upstream: ClientConnection, send: Send, engine: Engine) -> None:
    with suppress(ConnectionClosed):
        async for data in upstream:
            engine.progress += 1
            await send({"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data})


def _named_in(message: MutableMapping[str, Any]) -> str:
    """`model`, or `session.model`, of the first message. Raises BadRequest."""
    found = _decoded(message)
    for place in _places(found):
        if isinstance(place.get("model"), str):
            return str(place["model"])
    raise BadRequest("the first message must name the model, or use ?model=NAME", code="model_missing", param="model")


def _with_model(message: MutableMapping[str, Any], model: str) -> MutableMapping[str, Any]:
    """The first message with an alias replaced."""
    found = _decoded(message)
    for place in _places(found):
        if isinstance(place.get("model"), str):
            place["model"] = model
    return {**message, "text": msgspec.json.encode(found).decode()}


def _decoded(message: MutableMapping[str, Any]) -> Any:
    try:
        return msgspec.json.decode(message.get("text") or b"")
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest("the first message must be JSON naming the model, or use ?model=NAME") from error


def _places(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, dict):
        return []
    session = found.get("session")
    return [found, session] if isinstance(session, dict) else [found]


def _renamed(query: str, model: str) -> str:
    return urlencode([(name, model if name == "model" else value) for name, value in parse_qsl(query, True)])


def _subprotocol(scope: Scope) -> str | None:
    """A client that offers sub-protocols gets `realtime` back, as OpenAI does; never the one holding its key."""
    return "realtime" if "realtime" in scope.get("subprotocols", ()) else None
