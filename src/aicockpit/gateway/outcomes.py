"""What became of each request that named a workspace: context, or none and why. `parity.py` has it.

A workspace that has a pack and never serves it is told of here: it fails no request and no prediction.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge

logger = logging.getLogger(__name__)

# So many requests in a row, over at least so many seconds: a first warm-up on a CPU takes a minute or two.
COLD_REQUESTS = 20
COLD_S = 180.0
# Without a request for so long (seconds) nobody waits for it any more.
_FORGOTTEN_S = 3600.0
_KEPT = 256


class Outcome(StrEnum):
    """Why a request had context or not; the values are labels of a metric."""

    WARM = "warm"
    NONE_ASKED = "none_asked"
    NOT_WARM = "not_warm"
    NO_EPOCH = "no_epoch"
    OFF = "off"
    NO_ROOM = "no_room"
    NO_TOKENIZER = "no_tokenizer"
    UNFIT = "unfit"


@dataclass(slots=True)
class _Row:
    """Requests of one workspace, model and lane in a row that found nothing warm, though there was a pack."""

    name: str
    cold: int = 0
    since: float = 0.0
    last: float = 0.0
    told: bool = False


class Outcomes:
    """Counts outcomes, and tells of workspaces that stay cold. `clock` is monotonic, in seconds."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts = Counter(
            "aicockpit_context_requests",
            "Requests that named a workspace, by what context they had: " + ", ".join(Outcome) + ".",
            ("model", "lane", "outcome"),
            registry=registry,
        )
        self._cold = Gauge(
            "aicockpit_context_cold_workspaces",
            f"Workspaces with a pack that none of the last {COLD_REQUESTS} or more requests, over {COLD_S:.0f} s, got.",
            ("model", "lane"),
            registry=registry,
        )
        # By (workspace id, model, lane), the one asked for longest ago first.
        self._rows: OrderedDict[tuple[int, str, str], _Row] = OrderedDict()

    def count(self, workspace: int, name: str, model: str, lane: str, outcome: Outcome) -> None:
        """One request has ended. `name` is the workspace's, for the log."""
        self._counts.labels(model, lane, outcome.value).inc()
        now = self._clock()
        if outcome in (Outcome.WARM, Outcome.NOT_WARM):
            self._note((workspace, model, lane), name, outcome is Outcome.NOT_WARM, now)
        self._forget(now)

    def cold(self, model: str, lane: str) -> list[str]:
        """Names of the workspaces that stay cold, while somebody asks for them."""
        now, rows = self._clock(), tuple(self._rows.items())  # a page of metrics is written in a thread
        cold = [(key, row.name) for key, row in rows if row.told and now - row.last < _FORGOTTEN_S]
        return [name for (_, *key), name in cold if key == [model, lane]]

    def _note(self, key: tuple[int, str, str], name: str, cold: bool, now: float) -> None:
        if key not in self._rows:
            self._rows[key] = _Row(name)
            _, model, lane = key
            self._cold.labels(model, lane).set_function(lambda: len(self.cold(model, lane)))
        row = self._rows[key]
        self._rows.move_to_end(key)
        row.last = now
        if not cold:
            row.cold, row.told = 0, False
            return
        row.cold += 1
        if row.cold == 1:
            row.since = now
        if not row.told and row.cold >= COLD_REQUESTS and now - row.since >= COLD_S:
            row.told = True
            logger.warning(
                "workspace %s: a pack is built for %s of %s, and none of the last %d requests (%.0f s) found it warm. "
                "GET /api/workspaces/%s says what keeps it cold (engines: state, reason); "
                "an engine that is never quiet, a KV cache that is too small and prefix caching that is off do.",
                name,
                key[2],
                key[1],
                row.cold,
                now - row.since,
                name,
            )

    def _forget(self, now: float) -> None:
        while self._rows:
            key, row = next(iter(self._rows.items()))
            if len(self._rows) <= _KEPT and now - row.last < _FORGOTTEN_S:
                return
            del self._rows[key]
