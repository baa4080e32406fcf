"""What `/metrics` shows. One registry per gateway; engine figures are read when the page is asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aicockpit.engines.engine import Engine
from aicockpit.gateway.pressure import Pressure
from aicockpit.hardware import fit
from aicockpit.hardware.detect import Gpu
from aicockpit.types import EngineState, Lane

# Seconds; from a warm prefix on a GPU to a cold prefill on a CPU.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """The gateway's own counts. Label values are bounded: routes and models are known ones, or `other`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "aicockpit_requests",
            "Requests answered, by route, model, lane and status code (499: the client left, or was superseded).",
            ("route", "model", "lane", "code"),
            registry=self.registry,
        )
        self.first_byte = Histogram(
            "aicockpit_time_to_first_byte_seconds",
            "From the request's last byte to the first byte of the answer's body.",
            ("model", "lane"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.retries = Counter(
            "aicockpit_retries", "Requests sent again before the first byte.", ("reason",), registry=self.registry
        )
        self.stream_errors = Counter(
            "aicockpit_stream_errors",
            "Streams that failed after their first byte: engine (it said so), unfinished, lost, stalled.",
            ("model", "kind"),
            registry=self.registry,
        )
        self.cancelled = Counter(
            "aicockpit_cancelled",
            "Requests cancelled upstream: client_left or superseded.",
            ("reason",),
            registry=self.registry,
        )
        self._counts: dict[tuple[str, str, str, int], Counter] = {}
        self._times: dict[tuple[str, str], Histogram] = {}

    def answered(self, route: str, model: str, lane: Lane, code: int) -> None:
        labels = (route, model, lane.value, code)
        child = self._counts.get(labels)
        if child is None:
            child = self._counts[labels] = self.requests.labels(route, model, lane.value, str(code))
        child.inc()

    def began(self, model: str, lane: Lane, seconds: float) -> None:
        child = self._times.get((model, lane.value))
        if child is None:
            child = self._times[model, lane.value] = self.first_byte.labels(model, lane.value)
        child.observe(seconds)


@dataclass(frozen=True, slots=True)
class Counts:
    """What an engine has counted since it began: prompt tokens, those of them found in the prefix cache, and requests
    that it preempted; None where its page does not say."""

    prompt: float = 0.0
    cached: float = 0.0
    preempted: float | None = None

    @property
    def share(self) -> float | None:
        """Of its prompt tokens, those found cached, 0 to 1; None before it had one."""
        return min(1.0, self.cached / self.prompt) if self.prompt > 0 else None


class _Life:
    """Counts over all lives of an engine: its own counters start at zero with each restart."""

    def __init__(self) -> None:
        self.prompt = self.cached = 0.0
        self.preempted: float | None = None
        self.pressure = Pressure()
        self._last = Counts()

    def read(self, now: Counts, born: float) -> None:
        old = self._last if now.prompt >= self._last.prompt else Counts()
        self.prompt += now.prompt - old.prompt
        self.cached += max(now.cached - old.cached, 0.0)
        if now.preempted is not None:
            self.preempted = (self.preempted or 0.0) + max(now.preempted - (old.preempted or 0.0), 0.0)
            self.pressure.note(self.preempted, time.monotonic(), born)
        self._last = now


class EngineCollector(Collector):
    """State, load, restarts and token counts of the engines, and the GPUs where NVML is present."""

    def __init__(self, engines: Sequence[Engine], read_gpus: Callable[[], Sequence[Gpu]]) -> None:
        self._engines, self._read_gpus = engines, read_gpus
        self._lives: dict[str, _Life] = {}
        self._readings: dict[str, asyncio.Task[None]] = {}
        self._started = time.time()

    def reading(self, engine: Engine, read: Callable[[], Coroutine[None, None, None]]) -> asyncio.Task[None]:
        """The reading of this engine's counters that is under way, or a new one."""
        task = self._readings.get(engine.name)
        if task is None or task.done():
            task = self._readings[engine.name] = asyncio.create_task(read(), name=f"counters of {engine.name}")
        return task

    def count(self, engine: Engine, counts: Counts) -> None:
        """The engine's own counters as read now."""
        self._lives.setdefault(engine.name, _Life()).read(counts, engine.ready_at)

    def counts(self, engine: str) -> Counts | None:
        """What it has counted over all its lives, as far as it was read; None while it was not."""
        life = self._lives.get(engine)
        return None if life is None else Counts(life.prompt, life.cached, life.preempted)

    def pressure(self, engine: str) -> Pressure:
        """Its preemptions as far as they were read."""
        life = self._lives.get(engine)
        return Pressure() if life is None else life.pressure

    def collect(self) -> Iterable[Metric]:
        state = GaugeMetricFamily(
            "aicockpit_engine_state", "1 for the state the engine is in.", labels=("engine", "state")
        )
        load = GaugeMetricFamily("aicockpit_in_flight", "Users' requests in work.", labels=("engine", "lane"))
        restarts = CounterMetricFamily(
            "aicockpit_engine_restarts", "Restarts after a crash or hang.", labels=("engine",)
        )
        circuit = GaugeMetricFamily(
            "aicockpit_engine_circuit_open", "1 while the circuit breaker is open.", labels=("engine",)
        )
        prompt = CounterMetricFamily(
            "aicockpit_prompt_tokens", "Prompt tokens, as the engine counts them.", labels=("engine",)
        )
        cached = CounterMetricFamily(
            "aicockpit_prompt_tokens_cached", "Prompt tokens found in the prefix cache.", labels=("engine",)
        )
        preempted = CounterMetricFamily(
            "aicockpit_preemptions",
            "Requests that the engine preempted: its KV cache did not hold all that ran.",
            labels=("engine",),
        )
        waited = CounterMetricFamily(
            "aicockpit_prefetch_waited_seconds",
            "Seconds for which warming (and the indexing of documents) waited for a quiet moment of an engine.",
            labels=("engine",),
        )
        waits = GaugeMetricFamily(
            "aicockpit_prefetch_waiting_seconds",
            "For how long it waits now; 0 while it does not.",
            labels=("engine",),
        )
        kv = GaugeMetricFamily("aicockpit_kv_cache_tokens", "Tokens that the KV cache holds.", labels=("engine",))
        predicted = GaugeMetricFamily(
            "aicockpit_kv_cache_predicted_tokens", "The same as it was predicted.", labels=("engine",)
        )
        off = GaugeMetricFamily(
            "aicockpit_fit_error_ratio",
            "Predicted over real KV cache, less 1: 0.02 is 2 % too much.",
            labels=("engine",),
        )
        for engine in self._engines:
            if engine.kv_tokens:
                kv.add_metric((engine.name,), engine.kv_tokens)
                if engine.predicted_kv_tokens:
                    predicted.add_metric((engine.name,), engine.predicted_kv_tokens)
                    off.add_metric((engine.name,), fit.error(engine.predicted_kv_tokens, engine.kv_tokens))
            for known in EngineState:
                state.add_metric((engine.name, known.value), float(engine.state is known))
            for lane in Lane:
                load.add_metric((engine.name, lane.value), getattr(engine.load, lane.value))
            restarts.add_metric((engine.name,), engine.restarts)
            circuit.add_metric((engine.name,), float(engine.breaker.open))
            waited.add_metric((engine.name,), engine.load.held_s)
            waits.add_metric((engine.name,), engine.load.waits_s(time.monotonic()) or 0.0)
            if (life := self._lives.get(engine.name)) is not None:
                prompt.add_metric((engine.name,), life.prompt)
                cached.add_metric((engine.name,), life.cached)
                if life.preempted is not None:
                    preempted.add_metric((engine.name,), life.preempted)
        started = GaugeMetricFamily(
            "aicockpit_start_time_seconds", "When the gateway started (Unix time).", value=self._started
        )
        yield from (
            state,
            load,
            restarts,
            circuit,
            waited,
            waits,
            prompt,
            cached,
            preempted,
            kv,
            predicted,
            off,
            started,
        )
        yield from self._gpus()

    def _gpus(self) -> Iterable[Metric]:
        labels = ("gpu", "name")
        total = GaugeMetricFamily("aicockpit_gpu_memory_bytes", "Memory of the GPU.", labels=labels)
        used = GaugeMetricFamily("aicockpit_gpu_memory_used_bytes", "Memory in use on the GPU.", labels=labels)
        busy = GaugeMetricFamily(
            "aicockpit_gpu_utilisation_ratio", "Share of time the GPU was busy, 0 to 1.", labels=labels
        )
        for gpu in self._read_gpus():
            names = (gpu.uuid or str(gpu.index), gpu.name or "unknown")
            share = None if gpu.utilisation is None else gpu.utilisation / 100
            for family, value in ((total, gpu.total), (used, gpu.used), (busy, share)):
                if value is not None:
                    family.add_metric(names, value)
        yield from (total, used, busy)


def engine_counts(page: str) -> Counts | None:
    """From an engine's metrics page; None when it counts no prompt tokens (another engine, or not started yet)."""
    prompt = engine_counter(page, "vllm:prompt_tokens_total")
    if prompt is None:
        return None
    cached = engine_counter(page, "vllm:prompt_tokens_cached_total")
    return Counts(prompt, cached or 0.0, engine_counter(page, "vllm:num_preemptions_total"))


def engine_counter(page: str, name: str) -> float | None:
    """The sum of a counter over its label sets in an engine's metrics page, or None when it is not there."""
    found = None
    for line in page.splitlines():
        if line.startswith(name) and line[len(name) : len(name) + 1] in ("{", " "):
            try:
                found = (found or 0.0) + float(line.rsplit(" ", 1)[1])
            except ValueError:
                continue
    return found
