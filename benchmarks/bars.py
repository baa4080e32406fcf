"""The bars that our gateway must clear, checked against one run's measurements: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.model import Kind, Measurement
from benchmarks.stats import added

Verdict = Literal["PASS", "MISSED", "NOT MEASURED"]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: what was asked, what was seen."""

    text: str
    verdict: Verdict
    seen: str


def checked(text: str, good: bool, seen: str) -> Bar:
    """A bar that was measured."""
    return Bar(text, "PASS" if good else "MISSED", seen)


def all_pass(bars: Iterable[Bar]) -> bool:
    """Every bar was measured, and is cleared."""
    return all(bar.verdict == "PASS" for bar in bars)


@dataclass(frozen=True, slots=True)
class Soak:
    """What a soak found."""

    flat: bool
    growth: int
    settled: bool
    text: str
    whole: bool = True


class Results:
    """Measurements, found by gateway, kind, size and connections."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._by = {(m.gateway, m.scenario): m for m in measurements}
        self.all = list(measurements)

    def get(self, gateway: str, like: Measurement) -> Measurement | None:
        return self._by.get((gateway, like.scenario))

    def find(self, gateway: str, kind: Kind, connections: int, size: str = "2 kB") -> Measurement | None:
        for m in self.all:
            scene = m.scenario
            if (m.gateway, scene.kind, scene.connections, scene.size) == (gateway, kind, connections, size):
                return m
        return None


def _bar(text: str, seen: float | None, passed: bool, unit: str) -> Bar:
    if seen is None:
        return Bar(text, "NOT MEASURED", "-")
    return checked(text, passed, f"{seen:,.2f}{unit}")


def _json_bar(results: Results) -> Bar:
    ours, theirs = results.find("ours", "json", 32), results.find("vllm-router", "json", 32)
    seen = None
    if ours and theirs and theirs.load.requests:
        seen = ours.load.requests_per_second / theirs.load.requests_per_second
    return _bar("JSON, 2 kB, 32 connections: at least 0.6x vllm-router", seen, (seen or 0) >= 0.6, "x")


def _sse_bar(results: Results) -> Bar:
    ours = results.find("ours", "sse", 32)
    routers = [results.find(name, "sse", 32) for name in ("vllm-router", "sglang-router")]
    best = max((m.load.chunks_per_second for m in routers if m), default=0.0)
    seen = ours.load.chunks_per_second / best if ours and best else None
    return _bar("SSE at full speed, 32 connections: at least 1.0x the faster router", seen, (seen or 0) >= 1.0, "x")


def _latency_bar(results: Results) -> Bar:
    ours, direct = results.find("ours", "json", 1), results.find("direct", "json", 1)
    usable = ours and direct and ours.load.requests and direct.load.requests
    seen = added(ours.load.p50, direct.load.p50) if usable and ours and direct else None
    return _bar("JSON, 2 kB, 1 connection: at most 1 ms added at p50", seen, seen is not None and seen <= 1.0, " ms")


def _floor_bar(results: Results) -> Bar:
    rates = [
        m.load.requests_per_second
        for m in results.all
        if m.gateway == "ours"
        and m.scenario.kind == "json"
        and m.scenario.size == "2 kB"
        and m.scenario.connections > 1
    ]
    seen = min(rates) if rates else None
    return _bar("JSON, 2 kB, 32 and more connections: never under 1,000 requests/s", seen, (seen or 0) >= 1000, "/s")


def _memory_bar(soak: Soak | None) -> Bar:
    text = "Memory flat over 100,000 requests and 10,000 aborted streams, none of them left on the engine"
    if soak is None:
        return Bar(text, "NOT MEASURED", "run with --soak")
    if not soak.whole:
        return Bar(text, "NOT MEASURED", f"a part only: {soak.text}")
    return Bar(text, "PASS" if soak.flat and soak.settled else "MISSED", soak.text)


def check(results: Results, soak: Soak | None) -> list[Bar]:
    """Every bar, in the order of the page."""
    bars = [_json_bar(results), _sse_bar(results), _latency_bar(results), _floor_bar(results)]
    return [*bars, _memory_bar(soak)]
