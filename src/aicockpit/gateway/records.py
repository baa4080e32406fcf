"""What became of the last requests, and why: kept for `/api/requests/{id}`."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import msgspec

from aicockpit.gateway.exchange import Exchange
from aicockpit.gateway.routing import Candidate

_KEPT = 500


class Record(msgspec.Struct, frozen=True):
    """One request that reached the choice of an engine. Seconds; `context` is the composer's account of it.

    `waited_s`, `first_byte_s` and `total_s` begin when its head arrived. `waited_s`: until it was sent to the engine
    that answered, or to the last one tried (upload, waking, lane, composing); None when it was sent to none.
    `choice`, `candidates`: why that engine, in words and as values, of the last choice made.
    """

    id: str
    caller: str
    at: float
    route: str
    model: str
    lane: str
    status: int
    engine: str | None
    choice: str
    candidates: tuple[Candidate, ...]
    tried: tuple[str, ...]
    waited_s: float | None
    first_byte_s: float
    total_s: float
    context: dict[str, Any] | None

    @property
    def key(self) -> tuple[str, str]:
        return self.caller, self.id

    def shown(self) -> dict[str, Any]:
        """As JSON, without the caller."""
        return {
            "id": self.id,
            "at": self.at,
            "route": self.route,
            "model": self.model,
            "lane": self.lane,
            "status": self.status,
            "engine": self.engine,
            "choice": self.choice,
            "candidates": [msgspec.structs.asdict(one) for one in self.candidates],
            "failed_on": list(self.tried),
            "waited_s": None if self.waited_s is None else round(self.waited_s, 4),
            "first_byte_s": round(self.first_byte_s, 4),
            "total_s": round(self.total_s, 4),
            "context": self.context,
        }


class Records:
    """The newest requests, a bounded number. Of two with one id (clients may choose theirs) the newer is found."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._order: deque[Record] = deque()
        self._by_id: dict[tuple[str, str], Record] = {}
        self._kept = kept

    def add(self, exchange: Exchange, caller: str, status: int, began: float) -> None:
        """`began`: when its head arrived, of the monotonic clock."""
        record = Record(
            exchange.request_id,
            caller,
            time.time(),
            exchange.route,
            exchange.model,
            exchange.lane,
            status,
            exchange.engine.name if exchange.engine is not None else None,
            exchange.choice.reason if exchange.choice is not None else "",
            exchange.choice.candidates if exchange.choice is not None else (),
            tuple([engine.name for engine in exchange.tried]) if exchange.tried else (),
            None if exchange.sent is None else exchange.sent - began,
            exchange.first_byte_s and exchange.first_byte_s + exchange.began - began,
            time.monotonic() - began,
            exchange.composer.account() if exchange.composer is not None else None,
        )
        self._order.append(record)
        self._by_id[record.key] = record
        if len(self._order) > self._kept:
            old = self._order.popleft()
            if self._by_id.get(old.key) is old:
                del self._by_id[old.key]

    def find(self, request_id: str, caller: str, admin: bool) -> Record | None:
        """The caller's own request; an admin sees all."""
        mine = self._by_id.get((caller, request_id))
        if mine is not None or not admin:
            return mine
        return next((record for record in reversed(self._order) if record.id == request_id), None)

    def newest(self, caller: str, admin: bool, limit: int) -> list[Record]:
        mine = (record for record in reversed(self._order) if admin or record.caller == caller)
        return [record for record, _ in zip(mine, range(limit), strict=False)]
