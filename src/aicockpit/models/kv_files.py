"""Keeps the files of vLLM's own disk tier within their size: it writes them and never deletes one. `roster.py` calls.

They lie as `v1/kv_offload/file_mapper.py` of vLLM 0.32 names them, in a folder of ours (`recipes/tier.py`, `mark`):

    FOLDER/MARK/MODEL_DIGEST_rRANK/HHH/HH_gGROUP/HASH.bin

A file that goes while an engine wants it is computed again. Nothing else in FOLDER is touched.

When a file was read the kernel notes, and vLLM never does. `relatime`, the usual mount, notes a read only if the file
was changed since the one before, or that one was a day ago. So each look changes what was read since the last: its
mode, to what it is. Mounted `noatime`, nothing is noted, and the files written first go first.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = (r"[0-9a-f]{16}", r".+_r\d+", r"[0-9a-f]{3}", r"[0-9a-f]{2}_g\d+")
_FILE = re.compile(r"[0-9a-f]{4,}\.bin(?P<partial>_\d+\.tmp)?")
_KEEP = 0.9  # of the size, so that not every look deletes something
_PARTIAL_S = 600.0  # a file half written for so long belongs to a process that died


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Bytes that stay, and files that went."""

    held: int
    removed: int


def trim(folder: Path, size: int, now: float | None = None) -> Trimmed:
    """Bring the files below `size` bytes, those first that nobody read or wrote for the longest. Raises nothing: a
    folder that is not there holds nothing, and a file that does not go stays counted."""
    moment = time.time() if now is None else now
    files: list[tuple[float, int, str]] = []
    held = removed = 0
    for path, partial in _walk(str(folder), 0):
        try:
            about = os.stat(path, follow_symlinks=False)
        except OSError:
            continue
        room = about.st_blocks * 512
        if partial and moment - about.st_mtime > _PARTIAL_S and _unlink(path):
            removed += 1
            continue
        held += room
        if not partial:
            if about.st_atime_ns > about.st_ctime_ns:
                _notice(path, about.st_mode)
            files.append((max(about.st_atime, about.st_mtime), room, path))
    if held > size:
        for _, room, path in sorted(files):
            if held <= size * _KEEP:
                break
            if _unlink(path):
                held, removed = held - room, removed + 1
    return Trimmed(held, removed)


def _walk(folder: str, depth: int) -> Iterator[tuple[str, bool]]:
    """(path, is it half written)."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if depth == len(_FOLDERS):
                if (match := _FILE.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                    yield entry.path, match["partial"] is not None
            elif re.fullmatch(_FOLDERS[depth], entry.name) and entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, depth + 1)


def _notice(path: str, mode: int) -> None:
    """Have the kernel note the next read, too: it does after any change of the inode (`relatime_need_update`)."""
    with contextlib.suppress(OSError):
        os.chmod(path, stat.S_IMODE(mode))


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
