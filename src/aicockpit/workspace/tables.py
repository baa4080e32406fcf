"""The SQL behind `store.py`: the schema, how it is opened, and what is asked and changed inside a transaction."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

from aicockpit.errors import SettingError, StorageFull
from aicockpit.workspace.manifest import File, Plan, parents, path_conflict

_Value = TypeVar("_Value", str, bytes)

DATABASE = "workspaces.db"
UNUSED = "NOT EXISTS (SELECT 1 FROM files WHERE files.hash = blobs.hash)"
_VERSION = 1
# Values in one `IN (...)`; SQLite's limit is 32,766.
_MANY = 1000
_COLUMNS = "path, hash, size, mtime_ns"
# AUTOINCREMENT: the number of a deleted workspace names nothing else later, wherever it is still remembered.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE workspaces (id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, name TEXT NOT NULL,
  revision INTEGER NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
  UNIQUE (owner, name));
CREATE TABLE blobs (hash BLOB PRIMARY KEY, size INTEGER NOT NULL, seen REAL NOT NULL, workspace INTEGER) WITHOUT ROWID;
CREATE TABLE files (workspace INTEGER NOT NULL REFERENCES workspaces ON DELETE CASCADE, path TEXT NOT NULL,
  hash BLOB NOT NULL REFERENCES blobs, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  PRIMARY KEY (workspace, path)) WITHOUT ROWID;
CREATE INDEX files_by_hash ON files (hash);
CREATE TABLE states (workspace INTEGER NOT NULL REFERENCES workspaces ON DELETE CASCADE, key TEXT NOT NULL,
  value BLOB NOT NULL, PRIMARY KEY (workspace, key)) WITHOUT ROWID;
PRAGMA user_version = 1;
COMMIT;
"""
# Contents that are named but not to be had any more. Beside `blobs` and not in it: an earlier release opens this file.
_LOST = """
CREATE TABLE IF NOT EXISTS lost (hash BLOB PRIMARY KEY REFERENCES blobs ON DELETE CASCADE) WITHOUT ROWID;
"""
_HERE = "hash NOT IN (SELECT hash FROM lost)"


