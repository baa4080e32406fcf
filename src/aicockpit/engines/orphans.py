"""What an earlier run left behind: the lock on the state folder, and the sweep that the lock makes safe.

The guard ends an engine with its gateway. Only when guard and gateway are both killed (the memory killer, a power-user
with `kill -9`) can an engine stay behind and keep its GPU; every engine carries a mark by which it is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from aicockpit.errors import AicockpitError

MARK = "AICOCKPIT_MARK"
TERM_WAIT_S = 5.0
KILL_WAIT_S = 5.0


class StateInUse(AicockpitError):
    """Another server holds the state folder."""


class StateLock:
    """Held, as a context manager, by the one server that runs on a state folder.

    The kernel gives it back however the server ends; nothing has to be cleaned up.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    def __enter__(self) -> Self:
        """Raises StateInUse, with the other server's pid, when it is taken."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
        except BlockingIOError as error:
            os.close(fd)
            raise StateInUse(
                f"another aicockpit server{_by(self._folder)} uses {self._folder}. "
                "Stop it, or give this one its own AICOCKPIT_STATE_DIR."
            ) from error
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @staticmethod
    def holder(folder: Path) -> int | None:
        """The pid of the server that holds the folder now, or None."""
        with contextlib.suppress(OSError, ValueError), (folder / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
        return None


def mark(folder: Path, engine: str = "") -> str:
    """The value of AICOCKPIT_MARK of one engine of this state folder; without a name, what all of them begin with.

    It begins with a random id that the folder keeps: two folders never share it, whatever their paths.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"{_identity(folder / 'id')}:{engine}"


def _by(folder: Path) -> str:
    try:
        return f" (pid {int((folder / 'lock').read_text())})"
    except (OSError, ValueError):
        return ""


def _identity(path: Path) -> str:
    with contextlib.suppress(FileExistsError):
        # Under another name first: a second process must never read half of it.
        fresh = path.with_name(f"id.{os.getpid()}")
        fresh.write_text(secrets.token_hex(8))
        fresh.chmod(0o600)
        try:
            os.link(fresh, path)
        finally:
            fresh.unlink()
    return path.read_text()


@dataclass(frozen=True, slots=True)
class Ended:
    """One process that the sweep ended."""

    pid: int
    name: str
    killed: bool  # SIGTERM was not enough


async def sweep(folder: Path) -> list[Ended]:
    """End what an earlier server on this state folder left behind. The folder's lock must be held."""
    return await asyncio.to_thread(end_marked, mark(folder))


def end_marked(
    mark: str, *, ours: bool = False, term_wait: float = TERM_WAIT_S, kill_wait: float = KILL_WAIT_S
) -> list[Ended]:
    """End the processes that carry `mark` and are not ours: SIGTERM, wait, SIGKILL, wait. Blocks; use a thread.

    A mark that ends in a colon stands for all that begin with it. The state folder's lock must be held: it makes sure
    that no other living server owns them. `ours` ends our own descendants too: for one engine whose guard was killed,
    since its orphans come to us where we are process 1 of a container.
    """
    names: dict[psutil.Process, str] = {}
    for process in _marked(mark, ours):
        names[process] = _signal(process, signal.SIGTERM)
        _signal(process, signal.SIGCONT)  # a stopped process acts on no SIGTERM
    _wait_gone(names, term_wait)
    # What a process starts while it is being ended carries the mark too: hence the fresh look.
    stubborn = _marked(mark, ours)
    for process in stubborn:
        names.setdefault(process, _signal(process, signal.SIGKILL))
        _signal(process, signal.SIGKILL)
    _wait_gone(stubborn, kill_wait)
    return [Ended(process.pid, name, process in stubborn) for process, name in names.items() if name]


def _marked(mark: str, ours: bool) -> list[psutil.Process]:
    me = psutil.Process()
    own = {me.pid} | (set() if ours else {child.pid for child in me.children(recursive=True)})
    return [process for process in psutil.process_iter() if process.pid not in own and _carries(process, mark)]


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        value = process.environ().get(MARK, "")
    except (psutil.Error, OSError):  # gone, a zombie, or another user's
        return False
    return value == mark or (mark.endswith(":") and value.startswith(mark))


def _signal(process: psutil.Process, number: int) -> str:
    """Send it; the process's name, or nothing when it was gone. psutil checks the start time: no reused pid is hit."""
    try:
        name = process.name()
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return ""
    return name


def _wait_gone(processes: Iterable[psutil.Process], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)


def _alive(process: psutil.Process) -> bool:
    """A zombie counts as gone: it holds nothing, and not every process 1 of a container reaps."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
