"""Where folders lie: file system, room, whether it is another machine's disk. `detect.inspect` calls it.

A network disk whose server is gone blocks whoever asks, so each folder is asked within a limit of time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from aicockpit.hardware import bounded
from aicockpit.hardware.machine import Disk

_NETWORK = {
    *(
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "lustre",
        "glusterfs",
        "gpfs",
        "beegfs",
        "afs",
        "ocfs2",
        "wekafs",
    ),
    *("fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.juicefs"),
    *("fuse.gcsfuse", "fuse.goofys", "fuse.mount-s3", "fuse.blobfuse2", "fuse.seaweedfs", "fuse.alluxio-fuse"),
}


def disks(folders: Mapping[str, Path], limit: float, root: Path = Path("/")) -> tuple[Disk, ...]:
    """One row for each role; `limit` seconds for each. `root`: where `proc` is."""
    return tuple(_within(role, folder, limit, root) for role, folder in folders.items())


def _within(role: str, folder: Path, limit: float, root: Path) -> Disk:
    answer = bounded.call(f"disk-{folder}", lambda: disk(role, folder, root), limit)
    if isinstance(answer, bounded.Hung):
        return Disk(role, str(folder), problem=f"the disk has not answered for {answer.seconds:.0f} s")
    return answer


def disk(role: str, folder: Path, root: Path = Path("/")) -> Disk:
    """The folder's disk, or its nearest parent's when it is not there yet. May hang with the disk."""
    try:
        path = folder.resolve()
        while not path.exists() and path != path.parent:
            path = path.parent
        if not path.is_dir():
            return Disk(role, str(path), problem="it is a file, not a folder")
        found = os.statvfs(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return Disk(role, str(folder), problem=getattr(error, "strerror", None) or str(error))
    where, kind = mount(path, root)
    return Disk(
        role,
        str(path),
        where,
        kind,
        found.f_blocks * found.f_frsize,
        found.f_bavail * found.f_frsize,
        found.f_favail if found.f_files else None,  # some file systems count no files
        None if kind is None else kind in _NETWORK,
        bool(found.f_flag & os.ST_RDONLY),
        os.access(path, os.W_OK | os.X_OK),
    )


def mount(path: Path, root: Path = Path("/")) -> tuple[str | None, str | None]:
    """Mount point and type of the file system that holds a resolved path. Of two at one place, the later covers."""
    best: tuple[str | None, str | None] = (None, None)
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return best
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        where = decoded(fields[4])
        if path.is_relative_to(where) and len(where) >= len(best[0] or ""):
            best = where, kind[0]
    return best


def decoded(field: str) -> str:
    """A field of mountinfo: a space is written as `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
