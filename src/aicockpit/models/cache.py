"""What models lie on this machine, and taking them away: the Hugging Face cache, and models converted into the state
folder. Called by `commands/models.py`.

The library scans the cache and removes revisions; it skips a model with a dangling link or a cut download altogether,
so those are looked at, and removed, here. "Last used" is our own note (`records.py`): times of access depend on how a
disk is mounted, and are only believed when they speak for keeping a model.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from huggingface_hub.utils import CachedRepoInfo, HFCacheInfo, WeakFileLock  # type: ignore[attr-defined]  # exported lazily

from aicockpit.errors import ModelError
from aicockpit.models import files as model_files
from aicockpit.models import records, smollm2, snapshots
from aicockpit.models.hashes import checkable, content_hash
from aicockpit.models.hub import Hub
from aicockpit.models.records import Records

DAY_S = 86_400.0
_LOCK_LOOK_S = 0.05

Blobs = frozenset[tuple[Path, int]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One revision of a model on disk. Times are seconds since 1970; None: unknown.

    `blobs` are its files with their bytes: revisions of a model share some. `lack` says what it lacks to be served.
    `used`: when a server of ours last started with it. `hashed`: when all its hashes had been looked at.
    """

    model: str
    kind: Literal["cache", "converted"]
    revision: str
    refs: tuple[str, ...]
    path: Path
    blobs: Blobs = field(repr=False)
    lack: str = ""
    modified: float | None = None
    used: float | None = None
    accessed: float | None = None
    hashed: float | None = None
    sound: bool = True  # the library sees it, too
    busy: bool = False  # a process brings it right now

    @property
    def size(self) -> int:
        return sum(size for _, size in self.blobs)

    @property
    def name(self) -> str:
        """As a person may give it: `owner/name@revision`."""
        return f"{self.model}@{self.revision[:8]}" if self.revision else self.model

    @property
    def touched(self) -> float:
        """The last sign of use of any kind. A model that only others use shows in the time of access alone."""
        return max(self.used or 0.0, self.modified or 0.0, self.accessed or 0.0)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file of the cache that no revision has: a part of a cut download, or a blob that nothing links to."""

    path: Path
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All that was found. `others`: bytes in the same cache that are no models (data sets, spaces)."""

    cache: Path
    entries: tuple[Entry, ...]
    leftovers: tuple[Leftover, ...]
    others: int

    @property
    def size(self) -> int:
        """Bytes on disk: a blob of two revisions counts once."""
        blobs = {path: size for entry in self.entries for path, size in entry.blobs}
        return sum((blobs | {left.path: left.size for left in self.leftovers}).values())


def listing(hub: Hub, state_dir: Path, now: float | None = None) -> Listing:
    """Look at the cache and the state folder. Takes milliseconds per model; reads no weights."""
    scan = _scan(hub)
    repos = scan.repos if scan else ()
    sound = {repo.repo_path.name: repo for repo in repos if repo.repo_type == "model"}
    entries: list[Entry] = []
    for storage in sorted(path for path in hub.cache.glob("models--*") if path.is_dir()):
        repo = sound.get(storage.name)
        entries += _revisions(storage, repo) if repo else _unsound(storage)
        entries += _cut(hub, storage)
    entries += _converted(state_dir)
    entries.sort(key=lambda entry: (entry.model.lower(), -(entry.modified or 0.0)))
    others = sum(repo.size_on_disk for repo in repos if repo.repo_type != "model")
    leftovers = tuple(_leftovers(hub, time.time() if now is None else now))
    return Listing(hub.cache, tuple(entries), leftovers, others)


def _scan(hub: Hub) -> HFCacheInfo | None:
    try:
        return scan_cache_dir(hub.cache)
    except CacheNotFound:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"the cache {hub.cache} cannot be read: {error}. HF_HOME names another.") from error


def _revisions(storage: Path, repo: CachedRepoInfo) -> Iterator[Entry]:
    for revision in repo.revisions:
        blobs = frozenset((file.blob_path, file.size_on_disk) for file in revision.files)
        accessed = max((file.blob_last_accessed for file in revision.files), default=None)
        found = _entry(storage, revision.snapshot_path, tuple(sorted(revision.refs)), blobs)
        yield replace(found, accessed=accessed, modified=revision.last_modified)


def _unsound(storage: Path) -> Iterator[Entry]:
    """The revisions of a model that the library gives up on."""
    for folder in sorted(path for path in storage.glob("snapshots/*") if path.is_dir()):
        links = [link for link in folder.rglob("*") if link.is_file()]
        blobs = frozenset((link.resolve(), _size(link)) for link in links)
        refs = tuple(sorted(_refs_to(storage, folder.name)))
        yield replace(_entry(storage, folder, refs, blobs), modified=_changed(folder, *links), sound=False)


def _entry(storage: Path, folder: Path, refs: tuple[str, ...], blobs: Blobs) -> Entry:
    notes = Records(storage)
    try:
        lack = snapshots.lack_of(storage, folder)
    except ModelError as error:  # an index that is no JSON
        lack = str(error)
    if lack and model_files.gguf_only([path.name for path in folder.iterdir()]):
        lack = "weights in a format of vLLM's (GGUF only)"
    intent = notes.intent(folder.name)
    if intent is not None and not intent.done and not lack:
        lack = "a look at its hashes (the next start takes it)"
    seen = [notes.hashed(path.resolve()) for path, _ in blobs]
    hashed = None if None in seen else min((at for at in seen if at is not None), default=None)
    used = notes.used(folder.name)
    return Entry(_model(storage), "cache", folder.name, refs, folder, blobs, lack, used=used, hashed=hashed)


