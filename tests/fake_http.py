"""The wire half of the fake vLLM: HTTP/1.1 on asyncio and httptools, and the switches that break it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import socket
import struct
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import unquote

import httptools

from fake_client import Counters, EchoSocket, Switches

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
POLLS = ("/health", "/metrics", "/v1/models", "/version")
Pairs = Iterable[tuple[str, str]]


class Over(Exception):
    """The answer is finished or cut as a switch ordered: nothing more is to be sent."""


@dataclass
class Request:
    """One whole request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    keep_alive: bool

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    @property
    def counted(self) -> bool:
        return self.method == "POST" and not self.path.startswith("/fake/")

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def record(self) -> dict[str, Any]:
        """What GET /fake/last shows."""
        return {
            "method": self.method,
            "path": self.target,
            "headers": self.headers,
            "body_sha256": hashlib.sha256(self.body).hexdigest(),
            "body_len": len(self.body),
            "body": base64.b64encode(self.body).decode() if len(self.body) < 1_000_000 else None,
        }


class Wire:
    """What all connections share."""

    def __init__(self, switches: Switches, access_log: bool, request_id_headers: bool) -> None:
        self.switches, self.access_log, self.request_id_headers = switches, access_log, request_id_headers
        self.counters = Counters()
        self.connections: set[Connection] = set()
        self.last: dict[str, Request] = {}
        self.handle: Callable[[Exchange], Awaitable[None]]

    def busy(self) -> bool:
        """Answers are open, or written but not yet taken."""
        unsent = (connection.transport.get_write_buffer_size() for connection in self.connections)
        return bool(self.counters.active or any(unsent))

    def arrived(self, request: Request) -> None:
        counters = self.counters
        counters.paths[request.path] = counters.paths.get(request.path, 0) + 1
        self.last[request.path] = request
        if request.path not in POLLS:
            self.last[""] = request
        if request.counted:
            counters.started += 1
            counters.active += 1
            counters.max_active = max(counters.max_active, counters.active)


