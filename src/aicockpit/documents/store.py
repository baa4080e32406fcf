"""Sources and their pages in the database: who owns what, how far each is, what was left out and why."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from aicockpit.documents import words
from aicockpit.documents.database import Database
from aicockpit.documents.values import Chunk, Limits, Source, State, Tally
from aicockpit.errors import BadRequest, Overloaded, TooLarge

_COLUMNS = ", ".join(field.name for field in fields(Source))
_CHANGEABLE = frozenset(field.name for field in fields(Source)) - {"number", "id", "owner", "made"}
_BATCH = 500
_NAME = 100


class Store:
    """The sources. All methods block on the disk: call them in a thread. `clock` is Unix time in seconds."""

    def __init__(self, path: Path, limits: Limits | None = None, clock: Callable[[], float] = time.time) -> None:
        self.db, self.limits, self._clock = Database(path), limits or Limits(), clock

    def close(self) -> None:
        self.db.close()

    # Sources.

    def sources(self, owners: Collection[str]) -> list[Source]:
        marks = ", ".join("?" * len(owners))
        rows = self.db.rows(f"SELECT {_COLUMNS} FROM sources WHERE owner IN ({marks}) ORDER BY number", (*owners,))
        return [_source(row) for row in rows]

    def working(self) -> list[Source]:
        """Those that an earlier run has not finished, the oldest first."""
        states = [state.value for state in State if state.working]
        marks = ", ".join("?" * len(states))
        rows = self.db.rows(f"SELECT {_COLUMNS} FROM sources WHERE state IN ({marks}) ORDER BY changed", states)
        return [_source(row) for row in rows]

    def all(self) -> list[Source]:
        return [_source(row) for row in self.db.rows(f"SELECT {_COLUMNS} FROM sources ORDER BY number")]

    def find(self, id: str) -> Source | None:
        rows = self.db.rows(f"SELECT {_COLUMNS} FROM sources WHERE id = ?", (id,))
        return _source(rows[0]) if rows else None

    def create(self, owner: str, name: str, origin: str, kind: str, private: bool) -> Source:
        """A new source, queued. Raises BadRequest for a name that is none or is taken, Overloaded, TooLarge."""
        name = checked(name)
        now, id = self._clock(), secrets.token_hex(6)
        with self.db.write() as db:
            mine = db.execute("SELECT name FROM sources WHERE owner = ?", (owner,)).fetchall()
            if len(mine) >= self.limits.sources:
                raise Overloaded(
                    f"this key has {self.limits.sources} sources, and no more are allowed: remove one first",
                    code="too_many_sources",
                )
            if any(row[0].casefold() == name.casefold() for row in mine):
                raise BadRequest(
                    f"there is a source {name!r} already: refresh or remove that one, or choose another name",
                    code="name_taken",
                    param="name",
                )
            if self.room(owner) <= 0:
                raise TooLarge(
                    f"the sources of this key hold {self.limits.stored} bytes of text, which is all they may: "
                    "remove one first",
                    code="documents_full",
                )
            db.execute(
                "INSERT INTO sources (id, owner, name, origin, kind, private, state, made, changed) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (id, owner, name, origin, kind, private, State.QUEUED.value, now, now),
            )
        made = self.find(id)
        assert made is not None
        return made

    def room(self, owner: str) -> int:
        """Bytes of text that a key may still have."""
        query = (
            "SELECT coalesce(sum(p.bytes), 0) FROM pages p JOIN sources s ON s.number = p.source "
            "WHERE s.owner = ? AND p.state = 'done'"
        )
        return self.limits.stored - int(self.db.rows(query, (owner,))[0][0])

    def change(self, number: int, **values: Any) -> None:
        """Set columns of a source. One that is gone stays gone."""
        assert values.keys() <= _CHANGEABLE
        if "notes" in values:
            values["notes"] = "\n".join(values["notes"])
        sets = ", ".join(f"{name} = ?" for name in values)
        with self.db.write() as db:
            db.execute(
                f"UPDATE sources SET {sets}, changed = ? WHERE number = ?",
                (*values.values(), self._clock(), number),
            )

    def delete(self, number: int) -> None:
        with self.db.write() as db:  # first: from here on nobody sees it
            db.execute("DELETE FROM sources WHERE number = ?", (number,))
        self._drop("source = ?", (number,))

    def drop(self, number: int, keep: int) -> None:
        """Remove every generation but one."""
        self._drop("source = ? AND generation <> ?", (number, keep))

    def sweep(self) -> None:
        """Remove what a crash left of deleted sources."""
        self._drop("source NOT IN (SELECT number FROM sources)", ())

    def _drop(self, where: str, values: tuple[int, ...]) -> None:
        """Little by little: who searches or writes meanwhile does not wait for all of it."""
        for table, row in (("vectors", "chunk"), ("chunks", "id"), ("pages", "id")):
            while True:
                query = f"DELETE FROM {table} WHERE {row} IN (SELECT {row} FROM {table} WHERE {where} LIMIT {_BATCH})"
                with self.db.write() as db:
                    if db.execute(query, values).rowcount < _BATCH:
                        break

    # Pages of one generation.

    def add_pages(
        self, number: int, generation: int, found: Iterable[tuple[str, str, int]]
    ) -> list[tuple[str, str, int]]:
        """Note pages to read, (key, url, depth); returns those that are new, up to the limit of known ones."""
        fresh = []
        with self.db.write() as db:
            query = "SELECT count(*) FROM pages WHERE source = ? AND generation = ?"
            left = self.limits.known - db.execute(query, (number, generation)).fetchone()[0]
            for key, url, depth in found:
                if left <= 0:
                    break
                query = (
                    "INSERT OR IGNORE INTO pages (source, generation, key, url, depth, state) "
                    "VALUES (?, ?, ?, ?, ?, 'known')"
                )
                if db.execute(query, (number, generation, key, url, depth)).rowcount:
                    fresh.append((key, url, depth))
                    left -= 1
        return fresh

    def waiting(self, number: int, generation: int) -> list[tuple[str, str, int]]:
        """Pages noted and not read, (key, url, depth), in the order in which they are to be read."""
        query = (
            "SELECT key, url, depth FROM pages WHERE source = ? AND generation = ? AND state = 'known' "
            "ORDER BY depth, id"
        )
        return [(row[0], row[1], row[2]) for row in self.db.rows(query, (number, generation))]

    def reading(self, number: int, generation: int, key: str) -> None:
        """Its content is looked at now: if that ends the process, the next one passes it over."""
        with self.db.write() as db:
            db.execute(
                "UPDATE pages SET state = 'reading' WHERE source = ? AND generation = ? AND key = ?",
                (number, generation, key),
            )

    def unread(self, number: int, generation: int) -> None:
        """Give up pages at which an earlier process ended."""
        with self.db.write() as db:
            db.execute(
                "UPDATE pages SET state = 'failed', reason = 'reading it ended the process that reads' "
                "WHERE source = ? AND generation = ? AND state = 'reading'",
                (number, generation),
            )

    def leave(self, number: int, generation: int, key: str, url: str, reason: str, state: str = "failed") -> None:
        """A page that is not read: `failed`, `left` out on purpose, or the `same` as another."""
        with self.db.write() as db:
            db.execute(
                "INSERT INTO pages (source, generation, key, url, depth, state, reason) VALUES (?, ?, ?, ?, 0, ?, ?) "
                "ON CONFLICT DO UPDATE SET state = excluded.state, reason = excluded.reason",
                (number, generation, key, url, state, reason[:300]),
            )

    def put_page(
        self, number: int, generation: int, key: str, url: str, title: str, digest: bytes, chunks: Sequence[Chunk]
    ) -> str:
        """Keep a page's pieces, in one transaction. Returns why it was left out instead, or ''."""
        with self.db.write() as db:
            if db.execute("SELECT 1 FROM sources WHERE number = ?", (number,)).fetchone() is None:
                return "its source was removed"
            query = (
                "SELECT url FROM pages WHERE source = ? AND generation = ? AND digest = ? AND key <> ? "
                "AND state = 'done'"
            )
            if (same := db.execute(query, (number, generation, digest, key)).fetchone()) is not None:
                reason, state = f"the same text as {same[0]}", "same"
            else:
                reason, state = "", "done"
            size = sum(len(chunk.body.encode("utf-8", "replace")) for chunk in chunks) if state == "done" else 0
            row = db.execute(
                "INSERT INTO pages (source, generation, key, url, depth, state, title, bytes, digest, reason) "
                "VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state, "
                "url = excluded.url, title = excluded.title, bytes = excluded.bytes, digest = excluded.digest, "
                "reason = excluded.reason RETURNING id",
                (number, generation, key, url, state, title[:300], size, digest, reason),
            ).fetchone()
            if state == "done":
                db.executemany(
                    "INSERT INTO chunks (source, generation, page, url, title, heading, body, extra, place) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        (
                            number,
                            generation,
                            row[0],
                            f"{url}#{chunk.anchor}" if chunk.anchor else url,
                            title[:300],
                            chunk.heading,
                            chunk.body,
                            words.extra(f"{title} {chunk.heading} {chunk.body}"),
                            place(number, generation),
                        )
                        for chunk in chunks
                    ),
                )
        return reason

    def tally(self, source: Source, generation: int) -> Tally:
        """How far a generation is, and what was left out of it."""
        at = (source.number, generation)
        query = "SELECT state, count(*), sum(bytes) FROM pages WHERE source = ? AND generation = ? GROUP BY state"
        counts = {row[0]: (row[1], row[2] or 0) for row in self.db.rows(query, at)}
        chunks = self.db.rows("SELECT count(*) FROM chunks WHERE source = ? AND generation = ?", at)[0][0]
        query = (
            "SELECT url, reason FROM pages WHERE source = ? AND generation = ? AND state IN ('failed', 'left') "
            "ORDER BY state, id LIMIT ?"
        )
        listed = [f"{row[0]}: {row[1]}" for row in self.db.rows(query, (*at, self.limits.problems))]
        out = sum(counts.get(state, (0, 0))[0] for state in ("failed", "left"))
        done, text = counts.get("done", (0, 0))
        known = sum(count for count, _ in counts.values()) - counts.get("same", (0, 0))[0]
        return Tally(done, known, chunks, text, (*source.notes, *listed), out - len(listed))

    def read_before(self, number: int, generation: int) -> tuple[set[str], int, int, int]:
        """Keys of all pages that are settled; of those done: how many, their bytes, their pieces."""
        at = (number, generation)
        query = "SELECT key, state, bytes FROM pages WHERE source = ? AND generation = ? AND state <> 'known'"
        rows = self.db.rows(query, at)
        done = [row[2] for row in rows if row[1] == "done"]
        chunks = self.db.rows("SELECT count(*) FROM chunks WHERE source = ? AND generation = ?", at)[0][0]
        return {row[0] for row in rows}, len(done), sum(done), chunks


def checked(name: str) -> str:
    """A source's name as it is kept. Raises BadRequest."""
    name = " ".join(name.split())
    if not name or len(name) > _NAME or not name.isprintable():
        raise BadRequest(f"a source's name has 1 to {_NAME} printable characters", code="bad_name", param="name")
    return name


def upload_of(database: Path, id: str) -> Path:
    """Where an uploaded file waits until it is read."""
    return database.parent / f"documents-{id}.upload"


def place(number: int, generation: int) -> str:
    """The word that stands for a source's generation in the index."""
    return f"s{number}g{generation}"


def _source(row: tuple[Any, ...]) -> Source:
    source = Source(*row)
    values = {field.name: getattr(source, field.name) for field in fields(Source)}
    notes = tuple(line for line in values["notes"].split("\n") if line)
    return Source(**{**values, "private": bool(values["private"]), "state": State(values["state"]), "notes": notes})
