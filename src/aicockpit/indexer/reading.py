"""Reading one file: its bytes, their hash, and whether they may leave this machine. Called by many threads."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import xxhash

from aicockpit.indexer import inside, secrets
from aicockpit.indexer.ledger import Entry, bounded, inode

T = TypeVar("T")
# Names in a folder; the entries ask the folder's descriptor, as long as that is open.
Listing = dict[bytes, os.DirEntry[str]]
READERS, CHUNK, CHUNKS_AHEAD = 2, 64, 8
HEAD = 8192
TRIES = 3
# Times of files move in ticks of some milliseconds; whole seconds are the mark of a coarse file system.
TICK_NS, COARSE_TICK_NS = 50_000_000, 2_100_000_000


@dataclass(frozen=True, slots=True)
class Read:
    """`entry` None: it is no file of the workspace, `why`. `moving`: it changed while it was read, each time."""

    entry: Entry | None
    data: bytes = b""
    why: str = ""
    moving: bool = False


def content_hash(data: bytes) -> bytes:
    return xxhash.xxh3_128(data).digest()


def read(root: int, path: bytes, limit: int, *, allowed: bool = False) -> Read:
    """Read one file of at most `limit` bytes; the hash is that of the bytes. Tries again while it changes.

    `root`: a descriptor (`inside.py`); a file that only a symlink leads to is gone. `allowed`: it may be sent although
    its content looks like a secret.
    """
    result = Read(None, why="unreadable")
    for _ in range(TRIES):
        try:
            descriptor = inside.open_file(root, path)
        except OSError as error:
            gone = isinstance(error, FileNotFoundError | NotADirectoryError)
            return Read(None, why="gone" if gone else "unreadable")
        try:
            result = _read_open(descriptor, path, limit, allowed)
        except OSError:
            return Read(None, why="unreadable")
        finally:
            os.close(descriptor)
        if not result.moving:
            break
    return result


def _read_open(descriptor: int, path: bytes, limit: int, allowed: bool) -> Read:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        return Read(None, why="special")
    if before.st_size > limit:
        return Read(None, why="large")
    data = os.read(descriptor, before.st_size + 1)
    while (more := os.read(descriptor, 65536)) and len(data) <= limit:
        data += more
    if len(data) > limit:
        return Read(None, why="large")
    after = os.fstat(descriptor)
    still = (
        after.st_size == len(data)
        and after.st_mtime_ns == before.st_mtime_ns
        and after.st_ctime_ns == before.st_ctime_ns
    )
    tick = TICK_NS if after.st_ctime_ns % 1_000_000_000 else COARSE_TICK_NS
    sure = still and time.time_ns() - after.st_ctime_ns > tick
    binary = b"\0" in data[:HEAD]
    secret = not binary and secrets.holds_key(path, data)
    why = "binary" if binary else "secret" if secret and not allowed else ""
    entry = Entry(
        b"" if why else content_hash(data),
        len(data),
        bounded(after.st_mtime_ns),
        bounded(after.st_ctime_ns) if sure else -1,
        inode(after),
        why,
        secret,
    )
    return Read(entry, b"" if why else data, why, moving=not still)


def ahead(items: Sequence[T], read_one: Callable[[T], Read]) -> Generator[list[tuple[T, Read]], None, None]:
    """What was read of each item, in order, in chunks; some threads read a few chunks ahead of the caller."""
    rest = iter(items)
    waiting: deque[tuple[list[T], Future[list[Read]]]] = deque()
    with ThreadPoolExecutor(READERS, "aicockpit-read") as pool:
        while True:
            while len(waiting) < CHUNKS_AHEAD and (chunk := list(islice(rest, CHUNK))):
                waiting.append((chunk, pool.submit(lambda some: [read_one(item) for item in some], chunk)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            yield list(zip(chunk, future.result(), strict=True))


def listing(root: int, folder: bytes) -> tuple[int, Listing]:
    """A folder's descriptor, which the caller closes, and what is in it. Raises OSError."""
    descriptor = inside.open_folder(root, folder)
    try:
        with os.scandir(descriptor) as entries:
            return descriptor, {os.fsencode(entry.name): entry for entry in entries}
    except OSError:
        os.close(descriptor)
        raise


def place_of(folder: bytes | int) -> str:
    """What tells one folder (path or descriptor) from another in its place; "" when it is not there."""
    try:
        seen = os.stat(folder)
    except OSError:
        return ""
    return f"{seen.st_dev}:{seen.st_ino}"


def mode_of(entry: os.DirEntry[str]) -> int:
    """The kind of a directory entry, without a system call on most file systems."""
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else stat.S_IFIFO
