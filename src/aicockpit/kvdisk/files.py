"""One file per KV block: its format, its checksum, an atomic write and a checked read; the writer and the loader call
it.

A file is a header and the block's bytes. The header names the folder's key and the block, and its checksum covers all
of it: a truncated, damaged, renamed or foreign file is told apart from a block before a single byte of it is used. The
checksum (XXH3, 128 bit) finds damage, not malice: what keeps strangers out is the folder's mode, 0700, and that a file
of another user is foreign.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Literal

try:
    from xxhash import xxh3_128 as _digest

    MAGIC, MARK = b"AICKVB01", ""
except ModuleNotFoundError:  # An engine's own Python may lack it; its files are others, then.
    from functools import partial
    from hashlib import blake2b

    _digest = partial(blake2b, digest_size=16)  # type: ignore[misc,assignment]
    MAGIC, MARK = b"AICKVB02", " blake2b"

NAME_BYTES = 32
KEY_BYTES = 16
HEADER = struct.Struct(f"<8s{KEY_BYTES}s{NAME_BYTES}sQ16s")
_SIGNED = HEADER.size - 16
# What the file itself is to blame for, and another in its place would not have; not a full table of open files.
_OWN_FAULT = {errno.EIO, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.EBADMSG, errno.EUCLEAN}

Flaw = Literal["missing", "truncated", "foreign", "corrupt", "unreadable"]
Write = Callable[[int, memoryview], int]
Read = Callable[[int, list[memoryview]], int]
Enter = Callable[[], AbstractContextManager[object]]
Buffer = bytearray | mmap.mmap
_PAST_THE_CACHE = getattr(os, "O_DIRECT", 0)  # not on every system


class UnusableError(Exception):
    """A file is not the block that was asked for; `flaw` says why. Its block is computed instead. `spoilt`: the file is
    of no use to anybody and may go."""

    def __init__(self, flaw: Flaw, spoilt: bool = True) -> None:
        super().__init__(flaw)
        self.flaw: Flaw = flaw
        self.spoilt = spoilt


def room(payload: int) -> int:
    """Bytes of the file, and of the buffer, of a block with `payload` bytes."""
    return HEADER.size + payload


def aligned(size: int) -> mmap.mmap:
    """A buffer that `write` can hand to the disk itself."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)


def seal(buffer: Buffer, key: bytes, name: bytes) -> None:
    """Fill in the header of a buffer whose block already stands behind it."""
    view = memoryview(buffer)
    HEADER.pack_into(buffer, 0, MAGIC, key, name, len(buffer) - HEADER.size, b"")
    view[_SIGNED : HEADER.size] = _checksum(view)


def write(
    path: str,
    buffer: Buffer,
    mtime_ns: int,
    *,
    uncached: bool = False,
    put: Write = os.write,
    enter: Enter = nullcontext,
) -> None:
    """Bring a sealed buffer to `path`: whole, or not at all. Replaces what is there.

    `uncached`: past the system's page cache, where disk and buffer (`aligned`) allow it. That takes less of the
    processor, and the next reader waits for the disk.

    There is no fsync: after a power cut the name may stand before its bytes do, and the checksum tells. `enter`: the
    file is made inside, at once with its whole size, so that nobody who counts files counts it short.

    Raises:
        OSError: it could not be written; nothing is left behind, neither under `path` nor beside it.
    """
    partial = f"{path}.{os.urandom(8).hex()}.tmp"
    with enter():
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, len(buffer))
        except OSError:
            os.close(handle)
            os.unlink(partial)
            raise
    try:
        try:
            _put(handle, memoryview(buffer), put, uncached)
            os.utime(handle, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(handle)
        os.replace(partial, path)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _put(handle: int, view: memoryview, put: Write, uncached: bool) -> None:
    done, uncached = 0, uncached and _bypass(handle, True)
    while done < len(view):
        pages = (len(view) - done) // mmap.PAGESIZE * mmap.PAGESIZE
        if uncached and (done % mmap.PAGESIZE or not pages):  # only whole pages go past the cache
            uncached = _bypass(handle, False)
        try:
            count = put(handle, view[done : done + pages] if uncached else view[done:])
        except OSError as problem:
            if not uncached or problem.errno != errno.EINVAL:
                raise
            uncached = _bypass(handle, False)
            continue
        if count <= 0:
            raise OSError(errno.EIO, "nothing could be written")
        done += count


def _bypass(handle: int, on: bool) -> bool:
    """Have what is written from now on go past the page cache, or into it; does it go past?"""
    with suppress(OSError):  # some file systems cannot
        flags = fcntl.fcntl(handle, fcntl.F_GETFL) & ~_PAST_THE_CACHE
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | _PAST_THE_CACHE * on)
        return on and bool(_PAST_THE_CACHE)
    return False


def read(path: str, key: bytes, name: bytes, buffer: bytearray, *, get: Read | None = None) -> memoryview:
    """The block's bytes, checked, in `buffer` (of `room(payload)` bytes); they live as long as the buffer is not
    reused.

    Raises:
        UnusableError: there is no such file, or it is not that block.
    """
    try:
        # Not blocking: whatever lies there under our name may be a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnusableError("missing", spoilt=False) from None
    except OSError as problem:
        raise UnusableError("unreadable", problem.errno in _OWN_FAULT) from None
    try:
        _fill(handle, memoryview(buffer), get or os.readv)
    except OSError as problem:
        raise UnusableError("unreadable", problem.errno in _OWN_FAULT) from None
    finally:
        os.close(handle)
    magic, own_key, own_name, length, checksum = HEADER.unpack_from(buffer)
    view = memoryview(buffer)
    if magic != MAGIC or own_key != key or own_name != name or length != len(buffer) - HEADER.size:
        raise UnusableError("foreign")
    if checksum != _checksum(view):
        raise UnusableError("corrupt")
    return view[HEADER.size :]


def _fill(handle: int, view: memoryview, get: Read) -> None:
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_size > len(view):
        raise UnusableError("foreign")
    if found.st_size < len(view):
        raise UnusableError("truncated")
    while view:
        count = get(handle, [view])
        if count == 0:
            raise UnusableError("truncated")
        view = view[count:]


def _checksum(view: memoryview) -> bytes:
    state = _digest(view[:_SIGNED])
    state.update(view[HEADER.size :])
    return state.digest()
