"""What is found for a question: by words (FTS5, bm25), and by meaning where vectors are there; the two are fused."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from aicockpit.documents import rank, words
from aicockpit.documents.store import Store, place
from aicockpit.documents.values import MIB, Hit, Source

# Weights of title, heading, body, parts of names, place.
_WEIGHTS = "2.0, 1.5, 1.0, 1.2, 0.0"
_CANDIDATES = 60
_SEARCH_S = 5.0
_CACHE = 192 * MIB


class Index:
    """Searches a store. Matrices of vectors are kept in memory within a limit. Call in a thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._matrices: OrderedDict[tuple[int, int, str, int], tuple[list[int], Any]] = OrderedDict()

    def search(
        self, question: str, sources: Sequence[Source], limit: int, model: str = "", vector: bytes | None = None
    ) -> tuple[list[Hit], bool]:
        """The best pieces, and whether meaning counted. `vector` is the question's, by the embedding model `model`.

        Raises TimeoutError when it takes too long.
        """
        rankings = [self._by_words(words.question(question), sources), self._by_words(words.names(question), sources)]
        near = self._by_meaning(sources, model, vector) if vector is not None else []
        if near:
            rankings.append(near)
        scores = rank.fuse(rankings)
        rows = self._rows(scores)
        best = rank.best(
            {one: score for one, score in scores.items() if one in rows},
            {one: row[1] for one, row in rows.items()},
            limit,
        )
        names = {source.number: source.name for source in sources}
        return [_hit(rows[one], names, scores[one]) for one in best], bool(near)

    def _by_words(self, asked: str, sources: Sequence[Source]) -> list[int]:
        if not asked or not sources:
            return []
        places = " OR ".join(f'"{place(source.number, source.served)}"' for source in sources)
        query = f"SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, {_WEIGHTS}) LIMIT {_CANDIDATES}"
        expression = f"{{place}} : ({places}) AND {{title heading body extra}} : ({asked})"
        return [row[0] for row in self._store.db.rows(query, (expression,), _SEARCH_S)]

    def _by_meaning(self, sources: Sequence[Source], model: str, vector: bytes) -> list[int]:
        """Chunks of all sources by their cosine. Each source's best are compared by the cosine itself."""
        numpy = rank.numbers()
        if numpy is None:
            return []
        asked = numpy.frombuffer(vector, dtype="<f4")
        found: list[tuple[float, int]] = []
        for source in sources:
            ids, matrix = self._matrix(source, model)
            for row in rank.nearest(matrix, vector, _CANDIDATES):
                found.append((-float(matrix[row] @ asked), ids[row]))
        return [one for _, one in sorted(found)[:_CANDIDATES]]

    def _matrix(self, source: Source, model: str) -> tuple[list[int], Any]:
        number, generation = source.number, source.served
        query = "SELECT count(*) FROM vectors WHERE source = ? AND generation = ? AND model = ?"
        count = self._store.db.rows(query, (number, generation, model))[0][0]
        key = (number, generation, model, count)
        with self._lock:
            if key in self._matrices:
                self._matrices.move_to_end(key)
                return self._matrices[key]
        made = self._read_matrix(number, generation, model)
        with self._lock:
            for other in [one for one in self._matrices if one[0] == number]:
                del self._matrices[other]
            self._matrices[key] = made
            while sum(one.nbytes for _, one in self._matrices.values()) > _CACHE and len(self._matrices) > 1:
                self._matrices.popitem(last=False)
        return made

    def _read_matrix(self, number: int, generation: int, model: str) -> tuple[list[int], Any]:
        numpy = rank.numbers()
        assert numpy is not None
        query = "SELECT chunk, vector FROM vectors WHERE source = ? AND generation = ? AND model = ? LIMIT ?"
        rows = self._store.db.rows(query, (number, generation, model, self._store.limits.chunks))
        length = max((len(row[1]) for row in rows), default=0)
        rows = [row for row in rows if length and len(row[1]) == length]
        flat = numpy.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
        return [row[0] for row in rows], flat.reshape(len(rows), length // 4) if rows else flat.reshape(0, 1)

    def _rows(self, ids: Iterable[int]) -> dict[int, tuple[Any, ...]]:
        listed = list(ids)
        marks = ", ".join("?" * len(listed))
        query = f"SELECT id, page, source, title, heading, url, body FROM chunks WHERE id IN ({marks})"
        return {row[0]: row for row in self._store.db.rows(query, listed)}

    # Vectors.

    def without_vector(self, source: Source, generation: int, model: str, most: int) -> list[tuple[int, str]]:
        """Chunks that this model has not seen: id, and what to show it."""
        query = (
            "SELECT c.id, c.title, c.heading, c.body FROM chunks c WHERE c.source = ? AND c.generation = ? "
            "AND NOT EXISTS (SELECT 1 FROM vectors v WHERE v.chunk = c.id AND v.model = ?) ORDER BY c.id LIMIT ?"
        )
        rows = self._store.db.rows(query, (source.number, generation, model, most))
        return [(row[0], "\n".join(part for part in row[1:] if part)) for row in rows]

    def put_vectors(
        self, source: Source, generation: int, model: str, found: Sequence[tuple[int, bytes | None]]
    ) -> None:
        """One without a direction is kept as an empty vector, so that it is not asked for again."""
        with self._store.db.write() as db:
            query = (
                "INSERT OR REPLACE INTO vectors SELECT id, ?, ?, ?, ? FROM chunks WHERE id = ?"  # not of removed ones
            )
            db.executemany(query, ((source.number, generation, model, vector or b"", chunk) for chunk, vector in found))


def _hit(row: tuple[Any, ...], names: dict[int, str], score: float) -> Hit:
    _, _, source, title, heading, url, body = row
    shown = " > ".join(part for part in (title, heading) if part) or url
    return Hit(names.get(source, ""), shown, url, body, round(score, 6))
