"""What an engine prints: the last lines in memory, everything in bounded files. Fed by `child.py`, read by everybody.

<name>-<start, UTC>.log    the head of one start, up to `file_limit` bytes; never rotated: causes stand at the top
<name>-<start>.more.log    what follows, and `.more.log.1`: its previous round
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

LINE_LIMIT = 4096
# A line without an end is cut here, so that a flood in one line does not grow memory.
_PIECE_LIMIT = 64 * 1024
# Shorter "secrets" (a placeholder, say) would blot out ordinary words.
_SECRET_MIN = 8


class LogSink:
    """Takes bytes as they come (`feed`) and never waits: nothing an engine prints can block it."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        secrets: Sequence[str] = (),
        lines: int = 2000,
        file_limit: int = 16 << 20,
        keep: int = 5,
    ) -> None:
        self.path: Path | None = None
        self.on_line: Callable[[str], None] | None = None
        self._folder, self._name = folder, re.sub(r"[^\w.-]", "_", name)
        self._secrets = [secret.encode() for secret in secrets if len(secret) >= _SECRET_MIN]
        # What is held back of an endless line: a secret may lie across the cut.
        self._overlap = max((len(secret) for secret in self._secrets), default=0)
        self._ring: deque[str] = deque(maxlen=lines)
        self._file_limit, self._keep = file_limit, keep
        self._fd: int | None = None
        self._size = 0
        self._rest = b""

    def begin(self) -> Path:
        """A new start of the engine: a new file, the oldest ones removed, the ring emptied."""
        self.end()
        self._ring.clear()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._new_head()
        self.path = path
        self._remove_old()
        return path

    def feed(self, data: bytes) -> None:
        """Bytes from the engine, cut anywhere. A carriage return (progress bars) ends a line too."""
        *lines, rest = (self._rest + data.replace(b"\r", b"\n")).split(b"\n")
        if len(rest) > _PIECE_LIMIT:
            rest = self._hide(rest)
            cut = len(rest) - self._overlap
            lines.append(rest[:cut])
            rest = rest[cut:]
        self._rest = rest
        self._take([line for line in lines if line])

    def end(self) -> None:
        """The engine is gone: the unfinished line and the file are closed."""
        self._take([self._rest] * bool(self._rest))
        self._rest = b""
        self._close()

    def note(self, text: str) -> None:
        """A line of our own, marked as such."""
        self._take([f"[aicockpit] {text}".encode()])

    def tail(self, count: int) -> list[str]:
        """The last lines, oldest first."""
        return list(self._ring)[-count:] if count > 0 else []

    def _new_head(self) -> Path:
        while True:
            now = time.time_ns()
            stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now // 10**9))}-{now % 10**9 // 1000:06}"
            path = self._folder / f"{self._name}-{stamp}.log"
            with contextlib.suppress(FileExistsError):
                self._open(path, os.O_EXCL)
                return path

    def _take(self, lines: list[bytes]) -> None:
        if not lines:
            return
        block = self._hide(b"\n".join(lines))
        self._write(block + b"\n")
        for line in block.split(b"\n"):
            text = line[:LINE_LIMIT].decode("utf-8", "replace")
            self._ring.append(text)
            if self.on_line is not None:
                self.on_line(text)

    def _hide(self, block: bytes) -> bytes:
        for secret in self._secrets:
            block = block.replace(secret, b"***")
        return block

    def _open(self, path: Path, flag: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | flag, 0o600)
        self._size = 0

    def _write(self, block: bytes) -> None:
        if self._fd is None or self.path is None:
            return
        try:
            os.write(self._fd, block)
        except OSError:  # a full disk must not end the engine; the ring still holds the lines
            return
        self._size += len(block)
        if self._size >= self._file_limit:
            self._next_file(self.path)

    def _next_file(self, head: Path) -> None:
        self._close()
        more = head.with_suffix(".more.log")
        with contextlib.suppress(OSError):  # as above
            if more.exists():
                more.replace(head.with_suffix(".more.log.1"))
            self._open(more, os.O_EXCL)

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _remove_old(self) -> None:
        pattern = re.compile(re.escape(self._name) + r"-(\d{8}-\d{6}-\d{6})\.(?:more\.)?log(?:\.1)?")
        starts: dict[str, list[Path]] = {}
        for path in self._folder.iterdir():
            if match := pattern.fullmatch(path.name):
                starts.setdefault(match.group(1), []).append(path)
        for order in sorted(starts)[: -self._keep]:
            for path in starts[order]:
                path.unlink(missing_ok=True)
