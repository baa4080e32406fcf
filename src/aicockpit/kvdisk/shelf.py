"""Where block files lie, and how much of the disk they may take; scheduler, loader and writer ask it.

    ROOT/MODEL-DIGEST/rRANK/HH/HASH.kv

Modification times are the order of eviction. A prefix is only as good as its first missing block, so a block's time is
set a little older the deeper it stands: eviction eats prefixes from their ends. The cap holds for all of ROOT, for
models of yesterday too, and one process at a time enforces it, under a lock file.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_BLOCK = re.compile(r"[0-9a-f]{64}\.kv")
_PARTIAL = re.compile(r"[0-9a-f]{64}\.kv\.[0-9a-f]+\.tmp")
_FAN = re.compile(r"[0-9a-f]{2}")
_RANK = re.compile(r"r\d+")
_KEY = re.compile(r".+-[0-9a-f]{32}")
_WRITERS = ".writers"
_GRANT = struct.Struct("<Qd")
# What a sweep grants is to be written within this time, or asked for anew; an idle writer holds up no room for long.
GRANT_S = 30.0
# A partial file older than this belongs to a process that died.
PARTIAL_LIMIT_S = 600.0
# Evicting goes on to this share of the cap, so that it is not done anew for each block.
KEEP_SHARE = 0.9
DEPTH_NS = 1_000_000


class PrivateError(Exception):
    """A folder is not ours alone, so neither would the text in it be; the tier stays off."""


def make_private(folder: str) -> None:
    """Make a folder (0700), or take one that is ours and close it to others.

    Raises:
        PrivateError: it belongs to another user, or is a link.
        OSError: it cannot be made.
    """
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if found.st_uid != os.geteuid() or not os.path.isdir(folder) or os.path.islink(folder):
            raise PrivateError(f"{folder} is not a folder of this user; give the KV tier a folder of its own") from None
        if found.st_mode & 0o077:
            os.chmod(folder, 0o700)


def age_ns(depth: int, now: float | None = None) -> int:
    """The modification time of a block that is used now and stands at `depth` in its prefix."""
    return int((time.time() if now is None else now) * 1e9) - depth * DEPTH_NS


@dataclass(frozen=True, slots=True)
class Shelf:
    """The files of one key and one rank. `key`: what each header repeats."""

    folder: str
    key: bytes

    def path(self, name: bytes) -> str:
        plain = name.hex()
        return f"{self.folder}/{plain[:2]}/{plain}.kv"

    def has(self, name: bytes) -> bool:
        """One look at the disk; what it says may be over by the time of the load."""
        return os.path.exists(self.path(name))

    def touch(self, name: bytes, depth: int) -> bool:
        """Used now. False: there is no such file, as far as the disk tells."""
        age = age_ns(depth)
        try:
            os.utime(self.path(name), ns=(age, age))
        except FileNotFoundError:
            return False
        except OSError:
            return self.has(name)  # A read-only folder is of use all the same.
        return True

    def drop(self, name: bytes) -> None:
        """Take away a file that is not the block it says; it is written anew when the block is computed."""
        _unlink(self.path(name))

    def make_room_for(self, name: bytes) -> None:
        """Make the folder of a file.

        Raises:
            OSError: it cannot be made.
        """
        os.makedirs(os.path.dirname(self.path(name)), mode=0o700, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Swept:
    """`held`: bytes under the root afterwards. `removed`, `removed_bytes`: blocks evicted and dead partial files.
    `granted`: bytes that the asker may write within `GRANT_S`."""

    held: int
    removed: int
    removed_bytes: int
    granted: int = 0


def sweep(
    root: str,
    cap: int,
    *,
    want: int = 0,
    mine: int | None = None,
    keep_share: float = KEEP_SHARE,
    now: float | None = None,
) -> Swept | None:
    """Bring everything under `root` below `cap` bytes, the longest unused first. None: another process is at it.

    `want`: bytes that are to have room besides; `mine`: the handle of `enlist` in which the grant for them is noted, so
    that others count on it.

    Raises:
        OSError: the lock file cannot be made, or the grant not be noted.
    """
    lock = _open_lock(os.path.join(root, ".lock"))
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        now = time.time() if now is None else now
        promised = _promised(root, mine, now)
        swept = _sweep(root, cap - promised, want, keep_share, now)
        left = cap - promised - swept.held
        granted = max(left // 4, min(want, left), 0) if want else 0
        if mine is not None:
            _note(mine, granted, now + GRANT_S)
        return replace(swept, granted=granted)
    finally:
        os.close(lock)


def _sweep(root: str, cap: int, want: int, keep_share: float, now: float) -> Swept:
    held = removed = removed_bytes = 0
    blocks: list[tuple[int, int, str]] = []
    for path, found in _files(root):
        if path.endswith(".tmp") and now - found.st_mtime > PARTIAL_LIMIT_S:
            removed_bytes += found.st_size if _unlink(path) else 0
            removed += 1
            continue
        held += found.st_size
        if path.endswith(".kv"):
            blocks.append((found.st_mtime_ns, found.st_size, path))
    if held + want > cap:
        for _, size, path in sorted(blocks):
            if held <= cap * keep_share:
                break
            if _unlink(path):
                removed += 1
                removed_bytes += size
            held -= size
    return Swept(held, removed, removed_bytes)


def enlist(root: str) -> int:
    """Be one of those who write under `root`, until the handle that is returned is closed, or its process ends.

    Raises:
        OSError: the files cannot be made.
    """
    folder = os.path.join(root, _WRITERS)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = _open_lock(os.path.join(root, ".lock"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # or a sweep takes the file for a dead one's before it is locked
        handle = _open_lock(os.path.join(folder, os.urandom(8).hex()))
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)
    return handle


def _promised(root: str, mine: int | None, now: float) -> int:
    """What other writers that live may still write of their grants; what the dead left is removed."""
    total, own = 0, None if mine is None else os.fstat(mine)
    for entry in _entries(os.path.join(root, _WRITERS)):
        try:
            handle = _open_lock(entry.path)
        except OSError:
            continue
        try:
            if own is not None and os.path.samestat(os.fstat(handle), own):
                continue
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _unlink(entry.path)
        except BlockingIOError:
            total += _noted(handle, now)
        finally:
            os.close(handle)
    return total


def _note(handle: int, granted: int, until: float) -> None:
    os.pwrite(handle, _GRANT.pack(granted, until), 0)


def _noted(handle: int, now: float) -> int:
    found = os.pread(handle, _GRANT.size, 0)
    granted, until = _GRANT.unpack(found) if len(found) == _GRANT.size else (0, 0.0)
    return int(granted) if now < until else 0


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _open_lock(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def clear(folder: str) -> int:
    """Remove every block below one key's folder; how many there were. What is being written meanwhile may stay."""
    root, key = os.path.split(folder.rstrip("/"))
    return sum(_unlink(path) for path, _ in _files(root, key) if path.endswith(".kv"))


