"""Which models may go, with the reason for each, and removing them. Choosing is pure.

Called by `commands/models.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import scan_cache_dir

from aicockpit.errors import ModelError
from aicockpit.models import records
from aicockpit.models.cache import DAY_S, Entry, Leftover, Listing
from aicockpit.models.files import amount
from aicockpit.models.hub import Hub
from aicockpit.models.records import Records

Why = tuple[Entry, str]


@dataclass(frozen=True, slots=True)
class Choice:
    """What goes and what stays although it was asked for, each with its reason, and the bytes that come free."""

    doomed: tuple[Why, ...]
    spared: tuple[Why, ...]
    leftovers: tuple[Leftover, ...]
    freed: int


def choose(
    found: Listing,
    in_use: Callable[[Entry], str],
    now: float,
    older_than: float | None = None,
    keep: int | None = None,
) -> Choice:
    """What to prune. `older_than`: seconds without a sign of use; `keep`: bytes that the models may take in all.

    The longest unused go first. A revision shares files with others: only what no other needs comes free.
    `in_use` says who uses a revision, "" nobody.
    """
    doomed: list[Why] = []
    spared: list[Why] = []
    left = list(found.entries)
    rest = {one.path for one in found.leftovers}  # goes anyway
    for entry in sorted(found.entries, key=lambda one: one.touched):
        idle = now - entry.touched
        if older_than is not None and idle > older_than:
            why = f"not used for {_days(idle)}"
        elif keep is not None and _bytes(left, rest) > keep:
            why = f"to keep {amount(keep)}; not used for {_days(idle)}"
        else:
            continue
        if user := in_use(entry):
            spared.append((entry, user))
            continue
        left.remove(entry)
        doomed.append((entry, why))
    freed = alone([entry for entry, _ in doomed], left)
    gone = {path for entry, _ in doomed for path, _ in entry.blobs}
    leftovers = tuple(one for one in found.leftovers if one.path not in gone)
    return Choice(tuple(doomed), tuple(spared), leftovers, freed + sum(one.size for one in leftovers))


def _bytes(entries: Iterable[Entry], but: set[Path]) -> int:
    return sum({path: size for one in entries for path, size in one.blobs if path not in but}.values())


def alone(doomed: Iterable[Entry], left: Iterable[Entry]) -> int:
    """Bytes that only `doomed` need, and none of `left`."""
    kept = {path for entry in left for path, _ in entry.blobs}
    return sum(size for path, size in {blob for entry in doomed for blob in entry.blobs} if path not in kept)


def _days(seconds: float) -> str:
    return f"{seconds / DAY_S:.0f} days" if seconds >= 2 * DAY_S else f"{seconds / 3600:.0f} h"


def remove(hub: Hub, entries: Sequence[Entry], leftovers: Sequence[Leftover] = ()) -> None:
    """Take them off the disk. Raises ModelError, with what was left, when something may not be removed."""
    try:
        for entry in entries:
            _remove(hub, entry)
        for left in leftovers:
            left.path.unlink(missing_ok=True)
        for storage in {left.path.parent.parent for left in leftovers}:
            _drop_empty(storage)
    except OSError as error:
        raise ModelError(
            f"{error.filename} could not be removed: {error.strerror}. What stands before it is gone."
        ) from error
    stayed = [entry.name for entry in entries if _stayed(entry)]
    if stayed:
        raise ModelError(
            f"{', '.join(stayed)} could not be removed: does the cache {hub.cache} belong to another user?"
        )


def _stayed(entry: Entry) -> bool:
    whole = entry.kind == "converted" or entry.path.name == entry.revision  # else only a part of a download
    return whole and entry.path.exists()


def _remove(hub: Hub, entry: Entry) -> None:
    storage = hub.storage(entry.model)
    if entry.kind == "converted":
        shutil.rmtree(entry.path)
        records.forget_converted(entry.path)
    elif entry.sound:
        # commits are unique only within one model: a copy of a repository has those of the original
        scan = scan_cache_dir(hub.cache)
        repos = frozenset(repo for repo in scan.repos if repo.repo_path.name == storage.name)
        replace(scan, repos=repos).delete_revisions(entry.revision).execute()
        if storage.exists():
            Records(storage).forget(entry.revision)
    else:
        _remove_unsound(storage, entry)


def _remove_unsound(storage: Path, entry: Entry) -> None:
    """A revision that the library does not see: its links, the names for it, and the blobs that only it has."""
    if entry.path != storage:
        shutil.rmtree(entry.path)
    for ref in entry.refs:
        (storage / "refs" / ref).unlink(missing_ok=True)
    needed = {link.resolve() for link in storage.glob("snapshots/*/**/*") if link.is_symlink()}
    for blob, _ in entry.blobs:
        if blob.resolve() not in needed and blob.parent.name == "blobs":
            blob.unlink(missing_ok=True)
    Records(storage).forget(entry.revision)
    _drop_empty(storage)


def _drop_empty(storage: Path) -> None:
    """A model of which only folders and notes are left."""
    if storage.exists() and not any(storage.glob("snapshots/*")) and not any(storage.glob("blobs/*")):
        shutil.rmtree(storage)
