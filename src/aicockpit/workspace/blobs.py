"""File contents by hash, in FOLDER/ab/<32 hex digits>, compressed. `store.py` writes; any process may `read`.

A blob has its name only when it is complete and on the disk: it is written to a file of FOLDER/incoming, synced,
renamed, and then the folder is synced. What a crash leaves is a file that nobody refers to, never half of one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path

import xxhash

from aicockpit.errors import BadRequest

logger = logging.getLogger(__name__)

HASH_BYTES = 16
_LENGTH_BYTES = 4
_LEVEL = 1  # six compresses source text by a tenth more and takes three times as long
_THREADS = 8  # a sync waits for the disk, and a disk takes several in one go
_INCOMING = "incoming"


def digest(data: bytes | memoryview) -> bytes:
    """The name of a content: xxh3-128, 16 bytes."""
    return xxhash.xxh3_128_digest(data)


def read(folder: Path, hash: bytes) -> bytes | None:
    """The content with that hash, or None when it is not there or damaged (then logged). Needs no store."""
    path = _place(folder, hash)
    try:
        data = zlib.decompress(path.read_bytes())
    except FileNotFoundError:
        return None
    except zlib.error as error:
        logger.error("%s is damaged (%s); its files are left out until they are sent again", path, error)
        return None
    if digest(data) != hash:
        logger.error("%s is damaged (other content than its name says)", path)
        return None
    return data


def frames(body: bytes | memoryview) -> Iterator[tuple[bytes, bytes]]:
    """What a push holds: repeated 16-byte hash, 4-byte big-endian length, content. BadRequest at a broken one."""
    body = memoryview(body)
    place, head = 0, HASH_BYTES + _LENGTH_BYTES
    while place < len(body):
        start = place + head
        length = int.from_bytes(body[place + HASH_BYTES : start], "big")
        if start > len(body) or start + length > len(body):
            raise BadRequest(
                f"the push breaks off in the frame at byte {place} of {len(body)}; send it again from there",
                code="broken_frame",
            )
        yield bytes(body[place : place + HASH_BYTES]), bytes(body[start : start + length])
        place = start + length


class Blobs:
    """The writing side. One per folder and process; the caller keeps `publish` and `remove` of a hash apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / _INCOMING
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(256):
            (folder / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        for left in self._incoming.iterdir():
            left.unlink()
        self._names = count()
        self._pool = ThreadPoolExecutor(_THREADS, "blobs")

    def close(self) -> None:
        self._pool.shutdown()

    def stage(self, items: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, Path]]:
        """Write contents under names of their own and sync them. Raises OSError, and then leaves nothing."""
        staged = [(hash, self._incoming / str(next(self._names))) for hash, _ in items]
        writes = [self._pool.submit(_write, path, data) for (_, path), (_, data) in zip(staged, items, strict=True)]
        wait(writes)
        try:
            for write in writes:
                write.result()
        except OSError:
            self.discard(staged)
            raise
        return staged

    def publish(self, staged: Sequence[tuple[bytes, Path]]) -> None:
        """Give them their names, for good. Raises OSError."""
        folders = set()
        for hash, path in staged:
            place = _place(self.folder, hash)
            os.rename(path, place)
            folders.add(place.parent)
        list(self._pool.map(_sync_folder, folders))

    def discard(self, staged: Iterable[tuple[bytes, Path]]) -> None:
        for _, path in staged:
            path.unlink(missing_ok=True)

    def remove(self, hashes: Iterable[bytes]) -> None:
        for hash in hashes:
            _place(self.folder, hash).unlink(missing_ok=True)

    def older(self, prefix: int, before: float) -> list[bytes]:
        """The blobs whose hash begins with that byte and that were written before that Unix time."""
        found = []
        with os.scandir(self.folder / f"{prefix:02x}") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if len(entry.name) == 2 * HASH_BYTES and entry.stat().st_mtime < before:
                        found.append(bytes.fromhex(entry.name))
        return found


def _place(folder: Path, hash: bytes) -> Path:
    name = hash.hex()
    return folder / name[:2] / name


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as file:
        rest = memoryview(zlib.compress(data, _LEVEL))
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
