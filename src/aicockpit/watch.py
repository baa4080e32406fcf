"""`aicockpit watch`: keep a folder's workspace at a gateway up to date, and show how it goes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from aicockpit.errors import SettingError
from aicockpit.indexer.agent import Options, Progress, run
from aicockpit.settings import Settings

_WORDS = {
    "scan": "looking for files",
    "hash": "reading files",
    "push": "sending what the gateway lacks",
    "watching": "in sync",
    "waiting": "waiting for the gateway",
    "paused": "waiting for the folder",
}
_COUNTED = frozenset({"scan", "hash", "push"})
# Lines of a log, seconds apart at least while nothing but a count changes.
_LINE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line; empty fields are found out."""

    path: Path
    gateway: str = ""
    name: str = ""
    polling: bool = False
    until_eof: bool = False


def options_of(wish: Wish, settings: Settings) -> Options:
    """Without --gateway: the server of this state folder, by its private socket, else the address in the settings."""
    own = settings.run_dir / "gateway.sock"
    if wish.gateway:
        gateway, key = wish.gateway.rstrip("/").removesuffix("/v1"), settings.api_key
    elif own.exists():
        gateway, key = f"unix:{own}", ""
    else:
        gateway, key = f"http://{settings.host}:{settings.port}", settings.api_key
    if not gateway.startswith("unix:") and not key and settings.auth:
        raise SettingError(
            f"{gateway} asks for a key: set AICOCKPIT_API_KEY (`aicockpit keys create NAME` on the server makes one)."
        )
    state = settings.state_dir / "indexer"
    return Options(wish.path, state, gateway, key, name=wish.name, polling=wish.polling)


async def watch(options: Options, console: Console, until_eof: bool = False) -> int:
    """Until Ctrl-C, or until stdin ends where a server runs this as its child."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if until_eof:
        await _until_eof(stop)
    console.print(
        f"workspace {options.workspace}: {options.root} -> {options.gateway}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    with _shown(console) as screen:
        await run(options, screen.show, stop)
    return 0


async def _until_eof(stop: asyncio.Event) -> None:
    """A server that is killed cannot end its child, but its end of the pipe closes."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def wait() -> None:
        while await reader.read(1024):
            pass
        stop.set()

    stop_task = asyncio.create_task(wait(), name="until the server ends")
    stop_task.add_done_callback(lambda task: task.cancelled() or task.exception())


class _Bar:
    """A bar for each phase that counts files or contents; one that only pulses while their number is not known."""

    def __init__(self, console: Console) -> None:
        left, right = Column(no_wrap=True), Column(no_wrap=True, justify="right")
        self._bars = Bars(
            TextColumn("{task.description}", table_column=left),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            TextColumn("{task.fields[share]}", table_column=right),
            TextColumn("{task.fields[amount]}", table_column=right),
            TimeRemainingColumn(table_column=right),
            console=console,
            expand=True,
        )
        self._phase = ""

    def at(self, progress: Progress) -> Bars:
        """The bar as it is now. A new phase begins one of its own, with its own speed."""
        total = progress.total or None
        if progress.phase != self._phase:
            self._phase = progress.phase
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._bars.add_task(_WORDS[progress.phase], total=total, amount="", share="")
        share = f"{progress.done / total:.0%}" if total else ""
        task = self._bars.task_ids[0]
        self._bars.update(task, completed=progress.done, total=total, amount=_amount(progress), share=share)
        return self._bars


class _Screen:
    """One live line on a terminal, with a bar while much is looked at, read or sent; in a log a line per change."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console, self._live = console, live
        self._bar = _Bar(console)
        self._last: tuple[str, int, str] = ("", -1, "")
        self._told = 0.0
        self._left_out = ""

    def show(self, progress: Progress) -> None:
        line = told(progress)
        if progress.left_out and progress.phase == "watching":
            left = "left out: " + ", ".join(f"{count} {why}" for why, count in progress.left_out.items())
            if left != self._left_out:
                self._left_out = left
                self._say(left)
        if progress.message and progress.message != self._last[2]:
            self._say(progress.message)
        key = (progress.phase, progress.revision, progress.message)
        now = time.monotonic()
        if self._live is not None:
            self._live.update(self._bar.at(progress) if progress.phase in _COUNTED else Text(line))
        elif key != self._last or now - self._told >= _LINE_EVERY_S:
            self._told = now
            self._say(line)
        self._last = key

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


def told(progress: Progress) -> str:
    """One line: what is going on, and how far it is."""
    words = _WORDS.get(progress.phase, progress.phase)
    if progress.phase == "watching":
        return f"{words}: {progress.files:,} files at revision {progress.revision}"
    return f"{words} {_amount(progress)}".rstrip()


def _amount(progress: Progress) -> str:
    """`1,234 of 100,000`."""
    return (f"{progress.done:,}" + (f" of {progress.total:,}" if progress.total else "")) if progress.done else ""


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[_Screen]:
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Screen(console, None)
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield _Screen(console, live)
