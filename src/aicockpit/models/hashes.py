"""Is a file's content what the Hub says it is? A blob of the cache is named by its hash: LFS files by SHA-256, files
kept in git by git's own. Called by `transfer.py`, `fetch.py` and `cache.py`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

CHUNK = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT = re.compile(r"[0-9a-f]{40}")


class Digest(Protocol):
    """What is used of hashlib's objects."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def checkable(name: str) -> bool:
    """Some mirrors name blobs otherwise; those cannot be checked."""
    return bool(SHA256.fullmatch(name) or _GIT.fullmatch(name))


def content_hash(path: Path, like: str, tell: Callable[[int], None] = lambda count: None) -> str:
    """The hash of a file, of the kind that `like` is. `tell` is given the bytes read so far. Raises OSError."""
    size = path.stat().st_size
    digest: Digest = hashlib.sha256()
    if not SHA256.fullmatch(like):
        digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with open(path, "rb", buffering=0, opener=_unseen) as file:
        done = 0
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            tell(done)
    return digest.hexdigest()


def _unseen(path: str, flags: int) -> int:
    """Open without leaving a time of access: reading a model to check it is not using it."""
    try:
        return os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # only a file's owner may ask for that
        return os.open(path, flags)