class Exchange:
    """One request and the answer to it."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.wire, self.switches = connection.wire, connection.wire.switches
        self.done = self.dying = self.started = False
        self.events = 0
        self.pending: list[bytes] = []
        zipped = self.switches.gzip and request.counted
        self.deflater = zlib.compressobj(wbits=31) if zipped else None

    def settle(self, aborted: bool) -> None:
        """Ends the count of this request, once."""
        if self.done:
            return
        self.done = True
        if self.request.counted:
            counters = self.wire.counters
            counters.active -= 1
            counters.finished += not aborted
            if aborted:
                counters.aborted += 1
                counters.last_abort_monotonic_s = time.monotonic()

    def head(self, status: int, content_type: str, length: int | None, more: Pairs = ()) -> bytes:
        self.started = True
        lines = [("server", "uvicorn"), ("content-type", content_type)]
        lines.append(("transfer-encoding", "chunked") if length is None else ("content-length", str(length)))
        if self.request.counted:
            lines.append(("x-fake-request", hashlib.sha256(self.request.body).hexdigest()))
        if self.deflater:
            lines.append(("content-encoding", "gzip"))
        if self.switches.connection_header:
            lines += [("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5")]
        elif not self.request.keep_alive:
            lines.append(("connection", "close"))
        if self.wire.request_id_headers:
            lines.append(("x-request-id", self.request.header("x-request-id") or os.urandom(16).hex()))
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
        if self.wire.access_log and not self.request.path.startswith("/fake/"):
            line = f'"{self.request.method} {self.request.target} HTTP/1.1" {status} {phrase}'
            print(f"(APIServer pid={os.getpid()}) INFO:     127.0.0.1:0 - {line}", flush=True)
        rows = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in [*lines, *more])]
        return "\r\n".join([*rows, "", ""]).encode()

    async def send_json(self, value: object, status: int = 200, more: Pairs = ()) -> None:
        await self.send(json.dumps(value, separators=(",", ":")).encode(), "application/json", status, more)

    async def send(self, body: bytes, content_type: str, status: int = 200, more: Pairs = ()) -> None:
        """A whole answer with Content-Length."""
        if self.dying:
            os._exit(0)
        if self.deflater:
            body = self.deflater.compress(body) + self.deflater.flush()
        if status == 200 and self.request.counted:
            await self.mid_body(body, content_type, more)
        if not (self.switches.truncate and self.request.counted):
            self.connection.write(self.head(status, content_type, len(body), more) + body)
            self.settle(aborted=False)
        else:
            self.connection.write(self.head(status, content_type, len(body) + 100, more) + body)
            self.cut(reset=False)
        await self.connection.writable.wait()

    async def mid_body(self, body: bytes, content_type: str, more: Pairs) -> None:
        """The mid-stream switches for whole answers: nothing of it (N is 0), or half of it, is sent."""
        cut, hang = self.switches.die_mid_stream, self.switches.hang_mid_stream
        if max(cut, hang) > 0:
            self.connection.write(self.head(200, content_type, len(body), more) + body[: len(body) // 2])
        if cut >= 0:
            self.cut()
            raise Over
        if hang >= 0:
            await forever()

    async def start_stream(self) -> None:
        """The head of an SSE answer; it leaves at once, as with vLLM."""
        self.connection.write(self.head(200, "text/event-stream; charset=utf-8", None))
        await self.connection.writable.wait()

    async def event(self, data: str, kind: str = "") -> None:
        """One SSE event, or what the mid-stream switches do in its place."""
        if self.dying and self.events:
            os._exit(0)
        await self.mid_stream()
        self.events += 1
        self.pending.append((f"event: {kind}\n" if kind else "").encode() + b"data: " + data.encode() + b"\n\n")
        if len(self.pending) >= self.switches.chunks_per_write:
            await self.flush()

    async def mid_stream(self) -> None:
        switches, sent = self.switches, self.events
        if 0 <= switches.die_mid_stream <= sent or 0 <= switches.hang_mid_stream <= sent:
            await self.flush()
            if switches.die_mid_stream < 0:
                await forever()
            self.cut()
            raise Over
        if 0 <= switches.error_mid_stream <= self.events:
            await self.fault(ENGINE_DEAD)
        if 0 <= switches.lone_done <= self.events:
            self.pending.append(b"data: [DONE]\n\n")
            await self.end()
            raise Over

    async def fault(self, message: str) -> NoReturn:
        """How a stream of vLLM ends when its engine dies: an error event, then [DONE], under HTTP 200."""
        error = {"message": message, "type": "InternalServerError", "param": None, "code": 500}
        if self.request.path == "/v1/messages":
            short = {"type": "error", "error": {"type": "internal_error", "message": message}}
            self.pending.append(f"event: error\ndata: {json.dumps(short)}\n\n".encode())
        else:
            self.pending.append(f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n".encode())
        await self.end()
        raise Over

    async def flush(self) -> None:
        data, self.pending = b"".join(self.pending), []
        if not data or self.done:
            return
        third = max(1, len(data) // 3) if self.switches.split_writes else len(data)
        for start in range(0, len(data), third):
            self.connection.write(self.chunk(data[start : start + third]))
            await self.connection.writable.wait()
            if self.switches.split_writes:
                await asyncio.sleep(0.002)

    def chunk(self, data: bytes) -> bytes:
        if self.deflater:
            data = self.deflater.compress(data) + self.deflater.flush(zlib.Z_SYNC_FLUSH)
        return f"{len(data):x}\r\n".encode() + data + b"\r\n"

    async def end(self) -> None:
        """The end of an SSE answer."""
        await self.flush()
        if self.done:
            return
        if self.switches.truncate:
            self.cut(reset=False)
            return
        rest = self.deflater.flush() if self.deflater else b""
        tail = f"{len(rest):x}\r\n".encode() + rest + b"\r\n" if rest else b""
        self.connection.write(tail + b"0\r\n\r\n")
        self.settle(aborted=False)

    def cut(self, reset: bool = True) -> None:
        """Closes the connection before the answer is whole: RST on TCP, plain end on a unix socket."""
        self.settle(aborted=False)
        transport = self.connection.transport
        link = transport.get_extra_info("socket")
        if reset and link.family != socket.AF_UNIX:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()


async def forever() -> None:
    """Waits until cancelled, which happens when the client leaves."""
    await asyncio.get_running_loop().create_future()


class Connection(asyncio.Protocol):
    """One client connection: parses, answers one request at a time, notices at once when the client leaves."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.parser = httptools.HttpRequestParser(self)
        self.waiting: deque[Request] = deque()
        self.exchange: Exchange | None = None
        self.task: asyncio.Task[None] | None = None
        self.idle: asyncio.TimerHandle | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.served, self.counted, self.receiving, self.lost = 0, False, False, False
        self.websocket: EchoSocket | None = None
        self.target, self.headers, self.body = b"", list[tuple[str, str]](), list[bytes]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.wire.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()

    def eof_received(self) -> None:
        self.leave()

    def leave(self) -> None:
        if self.lost:
            return
        self.lost = True
        counters = self.wire.counters
        counters.connections -= self.counted
        counters.cut_uploads += self.receiving
        counters.websockets -= self.websocket is not None
        self.wire.connections.discard(self)
        self.cancel_idle()
        self.writable.set()
        if self.exchange:
            self.exchange.settle(aborted=True)
        if self.task:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def write(self, data: bytes) -> None:
        if not self.lost:
            self.transport.write(data)

    def cancel_idle(self) -> None:
        if self.idle:
            self.idle.cancel()
            self.idle = None

    def data_received(self, data: bytes) -> None:
        if self.websocket is not None:
            self.websocket.feed(data)
            return
        self.cancel_idle()
        if self.served and not self.task and self.wire.switches.drop_idle:
            self.wire.counters.dropped_idle += 1
            self.transport.abort()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.parser = httptools.HttpRequestParser(self)
            if self.websocket is not None:
                self.websocket.feed(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.receiving = False
            self.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\nInvalid HTTP request received.")
            self.transport.close()

    def on_message_begin(self) -> None:
        self.target, self.headers, self.body = b"", [], []
        self.receiving = True

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if not self.counted and not self.target.startswith(b"/fake/"):
            self.counted = True
            self.wire.counters.connections += 1
            self.wire.counters.connections_total += 1
        if any(name.lower() == "expect" for name, _ in self.headers):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.receiving = False
        method, target = self.parser.get_method().decode(), self.target.decode("latin-1")
        keep = self.parser.should_keep_alive()
        request = Request(method, target, self.headers, b"".join(self.body), keep)
        if request.header("upgrade").lower() == "websocket" and request.path == "/v1/realtime":
            self.wire.last[request.path] = self.wire.last[""] = request
            self.wire.counters.websockets += 1
            self.websocket = EchoSocket(request.header("sec-websocket-key"), self.write, self.transport.close)
            return
        self.waiting.append(request)
        self.advance()

    def advance(self) -> None:
        if self.task or not self.waiting or self.lost:
            return
        request = self.waiting.popleft()
        if not request.path.startswith("/fake/"):
            self.wire.arrived(request)
        self.exchange = Exchange(self, request)
        self.task = asyncio.get_running_loop().create_task(self.run(self.exchange))

    async def run(self, exchange: Exchange) -> None:
        whole = False
        try:
            await self.wire.handle(exchange)
            whole = exchange.done
        except Over:
            whole = True
        finally:
            self.task = self.exchange = None
            self.served += 1
            exchange.settle(aborted=True)
            if not whole or not exchange.request.keep_alive:
                self.transport.close()
            elif self.waiting:
                self.advance()
            elif not self.lost:
                loop = asyncio.get_running_loop()
                self.idle = loop.call_later(self.wire.switches.keep_alive, self.close_idle)

    def close_idle(self) -> None:
        self.wire.counters.idle_closed += 1
        self.transport.close()
