"""The pages of an uploaded archive or file, one by one and within limits. Nothing is ever written to disk."""

from __future__ import annotations

import lzma
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from aicockpit.documents.text import kind_of
from aicockpit.documents.values import Limits
from aicockpit.errors import AicockpitError

_GZIP, _XZ, _BZ2 = b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh"
_FOLDERS = frozenset(("node_modules", "__MACOSX", "_sources", "__pycache__", "site-packages"))
# Written by tools or for tools, not for readers.
_NAMES = frozenset(
    """
    requirements.txt cmakelists.txt robots.txt humans.txt license.txt copying.txt genindex.html py-modindex.html
    search.html searchindex.html 404.html
    """.split()  # noqa: SIM905
)
_BROKEN = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    MemoryError,  # a header that asks for all of it
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
    struct.error,
)


class ArchiveError(AicockpitError):
    """It cannot be read as an archive, or is larger than is allowed. What was read before it stays."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file: its content, or why it is left out."""

    path: str
    raw: bytes = b""
    reason: str = ""


def pages(path: Path, name: str, limits: Limits) -> Iterator[Member]:
    """The documents in a file by their paths. `name` is what its owner called it. Raises ArchiveError."""
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(0)
        try:
            if start.startswith(b"PK"):
                yield from _zip(file, path.stat().st_size, limits)
            elif start.startswith((_GZIP, _XZ, _BZ2)) or start[257:262] == b"ustar":
                yield from _tar(file, path.stat().st_size, limits)
            elif kind_of(name):
                yield Member(posixpath.basename(name), file.read(limits.unpacked))
            else:
                raise ArchiveError(
                    f"{name[:200]!r} is neither an archive (zip, tar, tar.gz) nor a document (.html, .md, .rst, .txt)"
                )
        except _BROKEN as error:
            raise ArchiveError(f"the archive is damaged: {type(error).__name__}: {str(error)[:200]}") from error


def _zip(file: IO[bytes], size: int, limits: Limits) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        if len(infos) > limits.members:
            raise ArchiveError(f"the archive holds {len(infos)} files, and at most {limits.members} are read")
        count = _Count(size, limits)
        for info in infos:
            if info.is_dir() or not (path := wanted(info.filename)):
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                yield Member(path, reason="a link, which is not followed")
            elif info.flag_bits & 1:
                yield Member(path, reason="encrypted")
            elif info.file_size > limits.page:
                yield Member(path, reason=f"larger than {limits.page} bytes")
            else:
                with archive.open(info) as opened:  # the header's size is a claim
                    raw = opened.read(limits.page + 1)
                count.add(len(raw))
                yield _member(path, raw, limits)


def _tar(file: IO[bytes], size: int, limits: Limits) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        count, passed = _Count(size, limits), 0
        for number, info in enumerate(archive):
            if number >= limits.members:
                raise ArchiveError(f"the archive holds more than {limits.members} files, and no more are read")
            passed += max(0, info.size)
            if passed > 4 * limits.unpacked:  # to skip a file of a compressed archive is to unpack it
                raise ArchiveError("the archive unpacks to more than is allowed")
            path = wanted(info.name)
            if not path or info.isdir():
                continue
            if not info.isreg():
                yield Member(path, reason="a link or a device, which is not followed")
            elif info.size > limits.page:
                yield Member(path, reason=f"larger than {limits.page} bytes")
            elif (opened := archive.extractfile(info)) is not None:
                raw = opened.read(limits.page + 1)
                count.add(len(raw))
                yield _member(path, raw, limits)


def _member(path: str, raw: bytes, limits: Limits) -> Member:
    if len(raw) > limits.page:
        return Member(path, reason=f"larger than {limits.page} bytes")
    return Member(path, raw)


@dataclass(slots=True)
class _Count:
    """What was unpacked so far, and of how much. Raises ArchiveError for a bomb."""

    packed: int
    limits: Limits
    bytes: int = 0
    files: int = 0

    def add(self, size: int) -> None:
        self.bytes += size
        self.files += 1
        if self.bytes > self.limits.unpacked:
            raise ArchiveError(f"the archive unpacks to more than {self.limits.unpacked} bytes")
        if self.bytes > 1024 * 1024 and self.bytes > self.limits.ratio * self.packed:
            raise ArchiveError(f"the archive unpacks to more than {self.limits.ratio} times its size")
        if self.files > self.limits.files:
            raise ArchiveError(f"the archive holds more than {self.limits.files} documents, and no more are read")


def wanted(name: str) -> str:
    """The path of a document in an archive, or '' for what is none: other types, hidden folders, ways out."""
    path = name.replace("\\", "/")
    if path.startswith("/") or "\x00" in path or (len(path) > 1 and path[1] == ":"):
        return ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or any(part.startswith(".") or part in _FOLDERS for part in parts):
        return ""
    if parts[-1].lower() in _NAMES or not kind_of(parts[-1]):
        return ""
    return "/".join(parts)[:1024].encode("utf-8", "replace").decode()
