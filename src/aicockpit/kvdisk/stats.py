"""What the tier did since it was last asked: counters that a worker fills and vLLM carries to /metrics."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping

# Name -> (help, label or None). Counters add up over workers; of a gauge the last value stands. STATES are told by each
# part of an engine, "storing:0" by rank 0, and hold only when they hold for every part.
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
STATES = ("storing", "loading")
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
    """Counters added, gauges from the second; those of one part of an engine stay apart from another's."""
    result = dict(one)
    for key, value in other.items():
        result[key] = value if key.partition(":")[0] in GAUGES else result.get(key, 0) + value
    return result


def of_part(data: Mapping[str, float], part: str) -> Data:
    """What a part of an engine tells, its states under its own name."""
    return {keyed(name, part) if name in STATES else name: value for name, value in data.items()}


def off(part: str) -> Data:
    """What a part tells that neither stores nor loads."""
    return of_part(dict.fromkeys(STATES, 0.0), part)


class States:
    """The states of engines from what their parts have told so far: the least of them."""

    def __init__(self) -> None:
        self._told: dict[Hashable, dict[str, float]] = {}

    def told(self, engine: Hashable, name: str, part: str, value: float) -> float:
        """A part's news; what holds for the engine then."""
        parts = self._told.setdefault((engine, name), {})
        parts[part] = value
        return min(parts.values())


def folded(data: Mapping[str, float]) -> Data:
    """The same for a line in the log: each state once."""
    states, result = States(), Data()
    for key, value in data.items():
        name, _, part = key.partition(":")
        if name in STATES:
            result[name] = states.told(None, name, part, value)
        else:
            result[key] = value
    return result
