"""The values that the benchmark's modules speak, and the bodies they send. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

Kind = Literal["json", "sse", "paced", "abort"]

MODEL = "bench"
API_KEY = "bench-key"
CHUNKS = 100
GAP_MS = 10
SIZES = {"2 kB": 2_000, "200 kB": 200_000}
CONNECTIONS = (1, 32, 256)
QUICK_CONNECTIONS = (1, 32)
HEADERS = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of traffic: what is sent, and over how many connections at once."""

    kind: Kind
    size: str
    connections: int

    @property
    def title(self) -> str:
        what = {"json": "JSON", "sse": "SSE full speed", "paced": f"SSE every {GAP_MS} ms", "abort": "aborts"}
        return f"{what[self.kind]}, {self.size}"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the load generator saw. Times are milliseconds; `delay` and `gap` belong to paced streams."""

    requests: int = 0
    errors: int = 0
    chunks: int = 0
    seconds: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    delay_p50: float = 0.0
    delay_p99: float = 0.0
    gap_p50: float = 0.0
    gap_p99: float = 0.0
    note: str = ""

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def chunks_per_second(self) -> float:
        return self.chunks / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One cell of the table: a gateway under one scenario. `cpu` is seconds, `memory` bytes at the peak."""

    gateway: str
    scenario: Scenario
    load: LoadResult
    cpu: float = 0.0
    memory: int = 0

    @property
    def cpu_per_1000(self) -> float:
        """CPU seconds of the gateway for 1,000 requests; for a stream of 100 chunks that is one request."""
        done = self.load.chunks / CHUNKS if self.load.chunks else self.load.requests
        return self.cpu / done * 1000 if done else 0.0


@dataclass(frozen=True, slots=True)
class Missing:
    """A gateway that was not measured, and why."""

    gateway: str
    reason: str


def scenarios(connections: tuple[int, ...]) -> list[Scenario]:
    """Every scenario, the cheap ones first."""
    shapes: tuple[tuple[Kind, str], ...] = (
        ("json", "2 kB"),
        ("json", "200 kB"),
        ("sse", "2 kB"),
        ("paced", "2 kB"),
    )
    return [Scenario(kind, size, count) for kind, size in shapes for count in connections]


def chat_body(kind: Kind, size: str) -> bytes:
    """A chat-completions body of about `size`. `seed` tells the stub the gap in ms: every gateway keeps it."""
    fields: dict[str, object] = {"model": MODEL, "max_tokens": CHUNKS, "temperature": 0.2}
    if kind != "json":
        fields |= {"stream": True, "seed": GAP_MS if kind in ("paced", "abort") else 0}
    line = "def handler(request: Request) -> Response:\n    return render(request, 'index.html')\n"
    room = SIZES[size] - len(json.dumps(fields)) - 150
    text = (line * (room // len(line) + 1))[:room]
    system = {"role": "system", "content": "You are a careful code assistant."}
    messages = [system, {"role": "user", "content": text}]
    return json.dumps(fields | {"messages": messages}).encode()
