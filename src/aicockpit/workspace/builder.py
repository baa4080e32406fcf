"""Packs, journal entries and neighbourhoods, made in one niced child process so that requests never wait for them.

Calls go through in order, in small portions: an entry for a save waits for one portion of a large build, not for the
build. A child that dies is replaced; the call that it died of is tried once more, and a portion of files that kills it
twice is tried file by file, so that one bad file costs itself alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import sys
import time
from collections import deque
from collections.abc import Sequence
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
from aicockpit.workspace.manifest import File
from aicockpit.workspace.workshop import FRAME, Workshop, answer

logger = logging.getLogger(__name__)

# Files analysed by one call: some 50 ms of work.
PORTION = 50
# One call may take so long (seconds); a child that takes longer hangs, and is replaced.
CALL_S = 180.0
STOP_S = 5.0
# So often the index of a tree is grown for one search: the child may die on the way.
_GROWN_ATTEMPTS = 3
# Contents remembered as deadly.
DEADLY_KEPT = 1000
_STDERR_LINE = 1 << 16


class _Died(BuildFailed):
    """The child ended before it answered."""


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
        self._child: _Child | None = None
        self._turn = asyncio.Lock()
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
        survey = await self._survey(snapshot, report)
        for _ in range(2):
            built = await self._call("assemble", snapshot.tag, spec, kind, budget)
            if built is not None:
                break
            survey = await self._survey(snapshot, report)
        if built is None:
            raise BuildFailed("the builder lost its survey twice; is the server short of memory?")
        left = replace(survey[0], gone=built.left.gone, crashed=survey[1])
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
        except _Died:
            for change in fine:
                try:
                    said[change] = (await self._call("journal", spec, kind, [change], lines, attempts=1))[0]
                except _Died as error:
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
            await self._survey(snapshot, silent)
            found = await self._call("near", snapshot.tag, spec, path, content, budget, without)
        return found or NearBy()

    async def runway(self, spec: ModelSpec, path: str, content: bytes | None, line: int, begun: str) -> tuple[int, ...]:
        """See `Workshop`. Raises BuildFailed."""
        if content is None or content in self._deadly:
            return ()
        try:
            ids: tuple[int, ...] = await self._call("runway", spec, path, content, line, begun, attempts=1)
        except _Died as error:
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

    async def _survey(self, snapshot: Snapshot, report: Progress) -> tuple[Any, tuple[str, ...]]:
        """Analyse a snapshot, in portions, and have it kept at hand. What was left out, and what crashed."""
        chosen = await self._select(list(snapshot.files.values()))
        total = len(chosen.files)
        for start in range(0, total, PORTION):
            report(start, total)
            await self._portion("analyse", [(file.path, file.hash) for file in chosen.files[start : start + PORTION]])
        report(total, total)
        fine = [file for file in chosen.files if file.hash not in self._deadly]
        crashed = tuple(file.path for file in chosen.files if file.hash in self._deadly)[:20]
        rows = [(file.path, file.hash, file.mtime_ns) for file in fine]
        await self._call("survey", snapshot.tag, snapshot.repo, rows)
        return chosen.left, crashed

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
        due = await self._call("plant", snapshot.workspace, rows)
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
            return await self._call(name, *before, files) is not False
        except _Died:
            for path, content in files:
                try:
                    await self._call(name, *before, [(path, content)], attempts=1)
                except _Died as error:
                    self._condemn(path, content, error)
            return False

    def _condemn(self, path: str, content: bytes | None, error: _Died) -> None:
        logger.warning("%s is left out of all context: the builder dies of it (%s)", path, error)
        if content is not None:
            self._deadly[content] = None
        while len(self._deadly) > DEADLY_KEPT:
            del self._deadly[next(iter(self._deadly))]

    async def _call(self, name: str, *values: object, attempts: int = 2) -> Any:
        """One call to the workshop. Raises BuildFailed with its reason, _Died (a BuildFailed) after `attempts`."""
        if self._inline:
            self._shop = self._shop or Workshop(self._folder)
            await asyncio.sleep(0)
            return _result(answer(self._shop, name, values))
        for attempt in range(1, attempts + 1):
            async with self._turn:
                if self._closed:
                    raise BuildFailed("the server is stopping")
                if self._child is None or self._child.ended:
                    self._child = await _Child.start(self._command)
                child = self._child
                try:
                    return _result(await child.call(name, values, self._call_s))
                except _Died as error:
                    self.deaths += 1
                    self._child = None
                    await child.close()
                    if self._closed:
                        raise BuildFailed("the server is stopping") from error
                    logger.warning("the builder's process ended in %r (%s), attempt %d", name, error, attempt)
                    if attempt == attempts:
                        raise _Died(f"the builder's process died {attempts} times in {name!r}: {error}") from error
        raise AssertionError("unreachable")


def _is_source(path: str) -> bool:
    return language_of(path) is not None


def _result(reply: tuple[bool, Any]) -> Any:
    fine, value = reply
    if not fine:
        raise BuildFailed(str(value))
    return value


class _Child:
    """One run of the workshop's process. `call` is not for two at a time, but may be cancelled."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._count = 0
        self._waiting: dict[int, asyncio.Future[tuple[bool, Any]]] = {}
        self._said: deque[str] = deque(maxlen=20)
        self._hear = asyncio.create_task(self._read(), name="builder answers")
        self._listen = asyncio.create_task(self._read_errors(), name="builder stderr")

    @classmethod
    async def start(cls, command: Sequence[str]) -> _Child:
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, limit=_STDERR_LINE, start_new_session=True,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )  # fmt: skip
        except OSError as error:
            raise BuildFailed(f"the builder's process cannot be started: {error}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._hear.done()

    async def call(self, name: str, values: tuple[object, ...], limit_s: float) -> tuple[bool, Any]:
        """Raises _Died when the process ends first, or does not answer in time (then it is killed)."""
        self._count += 1
        number = self._count
        future: asyncio.Future[tuple[bool, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        body = pickle.dumps((number, name, values), pickle.HIGHEST_PROTOCOL)
        assert self._process.stdin is not None
        try:
            if self.ended:
                raise _Died(self._reason())
            self._process.stdin.write(FRAME.pack(len(body)) + body)
            with contextlib.suppress(ConnectionError):  # its end is heard of by the reader, with the reason
                await self._process.stdin.drain()
            async with asyncio.timeout(limit_s):
                return await future
        except TimeoutError as error:
            self._kill()
            raise _Died(f"no answer to {name!r} within {limit_s:g} s") from error
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        """It ends by itself when its input does; one that is in the middle of something is killed."""
        self._kill()
        await self._process.wait()
        await asyncio.wait([self._hear, self._listen], timeout=STOP_S)
        for task in (self._hear, self._listen):
            task.cancel()
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.wait_closed()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _reason(self) -> str:
        last = next((line for line in reversed(self._said) if line.strip()), "")
        status = self._process.returncode
        how = "" if status is None else f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return ": ".join(part for part in (how, last) if part) or "it closed its output"

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                head = await self._process.stdout.readexactly(FRAME.size)
                body = await self._process.stdout.readexactly(FRAME.unpack(head)[0])
                number, fine, value = pickle.loads(body)
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result((fine, value))
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._process.wait()
            await asyncio.wait([self._listen], timeout=1.0)
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(_Died(self._reason()))

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError, ConnectionError):  # ValueError: a line beyond the limit
            while line := await self._process.stderr.readline():
                text = line.decode("utf-8", "replace").rstrip()
                self._said.append(text)
                logger.debug("builder: %s", text)
