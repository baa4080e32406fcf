"""The embedding model of this server, for its own use: documentation is searched by meaning with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from aicockpit.documents.rank import embeds
from aicockpit.engines.engine import Engine
from aicockpit.errors import AicockpitError, BadGateway, NotReady
from aicockpit.gateway.directory import Directory
from aicockpit.gateway.forward import Forwarder
from aicockpit.hardware import shape
from aicockpit.types import Lane

_QUESTION_S = 3.0
_PASSAGES_S = 120.0


class _One(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_One]


class EngineEmbedder:
    """Asks the first engine whose model makes embeddings: by its own config where that is here, else by its name."""

    def __init__(self, directory: Directory, forwarder: Forwarder) -> None:
        self._directory, self._forwarder = directory, forwarder
        self._pooling: dict[str, bool] = {}

    def model(self) -> str:
        """Its name, or '' where none is ready."""
        return next((one.served_names[0] for one in self._directory.engines if one.ready and self._embeds(one)), "")

    async def passages(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """In the background, behind everybody who waits. Raises AicockpitError."""
        engine = self._engine(model)
        async with self._forwarder.turn(engine):
            return await _ask(engine, model, texts, _PASSAGES_S)

    async def question(self, model: str, text: str) -> list[float]:
        """Somebody waits for it. Raises AicockpitError."""
        engine = self._engine(model)
        with self._forwarder.occupied(engine, Lane.AGENT):
            return (await _ask(engine, model, [text], _QUESTION_S))[0]

    def _engine(self, model: str) -> Engine:
        found = [one for one in self._directory.engines if one.ready and model in one.served_names]
        if not found:
            raise NotReady(f"the embedding model {model} is not in memory")
        return min(found, key=lambda one: one.load.total)

    def _embeds(self, engine: Engine) -> bool:
        if not engine.served_names:
            return False
        card = engine.cards.get(engine.served_names[0], {})
        if any(embeds(name) for name in (*engine.served_names, str(card.get("root") or ""))):
            return True
        return bool(engine.files) and self._pools(engine.files)

    def _pools(self, folder: str) -> bool:
        if folder not in self._pooling:
            try:
                self._pooling[folder] = shape.local(Path(folder)).pooling
            except (AicockpitError, OSError, ValueError):
                self._pooling[folder] = False
        return self._pooling[folder]


async def _ask(engine: Engine, model: str, texts: Sequence[str], limit_s: float) -> list[list[float]]:
    """What is too long for the model is cut at its end, by the engine."""
    body = msgspec.json.encode({"model": model, "input": list(texts), "truncate_prompt_tokens": -1})
    status, raw = await engine.upstream.fetch("POST", "/v1/embeddings", body, limit_s=limit_s)
    if status != 200:
        shown = " ".join(raw[:300].decode("utf-8", "replace").split())
        raise BadGateway(f"engine {engine.name} answered {status} to /v1/embeddings: {shown}")
    try:
        found = sorted(msgspec.json.decode(raw, type=_Answer).data, key=lambda one: one.index)
    except msgspec.MsgspecError as error:
        raise BadGateway(f"engine {engine.name} answered /v1/embeddings without vectors: {error}") from error
    if len(found) != len(texts):
        raise BadGateway(f"engine {engine.name} answered {len(texts)} texts with {len(found)} vectors")
    return [one.embedding for one in found]
