"""The tier's counters in vLLM's own statistics: its log line and its /metrics page; only the connector imports this."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from .stats import COUNTERS, GAUGES, STATES, States, folded, merged

PREFIX = "aicockpit_kv_disk_"


class DiskStats(KVConnectorStats):  # type: ignore[misc]
    """What happened since the last step that told, see stats.py."""

    def reset(self) -> None:
        self.data: dict[str, float] = {}

    def is_empty(self) -> bool:
        return not self.data

    def aggregate(self, other: KVConnectorStats) -> DiskStats:
        return DiskStats(merged(self.data, other.data))

    def reduce(self) -> dict[str, int | float]:
        return {key: round(value, 4) for key, value in sorted(folded(self.data).items())}


class DiskMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    """The same on /metrics, as `aicockpit_kv_disk_*` with vLLM's own labels."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters = {
            name: (
                metric_types[Counter](PREFIX + name, text, labelnames=[*labelnames, *([label] if label else [])]),
                label,
            )
            for name, (text, label) in COUNTERS.items()
        }
        self._gauges = {
            name: metric_types[Gauge](PREFIX + name, text, labelnames=labelnames, multiprocess_mode="mostrecent")
            for name, text in GAUGES.items()
        }
        self._states = States()
        for values in per_engine_labelvalues.values():
            for counter, label in self._counters.values():
                if label is None:
                    counter.labels(*values)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        values = self.per_engine_labelvalues[engine_idx]
        for key, value in transfer_stats_data.items():
            name, _, label = key.partition(":")
            if name in STATES:
                value = self._states.told(engine_idx, name, label, value)
            if name in self._gauges:
                self._gauges[name].labels(*values).set(value)
            elif name in self._counters:
                self._counters[name][0].labels(*values, *([label] if label else [])).inc(value)
