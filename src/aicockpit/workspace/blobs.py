"""File contents by hash, in FOLDER/ab/<32 hex digits>, compressed. `store.py` writes; any process may `read`.

A blob has its name only when it is complete and on the disk: it is written to a file of FOLDER/incoming, synced,
renamed, and then the folder is synced. What a crash leaves is a file that nobody refers to, never half of one.

A disk may lose one all the same. Whoever reads leaves a note of that, an empty file of its name in FOLDER/lost; the
store looks for notes, so that readers in other processes need no way to it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count, islice
from pathlib import Path

import xxhash

from aicockpit.errors import BadRequest

logger = logging.getLogger(__name__)

HASH_BYTES = 16
_LENGTH_BYTES = 4
_LEVEL = 1  # six compresses source text by a tenth more and takes three times as long
_THREADS = 8  # a sync waits for the disk, and a disk takes several in one go
_INCOMING, _LOST = "incoming", "lost"
# How a disk says that it cannot give back what was written: a bad sector, a checksum, a broken structure.
_BROKEN = frozenset((errno.EIO, errno.EBADMSG, errno.EUCLEAN))


def digest(data: bytes | memoryview) -> bytes:
    """The name of a content: xxh3-128, 16 bytes."""
    return xxhash.xxh3_128_digest(data)


def read(folder: Path, hash: bytes) -> bytes | None:
    """The content with that hash, or None when it is not there or damaged; then the store gets to know. Needs no store.

    Raises OSError when it cannot be read for another reason than damage.
    """
    data, why = _examine(folder, hash)
    if data is None:
        _note(folder, hash, why)
    return data


def _examine(folder: Path, hash: bytes) -> tuple[bytes | None, str]:
    """The content, or None and what is wrong with it; "" when it is just not there."""
    try:
        data = zlib.decompress(_place(folder, hash).read_bytes())
    except FileNotFoundError:
        return None, ""
    except zlib.error as error:
        return None, str(error)
    except OSError as error:
        if error.errno not in _BROKEN:
            raise
        return None, str(error)
    return (data, "") if digest(data) == hash else (None, "other content than its name says")


def _note(folder: Path, hash: bytes, why: str) -> None:
    """Tell the store, and, once for each damage, the log. A content that is not there may be an old one."""
    try:
        os.close(os.open(folder / _LOST / hash.hex(), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        logger.warning("that %s is lost could not be noted: %s", hash.hex(), error)
    if why:
        logger.error("%s is damaged (%s); its files are left out until they are sent again", _place(folder, hash), why)


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
    """The writing side. One per folder and process; the caller keeps `publish` and `remove` of a hash apart.

    `empty`: the first bytes of the hashes whose folder was not there when this was opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / _INCOMING
        self._make_own()
        self.empty = [number for number in range(256) if _make(folder / f"{number:02x}")]
        for left in self._incoming.iterdir():
            left.unlink()
        self._names = count()
        self._pool = ThreadPoolExecutor(_THREADS, "blobs")

    def close(self) -> None:
        self._pool.shutdown()

    def _make_own(self) -> None:
        for own in (self._incoming, self.folder / _LOST):
            own.mkdir(mode=0o700, parents=True, exist_ok=True)

    def stage(self, items: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, Path]]:
        """Write contents under names of their own and sync them. Raises OSError, and then leaves nothing."""
        self._make_own()  # someone may have cleared the whole folder
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
            try:
                os.rename(path, place)
            except FileNotFoundError:
                _make(place.parent)
                os.rename(path, place)
            folders.add(place.parent)
        list(self._pool.map(_sync_folder, folders))

    def discard(self, staged: Iterable[tuple[bytes, Path]]) -> None:
        for _, path in staged:
            path.unlink(missing_ok=True)

    def remove(self, hashes: Iterable[bytes]) -> None:
        for hash in hashes:
            _place(self.folder, hash).unlink(missing_ok=True)

    def names(self, prefix: int) -> set[bytes]:
        """The hashes, of those that begin with that byte, of which there is a file."""
        try:
            found = os.listdir(self.folder / f"{prefix:02x}")
        except FileNotFoundError:
            return set()
        return {bytes.fromhex(name) for name in found if len(name) == 2 * HASH_BYTES}

    def remove_older(self, hashes: Iterable[bytes], before: float) -> None:
        """Remove those that were written before that Unix time."""
        for hash in hashes:
            place = _place(self.folder, hash)
            with contextlib.suppress(FileNotFoundError):
                if place.stat().st_mtime < before:
                    place.unlink()

    def noted(self, most: int) -> list[bytes]:
        """Hashes that readers have left a note of, `most` at the most."""
        try:
            with os.scandir(self.folder / _LOST) as notes:
                names = [note.name for note in islice(notes, most)]
        except FileNotFoundError:
            return []
        return [bytes.fromhex(name) for name in names if len(name) == 2 * HASH_BYTES]

    def settle(self, hashes: Iterable[bytes]) -> None:
        """Remove the notes of these."""
        for hash in hashes:
            (self.folder / _LOST / hash.hex()).unlink(missing_ok=True)

    def has(self, hash: bytes) -> bool:
        """Is there a file of it, whatever is in it?"""
        return _place(self.folder, hash).exists()

    def sound(self, hash: bytes) -> bool:
        """Is it there and whole, as far as can be told?"""
        try:
            return _examine(self.folder, hash)[0] is not None
        except OSError as error:
            logger.warning("%s cannot be looked at: %s", _place(self.folder, hash), error)
            return True


def _make(folder: Path) -> bool:
    """Make a folder; False when it is there."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return False
    return True


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
