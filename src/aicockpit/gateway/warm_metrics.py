"""What `/metrics` shows of warming: how much was sent, what came true, what is warm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Figure:
    """One sample: the name of a row of the table, its label values, its value."""

    name: str
    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class _Row:
    help: str
    labels: tuple[str, ...]
    counter: bool


_ENGINE = ("engine",)
_LANE = ("model", "lane", "engine")
_ROWS = {
    "aicockpit_prefetch_steps": _Row("Steps of warming sent.", _ENGINE, True),
    "aicockpit_prefetch_verifications": _Row("Requests that proved a warm head.", _ENGINE, True),
    "aicockpit_prefetch_tokens": _Row("Prompt tokens that steps had computed.", _ENGINE, True),
    "aicockpit_prefetch_tokens_resident": _Row("Prompt tokens that steps found in the cache.", _ENGINE, True),
    "aicockpit_prefetch_tokens_found": _Row(
        "Tokens of heads that were there before a step: in the KV tier, after a restart.", _ENGINE, True
    ),
    "aicockpit_prefetch_mismatches": _Row(
        "Steps that found less than the step before left: lost, cold, unreported.", ("engine", "kind"), True
    ),
    "aicockpit_prefetch_evictions": _Row("Warm heads that were evicted.", _ENGINE, True),
    "aicockpit_prefetch_superseded": _Row("Heads dropped for a newer one before they were warm.", _ENGINE, True),
    "aicockpit_prefetch_errors": _Row("Steps that failed.", _ENGINE, True),
    "aicockpit_prefill_speed_tokens_per_second": _Row("Measured speed of prefill.", _ENGINE, False),
    "aicockpit_kv_events_exact": _Row(
        "1 while the index made of the engine's KV events holds exactly what its cache does.", _ENGINE, False
    ),
    "aicockpit_kv_events_batches": _Row("Batches of KV events that were read.", _ENGINE, True),
    "aicockpit_kv_events_duplicates": _Row("Batches of KV events that came twice.", _ENGINE, True),
    "aicockpit_kv_events_gaps": _Row("Times that batches of KV events were lost for good.", _ENGINE, True),
    "aicockpit_kv_events_replays": _Row("Times that missed batches were asked for again.", _ENGINE, True),
    "aicockpit_kv_events_overflows": _Row(
        "Times that KV events told of more blocks than the engine has: removals were missed.", _ENGINE, True
    ),
    "aicockpit_kv_events_ignored": _Row(
        "KV events that the index could not take: unknown, broken, elsewhere.", ("engine", "kind"), True
    ),
    "aicockpit_context_resident_ratio": _Row(
        "Share of the newest pack and journal in the KV cache, of the least warm workspace.", _LANE, False
    ),
    "aicockpit_context_save_to_warm_seconds": _Row(
        "From the last save to its journal entry being warm, of the slowest workspace.", ("model", "lane"), False
    ),
}


class WarmCollector(Collector):
    """`refresh` reads the figures, on the event loop; `collect` may run in a thread."""

    def __init__(self, figures: Callable[[], Sequence[Figure]]) -> None:
        self._figures = figures
        self._read: Sequence[Figure] = ()

    def refresh(self) -> None:
        self._read = self._figures()

    def collect(self) -> Iterable[Metric]:
        found: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, row in _ROWS.items():
            kind = CounterMetricFamily if row.counter else GaugeMetricFamily
            found[name] = kind(name, row.help, labels=row.labels)
        for figure in self._read:
            found[figure.name].add_metric(figure.labels, figure.value)
        yield from found.values()
