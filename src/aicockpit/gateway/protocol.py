"""uvicorn's HTTP protocol with limits on what a stranger may make us hold before a request is even a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Request line and headers. Bytes; the keys and ids that clients send are far shorter.
MAX_HEAD = 64 * 1024
# From the connection, or from a request's first byte, to the end of its head.
HEAD_WAIT_S = 30.0


class LimitedProtocol(HttpToolsProtocol):
    """Closes connections whose head is too long or too slow. A head in one piece costs two comparisons."""

    _head = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_WAIT_S, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:  # past the head of a request
            if self._timer is not None:
                self._head = 0
                self._disarm()
        elif not self.transport.is_closing():
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.send_400_response("The request's headers are too long.")
            elif self._timer is None:
                self._timer = self.loop.call_later(HEAD_WAIT_S, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()
