"""All documentation of a server: adds, reads in the background, cancels, refreshes, removes, searches.

One task for each source that is being read owns its row; it starts a child (`child.py`, `worker.py`) for the reading
and asks an embedding model for vectors afterwards (`vectors.py`). A stop of the server leaves the rows as they are,
and the next start goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aicockpit.documents import child
from aicockpit.documents.index import Index
from aicockpit.documents.store import Store, checked, upload_of
from aicockpit.documents.values import Hit, Limits, Source, State, Tally
from aicockpit.documents.vectors import Embedder, Vectors
from aicockpit.errors import AicockpitError, BadRequest, NotFound, Overloaded, RevisionConflict, StorageFull

logger = logging.getLogger(__name__)

_READERS = 2
_EMBED_S = 600.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Found:
    """`ranked` tells by what the hits are in order; `why` why meaning did not count, where it did not."""

    hits: tuple[Hit, ...]
    ranked: str
    why: str


class Library:
    """See the module. `limits` may be smaller for tests. Nothing is on disk before the first source is added."""

    def __init__(self, path: Path, embedder: Embedder | None = None, limits: Limits | None = None) -> None:
        self.path, self.limits, self._embedder = path, limits or Limits(), embedder
        self._store: Store | None = None
        self._index: Index | None = None
        self._vectors: Vectors | None = None
        self._opening, self._changing = asyncio.Lock(), asyncio.Lock()
        self._turn = asyncio.Semaphore(_READERS)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._filler: asyncio.Task[None] | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._closed = False

    def begin(self) -> None:
        """Go on, in the background, with what an earlier run has not finished."""
        if self.path.exists():
            self._beginning = asyncio.create_task(self._resume(), name="resume documentation")

    async def _resume(self) -> None:
        try:
            store = await self.store()
            await asyncio.to_thread(store.sweep)
            for source in await asyncio.to_thread(store.working):
                if source.id not in self._tasks:
                    logger.info("documentation %r: reading goes on", source.name)
                    self._launch(source.id)
        except AicockpitError as error:
            logger.error("documentation: %s", error)

    async def close(self) -> None:
        """End the children; their sources are read on at the next start."""
        self._closed = True
        tasks = [*self._tasks.values(), *(task for task in (self._beginning, self._filler) if task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def store(self) -> Store:
        """The store, opened when it is first needed. Raises NotReady when its file is damaged."""
        async with self._opening:
            if self._store is None:
                self._store = await asyncio.to_thread(Store, self.path, self.limits)
                self._index = Index(self._store)
                self._vectors = Vectors(self._store, self._index, self._embedder)
                self._filler = asyncio.create_task(self._vectors.keep_filled(), name="embed documentation")
            return self._store

    async def ask(self, work: Callable[[Store], _T]) -> _T:
        """Work on the store in a thread. Raises what it raises."""
        store = await self.store()
        return await asyncio.to_thread(work, store)

    # What a caller may do. Who may do it is decided in `gateway/documents.py`.

    async def sources(self, owners: Sequence[str]) -> list[Source]:
        if self._store is None and not self.path.exists():
            return []
        return await self.ask(lambda store: store.sources(owners))

    async def tally(self, source: Source) -> Tally:
        return await self.ask(lambda store: store.tally(source, source.generation))

    async def add(self, owner: str, name: str, url: str, private: bool) -> Source:
        """Read a site in the background. Raises BadRequest, Overloaded, TooLarge."""
        name = checked(name)
        source = await self.ask(lambda store: store.create(owner, name, url, "url", private))
        self._launch(source.id)
        return source

    async def upload(self, owner: str, name: str, file: str, content: bytes | memoryview) -> Source:
        """Read an archive or a document in the background. Raises as `add`, and StorageFull."""

        def keep(store: Store) -> Source:
            source = store.create(owner, name, file, "upload", False)
            target = upload_of(store.db.path, source.id)
            try:
                with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                    out.write(content)
            except OSError as error:
                target.unlink(missing_ok=True)
                store.delete(source.number)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise StorageFull(f"the disk of {target.parent} is full; make room and upload it again") from error
            return source

        name = checked(name)
        source = await self.ask(keep)
        self._launch(source.id)
        return source

    async def cancel(self, id: str) -> None:
        """Stop reading. What is indexed stays and answers; a refresh leaves what was there before it."""
        async with self._changing:
            await self._halt(id)
            await self.ask(lambda store: _cancelled(store, id))

    async def refresh(self, id: str, private: bool) -> None:
        """Read a site again; what is there answers until the new one is complete. Raises BadRequest, NotFound."""

        def anew(store: Store) -> None:
            source = _known(store, id)
            if source.kind != "url":
                raise BadRequest(
                    f"{source.name!r} was uploaded: remove it and upload it again", code="documents_not_a_site"
                )
            if source.state.working:
                raise RevisionConflict(f"{source.name!r} is being read already", source.generation)
            there = store.tally(source, source.served).done > 0
            store.drop(source.number, source.served if there else 0)
            store.change(
                source.number,
                generation=source.served + 1,
                served=source.served if there else source.served + 1,
                state=State.QUEUED.value,
                error="",
                notes=(),
                attempts=0,
                bytes=0,
                spent_s=0.0,
                private=private,
            )

        async with self._changing:
            await self.ask(anew)
            self._launch(id)

    async def remove(self, id: str) -> None:
        async with self._changing:
            await self._halt(id)
            await self.ask(lambda store: _removed(store, id))

    async def search(self, sources: Sequence[Source], question: str, limit: int) -> Found:
        """The best pieces of these sources. Raises Overloaded when it takes too long."""
        await self.store()
        assert self._index is not None
        assert self._vectors is not None
        model, vector, why = await self._vectors.question(sources, question)
        try:
            hits, near = await asyncio.to_thread(self._index.search, question, sources, limit, model, vector)
        except TimeoutError as error:
            raise Overloaded(
                "the search took too long; name fewer sources, or ask in fewer words", code="search_too_slow"
            ) from error
        return Found(tuple(hits), f"words and meaning ({model})" if near else "words", "" if near else why)

    # Reading, in the background.

    def _launch(self, id: str) -> None:
        if self._closed:
            return
        task = self._tasks[id] = asyncio.create_task(self._work(id), name=f"documentation {id}")
        task.add_done_callback(lambda done: self._done(id, done))

    def _done(self, id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(id) is task:
            del self._tasks[id]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("documentation %s: reading failed", id, exc_info=error)

    async def _halt(self, id: str) -> None:
        task = self._tasks.get(id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _work(self, id: str) -> None:
        async with self._turn:
            if await self._read(id):
                await self._finish(id)

    async def _read(self, id: str) -> bool:
        """By a child, and by another one where that one ended badly. False: the source is gone."""
        while True:
            source = await self.ask(lambda store: store.find(id))
            if source is None:
                return False
            state = State.INDEXING if source.kind == "upload" else State.FETCHING
            if source.state is State.INDEXING and source.kind == "url":
                return True  # it was read; its vectors were missing
            await self._change(source, state=state.value)
            code, last = await child.read(self.path, source, self.limits)
            if code == 0:
                return True
            why = f"the process that reads it ended (code {code}){': ' + last if last else ''}"
            logger.warning("documentation %r: %s", source.name, why)
            if code == child.TOO_LONG or source.attempts + 1 >= self.limits.attempts:
                note = f"{why}, {source.attempts + 1} times" if source.attempts else why
                done = (await self.tally(source)).done
                await self._change(source, error="" if done else note, notes=(note,) if done else ())
                return True
            await self._change(source, attempts=source.attempts + 1)

    async def _finish(self, id: str) -> None:
        """What was read answers from now on; then its vectors."""
        source = await self.ask(lambda store: store.find(id))
        if source is None:
            return
        if source.error:
            await self.ask(lambda store: _failed(store, source))
            return
        await self._change(source, state=State.INDEXING.value, served=source.generation)
        await self.ask(lambda store: store.drop(source.number, source.generation))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_EMBED_S):
                assert self._vectors is not None
                await self._vectors.fill(id)
        await self._change(source, state=State.READY.value)
        upload_of(self.path, id).unlink(missing_ok=True)

    async def _change(self, source: Source, **values: Any) -> None:
        await self.ask(lambda store: store.change(source.number, **values))


def _known(store: Store, id: str) -> Source:
    source = store.find(id)
    if source is None:
        raise NotFound("the source was removed", code="documents_not_found")
    return source


def _cancelled(store: Store, id: str) -> None:
    source = _known(store, id)
    if not source.state.working:
        return
    if source.served != source.generation:
        store.drop(source.number, source.served)
        values: Mapping[str, Any] = {"generation": source.served, "state": State.READY.value}
        store.change(source.number, **values, notes=("the refresh was cancelled; this is what was there before",))
    else:
        pages = store.tally(source, source.generation).done
        note = f"reading was cancelled; {pages} pages are kept"
        store.change(source.number, state=State.CANCELLED.value, notes=(note,), current="")
    upload_of(store.db.path, id).unlink(missing_ok=True)


def _failed(store: Store, source: Source) -> None:
    """Nothing came of it: a refresh leaves what was there before."""
    if source.served != source.generation:
        store.drop(source.number, source.served)
        error = f"the refresh failed, and what was there before still answers: {source.error}"
        store.change(source.number, generation=source.served, state=State.READY.value, error=error)
    else:
        store.change(source.number, state=State.FAILED.value)
    upload_of(store.db.path, source.id).unlink(missing_ok=True)


def _removed(store: Store, id: str) -> None:
    source = _known(store, id)
    store.delete(source.number)
    upload_of(store.db.path, id).unlink(missing_ok=True)
