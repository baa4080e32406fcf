"""Limits in time for what may hang: a call into a driver on a thread of its own, a program as a child.

`nvidia`, `amd` and `host` call it. What hangs in the kernel cannot be ended: it is left behind, and not asked again
until it has come back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_REAP_S = 1.0


@dataclass(frozen=True, slots=True)
class Hung:
    """A call did not return in time; `seconds` since it began."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program printed. `why` says, in words, why it cannot be trusted; empty after exit code 0."""

    out: str = ""
    err: str = ""
    why: str = ""


class _Call(threading.Thread, Generic[T]):
    def __init__(self, name: str, function: Callable[[], T], limit: float) -> None:
        super().__init__(name=name, daemon=True)
        self._function, self._limit = function, limit
        self.began = time.monotonic()
        self.result: list[T] = []

    def run(self) -> None:
        self.result.append(self._function())

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    @property
    def late(self) -> bool:
        return self.is_alive() and self.spent > self._limit


def call(name: str, function: Callable[[], T], limit: float) -> T | Hung:
    """The function's result, or Hung after `limit` seconds, and at once while an earlier call of that name hangs.

    So no more threads are lost than were asking when it began to hang. The function must not raise.
    """
    title = f"aicockpit-probe-{name}"
    for thread in threading.enumerate():
        if isinstance(thread, _Call) and thread.name == title and thread.late:
            return Hung(thread.spent)
    mine = _Call(title, function, limit)
    mine.start()
    mine.join(limit)
    if mine.result:
        return mine.result[0]
    if not mine.is_alive():
        raise RuntimeError(f"{title} failed: its traceback was printed by its thread")
    return Hung(mine.spent)


def run(argv: Sequence[str], limit: float, env: Mapping[str, str] | None = None) -> Ran:
    """Run a program to its end, or kill it and its children after `limit` seconds. Never raises.

    What it had printed by then is kept.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=env,
        )
    except (OSError, ValueError) as error:
        return Ran(why=f"it cannot be started: {getattr(error, 'strerror', None) or error}")
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        out, err = _end(process)
        return Ran(_text(out), _text(err), f"it did not end within {limit:g} s")
    return Ran(_text(out), _text(err), _verdict(process.returncode, _text(err) or _text(out)))


def _end(process: subprocess.Popen[bytes]) -> tuple[Any, Any]:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=_REAP_S)
    except subprocess.TimeoutExpired as left:  # it hangs in the kernel, or a grandchild keeps the pipe
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.poll()
        return left.stdout, left.stderr


def _verdict(code: int, said: str) -> str:
    if code == 0:
        return ""
    last = said.strip().rpartition("\n")[2].strip()
    if code < 0:
        return f"it was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"it ended with code {code}" + (f": {last[:200]}" if last else "")


def _text(data: Any) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else ""
