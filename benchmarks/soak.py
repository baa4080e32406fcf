"""Memory over 100,000 requests and 10,000 streams whose client leaves after the first chunk."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.bars import Soak
from benchmarks.load import Spec
from benchmarks.measure import Bench, run_load
from benchmarks.model import Kind, LoadResult
from benchmarks.proc import Running
from benchmarks.stats import MB, memory_flat

REQUESTS = 100_000
ABORTS = 10_000
WARM_SHARE = 10  # the warm-up is this part of the whole
_LIMIT = 900.0
_PERIOD = 3.0
_SETTLE = 10.0


class _Watch:
    """Samples of the gateway's memory, each printed as a line."""

    def __init__(self, running: Running, say: Callable[[str], None]) -> None:
        self.running, self.say = running, say
        self.samples: list[int] = []
        self.began = time.monotonic()
        self.phase = ""

    def sample(self) -> None:
        self.samples.append(self.running.memory())
        after = time.monotonic() - self.began
        self.say(f"{after:6.1f} s  {self.phase:<10}  {self.samples[-1] / MB:8.1f} MB")


def soak(running: Running, port: int, bench: Bench, say: Callable[[str], None], scale: float = 1.0) -> Soak:
    """Warm up with a tenth, then the whole; `scale` shortens both for a try."""
    watch = _Watch(running, say)
    requests, aborts = round(REQUESTS * scale), round(ABORTS * scale)
    before = bench.stub_state()

    def go(kind: Kind, phase: str, most: int) -> LoadResult:
        watch.phase = phase
        watch.sample()
        spec = Spec(port, kind, "2 kB", 32, _LIMIT, most)
        return run_load(spec, bench, watch.sample, _PERIOD)

    loads = [go("json", "warm-up", requests // WARM_SHARE), go("abort", "warm-up", aborts // WARM_SHARE)]
    watch.phase = "baseline"
    watch.sample()
    baseline, watch.samples = watch.samples[-1], []
    loads += [go("json", "requests", requests), go("abort", "aborts", aborts)]
    left = sum(load.requests for load in (loads[1], loads[3]))
    seen, active = _settle(bench, before["aborted"], left)
    watch.phase = "end"
    watch.sample()
    flat, growth = memory_flat(baseline, watch.samples)
    errors = sum(load.errors for load in loads)
    text = (
        f"{loads[2].requests:,} requests, {loads[3].requests:,} aborts, {errors} errors; "
        f"{baseline / MB:.1f} MB grew by {growth / MB:+.1f} MB; "
        f"engine saw {seen:,} of {left:,} aborts, {active} streams left"
    )
    done = loads[2].requests == requests and loads[3].requests == aborts
    return Soak(flat, growth, done and active == 0 and seen == left, text, whole=scale >= 1)


def _settle(bench: Bench, before: int, expected: int) -> tuple[int, int]:
    """Give the last aborts a moment to reach the stub: aborts seen since `before`, streams still in work."""
    end = time.monotonic() + _SETTLE
    while True:
        state = bench.stub_state()
        seen, active = state["aborted"] - before, state["active"]
        if (seen == expected and not active) or time.monotonic() > end:
            return seen, active
        time.sleep(0.2)
