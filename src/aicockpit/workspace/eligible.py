"""Which engines are kept warm, and in which lanes: those that generate, and tell of a KV cache. `warm.py` asks.

An engine of ours is a vLLM. One that somebody else runs may be anything, so its /metrics are asked once in each of its
lives; what has no KV cache to tell of is left alone for an hour.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aicockpit.engines import kv
from aicockpit.engines.engine import Engine
from aicockpit.errors import AicockpitError
from aicockpit.hardware import shape
from aicockpit.workspace.builds import KINDS, Kind

log = logging.getLogger(__name__)

# What a role of the fleet file (`recipes/fleet.py`) wants warm.
_ROLES: Mapping[str, tuple[Kind, ...]] = {
    "completion": ("completion",),
    "chat": ("chat",),
    "vision": ("chat",),
    "embedding": (),
    "rerank": (),
}
_GENERATES = "/v1/completions"
_ASK_S = 10.0
# After an answer without a KV cache, and at most between two looks at /metrics that fail; the first comes sooner.
_REST_S = 3600.0
_RETRY_S = 30.0
_TRANSIENT = (408, 425, 429)


def lanes_of(role: str, answers: str, pools: bool) -> tuple[Kind, ...]:
    """Lanes of a model: by what its engine answered, its role ("" for none), and what its files say.

    `answers` as `Engine.answers`; `pools`: its files are those of a model that embeds, ranks or classifies.
    """
    if answers not in ("", _GENERATES):
        return ()
    if role:
        return _ROLES.get(role, KINDS)
    return () if pools and not answers else KINDS


def pools(folder: Path) -> bool:
    """Whether vLLM takes the model there for one that generates nothing; False where its files do not say.

    As vLLM: by `modules.json` of Sentence Transformers, which turns a generating architecture into a pooling one, else
    by the architecture.
    """
    modules, config = _json(folder / "modules.json"), _json(folder / "config.json")
    if isinstance(modules, list) and any(
        isinstance(one, Mapping) and str(one.get("type")).endswith(".Pooling") for one in modules
    ):
        return True
    try:
        return isinstance(config, Mapping) and shape.read(config).pooling
    except shape.ShapeUnknown:
        return False


@dataclass(slots=True, eq=False)
class _Asked:
    """One life of an engine of others. `tells`: of its KV cache; None: not known yet."""

    engine: Engine
    generation: int
    tells: bool | None
    task: asyncio.Task[None] | None = None


class Eligible:
    """See the module. `on_news` is called when an engine of others turned out to be one that tells, or does not."""

    def __init__(self, on_news: Callable[[], None], rest_s: float = _REST_S, retry_s: float = _RETRY_S) -> None:
        self._on_news, self._rest_s, self._retry_s = on_news, rest_s, retry_s
        self._asked: dict[str, _Asked] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pools: dict[str, bool] = {}

    def lanes(self, engine: Engine) -> tuple[Kind, ...]:
        """None for an engine of others before it was ready for the first time: what it is for is not known."""
        if not engine.supervised and not engine.generation:
            return ()
        return lanes_of(engine.role, engine.answers, self._pooling(engine.files))

    def warmed(self, engine: Engine) -> bool:
        """It gets a prefetcher."""
        return bool(self.lanes(engine)) and not self.why_not(engine)

    def why_not(self, engine: Engine) -> str:
        """Why nothing can be kept warm in an engine that generates; "" if it can."""
        asked = self._asked.get(engine.name)
        tells = asked.tells if asked is not None and asked.engine is engine else None
        if engine.supervised or tells:
            return ""
        if tells is None:
            return f"engine {engine.name} has not told yet how much KV cache it has"
        return (
            f"engine {engine.name} tells nothing of a KV cache (its /metrics have no vllm:cache_config_info), so "
            "nothing can be kept warm in it"
        )

    def look(self, engines: Sequence[Engine]) -> None:
        """Engines came, went or changed their state: ask those that were not asked in this life."""
        for name, asked in list(self._asked.items()):
            if asked.engine not in engines:
                self._forget(name)
        for engine in engines:
            if engine.supervised or not engine.ready or not self.lanes(engine):
                continue
            before = self._asked.get(engine.name)
            if before is not None and before.generation == engine.generation:
                continue
            self._forget(engine.name)
            asked = _Asked(engine, engine.generation, before.tells if before is not None else None)
            self._asked[engine.name] = asked
            asked.task = asyncio.create_task(self._ask(asked), name=f"ask for KV cache of {engine.name}")
            self._tasks.add(asked.task)
            asked.task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, name: str) -> None:
        asked = self._asked.pop(name, None)
        if asked is not None and asked.task is not None:
            asked.task.cancel()

    async def _ask(self, asked: _Asked) -> None:
        """Until it tells, or its life ends."""
        engine, delay = asked.engine, self._retry_s
        while engine.ready and engine.generation == asked.generation:
            found = await _tells(engine)
            if found is not None and found != asked.tells:
                asked.tells = found
                if not found:
                    log.info("%s", self.why_not(engine))
                self._on_news()
            if found:
                return
            await asyncio.sleep(self._rest_s if found is False else delay)
            delay = min(2 * delay, self._rest_s)

    def _pooling(self, folder: str) -> bool:
        if not folder:
            return False
        if folder not in self._pools:
            self._pools[folder] = pools(Path(folder))
        return self._pools[folder]


async def _tells(engine: Engine) -> bool | None:
    """Whether its /metrics tell of a KV cache; None when it did not answer."""
    try:
        status, body = await engine.upstream.fetch("GET", "/metrics", limit_s=_ASK_S)
    except AicockpitError:
        return None
    if status >= 500 or status in _TRANSIENT:
        return None
    return status == 200 and kv.parse(body.decode("utf-8", "replace")) is not None


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
