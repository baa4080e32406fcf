"""uvicorn's HTTP protocol, with limits on what a stranger may make us hold, and word of a client that leaves at once.

ASGI tells of a disconnect through `receive()`, which takes a task of its own per request to listen; the connection
itself knows, so a request asks it. The scope holds it under CONNECTION.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Request line and headers. Bytes; the keys and ids that clients send are far shorter.
MAX_HEAD = 64 * 1024
# From the connection, or from a request's first byte, to the end of its head.
HEAD_WAIT_S = 30.0


CONNECTION = "aicockpit.connection"


class Leaver(Protocol):
    """Is told, once at most, that its client has left."""

    def leave(self) -> None: ...


class LimitedProtocol(HttpToolsProtocol):
    """Closes connections whose head is too long or too slow. A head in one piece costs two comparisons."""

    _lost = False
    _head = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._leavers: set[Leaver] = set()
        self._timer = self.loop.call_later(HEAD_WAIT_S, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._disarm()
        super().connection_lost(exc)
        for leaver in tuple(self._leavers):
            leaver.leave()

    def watch(self, leaver: Leaver) -> None:
        """Tell it when the client leaves, from when its whole request has been read."""
        if self._lost:
            leaver.leave()
            return
        self._leavers.add(leaver)
        self.flow.resume_reading()  # a long body may have paused it, and then nothing is noticed

    def unwatch(self, leaver: Leaver) -> None:
        self._leavers.discard(leaver)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

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
