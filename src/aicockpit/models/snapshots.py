"""A revision in the cache: where it lies, what it lacks, and when it counts. Never asks the network.

Complete means: all its files are there with their sizes, and, when we brought them, every hash was right once.
Called by `fetch.py`, `locate.py` and `cache.py`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported lazily

from aicockpit.errors import ModelError
from aicockpit.models import files as model_files
from aicockpit.models.hashes import checkable, content_hash
from aicockpit.models.hub import Hub, no_id
from aicockpit.models.records import Records, WantedFile
from aicockpit.models.smollm2 import Progress, silent

MAIN = "main"
_SHORTEST_COMMIT = 7
_WORTH_TELLING = 100_000_000  # bytes; less is read in no time


class WrongContent(ModelError):
    """A file came whole, and is not what the Hub says it is."""

    def __init__(self, name: str, repo_id: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{name} of {repo_id} has the wrong content: its hash is {actual[:12]}…, the Hub says {expected[:12]}…. "
            "It was removed; start again to fetch it anew. If that keeps happening, something on the way (a proxy, "
            "a mirror in HF_ENDPOINT) or the disk changes files."
        )


@dataclass(frozen=True, slots=True)
class Cached:
    """A revision as the cache has it. `lack` says what it lacks to be served; empty: nothing."""

    folder: Path
    lack: str

    @property
    def commit(self) -> str:
        return self.folder.name


def cached(hub: Hub, repo_id: str, revision: str = "", progress: Progress | None = None) -> Cached | None:
    """What the cache holds under that revision ("": `main`). Raises ModelError when `repo_id` can be no id.

    A download of ours that ended before all hashes were looked at is finished here when `progress` is given: that may
    read all of the model.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise no_id(repo_id) from error
    storage = hub.storage(repo_id)
    commit = commit_of(storage, revision)
    folder = storage / "snapshots" / commit
    if not commit or not folder.is_dir():
        return None
    lack = lack_of(storage, folder)
    intent = Records(storage).intent(commit)
    if progress is not None and not lack and intent is not None and not intent.done:
        try:
            settle(storage, repo_id, commit, intent.files, progress)
        except WrongContent:
            lack = lack_of(storage, folder)
        except PermissionError:
            pass  # whoever owns this cache has not ended the download, but all its files are there
    return Cached(folder, lack)


def commit_of(storage: Path, revision: str) -> str:
    """The commit that a branch, tag, commit or its beginning means in the cache; "" when it is not known there."""
    names = {path.name for path in storage.glob("snapshots/*")}
    if revision in names:
        return revision
    with contextlib.suppress(OSError, ValueError):
        return (storage / "refs" / (revision or MAIN)).read_text(encoding="utf-8").strip()
    begun = [name for name in names if name.startswith(revision)] if len(revision) >= _SHORTEST_COMMIT else []
    return begun[0] if len(begun) == 1 else ""


def lack_of(storage: Path, folder: Path) -> str:
    """What a snapshot lacks, in words: by our note of what it was to hold, or by what its files say of each other."""
    intent = Records(storage).intent(folder.name)
    if intent is None:
        return model_files.lacking(folder) or ("" if model_files.has_tokenizer(folder) else "a tokenizer")
    absent = [file.name for file in intent.files if not as_wanted(folder / file.name, file)]
    if absent:
        return f"{len(absent)} of {len(intent.files)} files (such as {absent[0]})"
    return model_files.lacking(folder)


def as_wanted(path: Path, file: WantedFile) -> bool:
    """It is there, and as long as the Hub says (some mirrors do not say)."""
    try:
        return path.stat().st_size == file.size or not file.blob
    except OSError:
        return False


def on_disk(storage: Path, files: Sequence[WantedFile]) -> int:
    """Bytes of these files that are in the cache, finished or not (a blob is named by its hash)."""
    sizes = {file.blob: file.size for file in files if file.blob}
    most = dict.fromkeys(sizes, 0)
    for path in (storage / "blobs").glob("*"):
        name = path.name.partition(".")[0]
        if name in sizes:
            with contextlib.suppress(OSError):  # renamed meanwhile: it was finished
                found = path.stat()
                # the library's own unfinished files may be longer than what is in them
                written = found.st_size if path.name in (name, f"{name}.incomplete") else found.st_blocks * 512
                most[name] = max(most[name], min(written, sizes[name]))
    return sum(most.values())


def newest_complete(hub: Hub, repo_id: str) -> Path | None:
    """The complete snapshot that came last, whatever branch it was of: for when the Hub cannot be asked."""
    storage = hub.storage(repo_id)
    records = Records(storage)
    with contextlib.suppress(OSError):
        folders = [path for path in storage.glob("snapshots/*") if path.is_dir()]
        for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
            intent = records.intent(folder.name)
            if (intent is None or intent.done) and not lack_of(storage, folder):
                return folder
    return None


def settle(storage: Path, repo_id: str, commit: str, files: Sequence[WantedFile], progress: Progress = silent) -> None:
    """Look at the hashes that were not looked at while files came; then the revision counts.

    Raises WrongContent, after the wrong file was removed, and OSError.
    """
    records, folder = Records(storage), storage / "snapshots" / commit
    todo = [file for file in files if checkable(file.blob) and records.hashed((folder / file.name).resolve()) is None]
    total, before = sum(file.size for file in todo), 0
    for file in todo:

        def tell(done: int, before: int = before) -> None:
            if total >= _WORTH_TELLING:
                progress("checking the files' hashes:", before + done, total)

        blob = (folder / file.name).resolve()
        actual = content_hash(blob, file.blob, tell)
        if actual != file.blob:
            remove_file(folder / file.name)
            raise WrongContent(file.name, repo_id, file.blob, actual)
        records.note_hashed(blob)
        before += file.size
    records.intend(commit, files, done=True)


def remove_file(path: Path) -> None:
    """Remove a file of a snapshot with all that it points to, also into the library's store of shared blobs."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def point(storage: Path, revision: str, commit: str) -> None:
    """Let a branch or tag mean that commit, as the library does it. Raises OSError."""
    ref = storage / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=storage, prefix=".ref-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(commit)
        os.chmod(part, 0o644)
        os.replace(part, ref)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
