"""Packs, journal entries and neighbourhoods, made in one niced child process so that requests never wait for them.

Calls are done in portions of some 50 ms, and small calls go first: an entry for a save waits for one portion of a large
build, not for the build, however many builds there are. A child that dies is replaced; the call that it died of is
tried once more, and a portion of files that kills it twice is tried file by file, so that one bad file costs itself
alone. One that was dead before the call came costs no attempt.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from aicockpit.prompts.languages import is_noise, language_of
from aicockpit.workspace.builds import (
    MAX_FILE,
    MAX_FILES,
    BuildFailed,
    Built,
    Change,
    Chosen,
    Described,
    Kind,
    ModelSpec,
    NearBy,
    Progress,
    Said,
    Similar,
    Snapshot,
    Sought,
    select,
    silent,
)
from aicockpit.workspace.child import Child, Died, Reply
from aicockpit.workspace.manifest import File
from aicockpit.workspace.workshop import GO_ON, Calls, Workshop

logger = logging.getLogger(__name__)

# Files analysed by one call: some 50 ms of work, or some portions of it.
PORTION = 50
# One portion may take so long (seconds); a child that takes longer hangs, and is replaced.
CALL_S = 180.0
# So often a tree is surveyed for one pack, and its index is grown for one search: the child may die on the way, also of
# calls for other trees.
_SURVEYED_ATTEMPTS = 4
_GROWN_ATTEMPTS = 3
# Contents remembered as deadly.
DEADLY_KEPT = 1000
_STOPPING = "the server is stopping"


class _Interrupted(Exception):
    """The child died of another call while this one waited for its next portion."""


class Builder:
    """See the module. `folder` is the store's. `inline`: the work is done in this process (tests)."""

    def __init__(
        self,
        folder: Path,
        *,
        inline: bool = False,
        command: Sequence[str] | None = None,
        call_s: float = CALL_S,
        max_file: int = MAX_FILE,
        max_files: int = MAX_FILES,
    ) -> None:
        self._folder, self._inline, self._call_s = folder, inline, call_s
        self._command = tuple(command or (sys.executable, "-m", "aicockpit.workspace.workshop", str(folder)))
        self._max_file, self._max_files = max_file, max_files
        self._shop: Workshop | None = None
        self._child: Child | None = None
        # Taken in this order: for one pack's assembling, for one large portion, for the child.
        self._assembling, self._large, self._turn = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._closed = False
        self._deadly: dict[bytes, None] = {}
        self.deaths = 0

    @property
    def pid(self) -> int | None:
        """The child's process id while one runs."""
        return self._child.pid if self._child else None

    async def describe(self, spec: ModelSpec) -> Described:
        """What the model's tokenizer shows. Raises BuildFailed when it is not to be had."""
        found: Described = await self._call("describe", spec)
        return found

    async def build(
        self, snapshot: Snapshot, spec: ModelSpec, kind: Kind, budget: int, report: Progress = silent
    ) -> Built:
        """A pack of at most `budget` tokens. `report` hears files analysed and their number. Raises BuildFailed."""
        started = time.monotonic()
        built: Built | None = None
        chosen = await self._analyse(snapshot, report)
        async with self._assembling:  # one graph is made at a time, and no other pack's survey pushes this one out
            for attempt in range(_SURVEYED_ATTEMPTS):
                if attempt:
                    await self._analyse(snapshot)
                crashed = await self._survey(snapshot, chosen)
                built = await self._call("assemble", snapshot.tag, spec, kind, budget, large=True)
                if built is not None:
                    break
        if built is None:
            raise BuildFailed("the builder lost its survey again and again; is the server short of memory?")
        left = replace(chosen.left, gone=built.left.gone, crashed=crashed)
        return replace(built, left=left, seconds=time.monotonic() - started)

    async def journal(
        self,
        spec: ModelSpec,
        kind: Kind,
        changes: Sequence[Change],
        lines: int,
    ) -> list[Said]:
        """Entries for (path, old hash, new hash), in that order; empty for one that the child dies of.

        Raises BuildFailed.
        """
        fine = [change for change in changes if change[1] not in self._deadly and change[2] not in self._deadly]
        said: dict[Change, Said] = {}
        try:
            if fine:
                made = await self._call("journal", spec, kind, fine, lines, attempts=1)
                said.update(zip(fine, made, strict=True))
        except Died:
            for change in fine:
                try:
                    said[change] = (await self._call("journal", spec, kind, [change], lines, attempts=1))[0]
                except Died as error:
                    self._condemn(change[0], change[2] or change[1], error)
        return [said.get(change) or Said(change[0], change[2], "", ()) for change in changes]

    async def near(
        self,
        snapshot: Snapshot,
        spec: ModelSpec,
        path: str,
        content: bytes | None,
        budget: int,
        without: frozenset[str],
    ) -> NearBy:
        """What `path` (its content's hash is `content`) needs, within `budget` tokens and `without` what the pack has.

        Raises BuildFailed.
        """
        content = None if content in self._deadly else content
        found: NearBy | None = await self._call("near", snapshot.tag, spec, path, content, budget, without)
        if found is None:
            await self._survey(snapshot, await self._analyse(snapshot))
            found = await self._call("near", snapshot.tag, spec, path, content, budget, without)
        return found or NearBy()

    async def runway(self, spec: ModelSpec, path: str, content: bytes | None, line: int, begun: str) -> tuple[int, ...]:
        """See `Workshop`. Raises BuildFailed."""
        if content is None or content in self._deadly:
            return ()
        try:
            ids: tuple[int, ...] = await self._call("runway", spec, path, content, line, begun)
        except Died as error:
            self._condemn(path, content, error)
            return ()
        return ids

    async def similar(self, snapshot: Snapshot, spec: ModelSpec, sought: Sought, report: Progress = silent) -> Similar:
        """The parts of other files that are most like a place. `report` hears files read and their number.

        Raises BuildFailed.
        """
        for attempt in range(_GROWN_ATTEMPTS + 1):
            found: Similar | None = await self._call("similar", snapshot.workspace, snapshot.tag, spec, sought)
            if found is not None:
                return found
            if attempt < _GROWN_ATTEMPTS:
                await self._grow(snapshot, report)
        raise BuildFailed("the builder lost its index of the files again and again; is the server short of memory?")

    async def close(self) -> None:
        """End the child. Calls in work fail with BuildFailed."""
        self._closed = True
        if self._shop is not None:
            self._shop.close()
        child, self._child = self._child, None
        if child is not None:
            await child.close()

    async def _analyse(self, snapshot: Snapshot, report: Progress = silent) -> Chosen:
        """Have the analyses of a snapshot made. The files chosen, and what was left out."""
        chosen = await self._select(list(snapshot.files.values()))
        total = len(chosen.files)
        for start in range(0, total, PORTION):
            report(start, total)
            await self._portion("analyse", [(file.path, file.hash) for file in chosen.files[start : start + PORTION]])
        report(total, total)
        return chosen

    async def _survey(self, snapshot: Snapshot, chosen: Chosen) -> tuple[str, ...]:
        """Have a snapshot that was analysed kept at hand. Some of those that crashed."""
        rows = [(file.path, file.hash, file.mtime_ns) for file in chosen.files if file.hash not in self._deadly]
        await self._call("survey", snapshot.tag, snapshot.repo, rows, large=True)
        return tuple(file.path for file in chosen.files if file.hash in self._deadly)[:20]

    async def _select(self, files: list[File]) -> Chosen:
        if len(files) <= PORTION:
            return select(files, _is_source, self._max_file, self._max_files)
        return await asyncio.to_thread(select, files, _is_source, self._max_file, self._max_files)

    async def _grow(self, snapshot: Snapshot, report: Progress) -> None:
        """Have the index hold this snapshot, in portions, unless the child dies on the way."""
        chosen = await self._select(list(snapshot.files.values()))
        deadly = self._deadly.copy()

        def rows_of() -> list[tuple[str, bytes]]:
            fine = (file for file in chosen.files if file.hash not in deadly)
            return [(file.path, file.hash) for file in fine if not is_noise(file.path)]

        rows = rows_of() if len(chosen.files) <= PORTION else await asyncio.to_thread(rows_of)
        due = await self._call("plant", snapshot.workspace, rows, large=True)
        for start in range(0, len(due), PORTION):
            report(start, len(due))
            if not await self._portion("grow", due[start : start + PORTION], snapshot.workspace):
                return
        report(len(due), len(due))
        await self._call("ripen", snapshot.workspace, snapshot.tag)

    async def _portion(self, name: str, files: list[tuple[str, bytes]], *before: object) -> bool:
        """A call for some files, or for each of them alone when the child dies of it. Whether the call was answered
        with anything but False."""
        files = [file for file in files if file[1] not in self._deadly]
        if not files:
            return True
        try:
            return await self._call(name, *before, files, large=True) is not False
        except Died:
            for path, content in files:
                try:
                    await self._call(name, *before, [(path, content)], attempts=1, large=True)
                except Died as error:
                    self._condemn(path, content, error)
            return False

    def _condemn(self, path: str, content: bytes | None, error: Died) -> None:
        logger.warning("%s is left out of all context: the builder dies of it (%s)", path, error)
        if content is not None:
            self._deadly[content] = None
        while len(self._deadly) > DEADLY_KEPT:
            del self._deadly[next(iter(self._deadly))]

    async def _call(self, name: str, *values: object, attempts: int = 2, large: bool = False) -> Any:
        """One call to the workshop. `large`: it waits behind others of that kind, as do all portions but the first.

        Raises BuildFailed with its reason, Died (a BuildFailed) after `attempts`.
        """
        if self._inline:
            return await self._inside(name, values)
        attempt = 0
        while True:
            try:
                return await self._attempt(name, values, large)
            except _Interrupted:
                continue
            except Died as error:
                attempt += error.heard
                logger.warning("the builder's process ended in %r (%s), attempt %d", name, error, attempt)
                if attempt >= attempts:
                    raise Died(f"the builder's process died {attempts} times in {name!r}: {error}") from error

    async def _attempt(self, name: str, values: tuple[object, ...], large: bool) -> Any:
        """A call on one child. Raises BuildFailed; Died when the child does; _Interrupted when another did it."""
        child, number = None, 0
        reply: Reply = (None, None)
        try:
            while reply[0] is None:
                async with self._lane(large or child is not None):
                    if child is None:
                        child = await self._ready()
                        number = child.number()
                        reply = await self._reply(child, child.ask(number, name, values, self._call_s))
                    elif child is self._child:
                        reply = await self._reply(child, child.go_on(number, name, self._call_s))
                    else:
                        raise _Interrupted
        finally:
            if child is not None and reply[0] is None:
                child.leave(number)
        return _result(reply)

    @asynccontextmanager
    async def _lane(self, large: bool) -> AsyncIterator[None]:
        """The child's turn. Of large portions one at most stands in line for it, so small calls pass the others."""
        async with self._large if large else nullcontext(), self._turn:
            yield

    async def _ready(self) -> Child:
        if self._closed:
            raise BuildFailed(_STOPPING)
        if self._child is None or self._child.ended:
            self._child = await Child.start(self._command)
        return self._child

    async def _reply(self, child: Child, asked: Awaitable[Reply]) -> Reply:
        try:
            return await asked
        except Died as error:
            self.deaths += 1
            self._child = None
            await child.close()
            if self._closed:
                raise BuildFailed(_STOPPING) from error
            raise

    async def _inside(self, name: str, values: tuple[object, ...]) -> Any:
        self._shop = self._shop or Workshop(self._folder)
        calls = Calls(self._shop)
        await asyncio.sleep(0)
        reply = calls.answer(0, name, values)
        while reply[0] is None:
            await asyncio.sleep(0)
            reply = calls.answer(0, GO_ON, ())
        return _result(reply)


def _is_source(path: str) -> bool:
    return language_of(path) is not None


def _result(reply: Reply) -> Any:
    fine, value = reply
    if not fine:
        raise BuildFailed(str(value))
    return value