def lock(folder: Path) -> IO[bytes]:
    """Hold the folder until the file is closed or the process ends. Raises SettingError when another one does."""
    file = open(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise SettingError(
            f"another process has the workspaces in {folder} open. Stop it, or give this one another STATE_DIR."
        ) from error
    return file


def open_database(folder: Path) -> sqlite3.Connection:
    """The writing connection. Raises sqlite3.DatabaseError when the file is damaged, SettingError when it is newer."""
    os.close(os.open(folder / DATABASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = connect(folder)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(_SCHEMA)
        elif version != _VERSION:
            raise SettingError(
                f"the workspaces in {folder} were written by a newer release (format {version}, known here: "
                f"{_VERSION}). Use that release, or move the folder away."
            )
        db.execute(_LOST)
    except (sqlite3.DatabaseError, SettingError):
        db.close()
        raise
    return db


def connect(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / DATABASE, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def full_told(folder: Path) -> Iterator[None]:
    """Turns a full disk or a spent quota into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _storage_full(folder) from error
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise _storage_full(folder) from error


def tree(db: sqlite3.Connection, id: int) -> list[File]:
    """All files of a workspace, by path."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM files WHERE workspace = ? ORDER BY path", (id,))
    return [File(*row) for row in rows]


def named(db: sqlite3.Connection, id: int, paths: Iterable[str]) -> list[File]:
    """Those of the paths that are there."""
    found = []
    for some in _some(paths):
        query = f"SELECT {_COLUMNS} FROM files WHERE workspace = ? AND path IN ({_marks(some)})"
        found += [File(*row) for row in db.execute(query, (id, *some))]
    return found


def sizes(db: sqlite3.Connection, hashes: Iterable[bytes]) -> dict[bytes, int]:
    """Those of the hashes that are here, with the sizes of their contents."""
    found: dict[bytes, int] = {}
    for some in _some(hashes):
        found.update(db.execute(f"SELECT hash, size FROM blobs WHERE hash IN ({_marks(some)}) AND {_HERE}", some))
    return found


def beginning(db: sqlite3.Connection, prefix: int) -> set[bytes]:
    """The hashes that begin with that byte and are said to be here."""
    ends = bytes((prefix,)), bytes((prefix,)) + b"\xff" * 16  # one byte longer than a hash
    return {row[0] for row in db.execute(f"SELECT hash FROM blobs WHERE hash BETWEEN ? AND ? AND {_HERE}", ends)}


def lost(db: sqlite3.Connection) -> set[bytes]:
    """The contents that are named but not to be had."""
    return {row[0] for row in db.execute("SELECT hash FROM lost")}


def lose(db: sqlite3.Connection, hashes: Iterable[bytes]) -> tuple[list[bytes], list[int]]:
    """Say of these contents that they are not to be had; those of which it was not said, and whose trees hold them.

    Each of those workspaces goes on to another revision, so that its client has to send the complete manifest, and
    hears then what is missing.
    """
    gone: list[bytes] = []
    spaces: set[int] = set()
    for some in _some(hashes):
        gone += [
            row[0] for row in db.execute(f"SELECT hash FROM blobs WHERE hash IN ({_marks(some)}) AND {_HERE}", some)
        ]
    for some in _some(gone):
        query = f"SELECT DISTINCT workspace FROM files WHERE hash IN ({_marks(some)})"
        spaces.update(row[0] for row in db.execute(query, some))
    db.executemany("INSERT INTO lost VALUES (?)", ((hash,) for hash in gone))
    db.executemany("UPDATE workspaces SET revision = revision + 1 WHERE id = ?", ((id,) for id in spaces))
    return gone, sorted(spaces)


def store_rows(db: sqlite3.Connection, contents: Iterable[tuple[bytes, bytes]], now: float, id: int | None) -> None:
    """These contents (with their hashes) are on the disk, for a workspace or for none."""
    rows = [(hash, len(data), now, id) for hash, data in contents]
    query = "INSERT INTO blobs VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET seen = excluded.seen"
    db.executemany(query, rows)
    db.executemany("DELETE FROM lost WHERE hash = ?", ((row[0],) for row in rows))


def check_places(db: sqlite3.Connection, id: int, plan: Plan, removed: Collection[str]) -> None:
    """Raises BadRequest when a new file would stand where a folder stays, or in what stays a file."""
    before = ""
    for new in sorted(change.path for change in plan.changes if change.old is None):
        # The folders that it shares with the one before were looked at then.
        above = named(db, id, [folder for folder in parents(new) if not before.startswith(f"{folder}/")])
        if any(file.path not in removed for file in above):
            raise path_conflict(new)
        # `0` is the character after `/`: all that begins with this path and a slash.
        inside = db.execute(
            "SELECT path FROM files WHERE workspace = ? AND path >= ? AND path < ?", (id, f"{new}/", f"{new}0")
        )
        if any(path not in removed for (path,) in inside):
            raise path_conflict(new)
        before = new


def unused(db: sqlite3.Connection, id: int) -> list[tuple[bytes, int]]:
    """Hash and size of the contents that were sent for a workspace and that no tree holds, the oldest first."""
    return db.execute(f"SELECT hash, size FROM blobs WHERE workspace = ? AND {UNUSED} ORDER BY seen", (id,)).fetchall()


def still_unused(db: sqlite3.Connection, hashes: Iterable[bytes], seen: float) -> list[bytes]:
    """Those of the hashes that no tree holds and that nobody has sent or named after `seen`."""
    found: list[bytes] = []
    for some in _some(hashes):
        query = f"SELECT hash FROM blobs WHERE hash IN ({_marks(some)}) AND seen <= ? AND {UNUSED}"
        found += [row[0] for row in db.execute(query, (*some, seen))]
    return found


def apply(
    db: sqlite3.Connection, id: int, plan: Plan, known: Mapping[bytes, int], revision: int, files: int, size: int
) -> None:
    """Write the plan; `known` has the size of each content."""
    db.executemany("DELETE FROM files WHERE workspace = ? AND path = ?", ((id, path) for path in plan.drop))
    db.executemany(
        "INSERT INTO files VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
        "SET hash = excluded.hash, size = excluded.size, mtime_ns = excluded.mtime_ns",
        ((id, file.path, file.hash, known[file.hash], file.mtime_ns) for file in plan.write),
    )
    db.execute("UPDATE workspaces SET revision = ?, files = ?, bytes = ? WHERE id = ?", (revision, files, size, id))


def keep(db: sqlite3.Connection, hashes: Iterable[bytes], now: float, fresh_s: float) -> None:
    """Begin the grace period of blobs anew; nothing is written for one whose period began in the last `fresh_s` s."""
    rows = ((now, hash, now - fresh_s) for hash in hashes)
    db.executemany("UPDATE blobs SET seen = ? WHERE hash = ? AND seen < ?", rows)


def _some(values: Iterable[_Value]) -> Iterator[list[_Value]]:
    rest = iter(values)
    while some := list(islice(rest, _MANY)):
        yield some


def _marks(values: Collection[object]) -> str:
    return ",".join("?" * len(values))


def _storage_full(folder: Path) -> StorageFull:
    return StorageFull(
        f"the disk that holds {folder.name} is full, so nothing was changed: free some space (delete workspaces, logs "
        "or models) and send this again"
    )
