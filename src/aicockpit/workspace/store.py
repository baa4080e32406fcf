"""The workspaces on disk: FOLDER/workspaces.db (SQLite) says what each holds, FOLDER/blobs holds the contents.

An answer is a promise, so what it promises is on the disk first: a blob is synced before the row that names it is
committed, and a row before the blob of a dropped one is removed. `synchronous=FULL` costs one sync per save: with
NORMAL a crash of ours loses nothing either, but a power cut could take back a revision that a client has seen, and
the next one would get its number. Several threads may call; one process may open a folder.

A content that a disk has lost is asked for again, see `_lose`: by the note of a reader, when its folder is not there at
the start, or when `collect` finds no file of it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from aicockpit.errors import ApiError, BadRequest, NotFound, Overloaded, SettingError, StorageFull, TooLarge
from aicockpit.workspace import blobs, manifest, tables
from aicockpit.workspace.manifest import Applied, Change, Conflict, File, Missing, StoreLimits

__all__ = ["Applied", "Change", "Conflict", "File", "Info", "Missing", "Store", "StoreLimits"]

logger = logging.getLogger(__name__)

GRACE_S = 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# A blob's grace period begins anew at most so often: a client that asks again and again makes no writes.
_FRESH_S = 600.0
_BATCH = 500
# Room that is made at the limit, as a part of it.
_SLACK = 8


@dataclass(frozen=True, slots=True)
class Info:
    """One workspace. `created` and `used` are Unix times in seconds, `bytes` the sum of its files' sizes."""

    id: int
    owner: str
    name: str
    revision: int
    files: int
    bytes: int
    created: float
    used: float


# Inside the class, `list` is its own.
_Files: TypeAlias = list[File]
_Infos: TypeAlias = list[Info]


