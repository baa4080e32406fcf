"""Events of the file system, as paths to look at again. What has happened to them, only a look at them tells.

On Linux inotify itself, one watch for each folder that belongs to the workspace: the general library would watch
ignored folders too, keeps silent when the kernel's watches run out or its queue overflows, and holds back half of a
rename. Elsewhere that library, watchdog. Where there are no events (network mounts, no watches left): polling.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from aicockpit.errors import AicockpitError

# A path and whether to wait for more: a file that is being written is told again when it is closed.
Event = tuple[bytes, bool]
Notify = Callable[[list[Event]], None]
# Stands for git's index or its `info/exclude`; no path can look like it.
GIT_CHANGED = b"/git"

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_FROM, _TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED, _ISDIR = 0x2000, 0x4000, 0x8000, 0x40000000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK = 0x01000000, 0x02000000, 0x04000000
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _FROM | _TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_MASK |= _ONLYDIR | _DONT_FOLLOW | _EXCL_UNLINK
_GIT_MASK = _TO | _CLOSE_WRITE | _DELETE | _ONLYDIR
_GIT_NAMES = (b"index", b"exclude")
_HEADER = struct.Struct("iIII")
_BUFFER = 1 << 18

# File systems on which others change files without an event for us; every one behind FUSE counts too.
_REMOTE = frozenset(
    (
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "drvfs", "gfs", "gfs2", "glusterfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "vmhgfs"),
        *("fakeowner", "grpcfuse", "osxfs", "virtiofs"),
    )
)


class WatchLimit(AicockpitError):
    """The kernel gives no more watches. The message names the limit and how to raise it."""


class Watcher(Protocol):
    """Tells of events until it is closed. `problem`: why it cannot any more, "" while it can."""

    problem: str

    def enter(self, folder: bytes) -> None: ...
    def leave(self, folder: bytes) -> None: ...
    def watch_git(self, folders: Iterable[bytes]) -> None: ...
    def close(self) -> None: ...


def limit_message(error: OSError) -> str:
    """What to tell a user when inotify fails."""
    if error.errno == errno.EMFILE:
        name, value, what = "max_user_instances", 1024, "watchers"
    else:
        name, value, what = "max_user_watches", 1_048_576, "watched folders"
    return (
        f"the kernel's limit of {what} is reached (fs.inotify.{name}), so this tree is polled, which is slower. "
        f"To raise it: sudo sysctl fs.inotify.{name}={value}, and start again."
    )


class Inotify:
    """inotify on the folders it is told to enter; `notify` is called on its own thread, once for each read.

    Raises WatchLimit.
    """

    def __init__(self, root: bytes, notify: Notify) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._root, self._notify = root, notify
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            error = OSError(ctypes.get_errno(), "inotify_init1")
            raise WatchLimit(limit_message(error)) from error
        self.problem = ""
        self._lock = threading.Lock()
        self._folders: dict[int, bytes] = {}
        self._numbers: dict[bytes, int] = {}
        self._git: set[int] = set()
        self._closing, self._close = os.pipe()
        self._thread = threading.Thread(target=self._run, name="aicockpit-inotify", daemon=True)
        self._thread.start()

    def enter(self, folder: bytes) -> None:
        """Watch a folder. Again and again is fine: another folder may stand in its place by now."""
        with self._lock:
            number = self._add(os.path.join(self._root, folder) if folder else self._root, _MASK)
            if number < 0:
                return
            moved = self._folders.get(number)
            if moved is not None and moved != folder:  # renamed: the kernel knows it by its inode
                self._numbers.pop(moved, None)
            self._drop(folder, number)
            self._folders[number], self._numbers[folder] = folder, number

    def leave(self, folder: bytes) -> None:
        with self._lock:
            self._drop(folder, -1)

    def watch_git(self, folders: Iterable[bytes]) -> None:
        """Tell GIT_CHANGED when git's index or exclude file in one of these (absolute) folders changes."""
        with self._lock:
            for folder in folders:
                number = self._add(folder, _GIT_MASK)
                if number >= 0 and number not in self._folders:
                    self._git.add(number)

    def close(self) -> None:
        with self._lock:
            if self._close < 0:
                return
            os.close(self._close)
            self._close = -1
        self._thread.join()
        os.close(self._fd)
        os.close(self._closing)

    def _add(self, path: bytes, mask: int) -> int:
        number = int(self._libc.inotify_add_watch(self._fd, path, mask))
        if number < 0 and ctypes.get_errno() in (errno.ENOSPC, errno.ENOMEM):
            self.problem = limit_message(OSError(ctypes.get_errno(), "inotify_add_watch"))
        return number

    def _drop(self, folder: bytes, keep: int) -> None:
        number = self._numbers.pop(folder, -1)
        if number not in (-1, keep) and self._folders.get(number) == folder:
            del self._folders[number]
            self._libc.inotify_rm_watch(self._fd, number)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._closing, select.POLLIN | select.POLLHUP)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if self._closing in ready:
                return
            try:
                data = os.read(self._fd, _BUFFER)
            except BlockingIOError:
                continue
            if events := self._events(data):
                self._notify(events)

    def _events(self, data: bytes) -> list[Event]:
        found, place = [], 0
        with self._lock:
            while place < len(data):
                number, mask, _, length = _HEADER.unpack_from(data, place)
                place += _HEADER.size
                name = data[place : place + length].rstrip(b"\0")
                place += length
                event = self._event(number, mask, name)
                if event is not None:
                    found.append(event)
        return found

    def _event(self, number: int, mask: int, name: bytes) -> Event | None:
        if mask & (_OVERFLOW | _UNMOUNT):
            return b"", False
        if number in self._git:
            return (GIT_CHANGED, False) if name in _GIT_NAMES else None
        if mask & _IGNORED:
            folder = self._folders.pop(number, None)
            if folder is not None and self._numbers.get(folder) == number:
                del self._numbers[folder]
            return None
        folder = self._folders.get(number)
        if folder is None:
            return None
        if not name:  # the folder itself; its parent tells of it too, but the root has none
            return (b"", False) if not folder and mask & (_DELETE_SELF | _MOVE_SELF | _ATTRIB) else None
        if name == b".git" and not mask & (_CREATE | _TO | _DELETE | _FROM):
            return None
        settled = mask & (_CLOSE_WRITE | _FROM | _TO | _DELETE | _ATTRIB) or (mask & _CREATE and mask & _ISDIR)
        return (folder + b"/" + name if folder else name), not settled or name == b".git"


