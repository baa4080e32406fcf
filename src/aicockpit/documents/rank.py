"""Two rankings made one, and vectors compared. Pure; numpy is used where it is there, and not needed."""

from __future__ import annotations

import array
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Cormack, Clarke, Büttcher 2009: "Reciprocal rank fusion outperforms Condorcet".
_K = 60
_PER_PAGE = 3
# What a model wants in front of a question and of a passage, as its card says.
_PREFIXES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r"qwen3-embedding", re.IGNORECASE),
        "Instruct: Given a question about software, retrieve the documentation that answers it\nQuery: ",
        "",
    ),
    (re.compile(r"(?:^|[/_-])e5-(?!mistral)|multilingual-e5", re.IGNORECASE), "query: ", "passage: "),
    (re.compile(r"nomic-embed-text", re.IGNORECASE), "search_query: ", "search_document: "),
    (
        re.compile(r"bge-(?:small|base|large)-en|mxbai-embed|arctic-embed", re.IGNORECASE),
        "Represent this sentence for searching relevant passages: ",
        "",
    ),
)
_EMBEDS = re.compile(r"embed|(?:^|[/_-])(?:bge|gte|e5|jina-emb|minilm|stella|uae)(?:[-_.]|$)|sentence-", re.IGNORECASE)
_RERANKS = re.compile(r"rerank|cross-?encoder", re.IGNORECASE)


def embeds(name: str) -> bool:
    """Does a model's name say that it makes embeddings?"""
    return bool(_EMBEDS.search(name)) and not _RERANKS.search(name)


def prefixes(model: str) -> tuple[str, str]:
    """What stands in front of a question, and of a passage, for this model."""
    return next(((asked, told) for name, asked, told in _PREFIXES if name.search(model)), ("", ""))


def fuse(rankings: Iterable[Sequence[int]]) -> dict[int, float]:
    """Scores by reciprocal rank: each ranking gives 1 / (60 + place) to what it holds."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for place, one in enumerate(ranking, 1):
            scores[one] = scores.get(one, 0.0) + 1.0 / (_K + place)
    return scores


def best(scores: Mapping[int, float], pages: Mapping[int, object], limit: int) -> list[int]:
    """The first `limit` by score, at most three of one page: an answer wants more than one voice."""
    found: list[int] = []
    seen: dict[object, int] = {}
    for one in sorted(scores, key=lambda one: (-scores[one], one)):
        page = pages[one]
        if seen.get(page, 0) < _PER_PAGE:
            seen[page] = seen.get(page, 0) + 1
            found.append(one)
            if len(found) == limit:
                break
    return found


def pack(vector: Sequence[float]) -> bytes | None:
    """A vector of length 1 as little-endian float32, or None for one without a direction."""
    length = math.sqrt(sum(x * x for x in vector))
    if not length or not math.isfinite(length):
        return None
    packed = array.array("f", (x / length for x in vector))
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def numbers() -> Any | None:
    """numpy, where it is installed."""
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def nearest(matrix: Any, query: bytes, limit: int) -> list[int]:
    """Rows of a matrix of unit vectors by their cosine to a query, best first; [] where the lengths differ."""
    numpy = numbers()
    if numpy is None or not len(matrix) or 4 * matrix.shape[1] != len(query):
        return []
    asked = numpy.frombuffer(query, dtype="<f4")
    scores = matrix @ asked
    limit = min(limit, len(scores))
    top = numpy.argpartition(-scores, limit - 1)[:limit]
    return [int(one) for one in top[numpy.argsort(-scores[top], kind="stable")]]
