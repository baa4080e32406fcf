"""What the tier did since it was last asked: counters that a worker fills and vLLM carries to /metrics."""

from __future__ import annotations

import threading
from collections.abc import Mapping

# Name -> (help, label or None). Counters add up over workers; of a gauge the last worker's value stands.
COUNTERS: dict[str, tuple[str, str | None]] = {
    "loaded_blocks": ("Blocks loaded from disk.", None),
    "loaded_bytes": ("Bytes loaded from disk.", None),
    "load_seconds": ("Time spent loading blocks, beside other work.", None),
    "load_failures": ("Blocks that were to be loaded and are computed instead.", "reason"),
    "stored_blocks": ("Blocks written to disk.", None),
    "stored_bytes": ("Bytes written to disk.", None),
    "store_seconds": ("Time spent writing blocks, beside other work.", None),
    "copy_seconds": ("Time that steps waited while blocks were copied for writing.", None),
    "unstored_blocks": ("Blocks not written.", "reason"),
    "evicted_blocks": ("Files removed to stay below the cap.", None),
    "evicted_bytes": ("Bytes removed to stay below the cap.", None),
    "choices": ("Requests with a stored prefix, by what was chosen.", "choice"),
}
GAUGES: dict[str, str] = {
    "storing": "1 while blocks are written, 0 while they cannot be; the engine's log says why.",
    "loading": "1 while blocks are loaded, 0 while the disk does not answer.",
    "held_bytes": "Bytes of blocks on disk, all models of the folder, as all who write there count them.",
    "load_bytes_per_second": "Measured speed of loading.",
    "prefill_tokens_per_second": "Measured speed of computing a prompt's first thousand tokens.",
}
Data = dict[str, float]


def keyed(name: str, label: str | None = None) -> str:
    """How a counter stands in the data."""
    return name if label is None else f"{name}:{label}"


class Counts:
    """Counters since the last `take`, added to by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._data: Data = {}

    def add(self, name: str, count: float, label: str | None = None) -> None:
        key = keyed(name, label)
        with self._lock:
            self._data[key] = self._data.get(key, 0) + count

    def set(self, name: str, value: float) -> None:
        with self._lock:
            self._data[name] = value

    def take(self) -> Data:
        """All of it, and start again from nothing."""
        with self._lock:
            data, self._data = self._data, {}
        return data


def merged(one: Mapping[str, float], other: Mapping[str, float]) -> Data:
    """Counters added, gauges from the second."""
    result = dict(one)
    for key, value in other.items():
        result[key] = value if key in GAUGES else result.get(key, 0) + value
    return result
