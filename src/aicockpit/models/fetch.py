"""The Hub: what it has of a model, and bringing that into the cache. Called by `locate.py` and `commands/models.py`.

The library asks the Hub, writes the small files and the links of a snapshot, and keeps the layout of the cache;
`transfer.py` brings the large files. What is decided here: which files are worth having, whether they fit on the disk,
and when a branch moves on: only when all of the new commit is there and right, so a cut update leaves the revision
before it in place. Xet is left out unless HF_XET_HIGH_PERFORMANCE is set: it cannot go on with a cut file, and a
storage that does not answer is waited for without a word (docs/models.md).
"""

from __future__ import annotations

import contextlib
import glob
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is re-exported: httpx's or httpx2's
    HFValidationError,
    HTTPError,
)
from huggingface_hub.file_download import are_symlinks_supported
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils.tqdm import tqdm

from aicockpit.errors import ModelError
from aicockpit.models import files as model_files
from aicockpit.models.hashes import SHA256
from aicockpit.models.hub import ASKING, DOWNLOADING, FAILURES, Hub, Patience, briefly, disk_full, explained, offline
from aicockpit.models.records import Records, WantedFile
from aicockpit.models.smollm2 import Progress, silent
from aicockpit.models.snapshots import MAIN, as_wanted, cached, lack_of, on_disk, point, remove_file, settle
from aicockpit.models.transfer import Transfer

_POLL_S = 0.5
_RATE_OVER_S = 10.0
_RESERVE_BYTES = 200_000_000  # left free on the disk after a download
_HTTP_LIMIT = 50_000_000_000  # the Hub serves larger files by Xet only
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """What the Hub has of a model at one revision: its commit, and the files that vLLM reads."""

    repo_id: str
    revision: str
    commit: str
    files: tuple[WantedFile, ...]

    @property
    def total(self) -> int:
        return sum({file.blob or file.name: file.size for file in self.files}.values())


def check(repo_id: str, token: str = "", revision: str = "", hub: Hub | None = None) -> None:
    """Can this model be had: in the cache, or on a Hub that lets it be read? Takes seconds. Raises ModelError."""
    need(hub or Hub.of_environment(token), repo_id, revision)


def need(hub: Hub, repo_id: str, revision: str = "") -> int:
    """Bytes that are still to come for a model; 0 when the cache has it. Raises ModelError."""
    have = cached(hub, repo_id, revision)
    if have is not None and not have.lack:
        return 0
    if hub.offline:
        raise offline(hub, repo_id, have.lack if have else "")
    found = look(hub, repo_id, revision)
    return max(0, found.total - on_disk(hub.storage(repo_id), found.files))


def look(hub: Hub, repo_id: str, revision: str = "", patience: Patience = ASKING, progress: Progress = silent) -> Found:
    """Ask the Hub what it has, and whether it may be read. Raises ModelError."""
    try:
        return _patiently(lambda: _look(hub, repo_id, revision, patience), patience, progress)
    except FAILURES as error:
        raise explained(hub, repo_id, error, revision) from error


def _look(hub: Hub, repo_id: str, revision: str, patience: Patience) -> Found:
    info = _info(hub, repo_id, revision, patience)
    siblings = {file.rfilename: file for file in info.siblings or []}
    names = model_files.wanted(list(siblings))
    if model_files.gguf_only(list(siblings)):
        raise model_files.GgufRefused(f"{repo_id} on {hub.endpoint}")
    if lack := model_files.lacking_names(names):
        raise ModelError(f"{repo_id} on {hub.endpoint} lacks {lack}: vLLM cannot serve it.")
    files = []
    for name in names:
        size, lfs, blob = siblings[name].size, siblings[name].lfs, siblings[name].blob_id
        files.append(WantedFile(name, size or 0, (lfs.sha256 if lfs else blob) or ""))
    if info.gated:  # what a gated repository holds is told to everyone, its files only to some
        url = hf_hub_url(repo_id, names[0], revision=info.sha, endpoint=hub.endpoint)
        get_hf_file_metadata(url, token=hub.token or False, timeout=patience.silence_s, endpoint=hub.endpoint)
    return Found(repo_id, revision, str(info.sha), tuple(files))


def _info(hub: Hub, repo_id: str, revision: str, patience: Patience) -> ModelInfo:
    try:
        info = hub.api.model_info(repo_id, revision=revision or None, files_metadata=True, timeout=patience.silence_s)
    except HFValidationError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise _no_hub(hub) from error
    if not info.sha:
        raise _no_hub(hub)
    return info


def _no_hub(hub: Hub) -> ModelError:
    return ModelError(
        f"{hub.endpoint} answers, but not as a Hugging Face Hub does: a log-in page of this network, or HF_ENDPOINT "
        "names another site."
    )


