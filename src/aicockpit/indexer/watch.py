"""Events of the file system, as paths to look at again. What has happened to them, only a look at them tells.

On Linux inotify itself, one watch for each folder that belongs to the workspace: the general library would watch
ignored folders too, keeps silent when the kernel's watches run out or its queue overflows, and holds back half of a
rename. Elsewhere that library, watchdog. Where there are no events (network mounts, no watches left): polling.
"""

from __future__ import annotations

import contextlib
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
# Stands for git's index, and for the ignore files outside the tree; no path can look like it.
GIT_CHANGED = b"/git"

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_FROM, _TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED, _ISDIR = 0x2000, 0x4000, 0x8000, 0x40000000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK = 0x01000000, 0x02000000, 0x04000000
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _FROM | _TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_MASK |= _ONLYDIR | _DONT_FOLLOW | _EXCL_UNLINK
_RULES_MASK = _FROM | _TO | _CLOSE_WRITE | _DELETE | _ONLYDIR
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
    def watch_rules(self, files: Iterable[bytes]) -> None: ...
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
        # Rule files: those in folders watched for nothing else, and those inside the tree.
        self._rules: dict[int, set[bytes]] = {}
        self._inside: set[bytes] = set()
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
            self._rules.pop(number, None)
            self._folders[number], self._numbers[folder] = folder, number

    def leave(self, folder: bytes) -> None:
        with self._lock:
            self._drop(folder, -1)

    def watch_rules(self, files: Iterable[bytes]) -> None:
        """Tell GIT_CHANGED when one of these (absolute) files changes, is made or goes."""
        with self._lock:
            for path in files:
                folder, name = os.path.split(path)
                self._inside.add(os.path.relpath(path, self._root))
                below = os.path.relpath(folder, self._root)
                if (b"" if below == b"." else below) in self._numbers:
                    continue
                number = self._add(folder, _RULES_MASK)
                if number >= 0:
                    self._rules.setdefault(number, set()).add(name)

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
                    if event[0] in self._inside:
                        found.append((GIT_CHANGED, False))
        return found

    def _event(self, number: int, mask: int, name: bytes) -> Event | None:
        if mask & (_OVERFLOW | _UNMOUNT):
            return b"", False
        if number in self._rules:
            names = self._rules.pop(number) if mask & _IGNORED else self._rules[number]
            return (GIT_CHANGED, False) if mask & _IGNORED or name in names else None
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
        self._rules: frozenset[bytes] = frozenset()
        self._outside: set[bytes] = set()
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
            if place and os.fsencode(place) in self._rules:
                found.append((GIT_CHANGED, False))
            if parts[0] != b".." and b".git" not in parts[:-1]:
                found.append((b"" if path == b"." else path, event.event_type == "modified"))
        if found:
            self._notify(found)

    def enter(self, folder: bytes) -> None:
        """The observer watches everything already."""

    def leave(self, folder: bytes) -> None:
        """The observer forgets by itself."""

    def watch_rules(self, files: Iterable[bytes]) -> None:
        """Tell GIT_CHANGED when one of these (absolute) files changes; what lies in the tree is watched with it."""
        self._rules = frozenset(files)
        home = os.path.expanduser(b"~")
        for folder in {os.path.dirname(path) for path in self._rules} - self._outside:
            if (home + b"/").startswith(folder.rstrip(b"/") + b"/"):
                continue  # some systems tell of a whole folder or not at all, and a home is never quiet
            if not folder.startswith(self._root + b"/") and os.path.isdir(folder):
                self._outside.add(folder)
                with contextlib.suppress(OSError):  # no more watches: a restart will see it
                    self._observer.schedule(self, os.fsdecode(folder), recursive=False)

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

    def watch_rules(self, files: Iterable[bytes]) -> None:
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
