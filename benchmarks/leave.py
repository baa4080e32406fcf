"""How soon does an engine learn that a client left? `python benchmarks/leave.py [--count 200]`

A small engine in this process notes when its connection closes; the client, on the same clock, notes when it left.
Between them stands `aicockpit serve`. Three moments: before the headers, in a stream, in a plain call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peers import PEERS, Place
from benchmarks.proc import cores, free_port
from benchmarks.report import markdown_table

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[]}\n\n'
MOMENTS = {"before the headers": b"h", "in a stream": b"s", "in a plain call": b"p"}


class Engine(asyncio.Protocol):
    """Answers probes; holds a request whose prompt names a moment, and notes when its connection is lost."""

    def __init__(self, lost: asyncio.Queue[float], held: asyncio.Queue[None]) -> None:
        self._lost, self._held, self._holding = lost, held, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if b'"moment' not in data:
            models = json.dumps({"object": "list", "data": [{"id": "m"}]}).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(models) + models)
            return
        self._holding = True
        if b'"moment-s"' in data:
            self._transport.write(STREAM + b"%x\r\n" % len(EVENT) + EVENT + b"\r\n")
        elif b'"moment-p"' in data:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        self._held.put_nowait(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._holding:
            self._lost.put_nowait(time.monotonic())


async def leave(port: int, letter: bytes, lost: asyncio.Queue[float], held: asyncio.Queue[None]) -> float:
    """Seconds from the client's close to the engine's notice."""
    body = b'{"model":"m","stream":true,"prompt":"moment-%s"}' % letter
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer bench-key\r\ncontent-length: %d\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head % len(body) + body)
    await held.get()
    if letter != b"h":
        await reader.read(10)
    await asyncio.sleep(0.002)
    left = time.monotonic()
    writer.transport.abort()
    return await asyncio.wait_for(lost.get(), 10) - left


async def measure(count: int, folder: Path) -> list[list[str]]:
    lost: asyncio.Queue[float] = asyncio.Queue()
    held: asyncio.Queue[None] = asyncio.Queue()
    server = await asyncio.get_running_loop().create_server(lambda: Engine(lost, held), "127.0.0.1", 0)
    engine_port = server.sockets[0].getsockname()[1]
    place = Place(free_port(), engine_port, cores()[0], folder)
    ours = next(peer for peer in PEERS if peer.name == "ours")
    running = await asyncio.to_thread(ours.start, place)
    try:
        rows = []
        for name, letter in MOMENTS.items():
            seen = sorted([await leave(place.port, letter, lost, held) for _ in range(count)])
            middle, worst = seen[count // 2], seen[-1]
            rows.append([name, str(count), f"{middle * 1000:.2f}", f"{worst * 1000:.2f}"])
        return rows
    finally:
        await asyncio.to_thread(running.stop)
        server.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    count = max(1, min(parser.parse_args().count, 10_000))
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(count, Path(folder)))
    print(markdown_table(["the client leaves", "times", "median ms", "slowest ms"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
