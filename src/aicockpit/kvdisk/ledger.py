"""The cap of a folder that several engines fill: all of them enter each block in one number before they write it.

ROOT/.lock holds that number, and is locked while it changes. It is never below what lies under ROOT: a block is entered
first, and a file is made with its whole size under the same lock. It may be above, where a block was written twice or
removed otherwise; so whoever finds it full counts the files anew, and evicts only when they are too many indeed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from .shelf import PrivateError, Swept, make_root, sweep

_ENTRY = struct.Struct("<8sQQ")
_MAGIC = b"AICKVL01"
WAIT_S = 1.0
_AGAIN_S = 0.002


class Ledger:
    """One writer's hand on it; for one thread. `cap`: bytes of all blocks under `root`. `wait_s`: how long others may
    hold the lock; one that counts a large folder does so for a moment, one that is stopped for ever."""

    def __init__(self, root: str, cap: int, *, wait_s: float = WAIT_S) -> None:
        self._root = root
        self._cap = cap
        self._wait_s = wait_s
        # Power may have failed since the number was written: the first look of each process counts.
        self._counted = False
        # Another's, where it is not ours: the smallest of them holds for all.
        self.other_cap: int | None = None

    def check(self) -> None:
        """May this user keep one here? What may pass, such as a full disk or one mounted for reading, is no matter.

        Raises:
            PrivateError: the folder or its lock is another's.
        """
        try:
            os.close(self._open())
        except PrivateError:
            raise
        except OSError:
            return

    @contextmanager
    def room_for(self, size: int) -> Iterator[Swept]:
        """Enter `size` bytes, whose file is to be made inside, with its whole size; where that fails, they are struck
        out. Yields what is entered then, and what went to make room.

        Raises:
            PrivateError: the folder or its lock is another's.
            OSError: another process holds the lock, the folder does not let itself be written, or what fills it up
                cannot be removed.
        """
        with self._locked() as handle:
            swept = self._room_for(handle, size)
            entered = swept.held + size
            self._write(handle, entered)
            try:
                yield replace(swept, held=entered)
            except OSError:
                self._write(handle, swept.held)
                raise

    def _room_for(self, handle: int, size: int) -> Swept:
        held, cap = self._read(handle)
        if self._counted and cap != self._cap:
            self.other_cap = cap
        if self._counted and held is not None and held + size <= self._cap:
            return Swept(held)
        swept = sweep(self._root, self._cap, want=size)
        self._write(handle, swept.held)
        self._counted = True
        if swept.held + size > self._cap and size:
            raise OSError(errno.ENOSPC, f"what fills {self._root} cannot be removed")
        return swept

    @contextmanager
    def _locked(self) -> Iterator[int]:
        handle = self._take()
        try:
            yield handle
        finally:
            # Not by closing alone: a process that was forked meanwhile has the handle, too.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def _take(self) -> int:
        until = time.monotonic() + self._wait_s
        while True:
            handle = self._open()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle).st_nlink:
                    return handle
                os.close(handle)  # it was removed meanwhile, perhaps with the whole folder
            except OSError as problem:
                os.close(handle)
                if not isinstance(problem, BlockingIOError):
                    raise
                if time.monotonic() > until:
                    raise OSError(errno.EBUSY, f"another process holds {self._path}") from None
            time.sleep(_AGAIN_S)

    @property
    def _path(self) -> str:
        return os.path.join(self._root, ".lock")

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        make_root(self._root)
        with suppress(FileNotFoundError):
            found = os.lstat(self._path)
            if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
                raise PrivateError(f"{self._path} is not a file of this user; give the KV tier a folder of its own")
        return os.open(self._path, flags, 0o600)

    def _read(self, handle: int) -> tuple[int | None, int]:
        found = os.pread(handle, _ENTRY.size, 0)
        if len(found) == _ENTRY.size:
            magic, held, cap = _ENTRY.unpack(found)
            if magic == _MAGIC:
                return int(held), int(cap)
        return None, self._cap

    def _write(self, handle: int, held: int) -> None:
        os.pwrite(handle, _ENTRY.pack(_MAGIC, held, self._cap), 0)
