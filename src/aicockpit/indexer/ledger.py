"""What is known about each file, on disk: a restart reads again only what has changed, and goes on with its push.

SQLite in one file per watched tree and gateway; used by one thread. A power failure may take the last moments: then
the entries look old, the files are read again, and the gateway answers that its revision is another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aicockpit.errors import AicockpitError
from aicockpit.indexer import secrets

_LARGEST = 2**63 - 1
_SCHEMA = """
create table files (path blob primary key, hash blob not null, size integer not null, mtime_ns integer not null,
                    ctime_ns integer not null, inode integer not null, why text not null,
                    secret integer not null) without rowid;
create table pending (path blob primary key) without rowid;
create table facts (name text primary key, value text not null) without rowid;
"""
# What is kept out by its content is an entry: under other rules nothing in a ledger holds.
_VERSION = zlib.crc32(b"2" + _SCHEMA.encode() + secrets.RULES) >> 1


def bounded(time_ns: int) -> int:
    """A file's time as it is kept: file systems know years that 64 bits of nanoseconds do not."""
    return max(-_LARGEST, min(_LARGEST, time_ns))


def inode(seen: os.stat_result) -> int:
    """A file's number as it is kept, in 63 bits."""
    return seen.st_ino & _LARGEST


class LedgerBusy(AicockpitError):
    """Another watch of the same tree, gateway and name is at work."""


class LedgerBroken(AicockpitError):
    """The ledger cannot be written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it was read. `hash` is xxh3-128; empty when the content keeps it out, for the reason `why`.

    `ctime_ns` is -1 when the file was read so soon after a change that a further one might not show in its times:
    then nothing but reading again tells whether it has changed. `secret`: its content looks like one, be it kept out
    for that or let through by a `.aicockpitignore`.
    """

    hash: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    why: str = ""
    secret: bool = False

    def same(self, seen: os.stat_result) -> bool:
        """Nothing has changed since it was read."""
        return (
            self.ctime_ns == bounded(seen.st_ctime_ns)
            and self.mtime_ns == bounded(seen.st_mtime_ns)
            and self.size == seen.st_size
            and self.inode == inode(seen)
        )


class Ledger:
    """The file `name`.db in `folder`. Raises LedgerBusy, and OSError when the folder cannot be written."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / f"{name}.db"
        self._lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise LedgerBusy(
                "this folder is being watched already for this gateway and workspace name, by another process. "
                "Stop that one, or give this watch another --name."
            ) from error
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError:  # damaged, or of another version: everything in it can be found out again
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            os.chmod(self.path, 0o600)
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = normal")
            (version,) = db.execute("pragma user_version").fetchone()
            if version == 0:
                db.executescript(f"begin; {_SCHEMA} pragma user_version = {_VERSION}; commit;")
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"version {version}")
            db.execute("select count(*) from (select 1 from files limit 1)").fetchone()
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def entries(self) -> Iterator[tuple[bytes, Entry]]:
        """All files, in order of path."""
        rows = self._db.execute(
            "select path, hash, size, mtime_ns, ctime_ns, inode, why, secret from files order by path"
        )
        for path, *values in rows:
            yield path, Entry(*values)

    def pending(self) -> set[bytes]:
        """Paths whose change the gateway has not got yet."""
        return {path for (path,) in self._db.execute("select path from pending")}

    def note(self, changed: Mapping[bytes, Entry | None], pending: Iterable[bytes]) -> None:
        """Write down what was found; None: the file is gone. One transaction."""
        there = [(p, e.hash, e.size, e.mtime_ns, e.ctime_ns, e.inode, e.why, e.secret) for p, e in changed.items() if e]
        with self._transaction():
            self._db.executemany("delete from files where path = ?", ((p,) for p, e in changed.items() if not e))
            self._db.executemany("insert or replace into files values (?, ?, ?, ?, ?, ?, ?, ?)", there)
            self._db.executemany("insert or ignore into pending values (?)", ((path,) for path in pending))

    def applied(self, base: str, paths: Iterable[bytes]) -> None:
        """The gateway has the change of these paths; `base` is what it stands at now."""
        with self._transaction():
            self._db.executemany("delete from pending where path = ?", ((path,) for path in paths))
            self._db.execute("insert or replace into facts values ('base', ?)", (base,))

    @property
    def base(self) -> str:
        """What the gateway stood at after the last applied manifest; "" when that is not known."""
        return self._fact("base")

    def forget_base(self) -> None:
        self._db.execute("delete from facts where name = 'base'")

    @property
    def place(self) -> str:
        """Which folder the root was at the last whole scan; "" when that is not known."""
        return self._fact("place")

    def remember_place(self, place: str) -> None:
        with self._transaction():
            self._db.execute("insert or replace into facts values ('place', ?)", (place,))

    def _fact(self, name: str) -> str:
        row = self._db.execute("select value from facts where name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def close(self) -> None:
        self._db.close()
        os.close(self._lock)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("begin immediate")
            yield
            self._db.execute("commit")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("rollback")
            if isinstance(error, sqlite3.Error):
                raise LedgerBroken(f"{self.path} cannot be written: {error}. Is the disk full?") from error
            raise
