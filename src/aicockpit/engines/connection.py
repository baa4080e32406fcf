"""One keep-alive connection to an engine and the answer that arrives on it: `asyncio.Protocol` on httptools.

Whatever bytes of an answer have arrived are handed on together; a slow reader pauses the engine; an abort closes
the connection at once. `client.py` pools these.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from aicockpit.errors import UpstreamLost, UpstreamTimeout

Headers = list[tuple[bytes, bytes]]

# Answer bytes held for a slow reader before the engine is paused.
HIGH_WATER = 256 * 1024
_MAX_HEADERS = 256
# Bytes of a body below which a copy is cheaper than a second buffer in the write.
_JOINED = 32 * 1024
# A kept-alive connection that ends so soon after a request was written had ended before.
_STALE_S = 0.5


class Pool(Protocol):
    """Where a connection goes when its answer is complete, or when it is lost."""

    def put(self, connection: Connection) -> None: ...
    def forget(self, connection: Connection) -> None: ...


class Reply:
    """The answer to one request. `read()` yields bytes as they arrive; `complete` is true once all have."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_error",
        "_last",
        "_limit",
        "_size",
        "_timer",
        "_wait",
        "_waiter",
        "complete",
        "headers",
        "started",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: Headers = []
        self.complete = False
        self.started = False
        self._connection = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wait = ""
        self._limit = 0.0
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def read(self) -> bytes:
        """All bytes that have arrived, at least one; `b""` at the end.

        Raises UpstreamLost when the connection ends early, UpstreamTimeout when the watched wait passes its limit.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            await self._arrival()
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        if self._size > HIGH_WATER and self._connection.reply is self:
            self._connection.resume()
        self._size = 0
        return data

    async def head(self) -> None:
        """Wait until `status` and `headers` are there. Raises as `read` does."""
        while not self.started:
            if self._error is not None:
                raise self._error
            await self._arrival()

    def watch(self, wait: str, limit_s: float | None) -> None:
        """From now on fail with UpstreamTimeout(wait) when nothing arrives for `limit_s` seconds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if limit_s is not None and not self.complete:
            loop = self._connection.loop
            self._wait, self._limit, self._last = wait, limit_s, loop.time()
            self._timer = loop.call_later(limit_s, self._check)

    def abort(self) -> None:
        """Close the connection now unless the answer is complete: the engine drops the request."""
        if not self.complete:
            self.fail(UpstreamLost("the request was aborted"))
            self._connection.drop()

    # Called by the connection.

    def begin(self, status: int, headers: Headers) -> None:
        self.status, self.headers, self.started = status, headers, True

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)

    def finish(self) -> None:
        self.complete = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fail(self, error: Exception) -> None:
        if self._error is None and not self.complete:
            self._error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.wake()

    def wake(self) -> None:
        """Something arrived, or failed."""
        if self._timer is not None:
            self._last = self._connection.loop.time()
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        elif self._size > HIGH_WATER:
            self._connection.pause()

    async def _arrival(self) -> None:
        self._waiter = self._connection.loop.create_future()
        await self._waiter

    def _check(self) -> None:
        loop = self._connection.loop
        left = self._last + self._limit - loop.time()
        if self._chunks:  # the reader is slow, not the engine
            left = self._limit
        if left > 0:
            self._timer = loop.call_later(left, self._check)
            return
        self._timer = None
        self.fail(UpstreamTimeout(self._wait, self._limit))
        self._connection.drop()


class Connection(asyncio.Protocol):
    """One connection; at most one request at a time. Callbacks named `on_*` are the parser's."""

    __slots__ = (
        "_headers",
        "_parser",
        "_pool",
        "_until_close",
        "idle_since",
        "loop",
        "paused",
        "reply",
        "served",
        "started_at",
        "transport",
    )

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.reply: Reply | None = None
        self.idle_since = 0.0
        self.served = 0
        self.started_at = 0.0
        self.paused = False
        self._headers: Headers = []
        self._until_close = True
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def start(self, reply: Reply, head: bytes, body: bytes) -> None:
        assert self.transport is not None
        self.reply = reply
        self.started_at = self.loop.time()
        if len(body) < _JOINED:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        if reply is None:  # an answer nobody asked for: never reuse this connection
            self.drop()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            reply.fail(UpstreamLost(f"the engine's answer is not HTTP: {error}"))
            self.drop()
            return
        reply.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        reply, self.reply, self.transport = self.reply, None, None
        if reply is None or reply.complete:
            return
        if reply.started and self._until_close and exc is None:
            reply.finish()
            reply.wake()
            return
        if reply.started:
            reply.fail(UpstreamLost("the engine closed the connection in the middle of its answer"))
            return
        # Closed between two requests, in all likelihood: an engine that fails on a request takes longer to do so.
        unseen = self.served > 0 and self.loop.time() - self.started_at < _STALE_S
        reply.fail(UpstreamLost("the engine closed the connection before its answer", unseen=unseen))

    def on_message_begin(self) -> None:
        if self.reply is None:  # bytes after the answer: never give them to the next request
            self.drop()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._headers) >= _MAX_HEADERS:
            raise ValueError("too many headers")
        name = name.lower()
        if name == b"content-length" or name == b"transfer-encoding":
            self._until_close = False
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self.reply is not None:
            if status == 204 or status == 304:
                self._until_close = False
            self.reply.begin(status, self._headers)
        self._headers = []

    def on_body(self, body: bytes) -> None:
        if self.reply is not None:
            self.reply.feed(body)

    def on_message_complete(self) -> None:
        reply = self.reply
        if reply is None or not reply.started:  # 1xx: the real answer follows
            return
        reply.finish()
        reply.wake()
        self.reply = None
        self.served += 1
        self._headers = []  # trailers
        transport = self.transport
        if transport is None or not self._parser.should_keep_alive() or transport.get_write_buffer_size():
            self.drop()
            return
        self._until_close = True
        self._pool.put(self)

    def pause(self) -> None:
        if self.transport is not None and not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if self.transport is not None and not self.transport.is_closing():
                self.transport.resume_reading()

    def drop(self) -> None:
        self.reply = None
        self._pool.forget(self)
        if self.transport is not None:
            self.transport.abort()