class Store:
    """Workspaces and blobs. `find`, `info`, `list` and `touch` only look into memory and never wait.

    Every writing method raises StorageFull when the disk is full, and has changed nothing then. Opening raises
    SettingError when another process has the folder, or it is damaged. `clock` is Unix time in seconds.
    """

    def __init__(self, folder: Path, limits: StoreLimits | None = None, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.limits = folder, limits or StoreLimits()
        self.blob_folder = folder / "blobs"
        self._clock = clock
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._alone = tables.lock(folder)
        try:
            self._db = tables.open_database(folder)
            rows = self._db.execute("SELECT * FROM workspaces").fetchall()
        except sqlite3.DatabaseError as error:
            self._alone.close()
            raise SettingError(
                f"the workspaces in {folder} cannot be read ({error}). Move that folder away; the indexers send their "
                "trees again."
            ) from error
        except SettingError:
            self._alone.close()
            raise
        self._reader = tables.connect(folder)
        self._blobs = blobs.Blobs(self.blob_folder)
        # `_naming` is held while a blob gets or loses its name, so that a put and a collect never meet at one hash. It
        # is taken before `_writing`, which is held for one transaction and what follows from it in memory.
        self._naming, self._writing, self._reading = threading.Lock(), threading.RLock(), threading.Lock()
        self._infos = {row[0]: Info(*row) for row in rows}
        self._ids = {(info.owner, info.name): info.id for info in self._infos.values()}
        self._used: dict[int, float] = {}
        self._pushed: dict[int, int] = {}
        # On a full disk `collect` will find them.
        with contextlib.suppress(StorageFull), self._naming:
            self._lose([hash for prefix in self._blobs.empty for hash in tables.beginning(self._db, prefix)])

    def close(self) -> None:
        """Keep the times of last use, and let another process open the folder."""
        with contextlib.suppress(StorageFull):
            self._save_times()
        self._blobs.close()
        self._reader.close()
        self._db.close()
        self._alone.close()

    def info(self, id: int) -> Info | None:
        info, used = self._infos.get(id), self._used.get(id)
        return info if info is None or used is None else replace(info, used=used)

    def find(self, owner: str, name: str) -> Info | None:
        id = self._ids.get((owner, name))
        return None if id is None else self.info(id)

    def list(self) -> _Infos:
        return [info for id in [*self._infos] if (info := self.info(id)) is not None]

    def touch(self, id: int) -> None:
        """It is in use. Kept in memory; on disk from the next `collect` or `close`."""
        if id in self._infos:
            self._used[id] = self._clock()

    def unused_s(self, id: int) -> float:
        """Seconds since it was used last; 0 for one that is not here."""
        info = self._infos.get(id)
        return max(0.0, self._clock() - self._used.get(id, info.used)) if info else 0.0

    def create(self, owner: str, name: str) -> Info:
        """The workspace, new or not. Raises BadRequest for a name that cannot be one, Overloaded beyond the limit."""
        if not _NAME.fullmatch(name):
            raise BadRequest(
                "a workspace's name has 1 to 64 letters, digits, `.`, `_` or `-`, and begins with a letter or digit",
                code="bad_name",
            )
        with self._writing:
            if (known := self.find(owner, name)) is not None:
                return known
            if sum(info.owner == owner for info in self._infos.values()) >= self.limits.workspaces:
                raise Overloaded(
                    f"{self.limits.workspaces} workspaces exist already, and no more are allowed: delete one first",
                    code="too_many_workspaces",
                )
            now = self._clock()
            with self._write() as db:
                query = "INSERT INTO workspaces VALUES (NULL, ?, ?, 0, 0, 0, ?, ?)"
                id = db.execute(query, (owner, name, now, now)).lastrowid
            assert id is not None
            made = self._infos[id] = Info(id, owner, name, 0, 0, 0, now, now)
            self._ids[owner, name] = id
            return made

    def delete(self, id: int) -> None:
        """Drop its files and states, in one transaction, then the blobs that came for it and that no tree holds."""
        with self._writing:
            with self._write() as db:
                db.execute("DELETE FROM workspaces WHERE id = ?", (id,))
                # No grace period for what was sent for it: else making it again would give room anew.
                db.execute(f"UPDATE blobs SET seen = 0 WHERE workspace = ? AND {tables.UNUSED}", (id,))
                left = [hash for hash, _ in tables.unused(db, id)]
            if (gone := self._infos.pop(id, None)) is not None:
                del self._ids[gone.owner, gone.name]
            self._used.pop(id, None)
            self._pushed.pop(id, None)
        self._drop(left, 0.0)

    def propose(
        self, id: int, base: int | None, files: Sequence[File], removed: Sequence[str] = ()
    ) -> Applied | Missing | Conflict:
        """Make the tree the client's, in one transaction, if every content is here and `base` is current.

        `base` None: `files` is the whole tree. The size that a client claims counts until its content is here.
        Raises BadRequest, TooLarge, and NotFound when it was deleted.
        """
        complete = base is None
        manifest.check(files, removed, complete, self.limits)
        self._hear()
        with self._writing:
            info = self._known(id)
            if base is not None and base != info.revision:
                return Conflict(info.revision)
            with self._write() as db:
                paths = [*(file.path for file in files), *removed]
                known = {file.path: file for file in (tables.tree(db, id) if complete else tables.named(db, id, paths))}
                plan = manifest.plan(known, files, removed, complete)
                if not complete:
                    tables.check_places(db, id, plan, set(removed))
                wanted = {file.hash for file in plan.write}
                sizes = tables.sizes(db, wanted)
                after = self._after(info, known, plan, sizes)
                # In order of path: sorting so many hashes would hold up every thread.
                lost = tables.lost(db) if complete else ()  # of another one the revision would be another
                stale = (file.hash for file in files if file.hash in lost) if lost else ()
                new = (file.hash for file in plan.write if file.hash not in sizes)
                if missing := list(dict.fromkeys((*new, *stale))):
                    tables.keep(db, sizes, self._clock(), _FRESH_S)
                    return Missing(info.revision, tuple(missing[: self.limits.reported]), len(missing))
                if plan.write or plan.drop:
                    tables.apply(db, id, plan, sizes, after.revision, after.files, after.bytes)
                    # What left the tree stays for the grace period: a branch switch back needs it again.
                    left = {change.old for change in plan.changes if change.old is not None}
                    tables.keep(db, left, self._clock(), _FRESH_S)
            self._infos[id] = after
            return Applied(after.revision, plan.changes)

    def put_blobs(self, pairs: Iterable[tuple[bytes, bytes]], id: int | None = None) -> tuple[int, int]:
        """Keep contents; returns (stored, known before). `id`: the workspace they are for, whose limit counts them.

        Raises BadRequest for a wrong hash and TooLarge, as do the pairs themselves; those before it are stored then.
        """
        good: dict[bytes, bytes] = {}
        problem: ApiError | None = None
        try:
            for hash, data in pairs:
                self._check_blob(hash, data)
                good[hash] = data
        except ApiError as error:
            problem = error
        with self._write() as db:
            known = tables.sizes(db, good)
            tables.keep(db, known, self._clock(), _FRESH_S)
        fresh = [(hash, data) for hash, data in good.items() if hash not in known]
        if id is not None:
            self._take_room(id, sum(len(data) for _, data in fresh), good)
        if fresh:
            with tables.full_told(self.folder):
                staged = self._blobs.stage(fresh)
                with self._naming:
                    self._blobs.publish(staged)
                    with self._write() as db:
                        tables.store_rows(db, fresh, self._clock(), id)
        if problem is not None:
            raise problem
        return len(fresh), len(known)

    def blob(self, hash: bytes) -> bytes | None:
        """A content, or None when it is not here. `blobs.read(store.blob_folder, hash)` does it in any process."""
        return blobs.read(self.blob_folder, hash)

    def files(self, id: int) -> _Files:
        """The whole tree, by path. On a connection of its own: a large tree keeps nobody else waiting."""
        with contextlib.closing(tables.connect(self.folder)) as db:
            return tables.tree(db, id)

    def file(self, id: int, path: str) -> File | None:
        with self._reading:
            found = tables.named(self._reader, id, [path])
        return found[0] if found else None

    def put_state(self, id: int, key: str, value: bytes | None) -> None:
        """Keep what belongs to a workspace and goes with it; None drops it. Of a deleted workspace nothing is kept."""
        with self._write() as db:
            if value is None:
                db.execute("DELETE FROM states WHERE workspace = ? AND key = ?", (id, key))
            elif id in self._infos:
                db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", (id, key, value))

    def get_state(self, id: int, key: str) -> bytes | None:
        with self._reading:
            query = "SELECT value FROM states WHERE workspace = ? AND key = ?"
            row = self._reader.execute(query, (id, key)).fetchone()
        return row[0] if row else None

    def collect(self) -> int:
        """Remove the blobs that no tree has held, and no client has sent or named, for an hour; returns how many."""
        self._save_times()
        self._hear()
        before, removed = self._clock() - GRACE_S, 0
        unused = f"SELECT hash FROM blobs WHERE seen < ? AND {tables.UNUSED} LIMIT {_BATCH}"
        while True:
            with self._naming:
                with self._write() as db:
                    gone = [row[0] for row in db.execute(unused, (before,))]
                    db.executemany("DELETE FROM blobs WHERE hash = ?", ((hash,) for hash in gone))
                self._blobs.remove(gone)
            removed += len(gone)
            if len(gone) < _BATCH:
                break
        absent = [hash for prefix in range(256) for hash in self._sweep(prefix, before)]
        with self._naming:  # all at once: a revision for each workspace
            self._lose([hash for hash in absent if not self._blobs.has(hash)])
        return removed

    def _sweep(self, prefix: int, before: float) -> set[bytes]:
        """Remove files without a row: a crash came between the two. Returns the rows without a file."""
        with self._naming, self._reading:
            said, found = tables.beginning(self._reader, prefix), self._blobs.names(prefix)
            self._blobs.remove_older(found - said, before)
            return said - found

    def _hear(self) -> None:
        """What readers could not read is looked at, and asked for again if it is so; some at a time."""
        if noted := self._blobs.noted(_BATCH):
            with self._naming:
                self._lose([hash for hash in noted if not self._blobs.sound(hash)])
                self._blobs.settle(noted)

    def _lose(self, hashes: Collection[bytes]) -> None:
        """These are not here, whatever their rows say; `_naming` is held. Their files stay: the next manifest of each
        workspace that has some has to be the complete one, and is answered that they are missing.
        """
        if not hashes:
            return
        with self._writing:
            with self._write() as db:
                gone, spaces = tables.lose(db, hashes)
            for id in spaces:
                self._infos[id] = replace(self._infos[id], revision=self._infos[id].revision + 1)
        self._blobs.remove(gone)
        if spaces:
            told = "%d contents in %s are missing or damaged; the indexers of %d workspaces will send them again"
            logger.error(told, len(gone), self.blob_folder, len(spaces))

    def _check_blob(self, hash: bytes, data: bytes) -> None:
        if len(data) > self.limits.file:
            raise TooLarge(
                manifest.file_too_large(f"the blob {hash.hex()}", len(data), self.limits), code="file_too_large"
            )
        if (found := blobs.digest(data)) != hash:
            raise BadRequest(
                f"the content sent as {hash.hex()} has the xxh3-128 {found.hex()}: the file changed between "
                "hashing and reading, or the hash is of another kind",
                code="wrong_hash",
            )

    def _take_room(self, id: int, size: int, spared: Collection[bytes]) -> None:
        """As many bytes as a tree may have may be here that no tree holds; the oldest make room, but for `spared`.

        What a newer content replaced counts. Counted upwards, exactly when it matters.
        """
        limit = self.limits.bytes
        if size > limit:
            raise TooLarge(
                f"one push holds {size} bytes, and {limit} are all that a workspace may have",
                code="workspace_too_large",
            )
        total = self._pushed.get(id)
        if total is None or total + size > limit:
            with self._reading:
                unused = tables.unused(self._reader, id)
            total, gone = sum(size for _, size in unused), []
            if total + size > limit:
                # More than is needed: not every push shall look for the oldest.
                most = max(0, limit - size - limit // _SLACK)
                for hash, length in unused:
                    if total > most and hash not in spared:
                        gone.append(hash)
                        total -= length
                self._drop(gone, self._clock())
        self._pushed[id] = total + size

    def _drop(self, hashes: Sequence[bytes], seen: float) -> None:
        """Remove those of the blobs that no tree holds and nobody has sent or named after `seen`, a Unix time."""
        for start in range(0, len(hashes), _BATCH):
            with self._naming:
                with self._write() as db:
                    gone = tables.still_unused(db, hashes[start : start + _BATCH], seen)
                    db.executemany("DELETE FROM blobs WHERE hash = ?", ((hash,) for hash in gone))
                self._blobs.remove(gone)

    def _after(self, info: Info, known: Mapping[str, File], plan: manifest.Plan, sizes: Mapping[bytes, int]) -> Info:
        """The workspace as it will be. Raises TooLarge."""
        before = [known[path] for path in (*(file.path for file in plan.write), *plan.drop) if path in known]
        count = info.files + len(plan.write) - len(before)
        size = info.bytes + sum(sizes.get(file.hash, file.size) for file in plan.write) - sum(f.size for f in before)
        if count > self.limits.files:
            raise TooLarge(manifest.too_many_files(count, self.limits), code="too_many_files")
        if size > self.limits.bytes:
            raise TooLarge(manifest.too_large(size, self.limits), code="workspace_too_large")
        return replace(info, revision=info.revision + bool(plan.changes), files=count, bytes=size)

    def _known(self, id: int) -> Info:
        if (info := self._infos.get(id)) is None:
            raise NotFound("the workspace was deleted", code="workspace_not_found")
        return info

    def _save_times(self) -> None:
        with self._write() as db:
            rows = [(used, id) for id, used in [*self._used.items()]]
            db.executemany("UPDATE workspaces SET used = ? WHERE id = ?", rows)

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing."""
        with self._writing, tables.full_told(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
