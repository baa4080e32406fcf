"""Bringing the large files of a revision into the cache's `blobs`: several at once, each resumed where an earlier
process was cut, hashed as it is written, renamed into place only when the hash is right. Called by `fetch.py`.

The library downloads to a file of a random name and throws it away when it is interrupted, asks a failing server for a
few seconds only, and does not hash what came over HTTP. Its layout, file names and locks are kept, so that it, and
other processes, find and wait for what is brought here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # re-exported: httpx's or httpx2's
from huggingface_hub.utils import WeakFileLock, hf_raise_for_status  # type: ignore[attr-defined]  # exported lazily

from aicockpit.errors import ModelError
from aicockpit.models.hashes import CHUNK
from aicockpit.models.hub import FAILURES, Hub, Patience, briefly
from aicockpit.models.records import Records, WantedFile
from aicockpit.models.snapshots import WrongContent

_AT_ONCE = 8
_LOOK_S = 0.2
_STALE_S = 3600.0


class _Stopped(ModelError):
    """Another file failed, or we are asked to end: what has come stays for the next time."""


class Transfer:
    """Brings files of one revision. `run` blocks; `trouble` may be read from another thread meanwhile."""

    def __init__(self, hub: Hub, repo_id: str, commit: str, patience: Patience) -> None:
        self._hub, self._repo_id, self._commit, self._patience = hub, repo_id, commit, patience
        own = constants.HF_HUB_DOWNLOAD_TIMEOUT  # the user's, when it is not the library's default
        self._silence_s = patience.silence_s if own == constants.DEFAULT_DOWNLOAD_TIMEOUT else float(own)
        self._headers = {**hub.headers, "Accept-Encoding": "identity"}
        self._blobs = hub.storage(repo_id) / "blobs"
        self._records = Records(hub.storage(repo_id))
        self._stop = threading.Event()
        self._troubles: dict[str, str] = {}
        self._errors: list[Exception] = []

    @property
    def trouble(self) -> str:
        """Why a file waits, in words; empty while all goes well."""
        return next(iter(list(self._troubles.values())), "")

    def run(self, files: Sequence[WantedFile]) -> None:
        """Bring all of them, or raise the first failure: ModelError, or what the network or the disk raised.

        The threads are daemons: Ctrl-C ends the process without waiting for a silent server.
        """
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._hub.locks(self._repo_id).mkdir(parents=True, exist_ok=True)
        queue = deque({file.blob: file for file in files}.values())
        threads = [
            threading.Thread(target=self._work, args=(queue,), name=f"download-{n}", daemon=True)
            for n in range(min(_AT_ONCE, len(queue)))
        ]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and not self._errors:
                time.sleep(_LOOK_S / 10)
        finally:
            self._stop.set()
        for thread in threads:
            thread.join(_LOOK_S if self._errors else None)
        if self._errors:
            raise self._errors[0]

    def _work(self, queue: deque[WantedFile]) -> None:
        while not self._stop.is_set():
            try:
                file = queue.popleft()
            except IndexError:
                return
            try:
                self._bring(file)
            except _Stopped:
                return
            except (ModelError, *FAILURES) as error:
                self._errors.append(error)
                return
            finally:
                self._troubles.pop(file.blob, None)

    def _bring(self, file: WantedFile) -> None:
        blob = self._blobs / file.blob
        part = self._blobs / f"{file.blob}.incomplete"
        with self._locked(file):
            if _size(blob) == file.size:
                return
            blob.unlink(missing_ok=True)  # a machine that went down may leave a blob that is too short
            actual = self._fill(part, file)
            if actual != file.blob:  # what an earlier process left may be damaged: once more, from nothing
                part.unlink()
                actual = self._fill(part, file)
            if actual != file.blob:
                part.unlink()
                raise WrongContent(file.name, self._repo_id, file.blob, actual)
            part.rename(blob)
            self._records.note_hashed(blob)
            self._sweep(file)

    def _fill(self, part: Path, file: WantedFile) -> str:
        """Go on with what is there until the file has its length; its hash."""
        with contextlib.closing(_Part(part)) as so_far:
            if not so_far.take_up(file.size, self._stop):
                raise _Stopped("stopped")
            failures = 0
            while so_far.length < file.size:
                before = so_far.length
                try:
                    self._receive(so_far, file)
                    if so_far.length < file.size:
                        raise ConnectionError("the answer ended early")
                except (HTTPError, OSError) as error:
                    failures = 1 if so_far.length > before else failures + 1
                    self._pause(file, error, failures)
            so_far.settle()
            return so_far.hexdigest

    def _pause(self, file: WantedFile, error: Exception, failures: int) -> None:
        """Wait before the next attempt, or give up with the failure itself."""
        wait = self._patience.wait(error, failures)
        if wait is None:
            raise error
        self._troubles[file.blob] = f"{briefly(error)}, asking again in {wait:.0f} s"
        if self._stop.wait(wait):
            raise _Stopped("stopped")

    def _receive(self, part: _Part, file: WantedFile) -> None:
        """One request for the rest of the file. The address is asked for anew each time, as signed ones expire; the
        client drops the token where it is sent on to another host."""
        url = hf_hub_url(self._repo_id, file.name, revision=self._commit, endpoint=self._hub.endpoint)
        headers = {**self._headers, "Range": f"bytes={part.length}-"} if part.length else self._headers
        with get_session().stream("GET", url, headers=headers, timeout=self._silence_s) as response:
            if response.is_error:
                response.read()  # the library looks for the Hub's own words in it
            hf_raise_for_status(response)
            if part.length and response.status_code != 206:
                part.restart()  # the server does not know ranges, and sends all of it
            for piece in response.iter_bytes():
                if self._stop.is_set():
                    raise _Stopped("stopped")
                self._troubles.pop(file.blob, None)
                part.append(piece)

    @contextlib.contextmanager
    def _locked(self, file: WantedFile) -> Iterator[None]:
        path = self._hub.locks(self._repo_id) / f"{file.blob}.lock"
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(WeakFileLock(path, timeout=_LOOK_S))
                    break
                except TimeoutError:
                    self._troubles[file.blob] = "another process brings the same files"
                if self._stop.is_set():
                    raise _Stopped("stopped")
            self._troubles.pop(file.blob, None)
            yield

    def _sweep(self, file: WantedFile) -> None:
        """What the library wrote of this file in a process that was killed; nobody goes on with it."""
        for left in self._blobs.glob(f"{file.blob}.*.incomplete"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()


class _Part:
    """A file as far as it has come, and the hash of that."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._digest = hashlib.sha256()
        self.length = 0

    def take_up(self, most: int, stop: threading.Event) -> bool:
        """Hash what an earlier process left; False when asked to stop. More than the whole file is rubbish."""
        if self._file.seek(0, 2) > most:
            self._file.truncate(0)
        self._file.seek(0)
        while piece := self._file.read(CHUNK):
            self._digest.update(piece)
            self.length += len(piece)
            if stop.is_set():
                return False
        return True

    def append(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:  # a write to a disk that is almost full may take a part of it
            count = self._file.write(rest)
            self._digest.update(rest[:count])
            self.length += count
            rest = rest[count:]

    def restart(self) -> None:
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.length = 0

    def settle(self) -> None:
        """On the disk itself, before its name says that it is whole."""
        os.fsync(self._file.fileno())

    @property
    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def close(self) -> None:
        self._file.close()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
