"""Which engines serve a model name. Reads the live list of engines; holds the aliases.

`preparing()` says what still happens before the list of engines is complete (a download, say), or nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from aicockpit.engines.engine import Engine
from aicockpit.errors import ConnectFailed, NotFound, NotReady, UpstreamLost, UpstreamTimeout
from aicockpit.types import EngineState

_STORED_LIMIT = 10_000


class Directory:
    """`engines` is the supervisor's own list, which may change; `aliases` maps a name to a served name."""

    def __init__(
        self, engines: Sequence[Engine], aliases: Mapping[str, str], preparing: Callable[[], str] = lambda: ""
    ) -> None:
        self.engines, self.aliases, self.preparing = engines, aliases, preparing
        self._stored: dict[str, Engine] = {}

    def find(self, model: str) -> tuple[str, list[Engine]]:
        """The name to send upstream and the engines that serve it.

        Raises NotFound naming the served models, or NotReady while it is not known yet which there will be.
        """
        engines = [engine for engine in self.engines if model in engine.served_names]
        if engines:
            return model, engines
        real = self.aliases.get(model)
        if real is not None:
            engines = [engine for engine in self.engines if real in engine.served_names]
            if engines:
                return real, engines
        if stage := self.preparing() or self._unknown():
            raise NotReady(f"the server is starting: {stage}", code="starting", headers=((b"retry-after", b"5"),))
        names = self.names()
        known = ", ".join(names) if names else "none yet"
        raise NotFound(
            f"model {model[:200]!r} is not served here. Served: {known}.", code="model_not_found", param="model"
        )

    def find_in_workspace(self, model: str) -> tuple[str, list[Engine], str]:
        """The same, and the workspace that `model@workspace` names; a served name with an `@` is itself."""
        if "@" not in model:
            name, engines = self.find(model)
            return name, engines, ""
        base, _, workspace = model.rpartition("@")
        if not base or model in self.aliases or any(model in engine.served_names for engine in self.engines):
            return *self.find(model), ""
        return *self.find(base), workspace

    def first_name(self, model: str) -> str:
        """The name that stands for all that a model has. Raises NotFound, NotReady."""
        _, engines, _ = self.find_in_workspace(model)
        return engines[0].served_names[0]

    def _unknown(self) -> str:
        """Engines of which it is not known yet what they serve."""
        silent = [e for e in self.engines if not e.served_names and e.state is not EngineState.STOPPED]
        return "; ".join(f"{engine.name} has not said what it serves ({engine.reason})" for engine in silent)

    def names(self) -> list[str]:
        """Served names and usable aliases, in a steady order."""
        served = dict.fromkeys(name for engine in self.engines for name in engine.served_names)
        served.update(dict.fromkeys(alias for alias, real in self.aliases.items() if real in served))
        return list(served)

    async def holder(self, response_id: str, engines: Sequence[Engine]) -> Engine | None:
        """The engine that stored a response: remembered, or found by asking each. None when nobody has it."""
        known = self._stored.get(response_id)
        if known in engines and known is not None and known.ready:
            return known
        asked = [engine for engine in engines if engine.ready]
        answers = await asyncio.gather(*(self._has(engine, response_id) for engine in asked))
        for engine, has in zip(asked, answers, strict=True):
            if has:
                while len(self._stored) >= _STORED_LIMIT:
                    self._stored.pop(next(iter(self._stored)))
                self._stored[response_id] = engine
                return engine
        return None

    async def _has(self, engine: Engine, response_id: str) -> bool:
        try:
            status, _ = await engine.upstream.fetch("GET", f"/v1/responses/{response_id}", limit_s=5.0)
        except (ConnectFailed, UpstreamLost, UpstreamTimeout):
            return False
        return status == 200


def model_card(directory: Directory, name: str, created: int) -> dict[str, object]:
    """One entry: what the engine says of it, and `ready` and `engines`, which are ours. Raises NotFound."""
    real, engines = directory.find(name)
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "aicockpit",
        "root": real,
        "parent": None,
        **{key: value for engine in engines for key, value in engine.cards.get(real, {}).items() if key != "id"},
        "ready": any(engine.ready for engine in engines),
        "engines": [engine.name for engine in engines],
    }
