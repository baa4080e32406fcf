"""Where block files lie, and how much of the disk they may take; scheduler, loader and writer ask it.

    ROOT/MODEL-DIGEST/rRANK/HH/HASH.kv

Modification times are the order of eviction. A prefix is only as good as its first missing block, so a block's time is
set a little older the deeper it stands: eviction eats prefixes from their ends. The cap holds for all of ROOT, for
models of yesterday too; ledger.py keeps it.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"[0-9a-f]{64}\.kv")
_PARTIAL = re.compile(r"[0-9a-f]{64}\.kv\.[0-9a-f]+\.tmp")
_FAN = re.compile(r"[0-9a-f]{2}")
_RANK = re.compile(r"r\d+")
_KEY = re.compile(r".+-[0-9a-f]{32}")
# A partial file older than this belongs to a process that died.
PARTIAL_LIMIT_S = 600.0
# Evicting goes on to this share of the cap, so that it is not done anew for each block.
KEEP_SHARE = 0.9
DEPTH_NS = 1_000_000


class PrivateError(OSError):
    """A folder is not ours alone, so neither would the text in it be; the tier stays off."""


def make_root(folder: str) -> None:
    """Make the root (0700), or take one that is there: it may be a link, or hold other things, so it stays as it is.

    Raises:
        PrivateError: another user may rename what is ours in it.
        OSError: it cannot be made.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    check_root(folder)


def check_root(folder: str) -> None:
    """May this user keep blocks in a folder that is there? Nothing is made or changed.

    Who owns a folder, or may write in it where names are not tied to their owners (the sticky bit), can put another
    folder in the place of ours, and gets what is written then.

    Raises:
        PrivateError: another user may rename what is ours in it.
        OSError: it is not there, or cannot be looked at.
    """
    found = os.stat(folder)
    if found.st_uid not in (0, os.geteuid()):
        raise PrivateError(
            f"{folder} belongs to another user (uid {found.st_uid}), who could exchange the KV in it; "
            "give the KV tier a folder of its own: a new one in there is made for this user alone"
        )
    for who, bit in (("everyone", stat.S_IWOTH), ("its group", stat.S_IWGRP)):
        if found.st_mode & bit and not found.st_mode & stat.S_ISVTX:
            raise PrivateError(
                f"{who} may write in {folder} and could exchange the KV in it; give the KV tier a folder of its own "
                f"(a new one in there is made for this user alone), or take that right away: chmod go-w {folder}"
            )


def make_private(folder: str) -> None:
    """Make a folder (0700), or take one that is ours and close it to others.

    Raises:
        PrivateError: it belongs to another user, or is a link.
        OSError: it cannot be made.
    """
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
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
        """Make the folder of a file, and those above it.

        Raises:
            OSError: one cannot be made, or is not ours.
        """
        key = os.path.dirname(self.folder)
        make_root(os.path.dirname(key))
        for folder in (key, self.folder, os.path.dirname(self.path(name))):
            make_private(folder)


@dataclass(frozen=True, slots=True)
class Swept:
    """`held`: bytes under the root afterwards. `removed`, `removed_bytes`: blocks evicted and dead partial files."""

    held: int
    removed: int = 0
    removed_bytes: int = 0


def sweep(root: str, cap: int, *, want: int = 0, keep_share: float = KEEP_SHARE, now: float | None = None) -> Swept:
    """Count everything under `root`; where `want` more bytes would pass `cap`, remove the longest unused until they do
    not, and some more. What does not go stays counted. One at a time: the ledger's lock is to be held."""
    now = time.time() if now is None else now
    held = removed = removed_bytes = 0
    blocks: list[tuple[int, int, str]] = []
    for path, found in _files(root):
        size = found.st_size
        if path.endswith(".tmp") and now - found.st_mtime > PARTIAL_LIMIT_S and (gone := _unlink(path)) is not None:
            removed, removed_bytes = removed + gone, removed_bytes + gone * size
            continue
        held += size
        if path.endswith(".kv"):
            blocks.append((found.st_mtime_ns, size, path))
    if held + want > cap:
        enough = min(cap * keep_share, cap - want)
        for _, size, path in sorted(blocks):
            if held <= enough:
                break
            if (gone := _unlink(path)) is not None:
                held, removed, removed_bytes = held - size, removed + gone, removed_bytes + gone * size
    return Swept(held, removed, removed_bytes)


def held(root: str) -> int:
    """Bytes of all blocks under `root`, as the cap counts them; other things there count nothing."""
    return sum(found.st_size for _, found in _files(root))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _files(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Only what has exactly our shape: the root may be a folder in which other things live."""
    for key in _folders(root, _KEY):
        for rank in _folders(key.path, _RANK):
            for fan in _folders(rank.path, _FAN):
                yield from _inside(fan.path)


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


def _unlink(path: str) -> bool | None:
    """True: it went. False: it was gone already. None: it stays."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError:
        return None
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