def _cut(hub: Hub, storage: Path) -> Iterator[Entry]:
    """Downloads that have not come as far as a snapshot: ours by our notes, another program's by what it left.

    One of which nothing is left is no download any more.
    """
    linked = _linked(storage)
    loose = {path: _size(path) for path in storage.glob("blobs/*") if path.resolve() not in linked}
    busy = any(_held(hub, storage, path) for path in loose)
    state = "being downloaded" if busy else "a cut download"
    intents = {commit: one for commit, one in Records(storage).intents().items() if not one.done}
    for commit, intent in intents.items():
        names = {file.blob for file in intent.files}
        blobs = frozenset((path, size) for path, size in loose.items() if path.name.partition(".")[0] in names)
        if not blobs or (storage / "snapshots" / commit).is_dir():
            continue
        missing = intent.total - snapshots.on_disk(storage, intent.files)
        lack = f"{model_files.amount(missing)} of {model_files.amount(intent.total)} ({state})"
        found = Entry(_model(storage), "cache", commit, (), storage, blobs, lack, _changed(*loose), sound=False)
        yield replace(found, busy=busy)
    if not (intents and loose) and not any(storage.glob("snapshots/*")):
        lack = f"nobody knows how much ({state})" if loose else "everything: an empty folder"
        blobs = frozenset(loose.items())
        found = Entry(_model(storage), "cache", "", (), storage, blobs, lack, _changed(storage, *loose), sound=False)
        yield replace(found, busy=busy)


def _model(storage: Path) -> str:
    return storage.name.removeprefix("models--").replace("--", "/")


def _linked(storage: Path) -> set[Path]:
    return {link.resolve() for link in storage.glob("snapshots/*/**/*") if link.is_symlink()}


def _refs_to(storage: Path, commit: str) -> Iterator[str]:
    for path in (storage / "refs").rglob("*"):
        with contextlib.suppress(OSError, ValueError):
            if path.is_file() and path.read_text(encoding="utf-8").strip() == commit:
                yield path.relative_to(storage / "refs").as_posix()


def _size(path: Path) -> int:
    """0 for what goes while we look: a download ends, another program removes."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _changed(*paths: Path) -> float | None:
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=None)


def _converted(state_dir: Path) -> Iterator[Entry]:
    for folder in sorted((state_dir / "models").glob("[!.]*")):
        if (folder / "config.json").is_file():
            blobs = frozenset((path, _size(path)) for path in folder.rglob("*") if path.is_file())
            model = smollm2.REPO_ID if smollm2.REPO_ID.endswith(f"/{folder.name}") else folder.name
            lack, used = model_files.lacking(folder), records.converted_used(folder)
            yield Entry(model, "converted", "", (), folder, blobs, lack, _changed(folder), used)


def _leftovers(hub: Hub, now: float) -> Iterator[Leftover]:
    """Parts and unlinked blobs that nobody has touched for a day and nobody holds a lock of: a cut download is kept
    that long to go on with."""
    for storage in sorted(hub.cache.glob("models--*")):
        linked = _linked(storage)
        for path in sorted(storage.glob("blobs/*")):
            part = path.name.endswith(".incomplete") or path.name.startswith("tmp_")
            changed = _changed(path)
            if (not part and path.resolve() in linked) or (changed is not None and now - changed <= DAY_S):
                continue
            if not _held(hub, storage, path):
                why = "part of a cut download" if part else "in no revision"
                yield Leftover(path, _size(path), why)


def _held(hub: Hub, storage: Path, blob: Path) -> bool:
    """Does a process bring this file right now?"""
    lock = hub.cache / ".locks" / storage.name / f"{blob.name.partition('.')[0]}.lock"
    if not lock.exists():
        return False
    try:
        with WeakFileLock(lock, timeout=_LOCK_LOOK_S):
            return False
    except (TimeoutError, OSError):
        return True


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at every hash of a revision found. `wrong`: files whose content is not what it should be;
    `unknown`: files without a hash to compare with."""

    right: int
    wrong: tuple[Path, ...]
    unknown: int
    lack: str

    @property
    def good(self) -> bool:
        return not self.wrong and not self.lack


def verify(hub: Hub, entry: Entry, tell: Callable[[int], None] = lambda count: None) -> Checked:
    """Read all of a revision and compare hashes; removes nothing. `tell` gets the bytes read so far. Raises OSError."""
    storage = hub.storage(entry.model)
    notes = Records(storage)
    intent = notes.intent(entry.revision) if entry.revision else None
    names = {file.name: file.blob for file in intent.files} if intent else {}
    right, wrong, unknown, before = 0, [], 0, 0
    whole = sorted(path for path in entry.path.rglob("*") if path.is_file()) if entry.path != storage else []
    for path in whole:

        def count(done: int, before: int = before) -> None:
            tell(before + done)

        hop = path.parent / path.readlink() if path.is_symlink() else path
        expected = names.get(path.relative_to(entry.path).as_posix()) or hop.name
        if entry.kind == "cache" and checkable(expected):
            if content_hash(path, expected, count) == expected:
                right += 1
                notes.note_hashed(path.resolve())
            else:
                wrong.append(path)
        else:
            unknown += 1
        before += _size(path)
        tell(before)
    if intent is not None and not intent.done and not wrong and not snapshots.lack_of(storage, entry.path):
        with contextlib.suppress(OSError):
            notes.intend(entry.revision, intent.files, done=True)
        return Checked(right, (), unknown, "")
    return Checked(right, tuple(wrong), unknown, entry.lack)
