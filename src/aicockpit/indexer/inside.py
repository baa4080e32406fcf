"""Opening what lies inside a root, never through a symlink: `scan.py` and `reading.py` reach every file this way.

A path is walked one part at a time, each from the descriptor of the one above it. No part is trusted because it was a
folder a moment ago: between two looks a package manager may have put a link to a folder elsewhere in its place.
"""

from __future__ import annotations

import errno
import os
from typing import Final

# A folder that is only gone through is opened without asking to list it, where a system has a way to say so.
_ROOT: Final[int] = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_THROUGH = _ROOT | os.O_NOFOLLOW
_LIST = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a named pipe that took the file's place must not hold us.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_root(root: bytes) -> int:
    """A descriptor of the root, for the other calls. The root itself may be a symlink: the user named it. OSError."""
    return os.open(root, _ROOT)


def open_file(root: int, path: bytes) -> int:
    """A descriptor to read a file from. Raises OSError, as all here do: NotADirectoryError for a symlink, wherever."""
    return _open(root, path, _READ)


def open_folder(root: int, folder: bytes) -> int:
    """A descriptor to list a folder, `b""` for the root itself."""
    return _open(root, folder or b".", _LIST)


def lstat(root: int, path: bytes) -> os.stat_result:
    """What stands at a path; its last part may be a symlink, and then it is seen as one."""
    above, _, name = path.rpartition(b"/")
    folder = _open(root, above or b".", _THROUGH)
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    finally:
        os.close(folder)


def _open(root: int, path: bytes, flags: int) -> int:
    *above, name = path.split(b"/")
    if b".." in above or name == b"..":
        raise NotADirectoryError(errno.ENOTDIR, "it leads out of the root", path)
    place = root
    try:
        for part in above:
            below = os.open(part, _THROUGH, dir_fd=place)
            if place != root:
                os.close(place)
            place = below
        return os.open(name, flags, dir_fd=place)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a symlink; of a folder most systems say this
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error
        raise
    finally:
        if place != root:
            os.close(place)
