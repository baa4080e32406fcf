"""What a track sees of the engines: who serves a model, what is resident there, how a wish gets on. Asked on requests.

`Warmth` compares block by block. Until blocks went away what is resident can only grow, so its answers are kept here:
of a whole list for as long, of a part for a moment or until a prefetcher has news. A kept answer is never too large.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from aicockpit.engines.engine import Engine
from aicockpit.engines.kv import KvInfo
from aicockpit.workspace.head import Resident
from aicockpit.workspace.steps import Key, Progress, Target
from aicockpit.workspace.warmth import Residency

_KEPT = 256
# For how long (seconds) an answer that may have grown is kept.
_PART_KEPT_S = 0.1


class Warms(Protocol):
    """What is used of `Warmth`."""

    def resident(self, engine: str, tokens: Sequence[int], /) -> Residency: ...
    def info(self, engine: str, /) -> KvInfo | None: ...
    def version(self, engine: str, /) -> int: ...
    def exact(self, engine: str, /) -> bool: ...
    def why_inexact(self, engine: str, /) -> str: ...


class Prefetches(Protocol):
    """What is used of a `Prefetcher`."""

    @property
    def engine(self) -> Engine: ...
    def set_targets(self, targets: Sequence[Target], /) -> None: ...
    def status(self, key: Key, /) -> Progress: ...


@dataclass(slots=True)
class _Answers:
    """Answers at one version of one life of an engine: by identity, the list, its resident tokens and until when."""

    info: KvInfo
    version: tuple[int, bool]
    held: dict[int, tuple[tuple[int, ...], int, float]] = field(default_factory=dict)


class Sight:
    """See the module. `prefetchers` by engine name; the mapping may change at any time."""

    def __init__(
        self,
        warmth: Warms,
        prefetchers: Callable[[], Mapping[str, Prefetches]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.warmth, self._prefetchers, self._clock = warmth, prefetchers, clock
        self._known: dict[str, _Answers] = {}

    def prefetchers(self) -> Mapping[str, Prefetches]:
        return self._prefetchers()

    def serving(self, model: str) -> list[str]:
        """Names of the engines that serve `model`, ready or not."""
        return [name for name, one in self._prefetchers().items() if model in one.engine.served_names]

    def ready(self, engine: str) -> bool:
        one = self._prefetchers().get(engine)
        return one is not None and one.engine.ready

    def waits_s(self, engine: str) -> float | None:
        """For how long (seconds) a step of warming has waited for a quiet moment there; None while none waits."""
        one = self._prefetchers().get(engine)
        return one.engine.load.waits_s(time.monotonic()) if one is not None else None

    def now(self) -> float:
        """Seconds of the clock that waits are measured by."""
        return self._clock()

    def block(self, engine: str) -> int:
        """Tokens of a block, 1 while it is not known (nothing is resident then)."""
        info = self.warmth.info(engine)
        return info.block_size if info else 1

    def kv(self, model: str) -> KvInfo | None:
        """The smallest cache of the engines that serve `model`; None while none is known."""
        infos = [info for name in self.serving(model) if (info := self.warmth.info(name)) is not None]
        return min(infos, key=lambda info: info.tokens, default=None)

    def progress(self, engine: str, key: Key) -> Progress:
        one = self._prefetchers().get(engine)
        return one.status(key) if one else Progress(reason="the engine is gone")

    def news(self) -> None:
        """Something was warmed: look again."""
        for answers in self._known.values():
            answers.held = {key: one for key, one in answers.held.items() if one[2] == inf}

    def on(self, engine: str) -> Resident:
        """Leading resident tokens of a token list on one engine."""
        info, version = self.warmth.info(engine), (self.warmth.version(engine), self.warmth.exact(engine))
        if info is None:
            self._known.pop(engine, None)
            return _nothing
        answers = self._known.get(engine)
        if answers is None or answers.version != version or answers.info is not info:
            answers = self._known[engine] = _Answers(info, version)
        held, size, warmth, clock = answers.held, info.block_size, self.warmth, self._clock

        def resident(tokens: tuple[int, ...]) -> int:
            known = held.get(id(tokens))
            if known is not None and known[0] is tokens and (known[2] == inf or clock() < known[2]):
                return known[1]
            found = warmth.resident(engine, tokens).tokens
            ends = inf if found >= len(tokens) - len(tokens) % size else clock() + _PART_KEPT_S
            held[id(tokens)] = (tokens, found, ends)
            while len(held) > _KEPT:
                del held[next(iter(held))]
            return found

        return resident


def _nothing(_: tuple[int, ...]) -> int:
    return 0
