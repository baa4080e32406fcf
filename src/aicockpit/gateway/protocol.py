"""uvicorn's HTTP protocol, with limits on what a stranger may make us hold, and two short cuts past ASGI.

- A client that leaves: ASGI tells of it through `receive()`, which takes a task of its own per request to listen.
- A whole answer: ASGI takes two messages and checks every header again; here it is one write.

The connection itself can do both, so a request asks it. The scope holds it under CONNECTION.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

# Request line and headers. Bytes; the keys and ids that clients send are far shorter.
MAX_HEAD = 64 * 1024
# From the connection, or from a request's first byte, to the end of its head.
HEAD_WAIT_S = 30.0


CONNECTION = "aicockpit.connection"


class Leaver(Protocol):
    """Is told, once at most, that its client has left."""

    def leave(self) -> None: ...


class LimitedProtocol(HttpToolsProtocol):
    """Closes connections whose head is too long or too slow, or that are idle. A head in one piece costs little.

    One timer a connection stands for both limits and looks only when it fires; uvicorn sets and cancels one a request.
    """

    task: asyncio.Task[None]
    _running: RequestResponseCycle
    _lost = False
    _upgraded = False
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._leavers: set[Leaver] = set()
        self._since: float | None = self.loop.time()
        self._wait = HEAD_WAIT_S
        self._timer = self.loop.call_later(HEAD_WAIT_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._timer.cancel()
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

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole answer. `headers` come from a parser or from us: they are not checked again."""
        cycle = self._running
        if self.flow.write_paused and not self._lost:
            await self.flow.drain()
        if self._lost or cycle.response_started:
            return
        lines, sized = [STATUS_LINE[status]], not body
        for name, value in headers:
            sized = sized or name == b"content-length"
            lines += (name, b": ", value, b"\r\n")
        if not sized:
            lines.append(b"content-length: %d\r\n" % len(body))
        lines += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
        self.transport.write(b"".join(lines))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    # Called by the parser, the transport and uvicorn's own code.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:  # past the head of a request
            self._head, self._since = 0, None
        elif not self.transport.is_closing():
            self._head += len(data)
            if self._head > MAX_HEAD:
                self.send_400_response("The request's headers are too long.")
            elif self._wait != HEAD_WAIT_S and not self._upgraded:  # the head of a further request begins
                self._limit(HEAD_WAIT_S)

    def handle_websocket_upgrade(self) -> None:
        self._upgraded = True
        self._timer.cancel()
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        task = self.task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._since, self._wait = self.loop.time(), self.timeout_keep_alive

    def _limit(self, wait_s: float) -> None:
        """From now on the connection may wait so long for the end of a request's head."""
        self._since, self._wait = self.loop.time(), wait_s
        self._timer.cancel()
        self._timer = self.loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        left = self._wait
        if self._since is not None:
            left = self._since + self._wait - self.loop.time()
        if left <= 0:
            if not self.transport.is_closing():
                self.transport.close()
            return
        self._timer = self.loop.call_later(left, self._look)