def disk_free(folder: Path) -> int:
    """Bytes that this user may still write at a folder that may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def download(
    hub: Hub,
    repo_id: str,
    revision: str = "",
    progress: Progress = silent,
    patience: Patience = DOWNLOADING,
    free: Callable[[Path], int] = disk_free,
) -> Path:
    """Bring a model into the cache and return its folder. Raises ModelError.

    `progress` gets bytes, also of an earlier, cut download, and is called from another thread.
    """
    if hub.offline:
        have = cached(hub, repo_id, revision)
        raise offline(hub, repo_id, have.lack if have else "")
    progress(f"asking {hub.endpoint} for {repo_id}", 0, 0)
    found = look(hub, repo_id, revision, progress=progress)
    storage = hub.storage(repo_id)
    folder = storage / "snapshots" / found.commit
    records = Records(storage)
    try:
        intent = records.intent(found.commit)
        if intent is None or not intent.done or lack_of(storage, folder):
            _drop_damaged(storage, folder, found.files)
            check_space(hub, repo_id, found.total - on_disk(storage, found.files), free)
            records.intend(found.commit, found.files, done=False)
            transfer = Transfer(hub, repo_id, found.commit, patience)
            with _watched(storage, found, transfer, progress):
                transfer.run(_ours(hub, found.files))
                _patiently(lambda: _complete(hub, found), patience, progress)
            if lack := lack_of(storage, folder):
                raise ModelError(f"{repo_id} on {hub.endpoint} lacks {lack}: vLLM cannot serve it.")
            settle(storage, repo_id, found.commit, found.files, progress)
        if found.revision != found.commit:
            point(storage, found.revision or MAIN, found.commit)
    except FAILURES as error:
        raise explained(hub, repo_id, error, revision) from error
    return folder


def _drop_damaged(storage: Path, folder: Path, files: Sequence[WantedFile]) -> None:
    """Links to nothing, and files of another length (a machine that went down): both would be taken as they are."""
    for file in files:
        for path in (folder / file.name, storage / "blobs" / (file.blob or ".")):
            if (path.is_symlink() or path.is_file()) and not as_wanted(path, file):
                remove_file(path)


def _ours(hub: Hub, files: Sequence[WantedFile]) -> list[WantedFile]:
    """Files that we bring ourselves; the others are left to the library: what is small enough to be kept in git, what
    only Xet serves, and all of it where links cannot be made (a blob would then be copied)."""
    if constants.HF_XET_HIGH_PERFORMANCE or not are_symlinks_supported(hub.cache):
        return []
    return [file for file in files if SHA256.fullmatch(file.blob) and file.size <= _HTTP_LIMIT]


def _complete(hub: Hub, found: Found) -> None:
    """The small files and the links. A commit is named, so that `refs` is not moved yet."""
    snapshot_download(
        found.repo_id,
        revision=found.commit,
        cache_dir=hub.cache,
        endpoint=hub.endpoint,
        token=hub.token or False,
        allow_patterns=[glob.escape(file.name) for file in found.files],
        tqdm_class=_Silent,
    )


class _Silent(tqdm):
    """The library's bars, kept quiet: progress goes to our callback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _watched(storage: Path, found: Found, transfer: Transfer, progress: Progress) -> Iterator[None]:
    """Report bytes on disk until the block ends. Sizes are looked up rather than counted: that takes in what another
    process brings, and what an earlier download brought."""
    done = threading.Event()
    seen: deque[tuple[float, int]] = deque()

    def tell() -> None:
        now, count = time.monotonic(), on_disk(storage, found.files)
        seen.append((now, count))
        while now - seen[0][0] > _RATE_OVER_S:
            seen.popleft()
        progress(_pace(seen, found.total, transfer.trouble), min(count, found.total), found.total)

    def poll() -> None:
        while not done.wait(_POLL_S):
            tell()

    thread = threading.Thread(target=poll, name="download-progress", daemon=True)
    tell()
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    progress("downloading", found.total, found.total)


def _pace(seen: Sequence[tuple[float, int]], total: int, trouble: str) -> str:
    """`downloading at 85 MB/s, 6 min left:`, or why nothing comes. `seen`: seconds and bytes, oldest first."""
    (began, first), (now, last) = seen[0], seen[-1]
    rate = (last - first) / (now - began) if now - began >= 2 * _POLL_S else 0.0
    if trouble and rate <= 0:
        return f"downloading ({trouble}):"
    if rate <= 0:
        return "downloading"
    left = (total - last) / rate
    return f"downloading at {rate / 1e6:.0f} MB/s, {f'{left / 60:.0f} min' if left >= 90 else f'{left:.0f} s'} left:"


def _patiently(call: Callable[[], T], patience: Patience, progress: Progress) -> T:
    """Call again while the failure may pass and patience lasts; then the failure itself is raised."""
    failures = 0
    while True:
        try:
            return call()
        except (HTTPError, OSError) as error:
            failures += 1
            wait = patience.wait(error, failures)
            if wait is None:
                raise
            progress(f"waiting {wait:.0f} s: {briefly(error)}", 0, 0)
            time.sleep(wait)


def check_space(hub: Hub, what: str, needed: int, free: Callable[[Path], int] = disk_free) -> None:
    """Raises ModelError when `needed` bytes more would not leave enough on the disk of the cache."""
    there = free(hub.cache)
    if needed > 0 and needed + _RESERVE_BYTES > there:
        raise disk_full(hub, f"{what} needs {model_files.amount(needed)} more, {model_files.amount(there)} are free")
