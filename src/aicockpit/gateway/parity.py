"""Was what we promised to be cached really cached? A warm-up that is silently useless must not stay silent."""

from __future__ import annotations

import logging
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge

from aicockpit.gateway.outcomes import Outcomes

logger = logging.getLogger(__name__)

_WINDOW = 50
# A few predictions before an alarm means something.
_FEWEST = 10
_ALARM_SHARE = 0.2


class Parity:
    """Compares predicted with actual cached tokens, request by request, and raises an alarm when they part.

    `outcomes` counts the requests for which nothing was predicted too.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.outcomes = Outcomes(registry)
        self._results = Counter(
            "aicockpit_context_parity",
            "Requests with context: were the tokens predicted to be cached really cached? kept, lost, unreported.",
            ("engine", "result"),
            registry=registry,
        )
        self._tokens = Counter(
            "aicockpit_context_tokens",
            "Tokens of context sent: predicted to be cached, and really cached.",
            ("engine", "kind"),
            registry=registry,
        )
        self._alarm = Gauge(
            "aicockpit_context_alarm",
            f"1 while more than {_ALARM_SHARE:.0%} of the last {_WINDOW} predictions did not come true.",
            ("engine",),
            registry=registry,
        )
        self._windows: dict[str, deque[bool]] = {}
        self._alarmed: set[str] = set()

    def compare(self, engine: str, predicted: int, cached: int | None) -> None:
        """One finished request; `cached` is None where the engine does not say."""
        if cached is None:
            self._results.labels(engine, "unreported").inc()
            return
        kept = cached >= predicted
        self._results.labels(engine, "kept" if kept else "lost").inc()
        self._tokens.labels(engine, "predicted").inc(predicted)
        self._tokens.labels(engine, "cached").inc(min(cached, predicted))
        window = self._windows.setdefault(engine, deque(maxlen=_WINDOW))
        window.append(kept)
        self._judge(engine, window)

    def alarmed(self, engine: str) -> bool:
        return engine in self._alarmed

    def _judge(self, engine: str, window: deque[bool]) -> None:
        lost = window.count(False)
        alarm = len(window) >= _FEWEST and lost > _ALARM_SHARE * len(window)
        self._alarm.labels(engine).set(alarm)
        if alarm and engine not in self._alarmed:
            logger.warning(
                "engine %s: of the last %d requests with warm context, %d found less in the cache than predicted. "
                "Its KV cache may be too small for its load, or its tokenizer differs from ours; "
                "/api/requests shows each request.",
                engine,
                len(window),
                lost,
            )
            self._alarmed.add(engine)
        elif not alarm:
            self._alarmed.discard(engine)