class Recursive(FileSystemEventHandler):
    """watchdog's own observer on the whole tree, for systems without inotify."""

    def __init__(self, root: bytes, notify: Notify) -> None:
        self.problem = ""
        self._root, self._notify = os.path.realpath(root), notify
        self._observer = Observer()
        try:
            self._observer.schedule(self, os.fsdecode(self._root), recursive=True)
            self._observer.start()
        except OSError as error:
            raise WatchLimit(f"this tree cannot be watched ({error}), so it is polled, which is slower.") from error

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("opened", "closed_no_write") or (event.is_directory and event.event_type == "modified"):
            return
        found = []
        for place in (event.src_path, event.dest_path):
            path = os.path.relpath(os.fsencode(place), self._root) if place else b".."
            parts = path.split(b"/")
            if b".git" in parts[:-1]:
                if path.rpartition(b"/")[2] in _GIT_NAMES:
                    found.append((GIT_CHANGED, False))
            elif parts[0] != b"..":
                found.append((b"" if path == b"." else path, event.event_type == "modified"))
        if found:
            self._notify(found)

    def enter(self, folder: bytes) -> None:
        """The observer watches everything already."""

    def leave(self, folder: bytes) -> None:
        """The observer forgets by itself."""

    def watch_git(self, folders: Iterable[bytes]) -> None:
        """A `.git` inside the tree is watched with it."""

    def close(self) -> None:
        self._observer.stop()
        if self._observer.is_alive():
            self._observer.join()


