"""One engine as the rest of the program sees it. A supervised child and an external URL look the same here.

Who writes what: `state`, `stage`, `reason` and `answers` belong to the engine's one owner task (`process.py`,
`external.py`); `load`, `used`, `pace`, `progress` and `breaker` belong to the request path (`gateway/forward.py`), but
a start that succeeded closes the breaker; `waits` and `waiting` belong to the swapper. Everybody may read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from aicockpit.engines.breaker import Breaker
from aicockpit.engines.client import Upstream
from aicockpit.types import Address, EngineState, KvEventsAddress, Lane, Residence


@dataclass(slots=True)
class Load:
    """Requests in work on one engine, by lane, and how many were ever sent. Probes never touch these.

    `prefetch`: how many of the background ones are ours, for nobody who waits. `held`: since when such work waits for a
    quiet moment, on the monotonic clock, one entry each; `held_s`: seconds that it has waited in all.
    """

    interactive: int = 0
    agent: int = 0
    background: int = 0
    prefetch: int = 0
    sent: int = 0
    held: list[float] = field(default_factory=list)
    held_s: float = 0.0

    @property
    def total(self) -> int:
        return self.interactive + self.agent + self.background

    @property
    def users(self) -> int:
        return self.total - self.prefetch

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Work of ours waits within."""
        since = time.monotonic()
        self.held.append(since)
        try:
            yield
        finally:
            self.held.remove(since)
            self.held_s += time.monotonic() - since

    def waits_s(self, now: float) -> float | None:
        """For how long the first of ours has waited for a quiet moment; None while none waits."""
        held = tuple(self.held)  # a page of metrics is written in a thread
        return max(0.0, now - min(held)) if held else None

    def add(self, lane: Lane, change: int) -> None:
        setattr(self, lane, getattr(self, lane) + change)


@dataclass(slots=True, eq=False)
class Engine:
    """See the module. `cards`: what its /v1/models says, by name. `progress` moves while answers arrive.

    `role`: what the fleet file has it for ("" when it does not say), `answers`: the route on which it has answered for
    the first time in this life, which tells whether it generates ("" when none did).
    `files`: the folder of its model, where it is known. `pace`: seconds that a request adds to the wait of the next
    one, a moving average. `generation` grows each time it becomes ready with an empty cache, `start_s` is how long
    that took the last time. `kv_tokens`: its KV cache as it says, and as was predicted. `used`: when a user's request
    last ended, on the monotonic clock. `waiting`: requests that wait for it to come into memory, `waits`: for what.
    """

    name: str
    address: Address
    upstream: Upstream
    served_names: tuple[str, ...] = ()
    cards: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    supervised: bool = True
    role: str = ""
    answers: str = ""
    files: str = ""
    kv_events: KvEventsAddress | None = None
    state: EngineState = EngineState.STOPPED
    stage: str = ""
    reason: str = ""
    pid: int | None = None
    restarts: int = 0
    generation: int = 0
    start_s: float | None = None
    ready_at: float = 0.0
    kv_tokens: int | None = None
    predicted_kv_tokens: int | None = None
    used: float = 0.0
    waits: str = ""
    waiting: int = 0
    residence: Residence = field(default_factory=Residence)
    load: Load = field(default_factory=Load)
    pace: float = 0.0
    progress: int = 0
    breaker: Breaker = field(default_factory=Breaker)

    @property
    def ready(self) -> bool:
        return self.state is EngineState.READY

    @property
    def wakeable(self) -> bool:
        """It is not in memory, and a request may bring it back."""
        return not self.residence.pinned and self.state in _AWAY

    @property
    def coming_back(self) -> bool:
        """It is on its way into memory, so that a request may wait for it."""
        return not self.residence.pinned and (self.state is EngineState.STARTING or self.restarting)

    @property
    def restarting(self) -> bool:
        """It has crashed and is started again in a moment."""
        return self.state is EngineState.BACKOFF


_AWAY = (EngineState.STOPPED, EngineState.STOPPING, EngineState.SLEEPING)
