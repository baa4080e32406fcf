"""The load generator: keep-alive connections, each with one request at a time, bounded in time and in count.

Run as `python -m benchmarks.load`; reads one Spec as JSON from standard input, prints one LoadResult as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import uvloop

from benchmarks.model import CHAT_PATH, HEADERS, Kind, LoadResult, Scenario, chat_body
from benchmarks.stats import percentile

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_STAMP = re.compile(rb"token (\d{15}) ")
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_MOST_ERRORS = 1000
_MOST_SAMPLES = 2_000_000


@dataclass(frozen=True, slots=True)
class Spec:
    """What to send and when to stop: after `seconds`, or after `most` answers when that is not 0."""

    port: int
    kind: Kind
    size: str
    connections: int
    seconds: float
    most: int = 0


@dataclass(slots=True)
class Tally:
    """What all connections saw together."""

    spec: Spec
    request: bytes
    started: int = 0
    requests: int = 0
    errors: int = 0
    chunks: int = 0
    note: str = ""
    times: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    def more(self) -> bool:
        """Whether another request may start; counts it."""
        if self.stopped.is_set() or (self.spec.most and self.started >= self.spec.most):
            return False
        self.started += 1
        return True

    def finished(self, milliseconds: float) -> None:
        self.requests += 1
        if len(self.times) < _MOST_SAMPLES:
            self.times.append(milliseconds)
        if self.spec.most and self.requests + self.errors >= self.spec.most:
            self.stopped.set()

    def failed(self, why: str) -> None:
        if self.stopped.is_set():
            return
        self.errors += 1
        self.note = self.note or why[:200]
        if self.errors >= _MOST_ERRORS or (self.spec.most and self.requests + self.errors >= self.spec.most):
            self.stopped.set()

    def result(self, seconds: float) -> LoadResult:
        measures = {"p": self.times, "delay_p": self.delays, "gap_p": self.gaps}
        figures = {f"{name}{n}": percentile(v, n) for name, v in measures.items() for n in (50, 99)}
        return LoadResult(
            requests=self.requests,
            errors=self.errors,
            chunks=self.chunks,
            seconds=seconds,
            note=self.note,
            **figures,
        )


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.stream = tally.spec.kind != "json"
        self.stamped = tally.spec.kind == "paced"
        self.closed = asyncio.get_running_loop().create_future()
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._send()

    def _send(self) -> None:
        if not self.tally.more():
            self.transport.close()
            return
        self.busy = True
        self.head = b""
        self.left = -1  # body bytes to come; -1: head not seen; -2: chunked
        self.tail = b""
        self.last_chunk = 0
        self.start = time.monotonic_ns()
        self.transport.write(self.tally.request)

    def data_received(self, data: bytes) -> None:
        if not self.busy or self.tally.stopped.is_set():
            return
        if self.left == -1:
            data = self._read_head(self.head + data)
        if self.left == -1 or not self.busy:
            return
        if self.stream:
            self._count(data)
        if self.left == -2:
            self.tail = (self.tail + data)[-len(_LAST_CHUNK) :]
            done = self.tail == _LAST_CHUNK
        else:
            self.left -= len(data)
            done = self.left <= 0
        if done:
            self._done()

    def _read_head(self, data: bytes) -> bytes:
        """Take the response's head off; returns the part of the body that came with it."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self.head = data
            return b""
        if data[9:12] != b"200":
            self._fail(data.decode("latin-1"))
            return b""
        length = _LENGTH.search(data, 0, end + 2)
        self.left = int(length[1]) if length else -2
        self.tail = b"\r\n"
        return data[end + 4 :]

    def _count(self, data: bytes) -> None:
        seen = data.count(b"data: ")
        if seen and data.find(b"data: [DONE]") >= 0:
            seen -= 1
        self.tally.chunks += seen
        if self.stamped and seen:
            self._time(data)
        if seen and self.tally.spec.kind == "abort":
            self._done()

    def _time(self, data: bytes) -> None:
        now = time.monotonic_ns()
        for stamp in _STAMP.findall(data):
            self.tally.delays.append((now - int(stamp)) / 1e6)
            if self.last_chunk:
                self.tally.gaps.append((now - self.last_chunk) / 1e6)
            self.last_chunk = now

    def _done(self) -> None:
        if not self.busy:
            return
        self.busy = False
        self.tally.finished((time.monotonic_ns() - self.start) / 1e6)
        if self.tally.spec.kind == "abort":
            self.transport.close()
        else:
            self._send()

    def _fail(self, why: str) -> None:
        self.busy = False
        self.tally.failed(why)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self.tally.failed(f"connection lost in the middle of an answer: {exc}")
        if not self.closed.done():
            self.closed.set_result(None)


async def _keep_connected(tally: Tally) -> None:
    """Hold one connection, opened again whenever it ends, until there is nothing more to send."""
    loop = asyncio.get_running_loop()
    while not tally.stopped.is_set() and not (tally.spec.most and tally.started >= tally.spec.most):
        try:
            _, client = await loop.create_connection(lambda: Client(tally), "127.0.0.1", tally.spec.port)
        except OSError as error:
            tally.failed(str(error))
            await asyncio.sleep(0.05)
            continue
        stop = asyncio.ensure_future(tally.stopped.wait())
        await asyncio.wait({client.closed, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        client.transport.abort()


async def drive(spec: Spec) -> LoadResult:
    """Send what `spec` says and return what was seen."""
    tally = Tally(spec, request_bytes(spec))
    began = time.monotonic()
    tasks = [asyncio.create_task(_keep_connected(tally)) for _ in range(spec.connections)]
    try:
        async with asyncio.timeout(spec.seconds):
            await tally.stopped.wait()
    except TimeoutError:
        tally.stopped.set()
    took = time.monotonic() - began
    await asyncio.wait(tasks, timeout=10)
    return tally.result(took)


def request_bytes(spec: Spec) -> bytes:
    """The whole request, head and body."""
    body = chat_body(spec.kind, spec.size)
    headers = HEADERS | {"Host": f"127.0.0.1:{spec.port}", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {CHAT_PATH} HTTP/1.1\r\n{lines}\r\n".encode() + body


def spec_of(scenario: Scenario, port: int, seconds: float, most: int = 0) -> Spec:
    return Spec(port, scenario.kind, scenario.size, scenario.connections, seconds, most)


def _main() -> None:
    fields: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(uvloop.run(drive(Spec(**fields))))))


if __name__ == "__main__":
    _main()
