"""Analyses of files by content: in memory while they are in use, and in one SQLite file for the next start.

Lives in the builder's process. The file is a cache: one that is broken or of another release is thrown away.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from aicockpit import __version__
from aicockpit.prompts.skeleton import Analysis

logger = logging.getLogger(__name__)

# Rows on disk, values in memory, and their bytes. A source file's analysis is a few kB, but a generated one is MBs.
ROWS_KEPT = 200_000
HELD = 40_000
HELD_BYTES = 300_000_000
_BATCH = 500

Key = tuple[bytes, str]


def key_of(path: str, content: bytes) -> Key:
    """What decides an analysis: the content, and the part of the name that tells the language."""
    name = PurePosixPath(path)
    return content, (name.suffix or name.name).lower()


class Analyses:
    """A bounded map of `key_of` -> Analysis. Errors of the file are logged once and it is done without."""

    def __init__(self, file: Path | None, rows: int = ROWS_KEPT, held: int = HELD, size: int = HELD_BYTES) -> None:
        self._rows, self._limit, self._most = rows, held, size
        self._size = 0
        self._held: OrderedDict[Key, Analysis] = OrderedDict()
        self._db = None if file is None else _connect(file)

    def __len__(self) -> int:
        return len(self._held)

    def find(self, keys: Iterable[Key]) -> dict[Key, Analysis]:
        """Those of `keys` that are known."""
        found, absent = {}, []
        for key in keys:
            held = self._held.get(key)
            if held is None:
                absent.append(key)
            else:
                self._held.move_to_end(key)
                found[key] = held
        read = self._read(absent)
        for key, value in read.items():
            self._hold(key, value)
        return found | read

    def add(self, made: Mapping[Key, Analysis]) -> None:
        """Keep new ones, in memory and on disk."""
        for key, value in made.items():
            self._hold(key, value)
        if self._db is None or not made:
            return
        rows = [(key[0], key[1], msgspec.msgpack.encode(value)) for key, value in made.items()]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO analyses VALUES (?, ?, ?)", rows)
                self._db.execute(
                    "DELETE FROM analyses WHERE rowid <= (SELECT max(rowid) FROM analyses) - ?", (self._rows,)
                )
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _hold(self, key: Key, value: Analysis) -> None:
        if (old := self._held.pop(key, None)) is not None:
            self._size -= _weight(old)
        self._held[key] = value
        self._size += _weight(value)
        while self._held and (len(self._held) > self._limit or self._size > self._most):
            self._size -= _weight(self._held.popitem(last=False)[1])

    def _read(self, keys: list[Key]) -> dict[Key, Analysis]:
        found: dict[Key, Analysis] = {}
        for start in range(0, len(keys), _BATCH):
            if self._db is None:
                break
            part = keys[start : start + _BATCH]
            marks = ",".join(["(?, ?)"] * len(part))
            query = f"SELECT content, name, value FROM analyses WHERE (content, name) IN (VALUES {marks})"
            try:
                rows = self._db.execute(query, [value for key in part for value in key]).fetchall()
                found |= {(row[0], row[1]): msgspec.msgpack.decode(row[2], type=Analysis) for row in rows}
            except (sqlite3.Error, msgspec.DecodeError) as error:
                self._give_up(error)
        return found

    def _give_up(self, error: Exception) -> None:
        logger.warning("the cache of analyses is not usable (%s); files are analysed anew after a restart", error)
        self.close()


def _weight(value: Analysis) -> int:
    """Bytes in memory, about: a string and its place for each reference, one and two numbers for each span."""
    return len(value.skeleton) + 150 * len(value.references) + 200 * len(value.spans)


def _connect(file: Path) -> sqlite3.Connection | None:
    for _ in range(2):
        try:
            db = sqlite3.connect(file, timeout=5.0)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            with db:
                db.execute("CREATE TABLE IF NOT EXISTS release (name TEXT)")
                if db.execute("SELECT name FROM release").fetchone() != (__version__,):
                    db.execute("DELETE FROM release")
                    db.execute("INSERT INTO release VALUES (?)", (__version__,))
                    db.execute("DROP TABLE IF EXISTS analyses")
                db.execute(
                    "CREATE TABLE IF NOT EXISTS analyses (content BLOB, name TEXT, value BLOB, UNIQUE (content, name))"
                )
            return db
        except sqlite3.DatabaseError as error:
            logger.warning("%s is not usable (%s); starting it anew", file, error)
            for end in ("", "-wal", "-shm"):
                file.with_name(file.name + end).unlink(missing_ok=True)
    return None
