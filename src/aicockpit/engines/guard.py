"""The guard: a small process between the gateway and one engine, so that no engine outlives its gateway.

Run as a file (`python -S -E guard.py --grace S -- command...`), standard library only: it starts in milliseconds.

    gateway --stdin--> guard --fork--> engine --> EngineCore, workers, compilers...
            <-stdout-- "pid=N" of the engine
            <-stderr-- whatever the engine and its children print

The gateway commands through the pipe: `T` sends SIGTERM to the engine, `K` SIGKILL to every descendant. The end of the
pipe (the gateway died, by whatever means) is `T`, then after `--grace` seconds `K`. The guard is the subreaper, so a
descendant that daemonised or whose parent died becomes its child. When the engine's main process ends, every
descendant left is killed and reaped; then the guard exits with the engine's status (128 + n for signal n).

`T` goes to the main process, not to its group: a vLLM worker leaves at once on SIGTERM, which would break the answers
the main process is still draining. Only unreaped children of the guard are signalled, so never a reused pid.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Between two rounds of killing: grows, since what survives some rounds is stuck in the kernel.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# Ignored here or by Python, and ignoring is inherited through exec.
_RESTORED = (*_IGNORED, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD)


def _prctl(option: int, value: int) -> None:
    numbers = (ctypes.c_ulong(number) for number in (value, 0, 0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(option, *numbers) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _become_engine(argv: Sequence[str], guard: int) -> NoReturn:
    """In the forked child: own session, dies with the guard, engine's output to the log pipe. Never returns."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # the guard died before the line above
            os._exit(1)
        for number in _RESTORED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.execvp(argv[0], list(argv))
    except OSError as error:
        os.write(2, f"aicockpit guard: cannot start {argv[0]!r}: {error.strerror}\n".encode())
    os._exit(127)


class Guard:
    """The life of one engine, seen from above it."""

    def __init__(self, argv: Sequence[str], grace_s: float) -> None:
        self._grace_s = grace_s
        self._kill_at: float | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._listening = True
        self._status: int | None = None
        # A signal writes a byte into this pipe, which wakes `poll`.
        self._wake, waker = os.pipe()
        for fd in (self._wake, waker):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _IGNORED:  # the pipe alone decides; systemd and terminals signal whole groups
            signal.signal(number, signal.SIG_IGN)
        guard = os.getpid()
        self._engine = os.fork()
        if self._engine == 0:
            _become_engine(argv, guard)

    def run(self) -> int:
        """Until the engine and all its descendants are gone. Returns the engine's status."""
        with contextlib.suppress(BrokenPipeError):  # the gateway died: the end of stdin says so too
            os.write(1, f"pid={self._engine}\n".encode())
        while self._reap():
            if self._status is not None or self._overdue():
                self._kill_children()
            self._wait()
        return self._status or 0

    def _overdue(self) -> bool:
        return self._kill_at is not None and time.monotonic() >= self._kill_at

    def _reap(self) -> bool:
        """Collect the dead. False when no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._engine:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code

    def _wait(self) -> None:
        limit = None
        if self._status is not None or self._overdue():
            limit = self._pause_s
            self._pause_s = min(self._pause_s * 1.5, _LONGEST_PAUSE_S)
        elif self._kill_at is not None:
            limit = max(0.0, self._kill_at - time.monotonic())
        fds = [self._wake] + [0] * self._listening
        readable, _, _ = select.select(fds, [], [], limit)
        if self._wake in readable:
            os.read(self._wake, 4096)
        if 0 in readable:
            self._obey(os.read(0, 4096))

    def _obey(self, commands: bytes) -> None:
        if b"K" in commands:
            self._kill_at = 0.0
        if b"T" in commands:
            self._terminate()
        if not commands:
            self._listening = False
            self._terminate()
            if self._kill_at is None:
                self._kill_at = time.monotonic() + self._grace_s

    def _terminate(self) -> None:
        if self._status is None:
            os.kill(self._engine, signal.SIGTERM)

    def _kill_children(self) -> None:
        """Kill the guard's own children. Theirs become ours when they die and are killed in the next round."""
        for pid in _children(os.getpid()):
            with contextlib.suppress(PermissionError):  # it changed its user; nothing more can be done
                os.kill(pid, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    text = file.read()
            except OSError:  # gone meanwhile
                continue
            # pid (name, which may hold spaces and brackets) state ppid ...
            if int(text[text.rindex(b")") + 2 :].split()[1]) == parent:
                found.append(int(name))
    return found


def main(arguments: Sequence[str]) -> int:
    """`--grace S -- command...`"""
    if len(arguments) < 4 or arguments[0] != "--grace" or arguments[2] != "--":
        sys.stderr.write("usage: guard.py --grace SECONDS -- command...\n")
        return 2
    if os.getsid(0) != os.getpid():
        with contextlib.suppress(PermissionError):  # started by hand as the leader of a shell's job
            os.setsid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return Guard(arguments[3:], float(arguments[1])).run()


if __name__ == "__main__":
    # Not sys.exit: nothing to flush, and no finaliser may delay the news that the engine is gone.
    os._exit(main(sys.argv[1:]))
