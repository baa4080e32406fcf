"""The files of one workspace as its room knows them: read and compared in a thread beside the event loop.

Whole trees are new dicts that are swapped in. What was lent to a snapshot is never changed; the next change copies it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from aicockpit.workspace.builds import Snapshot
from aicockpit.workspace.census import Census
from aicockpit.workspace.manifest import File
from aicockpit.workspace.store import Info, Store

# So many changed files are read one by one; more of them as the whole tree.
_ONE_BY_ONE = 200
# More paths than this are not worked through on the event loop in one go (some milliseconds).
MANY = 2000

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Read:
    files: dict[str, File]
    hashes: dict[str, bytes]
    changed: set[str]


class Tree:
    """See the module. Belongs to the room's task, but for `touch` and the reading of `files`."""

    def __init__(self, store: Store, info: Info) -> None:
        self.census = Census(info.name)
        self.files: dict[str, File] = {}
        self.hashes: dict[str, bytes] = {}
        # Grows with each change that was read.
        self.revision = 0
        self._store, self._id, self._repo = store, info.id, info.name
        self._all, self._dirty, self._doubted = True, set[str](), False
        self._snapshot: Snapshot | None = None
        self._lent = False

    def touch(self, paths: Collection[str] | None) -> None:
        """Other content is in the store; None: anywhere."""
        if paths is None or len(paths) > _ONE_BY_ONE:
            self._all = True
        else:
            self._dirty.update(paths)

    def doubt(self) -> None:
        """Who was told of changes may not have heard all: the next `refresh` names every file."""
        self._all = self._doubted = True

    async def refresh(self) -> Collection[str]:
        """Read from the store what changed, whatever order the news came in; the paths that are other than before."""
        if not (self._all or self._dirty):
            return ()
        whole, dirty, doubted = self._all, self._dirty, self._doubted
        self._all, self._dirty, self._doubted = False, set(), False
        done = False
        try:
            changed = await (self._whole(doubted) if whole else self._some(dirty))
            done = True
        finally:
            if not done:
                self._all |= whole
                self._dirty |= dirty
                self._doubted |= doubted
        if changed:
            self._snapshot = None
            self.revision += 1
        return changed

    def snapshot(self) -> Snapshot:
        """The files as they are now, not copied."""
        if self._snapshot is None:
            # The builder outlives a room: no tag may ever mean another tree.
            self._snapshot = Snapshot(f"{self._id}/{uuid.uuid4().hex}", self._repo, self.files)
        self._lent = True
        return self._snapshot

    def lend(self) -> Mapping[str, bytes]:
        """Path -> content hash, as they are now, not copied."""
        self._lent = True
        return self.hashes

    async def _whole(self, doubted: bool) -> set[str]:
        read = await asyncio.to_thread(self._read, doubted)
        old, lent = (self.files, self.hashes), self._lent
        self.files, self.hashes, self._lent = read.files, read.hashes, False
        if not lent:
            # To free 100,000 objects in one go takes some milliseconds too.
            asyncio.get_running_loop().run_in_executor(None, _empty, *old)
        return read.changed

    def _read(self, doubted: bool) -> _Read:
        """In a thread. What did not change stays the same object: less to free, and to hold twice."""
        known, files, hashes, changed = self.files, dict[str, File](), dict[str, bytes](), set[str]()
        for file in self._store.files(self._id):
            before = known.get(file.path)
            if before is not None and before.hash == file.hash:
                file = before if before == file else file
            else:
                changed.add(file.path)
            files[file.path] = file
            hashes[file.path] = file.hash
        changed.update(path for path in known if path not in files)
        if doubted:
            changed.update(path for path in files)
        self.census.count(files)
        return _Read(files, hashes, changed)

    async def _some(self, dirty: Collection[str]) -> set[str]:
        read, files, hashes = await asyncio.to_thread(self._look_up, dirty)
        before = {path: self.files.get(path) for path in read}
        changed = {path for path, file in read.items() if _hash(file) != _hash(before[path])}
        for path in changed:
            file = read[path]
            if file is not None:
                files[path], hashes[path] = file, file.hash
            else:
                files.pop(path, None)
                hashes.pop(path, None)
        self._lent &= files is self.files
        self.files, self.hashes = files, hashes
        self.census.follow([before[path] for path in changed], [read[path] for path in changed], len(files))
        return changed

    def _look_up(self, paths: Collection[str]) -> tuple[dict[str, File | None], dict[str, File], dict[str, bytes]]:
        """In a thread: the files, and the dicts that may be changed."""
        read = {path: self._store.file(self._id, path) for path in paths}
        other = any(_hash(file) != _hash(self.files.get(path)) for path, file in read.items())
        if self._lent and other:
            return read, dict(self.files), dict(self.hashes)
        return read, self.files, self.hashes


def portions(values: Collection[_Value], most: int = MANY) -> Iterator[list[_Value]]:
    """Lists of about the same length, none longer than `most`."""
    if values:
        count = -(-len(values) // most)
        size, rest = -(-len(values) // count), iter(values)
        while some := list(islice(rest, size)):
            yield some


def _empty(*held: dict[str, Any]) -> None:
    for one in held:
        while one:
            one.popitem()


def _hash(file: File | None) -> bytes | None:
    return file.hash if file else None
