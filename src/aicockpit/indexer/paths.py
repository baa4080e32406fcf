"""Paths relative to a root, as bytes with `/` between the parts and `b""` for the root. For the indexer's modules."""

from __future__ import annotations

from aicockpit.indexer.ignore import FILES


def join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Folder and name."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


def place(path: bytes) -> bytes:
    """Where to look because of an event: an ignore file, or a `.git`, concerns its whole folder."""
    folder, name = split(path)
    return folder if name in FILES or name == b".git" else path


def within(path: bytes, folders: set[bytes]) -> bool:
    """Is it one of the folders, or in one?"""
    while path and folders:
        if path in folders:
            return True
        path = path.rpartition(b"/")[0]
    return False
