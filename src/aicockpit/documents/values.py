"""What the parts of `documents` say to each other: limits, sources, pages, pieces of text, hits. No logic."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1024 * 1024


class State(StrEnum):
    """Of a source. `ready`, `failed` and `cancelled` are ends; a cancelled one answers from what it has."""

    QUEUED = "queued"
    FETCHING = "fetching"
    INDEXING = "indexing"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def working(self) -> bool:
        return self in (State.QUEUED, State.FETCHING, State.INDEXING)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one source unless it is said otherwise. Bytes and seconds; `chunk` and `longest_chunk` in characters."""

    sources: int = 32  # of one key
    stored: int = 1024 * MIB  # of one key: the text of all its sources
    pages: int = 500
    bytes: int = 64 * MIB
    page: int = 4 * MIB
    depth: int = 10
    time_s: float = 600.0
    concurrency: int = 4
    connect_s: float = 10.0
    read_s: float = 15.0
    request_s: float = 30.0
    tries: int = 4
    backoff_s: float = 1.0
    longest_wait_s: float = 60.0
    redirects: int = 5
    failures: int = 25  # in a row: the site is gone
    links: int = 2000  # of one page
    known: int = 5000  # pages that wait or are done
    upload: int = 64 * MIB
    unpacked: int = 256 * MIB
    members: int = 20_000
    files: int = 5000
    ratio: int = 200
    chunks: int = 20_000
    chunk: int = 1600
    longest_chunk: int = 2400
    problems: int = 50  # listed; the others are counted
    query: int = 8000  # characters
    attempts: int = 3  # of the process that reads


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a page in reading order. `level` is 1 to 6 for headings; `anchor` leads to it in the page."""

    kind: str  # heading, text, code
    text: str
    level: int = 0
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A page as read: its title, its blocks, and the links found in it (as written)."""

    title: str
    blocks: tuple[Block, ...]
    links: tuple[str, ...] = ()
    base: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a page to be found. `heading` is the way to it below the page's title, joined by ` > `."""

    heading: str
    body: str
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """One row of `sources`. `generation` is being read, `served` answers; they differ while one is refreshed.

    `private`: addresses that are not public may be read, since an admin asked. Times are Unix times in seconds.
    """

    number: int
    id: str
    owner: str
    name: str
    origin: str
    kind: str  # url, upload
    private: bool
    state: State
    error: str
    made: float
    changed: float
    generation: int
    served: int
    attempts: int
    current: str
    bytes: int
    spent_s: float
    embedder: str
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of one generation of a source; `problems` are the first ones, `more` how many others there are."""

    done: int
    known: int
    chunks: int
    bytes: int
    problems: tuple[str, ...]
    more: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A piece that was found; `score` orders the hits of one answer and means nothing beside it."""

    source: str
    title: str
    url: str
    text: str
    score: float
