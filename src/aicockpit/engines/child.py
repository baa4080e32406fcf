"""A guard and the engine below it, from the gateway's side: start, command through the pipe, hear of the end.

Used by `process.py` alone. On `subprocess.Popen` and not asyncio's transport: that one kills its child when the event
loop closes, which would rob the guard of its orderly end; here the pipe just closes, and the guard knows what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aicockpit.engines import guard
from aicockpit.engines.logs import LogSink

# A wide pipe carries a burst of output over a moment in which the event loop is busy.
_PIPE_BYTES = 1 << 20
# Small, so that a flood of output is taken in slices between which requests are served.
_READ_BYTES = 64 * 1024


class Child:
    """One run of one engine. Made by `spawn`; `exited` is done when the engine and every descendant are gone.

    Its result is the engine's status (128 + n for signal n), or negative when the guard itself was killed.
    """

    def __init__(self, process: subprocess.Popen[bytes], sink: LogSink) -> None:
        self._loop = asyncio.get_running_loop()
        self._process, self._sink = process, sink
        self.guard_pid = process.pid
        self.engine_pid: int | None = None
        self.exited: asyncio.Future[int] = self._loop.create_future()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._commands = process.stdin.fileno()
        self._news, self._output = process.stdout.fileno(), process.stderr.fileno()
        # poll() before the engine has ended would be a busy loop; a pidfd becomes readable at the end.
        self._pidfd = os.pidfd_open(process.pid)
        with contextlib.suppress(OSError):  # over the user's pipe quota: the standard size does
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        for fd in (self._news, self._output):
            os.set_blocking(fd, False)
        self._loop.add_reader(self._news, self._hear)
        self._loop.add_reader(self._output, self._drain)
        self._loop.add_reader(self._pidfd, self._ended)

    @classmethod
    def spawn(cls, argv: Sequence[str], environ: Mapping[str, str], sink: LogSink, grace_s: float) -> Child:
        """Start the guard, which starts `argv`. Raises OSError when there is no process to be had."""
        command = [sys.executable, "-S", "-E", str(Path(guard.__file__)), "--grace", str(grace_s), "--", *argv]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environ), bufsize=0, start_new_session=True
        )
        return cls(process, sink)

    def terminate(self) -> None:
        """SIGTERM to the engine."""
        self._command(b"T")

    def kill(self) -> None:
        """SIGKILL to the engine and every descendant."""
        if not self.exited.done():
            # Somebody may have stopped the guard too. It is our unreaped child: the pid cannot be another's.
            self._process.send_signal(signal.SIGCONT)
            self._command(b"K")

    async def end(self, term_wait: float, kill_wait: float) -> bool:
        """SIGTERM, wait, SIGKILL, wait. False when something would not die (stuck in the kernel)."""
        if term_wait > 0:
            self.terminate()
            if await self._gone(term_wait):
                return True
        self.kill()
        if await self._gone(kill_wait):
            return True
        # The engine's main process dies with the guard; the caller sweeps for the others.
        self._process.kill()
        await self._gone(1.0)
        return False

    async def _gone(self, limit_s: float) -> bool:
        done, _ = await asyncio.wait({self.exited}, timeout=limit_s)
        return bool(done)

    def _command(self, letter: bytes) -> None:
        if not self.exited.done():
            with contextlib.suppress(BrokenPipeError):  # the guard has just ended
                os.write(self._commands, letter)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            text = os.read(self._news, 64)
            if text.startswith(b"pid="):
                self.engine_pid = int(text[4:])
            else:
                self._loop.remove_reader(self._news)

    def _drain(self) -> bool:
        """Hand on what the engine printed. False when nothing is left for now."""
        try:
            data = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._output)
            return False
        self._sink.feed(data)
        return True

    def _ended(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        # All writers are dead, so what the pipe still holds is the rest, and often the cause. Bounded, since a killed
        # guard may have left a writer alive.
        for _ in range(2 * _PIPE_BYTES // _READ_BYTES):
            if not self._drain():
                break
        for fd in (self._news, self._output, self._pidfd):
            self._loop.remove_reader(fd)
        os.close(self._pidfd)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if not self.exited.done():
            self.exited.set_result(status)
