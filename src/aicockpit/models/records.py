"""Our own notes beside a model of the cache, in `models--owner--name/.aicockpit`: what a download meant to bring, which
blobs were hashed, when a server last used a revision. `fetch.py` and `locate.py` write them, `cache.py` reads them.

The library and other programs leave the folder alone, and it goes when they remove the model. Each note is a file of
its own, renamed into place: two processes need no lock. Notes about use are lost without harm where the cache is
read-only; "last used" is then unknown.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = ".aicockpit"


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file of a revision: its path in the repository, its size in bytes, and the name (hash) of its blob."""

    name: str
    size: int
    blob: str


@dataclass(frozen=True, slots=True)
class Intent:
    """What a download of one revision was to bring. `done`: all of it came, and its hashes were right."""

    files: tuple[WantedFile, ...]
    began: float
    done: bool

    @property
    def total(self) -> int:
        return sum({file.blob: file.size for file in self.files}.values())


class Records:
    """The notes of one model; `storage` is its folder in the cache."""

    def __init__(self, storage: Path) -> None:
        self._folder = storage / FOLDER

    def intend(self, commit: str, files: Iterable[WantedFile], done: bool) -> None:
        """Note what a download brings, before it begins and after it ended well. Raises OSError."""
        rows = [{"name": file.name, "size": file.size, "blob": file.blob} for file in files]
        _write(self._folder / "revisions" / f"{commit}.json", {"files": rows, "began": time.time(), "done": done})

    def intent(self, commit: str) -> Intent | None:
        """None when another program fetched that revision, or the note is damaged."""
        found = _read(self._folder / "revisions" / f"{commit}.json")
        try:
            files = tuple(WantedFile(str(f["name"]), int(f["size"]), str(f["blob"])) for f in found["files"])
            return Intent(files, float(found["began"]), bool(found["done"]))
        except (KeyError, TypeError, ValueError):
            return None

    def intents(self) -> dict[str, Intent]:
        """By commit."""
        commits = [path.stem for path in sorted((self._folder / "revisions").glob("*.json"))]
        return {commit: found for commit in commits if (found := self.intent(commit)) is not None}

    def note_hashed(self, blob: Path) -> None:
        """The blob's content is what its name says, as long as its size and time stay. Best effort."""
        with contextlib.suppress(OSError):
            found = blob.stat()
            note = {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "at": time.time()}
            _write(self._folder / "hashed" / f"{blob.name}.json", note)

    def hashed(self, blob: Path) -> float | None:
        """When the blob, as it lies there now, was last found right."""
        note = _read(self._folder / "hashed" / f"{blob.name}.json")
        try:
            found = blob.stat()
            same = (note["size"], note["mtime_ns"]) == (found.st_size, found.st_mtime_ns)
            return float(note["at"]) if same else None
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def note_used(self, commit: str) -> None:
        """A server starts with this revision now. Best effort."""
        with contextlib.suppress(OSError):
            _write(self._folder / "used" / f"{commit}.json", {"at": time.time()})

    def used(self, commit: str) -> float | None:
        """When a server of ours last started with this revision; None when none is known to have."""
        return _time(_read(self._folder / "used" / f"{commit}.json"))

    def forget(self, commit: str) -> None:
        """The revision was removed. Best effort."""
        for kind in ("revisions", "used"):
            with contextlib.suppress(OSError):
                (self._folder / kind / f"{commit}.json").unlink(missing_ok=True)


def note_converted_used(folder: Path) -> None:
    """A server starts with a model that was converted into the state folder. Best effort."""
    with contextlib.suppress(OSError):
        _write(_converted_note(folder), {"at": time.time()})


def converted_used(folder: Path) -> float | None:
    return _time(_read(_converted_note(folder)))


def forget_converted(folder: Path) -> None:
    with contextlib.suppress(OSError):
        _converted_note(folder).unlink(missing_ok=True)


def _converted_note(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.used.json")  # beside it: the folder is replaced as a whole


def _time(note: Mapping[str, Any]) -> float | None:
    try:
        return float(note["at"])
    except (KeyError, TypeError, ValueError):
        return None


def _read(path: Path) -> Mapping[str, Any]:
    """The note, empty when it is absent or damaged: each can be made again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, note: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(note, file)
        os.chmod(part, 0o644)  # mkstemp's 0600 would hide the note from the other users of a shared cache
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