def _files(root: str, only: str | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """Only what has exactly our shape: the root may be a folder in which other things live."""
    for key in _folders(root, _KEY):
        if only is not None and key.name != only:
            continue
        for rank in _folders(key.path, _RANK):
            yield from _of_shelf(rank.path)


def _of_shelf(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    for fan in _folders(folder, _FAN):
        yield from _inside(fan.path)


def clear_shelf(shelf: Shelf) -> None:
    """Remove every block of one shelf."""
    for path, _ in _of_shelf(shelf.folder):
        if path.endswith(".kv"):
            _unlink(path)


def _inside(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _BLOCK.fullmatch(entry.name) or _PARTIAL.fullmatch(entry.name):
                    try:
                        yield entry.path, entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
    except OSError:
        return


def _folders(folder: str, shape: re.Pattern[str]) -> list[os.DirEntry[str]]:
    return [one for one in _entries(folder) if shape.fullmatch(one.name) and one.is_dir(follow_symlinks=False)]


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def free_bytes(folder: str) -> int | None:
    """What an ordinary user may still write there; None where the system does not say."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def write_about(folder: str, text: str) -> None:
    """Leave a note for people in a key's folder; a folder that refuses it goes without."""
    note = Path(folder, "about.json")
    if not note.exists():
        try:
            note.write_text(text)
        except OSError:
            return
