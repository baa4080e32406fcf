"""The command of LMCache's own process, which `kv_tier: lmcache` needs beside the engines. `doctor` prints it.

It takes flags, and no file: those of 0.5.6 are in `lmcache/v1/multiprocess/config.py` and `distributed/config.py`
(`add_mp_server_args`, `add_storage_manager_args`); the YAML of `LMCACHE_CONFIG_FILE` is for the other mode, in which
LMCache lives inside an engine.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from aicockpit.hardware.device import GIB

VERSION = "0.5.6"  # whose flags these are
PORT = 5555  # engines
HTTP_PORT = 8080  # LMCache's default; engines do not use it
HOST = "127.0.0.1"
_SHARE = 4  # the server gets one part in so many of the machine's memory, and of what its disk has free


@dataclass(frozen=True, slots=True)
class Server:
    """The server as it is to be started. `gib`: its memory, None: unknown here, so yours to say. `files_gib`: its files
    in `folder`. `port`: where engines look for it; `http_port`: where it tells how it is."""

    gib: int | None
    files_gib: int | None
    folder: Path
    port: int = PORT
    http_port: int = HTTP_PORT

    @property
    def health(self) -> str:
        """The address that tells how it is."""
        return f"http://{HOST}:{self.http_port}/healthcheck"

    @property
    def command(self) -> str:
        """For a shell. The folder is made before, for this user alone: LMCache would let everyone read its files.

        Its files are those of `fs_native`: of the two kinds that lie in a folder, the only one that removes any.
        """
        adapter = {
            "type": "fs_native",
            "base_path": str(self.folder),
            "max_capacity_gb": "GIB" if self.files_gib is None else self.files_gib,
            "eviction": {"eviction_policy": "LRU"},
        }
        memory = "GIB" if self.gib is None else self.gib
        return (
            f"mkdir -p -m 700 {shlex.quote(str(self.folder))} && DO_NOT_TRACK=1 lmcache server --host localhost "
            f"--port {self.port} --http-host {HOST} --http-port {self.http_port} --l1-size-gb {memory} "
            f"--eviction-policy LRU --l2-adapter {shlex.quote(json.dumps(adapter))}"
        )


def server(folder: Path, memory: int | None, free: int | None, taken: int) -> Server:
    """One for this machine, which has `memory` bytes, and a disk at `folder` with `free` of them; None is unknown.

    `taken`: the port where AiCockpit itself listens.
    """
    return Server(_share(memory), _share(free), folder, http_port=HTTP_PORT + (taken == HTTP_PORT))


def _share(there: int | None) -> int | None:
    """LMCache says GB and means GiB; a size below one is rounded up."""
    return None if there is None else max(there // _SHARE // GIB, 1)
