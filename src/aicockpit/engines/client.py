"""The lean HTTP/1.1 client of one engine: a pool of keep-alive connections.

A general client costs more per request than all the rest of the gateway (docs/performance.md). This one does what
a proxy needs and no more. Every wait has a name: connect here, first byte and token in `connection.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Iterable

from aicockpit.engines.connection import Connection, Headers, Reply
from aicockpit.errors import ConnectFailed, UpstreamLost, UpstreamTimeout
from aicockpit.types import Address

__all__ = ["Headers", "Reply", "Upstream"]

# vLLM closes an idle connection after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE); ours must be gone before.
IDLE_LIMIT_S = 4.0


def _host(address: Address) -> str:
    if address.uds:
        return "localhost"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return host if address.port == (443 if address.tls else 80) else f"{host}:{address.port}"


class Upstream:
    """The connections to one engine. Requests in work are not limited here; the gateway limits them."""

    def __init__(self, address: Address, connect_wait: float = 5.0) -> None:
        self.address = address
        self.connect_wait = connect_wait
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._head = f"host: {_host(address)}\r\n".encode("ascii")
        if address.key:
            self._head += f"authorization: Bearer {address.key}\r\n".encode("ascii")
        self._base = address.base.encode("ascii")
        self._tls = ssl.create_default_context() if address.tls else None

    async def send(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        first_byte: float | None = None,
    ) -> Reply:
        """Send a request and wait for the head of its answer.

        `target` is path and query; `headers` have no host, length or hop-by-hop fields. A reused connection that
        turns out to be closed is replaced once by a fresh one. `first_byte` limits, in seconds, the wait for the head
        and again for the body's first byte. Raises ConnectFailed, UpstreamLost, UpstreamTimeout.
        """
        lines = [method, b" ", self._base, target, b" HTTP/1.1\r\n", self._head]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if body or method != b"GET":
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        head = b"".join(lines)
        connection = self._reusable()
        if connection is not None:
            try:
                return await self._exchange(connection, head, body, first_byte)
            except UpstreamLost as error:
                if not error.unseen:
                    raise
        return await self._exchange(await self._connect(), head, body, first_byte)

    async def fetch(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        limit_s: float,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> tuple[int, bytes]:
        """A whole small answer: status and body. Used by probes; `limit_s` bounds the whole call."""
        lines = [*headers, *([(b"content-type", b"application/json")] if body else [])]
        reply: Reply | None = None
        try:
            async with asyncio.timeout(limit_s):
                reply = await self.send(method.encode(), target.encode(), lines, body)
                parts = []
                while part := await reply.read():
                    parts.append(part)
                return reply.status, b"".join(parts)
        except TimeoutError as error:
            raise UpstreamTimeout("answer", limit_s) from error
        finally:
            if reply is not None:
                reply.abort()

    def close(self) -> None:
        """Close every connection; requests in work fail with UpstreamLost."""
        for connection in list(self._all):
            reply = connection.reply
            if reply is not None:
                reply.fail(UpstreamLost("the engine was stopped"))
            connection.drop()

    @property
    def open_connections(self) -> int:
        return len(self._all)

    def put(self, connection: Connection) -> None:
        connection.idle_since = connection.loop.time()
        connection.resume()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection.idle_since:
            connection.idle_since = 0.0
            with contextlib.suppress(ValueError):
                self._idle.remove(connection)

    def _reusable(self) -> Connection | None:
        """The connection used last; older ones are closed when their time is over."""
        idle = self._idle
        while idle:
            connection = idle[-1]
            now = connection.loop.time()
            if now - connection.idle_since > IDLE_LIMIT_S:
                for old in list(idle):
                    old.drop()
                return None
            while now - idle[0].idle_since > IDLE_LIMIT_S:
                idle[0].drop()
            idle.pop()
            connection.idle_since = 0.0
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        address = self.address

        def factory() -> Connection:
            return Connection(self, loop)

        try:
            async with asyncio.timeout(self.connect_wait):
                if address.uds:
                    _, connection = await loop.create_unix_connection(factory, address.uds)
                else:
                    _, connection = await loop.create_connection(factory, address.host, address.port, ssl=self._tls)
        except TimeoutError as error:
            raise ConnectFailed(f"no connection to {address.url} within {self.connect_wait:g} s") from error
        except OSError as error:
            raise ConnectFailed(f"no connection to {address.url}: {error.strerror or error}") from error
        self._all.add(connection)
        return connection

    async def _exchange(self, connection: Connection, head: bytes, body: bytes, first_byte: float | None) -> Reply:
        reply = Reply(connection)
        connection.start(reply, head, body)
        reply.watch("first byte", first_byte)
        try:
            await reply.head()
        except BaseException:
            reply.abort()
            raise
        return reply
