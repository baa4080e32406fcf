"""What an embedding model adds, where one is served: vectors of all pieces, in the background, and of questions."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from aicockpit.documents import rank
from aicockpit.documents.index import Index
from aicockpit.documents.store import Store
from aicockpit.documents.values import Source
from aicockpit.errors import AicockpitError

logger = logging.getLogger(__name__)

_PERIOD_S = 60.0
_BATCH = 32
_KEPT = 256


class Embedder(Protocol):
    """An embedding model, where one is served."""

    def model(self) -> str:
        """Its name, or '' where there is none now."""
        ...

    async def passages(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of texts, when nobody waits for an answer. Raises AicockpitError."""
        ...

    async def question(self, model: str, text: str) -> list[float]:
        """The vector of a question that somebody waits for. Raises AicockpitError."""
        ...


class Vectors:
    """Fills a store's vectors and remembers those of questions. One source at a time."""

    def __init__(self, store: Store, index: Index, embedder: Embedder | None) -> None:
        self._store, self._index, self._embedder = store, index, embedder
        self._one = asyncio.Lock()
        self._asked: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    async def fill(self, id: str) -> None:
        """Ask for the vectors that a source lacks; without a model it is found by its words alone."""
        model = self._embedder.model() if self._embedder is not None else ""
        if not model or self._embedder is None or rank.numbers() is None:
            return
        async with self._one:
            source = await asyncio.to_thread(self._store.find, id)
            if source is None:
                return
            told, generation = rank.prefixes(model)[1], source.served
            while rows := await asyncio.to_thread(self._index.without_vector, source, generation, model, _BATCH):
                try:
                    vectors = await self._embedder.passages(model, [told + text for _, text in rows])
                except AicockpitError as error:
                    logger.info("documentation %r has no vectors yet: %s", source.name, error)
                    return
                found = [(row[0], rank.pack(vector)) for row, vector in zip(rows, vectors, strict=True)]
                await asyncio.to_thread(self._index.put_vectors, source, generation, model, found)
            await asyncio.to_thread(self._store.change, source.number, embedder=model)

    async def keep_filled(self) -> None:
        """Until cancelled, look for sources that were read while no embedding model was there."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            model = self._embedder.model() if self._embedder is not None else ""
            try:
                for source in await asyncio.to_thread(self._store.all) if model else ():
                    if not source.state.working and source.embedder != model:
                        await self.fill(source.id)
            except AicockpitError as error:
                logger.warning("documentation: vectors could not be kept: %s", error)

    async def question(self, sources: Sequence[Source], text: str) -> tuple[str, bytes | None, str]:
        """The model, the question's vector, and why there is none."""
        model = self._embedder.model() if self._embedder is not None else ""
        if not model or self._embedder is None:
            return "", None, "no embedding model is served"
        if rank.numbers() is None:
            return "", None, "numpy is not installed"
        if not any(source.embedder == model for source in sources):
            return "", None, f"{model} has not seen these sources yet"
        if (known := self._asked.get((model, text))) is None:
            try:
                known = rank.pack(await self._embedder.question(model, rank.prefixes(model)[0] + text))
            except AicockpitError as error:
                return "", None, str(error)
            if known is None:
                return "", None, f"{model} gave no vector"
            self._asked[model, text] = known
            if len(self._asked) > _KEPT:
                self._asked.popitem(last=False)
        return model, known, ""
