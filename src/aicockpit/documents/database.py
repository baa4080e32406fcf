"""The SQLite file of all documentation: schema, connections, transactions. The server and its reading children open it.

A reading child that is killed at any moment leaves a sound file: a page, its pieces and what the index says of them are
one transaction.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aicockpit.errors import NotReady, StorageFull

_VERSION = 1
_BUSY_S = 30.0
_STEPS = 20_000
# `place` is one word, the source and its generation: FTS5 finds both lists of rows and meets them.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE sources (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
  name TEXT NOT NULL, origin TEXT NOT NULL, kind TEXT NOT NULL, private INTEGER NOT NULL, state TEXT NOT NULL,
  error TEXT NOT NULL DEFAULT '', made REAL NOT NULL, changed REAL NOT NULL, generation INTEGER NOT NULL DEFAULT 1,
  served INTEGER NOT NULL DEFAULT 1, attempts INTEGER NOT NULL DEFAULT 0, current TEXT NOT NULL DEFAULT '',
  bytes INTEGER NOT NULL DEFAULT 0, spent_s REAL NOT NULL DEFAULT 0, embedder TEXT NOT NULL DEFAULT '',
  notes TEXT NOT NULL DEFAULT '', UNIQUE (owner, name));
CREATE TABLE pages (id INTEGER PRIMARY KEY, source INTEGER NOT NULL, generation INTEGER NOT NULL, key TEXT NOT NULL,
  url TEXT NOT NULL, depth INTEGER NOT NULL, state TEXT NOT NULL, title TEXT NOT NULL DEFAULT '',
  bytes INTEGER NOT NULL DEFAULT 0, digest BLOB, reason TEXT NOT NULL DEFAULT '', UNIQUE (source, generation, key));
CREATE INDEX pages_by_digest ON pages (source, generation, digest);
CREATE TABLE chunks (id INTEGER PRIMARY KEY AUTOINCREMENT, source INTEGER NOT NULL, generation INTEGER NOT NULL,
  page INTEGER NOT NULL, url TEXT NOT NULL, title TEXT NOT NULL, heading TEXT NOT NULL, body TEXT NOT NULL,
  extra TEXT NOT NULL, place TEXT NOT NULL);
CREATE INDEX chunks_by_source ON chunks (source, generation);
CREATE VIRTUAL TABLE words USING fts5(title, heading, body, extra, place, content='chunks', content_rowid='id',
  tokenize="porter unicode61 remove_diacritics 2 tokenchars '_'");
CREATE TRIGGER chunk_in AFTER INSERT ON chunks BEGIN
  INSERT INTO words(rowid, title, heading, body, extra, place)
  VALUES (new.id, new.title, new.heading, new.body, new.extra, new.place); END;
CREATE TRIGGER chunk_out AFTER DELETE ON chunks BEGIN
  INSERT INTO words(words, rowid, title, heading, body, extra, place)
  VALUES ('delete', old.id, old.title, old.heading, old.body, old.extra, old.place); END;
CREATE TABLE vectors (chunk INTEGER PRIMARY KEY, source INTEGER NOT NULL, generation INTEGER NOT NULL,
  model TEXT NOT NULL, vector BLOB NOT NULL);
CREATE INDEX vectors_by_source ON vectors (source, generation, model);
PRAGMA user_version = 1;
COMMIT;
"""


class Database:
    """One writing and one reading connection. Several threads may call.

    Raises NotReady when the file is damaged or newer than this version, StorageFull when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._writing, self._reading = threading.RLock(), threading.RLock()
        with self._told():
            self._writer = self._connect()
            try:
                self._prepare()
                self._reader = self._connect()
            except BaseException:
                self._writer.close()
                raise

    def close(self) -> None:
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing."""
        with self._writing, self._told():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            finally:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def rows(self, query: str, values: Sequence[Any] = (), limit_s: float | None = None) -> list[tuple[Any, ...]]:
        """What is committed. Raises TimeoutError after `limit_s` seconds of work."""
        with self._reading, self._told():
            if limit_s is not None:
                until = time.monotonic() + limit_s
                self._reader.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    raise TimeoutError("the search took too long") from error
                raise
            finally:
                if limit_s is not None:
                    self._reader.set_progress_handler(None, 0)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "temp_store = MEMORY", "cache_size = -16000"):
            db.execute(f"PRAGMA {pragma}")
        return db

    def _prepare(self) -> None:
        version = self._version()
        if version == 0:
            try:
                self._writer.executescript(_SCHEMA)
            except sqlite3.OperationalError:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if self._version() != _VERSION:  # else another process was faster
                    raise
        elif version != _VERSION:
            raise NotReady(
                f"{self.path} was written by a newer AiCockpit (schema {version}). Use that one, or move it away.",
                code="documents_newer",
            )

    def _version(self) -> int:
        return int(self._writer.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_FULL:
                raise StorageFull(f"the disk of {self.path.parent} is full; make room and try again") from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise NotReady(
                    f"the documentation in {self.path} cannot be read ({error}). Move that file away; add the sources "
                    "again.",
                    code="documents_damaged",
                ) from error
            if code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise NotReady("the documentation is busy; try again", headers=((b"retry-after", b"5"),)) from error
            raise
