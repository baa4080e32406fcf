"""What a client says its tree holds, checked and compared with what is known. Pure; `store.py` acts on it.

A path never reaches the file system of this machine (content is kept by hash), so its form is checked, not resolved.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from aicockpit.errors import BadRequest, TooLarge

MAX_PATH = 4096
MAX_PARTS = 128
_MIB = 1024 * 1024
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What a client may make the store hold. Sizes in bytes; `workspaces` per owner, `files` and `bytes` per workspace.

    `manifest` and `push` limit one request's inflated body (`manifest` 0: what `files` need); `reported` the missing
    hashes that one answer names.
    """

    workspaces: int = 64
    files: int = 200_000
    bytes: int = 4096 * _MIB
    file: int = 8 * _MIB
    manifest: int = 0
    push: int = 16 * _MIB
    reported: int = 4096

    @property
    def manifest_body(self) -> int:
        return self.manifest or max(64 * _MIB, self.files * 256)


# Structs that the garbage collector does not follow: a manifest holds 100,000 of them, and looking through them stopped
# every thread for 50 ms.
class File(msgspec.Struct, frozen=True, gc=False):
    """One file of a tree. `hash` is the xxh3-128 of its content; `size` in bytes."""

    path: str
    hash: bytes
    size: int
    mtime_ns: int


class Change(msgspec.Struct, frozen=True, gc=False):
    """Content that became other content. `old` is None for a new file, `new` for one that is gone."""

    path: str
    old: bytes | None
    new: bytes | None


@dataclass(frozen=True, slots=True)
class Applied:
    """The tree is now the client's. `changed` is empty when it was before; `revision` is the same then."""

    revision: int
    changed: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing was applied: these contents are not here. `count` of them; `hashes` are the first."""

    revision: int
    hashes: tuple[bytes, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was applied: the change was made against another revision than this, the current one."""

    revision: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be written so that the known tree becomes the client's."""

    write: tuple[File, ...]
    drop: tuple[str, ...]
    changes: tuple[Change, ...]


def check(files: Sequence[File], removed: Sequence[str], complete: bool, limits: StoreLimits) -> None:
    """Raises BadRequest for a path that cannot be one, TooLarge for what no workspace may hold."""
    if complete and removed:
        raise BadRequest("a complete manifest (`base` is null) lists every file, so it removes none", param="removed")
    if len(files) > limits.files:
        raise TooLarge(too_many_files(len(files), limits), code="too_many_files")
    if len(removed) > limits.files:
        raise TooLarge(
            f"the manifest removes {len(removed)} files, and a workspace has {limits.files} at most: send the complete "
            "manifest (`base` null)",
            code="too_many_files",
        )
    seen: set[str] = set()
    for path in (*(file.path for file in files), *removed):
        check_path(path)
        if path in seen:
            raise BadRequest(f"the manifest names {_show(path)} more than once", code="duplicate_path")
        seen.add(path)
    for file in files:
        if not 0 <= file.size <= limits.file:
            raise TooLarge(file_too_large(_show(file.path), file.size, limits), code="file_too_large")
    # What stands in a folder is in one row here. A set of all folders would take the square of a path's length.
    ordered = sorted(file.path for file in files)
    for path in ordered:
        inside = f"{path}/"
        place = bisect_left(ordered, inside)
        if place < len(ordered) and ordered[place].startswith(inside):
            raise path_conflict(path)


def check_path(path: str) -> None:
    """Raises BadRequest (code `bad_path`) unless it is a relative path of non-empty parts without `.` and `..`."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise _bad_path(path, "it holds half of a surrogate pair, which is no character") from None
    if size > MAX_PATH:
        raise _bad_path(path, f"it has {size} bytes of UTF-8, and {MAX_PATH} are allowed")
    if "\0" in path:
        raise _bad_path(path, "it holds a NUL byte")
    if path.count("/") >= MAX_PARTS:
        raise _bad_path(path, f"it has {path.count('/') + 1} parts, and {MAX_PARTS} are allowed")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise _bad_path(path, f"it has the part {part!r}; send it relative to the workspace, parts joined by `/`")


def plan(known: Mapping[str, File], files: Iterable[File], removed: Iterable[str], complete: bool) -> Plan:
    """Compare. `known` holds the whole tree for a complete manifest, else at least the files that are named.

    A new time alone is written, but is no change: the content is what a revision stands for.
    """
    write, drop, changes = [], [], []
    named: set[str] = set()
    for file in files:
        old = known.get(file.path)
        if complete:
            named.add(file.path)
        if old is None or old.hash != file.hash:
            changes.append(Change(file.path, old.hash if old else None, file.hash))
        if old is None or old.hash != file.hash or old.mtime_ns != file.mtime_ns:
            write.append(file)
    for path in (path for path in known if path not in named) if complete else removed:
        if (gone := known.get(path)) is not None:
            drop.append(path)
            changes.append(Change(path, gone.hash, None))
    return Plan(tuple(sorted(write, key=lambda file: file.path)), tuple(drop), tuple(changes))


def parents(path: str) -> list[str]:
    """The folders above a path, the nearest first."""
    found = []
    while path := path.rpartition("/")[0]:
        found.append(path)
    return found


def path_conflict(path: str) -> BadRequest:
    return BadRequest(f"{_show(path)} would be a file and a folder at once", code="path_conflict")


def too_many_files(count: int, limits: StoreLimits) -> str:
    return (
        f"the workspace would have {count} files, and {limits.files} are allowed: "
        "exclude folders with .gitignore or .aicockpitignore"
    )


def too_large(size: int, limits: StoreLimits) -> str:
    return (
        f"the workspace would hold {size} bytes, and {limits.bytes} are allowed: "
        "exclude folders with .gitignore or .aicockpitignore"
    )


def file_too_large(name: str, size: int, limits: StoreLimits) -> str:
    return f"{name} has {size} bytes, and a file may have {limits.file}: exclude it with .aicockpitignore"


def _bad_path(path: str, why: str) -> BadRequest:
    return BadRequest(f"{_show(path)} is not a path inside the workspace: {why}", code="bad_path")


def _show(path: str) -> str:
    """Half surrogates must not reach the answer, which is UTF-8."""
    return ascii(path[:_SHOWN])
