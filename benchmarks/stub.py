"""A stub engine: answers like vLLM, from bytes made beforehand, as fast as one Python process can.

Run as `python -m benchmarks.stub PORT`. A body with `"stream": true` gets 100 events, each its own HTTP chunk:
with `"seed": N`, N > 0, one write every N ms that carries its own time; else at full speed, two per write.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass
from typing import cast

import uvloop

from benchmarks.model import CHUNKS, MODEL

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_GAP = re.compile(rb'"seed":\s*(\d+)')
PER_TURN = 2  # events in one write at full speed: one by one, the stub's system calls are the limit (130k/s)
_KEPT = 512  # bytes of the body's start and end that are looked at


def _answer(payload: object, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    body = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _completion(kind: str, choice: dict[str, object]) -> dict[str, object]:
    usage = {"prompt_tokens": 480, "completion_tokens": 64, "total_tokens": 544}
    head = {"id": "chatcmpl-0123456789abcdef", "object": kind, "created": 1_760_000_000, "model": MODEL}
    return head | {"choices": [{"index": 0, "finish_reason": "stop"} | choice], "usage": usage}


def _event(text: str, finish: str | None = None) -> bytes:
    """One server-sent event as one HTTP chunk."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1_760_000_000}
    data = b"data: " + json.dumps(head | {"model": MODEL, "choices": [choice]}).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


_METRICS = "".join(
    f'# TYPE vllm:{name} gauge\nvllm:{name}{{engine="0",model_name="{MODEL}"}} 0.0\n'
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
)
_MODEL_CARD = {"id": MODEL, "object": "model", "created": 1_760_000_000, "owned_by": "vllm", "max_model_len": 131072}
_MESSAGE = {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog. " * 8}

CHAT = _answer(_completion("chat.completion", {"message": _MESSAGE}))
ROUTES: dict[bytes, bytes] = {
    b"/v1/chat/completions": CHAT,
    b"/v1/completions": _answer(_completion("text_completion", {"text": "x"})),
    b"/v1/models": _answer({"object": "list", "data": [_MODEL_CARD]}),
    b"/metrics": _answer(_METRICS, "text/plain; version=0.0.4"),
    b"/version": _answer({"version": "0.0.0"}),
}
EMPTY = _answer("", "text/plain")
MISSING = _answer({"error": {"message": "no such route", "code": 404}}, status="404 Not Found")
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = _event("token 000000000000000 ")
STREAM_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def stamped_event() -> bytes:
    """An event of the usual length that carries this moment, in nanoseconds of the machine's clock."""
    return EVENT.replace(b"token 000000000000000", b"token %015d" % time.monotonic_ns())


@dataclass(slots=True)
class State:
    """What the stub has seen: streams in work, streams whose client left, answers given in full."""

    active: int = 0
    aborted: int = 0
    served: int = 0

    def answer(self) -> bytes:
        return _answer({"active": self.active, "aborted": self.aborted, "served": self.served})


class Stub(asyncio.Protocol):
    """One connection: requests one after the other, a stream at a time."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.head = b""
        self.body_left = 0
        self.kept = b""
        self.tail = b""
        self.path = b""
        self.chunks_left = -1
        self.gap = 0.0
        self.due = 0.0
        self.paused = False
        self.timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        if self.body_left:
            self._body(data)
            return
        if self.head:
            data = self.head + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or self.chunks_left >= 0:
            self.head = data
            return
        self.head = b""
        self.path = data[data.find(b" ") + 1 : data.find(b" ", data.find(b" ") + 1)]
        length = _LENGTH.search(data, 0, end)
        self.body_left = int(length[1]) if length else 0
        self.kept = self.tail = b""
        self._body(data[end + 4 :])

    def _body(self, data: bytes) -> None:
        self.body_left -= len(data)
        if len(self.kept) < _KEPT:
            self.kept += data[:_KEPT]
        self.tail = data[-_KEPT:] if len(data) >= _KEPT else (self.tail + data)[-_KEPT:]
        if self.body_left <= 0:
            self.body_left = 0
            self._respond()

    def _respond(self) -> None:
        if _STREAM.search(self.kept) or _STREAM.search(self.tail):
            self._start_stream()
        elif self.path == b"/stub/state":
            self.transport.write(self.state.answer())
        elif self.path.startswith((b"/health", b"/ping")):
            self.transport.write(EMPTY)
        else:
            self.state.served += 1
            self.transport.write(ROUTES.get(self.path, MISSING))

    def _start_stream(self) -> None:
        found = _GAP.search(self.kept) or _GAP.search(self.tail)
        self.gap = int(found[1]) / 1000 if found else 0.0
        self.chunks_left = CHUNKS
        self.state.active += 1
        self.transport.write(STREAM_HEAD)
        self.due = self.loop.time()
        self._schedule()

    def _schedule(self) -> None:
        if self.gap:
            self.due += self.gap
            self.timer = self.loop.call_at(self.due, self._write_chunk)
        else:
            self.timer = self.loop.call_soon(self._write_chunk)

    def _write_chunk(self) -> None:
        self.timer = None
        if self.paused:
            return
        if self.chunks_left == 0:
            self._end_stream()
            return
        if self.gap:
            self.chunks_left -= 1
            self.transport.write(stamped_event())
        else:
            count = min(PER_TURN, self.chunks_left)
            self.chunks_left -= count
            self.transport.write(EVENT * count)
        self._schedule()

    def _end_stream(self) -> None:
        self.transport.write(STREAM_END)
        self.chunks_left = -1
        self.state.active -= 1
        self.state.served += 1
        if self.head:
            data, self.head = self.head, b""
            self.data_received(data)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.chunks_left >= 0 and self.timer is None:
            self._schedule()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.chunks_left >= 0:
            self.chunks_left = -1
            self.state.active -= 1
            self.state.aborted += 1


async def serve(port: int) -> None:
    """Serve on loopback until the process is ended."""
    state = State()
    server = await asyncio.get_running_loop().create_server(lambda: Stub(state), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