class Polling:
    """No events; the agent looks at the whole tree every few seconds."""

    def __init__(self, reason: str) -> None:
        self.problem = ""
        self.reason = reason

    def enter(self, folder: bytes) -> None:
        """Nothing to watch."""

    def leave(self, folder: bytes) -> None:
        """Nothing to forget."""

    def watch_git(self, folders: Iterable[bytes]) -> None:
        """Rules are read afresh at every look."""

    def close(self) -> None:
        """Nothing to end."""


def choose(root: bytes, notify: Notify, polling: bool) -> Inotify | Recursive | Polling:
    """The best there is for this tree. A Polling says why it is one."""
    if polling:
        return Polling("")
    kind = file_system(root)
    if kind in _REMOTE or kind.startswith("fuse"):
        return Polling(f"{kind} tells nothing of changes made elsewhere, so this tree is polled.")
    try:
        return Inotify(root, notify) if sys.platform == "linux" else Recursive(root, notify)
    except WatchLimit as error:
        return Polling(str(error))


def file_system(root: bytes, mounts: str = "/proc/self/mountinfo") -> str:
    """The kind of file system that an absolute folder lies on; "" when that cannot be told."""
    try:
        with open(mounts, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    best, kind = -1, b""
    for line in lines:
        head, _, tail = line.partition(b" - ")
        fields = head.split()
        if len(fields) < 5 or not tail:
            continue
        place = fields[4].replace(b"\\040", b" ").replace(b"\\011", b"\t").replace(b"\\134", b"\\")
        inside = place == b"/" or root == place or root.startswith(place + b"/")
        if inside and len(place) >= best:
            best, kind = len(place), tail.split()[0]
    return kind.decode("utf-8", "replace")


class Debounce:
    """Many events, few looks. Times are in seconds on one clock, given by the caller.

    A look is due `quiet_s` after the last event, `wait_s` after the first at the latest; ten times that when more than
    `many` paths have changed. A file that is open for writing is due when it is closed, or after `open_s`;
    as long as it goes on without a rest, after twice the last wait each time, `longest_s` at most.
    """

    def __init__(
        self,
        quiet_s: float = 0.02,
        wait_s: float = 0.1,
        open_s: float = 0.5,
        many: int = 200,
        longest_s: float = 30.0,
    ) -> None:
        self.quiet_s, self.wait_s, self.open_s, self.many, self.longest_s = quiet_s, wait_s, open_s, many, longest_s
        self._settled: set[bytes] = set()
        self._open: dict[bytes, tuple[float, float]] = {}  # when due, and the wait that ends then
        self._grew: dict[bytes, tuple[float, float]] = {}  # when last taken while open, and after which wait
        self._first = self._last = 0.0

    def __len__(self) -> int:
        return len(self._settled)

    def add(self, events: Iterable[Event], now: float) -> None:
        for path, soft in events:
            if soft:
                if path not in self._settled and path not in self._open:
                    taken, wait = self._grew.get(path, (now, 0.0))
                    wait = min(self.longest_s, 2 * wait) if wait and now - taken <= wait else self.open_s
                    self._open[path] = now + wait, wait
                continue
            self._open.pop(path, None)
            self._grew.pop(path, None)
            if not self._settled:
                self._first = now
            self._settled.add(path)
            self._last = now

    def due(self) -> float | None:
        """When to look; None when there is nothing to look at."""
        times = []
        if self._settled:
            scale = 10 if len(self._settled) > self.many else 1
            times.append(min(self._last + self.quiet_s * scale, self._first + self.wait_s * scale))
        if self._open:
            times.append(min(due for due, _ in self._open.values()))
        return min(times, default=None)

    def take(self, now: float) -> set[bytes]:
        """The paths to look at now."""
        taken, self._settled = self._settled, set()
        ripe = [(path, wait) for path, (due, wait) in self._open.items() if due <= now]
        for path, wait in ripe:
            del self._open[path]
            self._grew[path] = now, wait
            taken.add(path)
        if ripe:  # what has rested as long as it last had to wait begins anew
            self._grew = {
                path: (at, wait) for path, (at, wait) in self._grew.items() if now - at <= wait or path in self._open
            }
        return taken
