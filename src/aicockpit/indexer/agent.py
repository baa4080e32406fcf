"""Keeps one workspace at the gateway equal to a folder: first scan, events, pushes, until told to stop.

Three parties: a thread that alone owns tree and ledger, the watcher's thread, and the event loop with two tasks,
`_look` (events -> tree) and `_push` (tree -> gateway). A gateway that is away stops only the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aicockpit.errors import SettingError
from aicockpit.indexer import git
from aicockpit.indexer.debounce import Debounce
from aicockpit.indexer.ignore import OWN_FILE, including
from aicockpit.indexer.index import Index, wire
from aicockpit.indexer.ledger import Ledger
from aicockpit.indexer.push import Backoff, Gateway, Pusher, Refused, Unavailable
from aicockpit.indexer.scan import Delta, RootGone, Stopped, Tree
from aicockpit.indexer.watch import GIT_CHANGED, Event, Polling, Watcher, choose

MAX_LIMIT = 8 << 20
GIT_QUIET_S, SWITCH_LIMIT_S, ROOT_WAIT_S, FULL_WAIT_S = 1.0, 2.0, 2.0, 60.0
REPORT_EVERY_S, HELD_SHOWN = 0.1, 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What to watch, and where to push. Raises SettingError when it cannot be.

    `gateway`: http://host:port, https://host or unix:/path/gateway.sock. `state`: a folder for the ledger. `name`: of
    the workspace; by default the folder's. `limit`: bytes of the largest file that is sent. `quiet_s`, `wait_s`: a save
    is pushed so long after the last event, and so long after the first at the latest. `poll_s`: between two looks
    where there are no events. `answer_s`: how long the gateway may take for an answer. `ask_s`: while nothing
    changes, the gateway is asked so often whether it still has everything.
    """

    path: Path
    state: Path
    gateway: str = "http://127.0.0.1:8000"
    key: str = field(default="", repr=False)
    name: str = ""
    limit: int = 1 << 20
    quiet_s: float = 0.02
    wait_s: float = 0.1
    polling: bool = False
    poll_s: float = 2.0
    answer_s: float = 60.0
    ask_s: float = 300.0

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise SettingError(f"{self.path} is not a folder")
        if self.name and not _NAME.fullmatch(self.name):
            raise SettingError(
                f"workspace name {self.name!r}: 1 to 64 of A-Z a-z 0-9 . _ - are allowed, "
                "the first one a letter or a digit"
            )
        if not 0 < self.limit <= MAX_LIMIT:
            raise SettingError(f"the size limit must be between 1 and {MAX_LIMIT} bytes, not {self.limit}")
        if not re.match(r"(https?://[^/]|unix:/)", self.gateway):
            raise SettingError(
                f"gateway {self.gateway!r} must look like http://host:port, https://host or unix:/path/gateway.sock"
            )

    @property
    def root(self) -> Path:
        return self.path.resolve()

    @property
    def workspace(self) -> str:
        """The name that the gateway knows it by."""
        made = re.sub(r"[^A-Za-z0-9._-]+", "-", self.root.name).lstrip("-._")[:64]
        return self.name or made or "workspace"


@dataclass(frozen=True, slots=True)
class Progress:
    """What is going on. `phase`: scan, hash, push, watching, waiting (for the gateway), paused (the folder is away).

    `done` of `total` (0: not known yet) files, or blobs in phase push. `files`: in the workspace. `left_out`: how many
    were kept out by the last whole scan, for each reason. `message`: something the user should read, in full.
    """

    phase: str
    done: int = 0
    total: int = 0
    files: int = 0
    revision: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    message: str = ""


async def run(options: Options, report: Callable[[Progress], None], stop: asyncio.Event) -> None:
    """Keep the workspace up to date until `stop` is set. `report` is called on the event loop's thread.

    Raises Refused when the key or a limit forbids it, LedgerBusy, and OSError when the state folder cannot be written.
    """
    agent = _Agent(options, report, stop)
    try:
        await agent.run()
    finally:
        await agent.close()


class _Agent:
    def __init__(self, options: Options, report: Callable[[Progress], None], stop: asyncio.Event) -> None:
        self.options, self.report, self.stop = options, report, stop
        self.loop = asyncio.get_running_loop()
        self.root = os.fsencode(options.root)
        self.thread = ThreadPoolExecutor(1, "aicockpit-index")
        self.debounce = Debounce(options.quiet_s, options.wait_s)
        self.awake, self.due = asyncio.Event(), asyncio.Event()
        self.watcher: Watcher = Polling("")
        self.tree = Tree(self.root, options.limit, lambda path: self.watcher.enter(path), self._leave)
        self.gateway = Gateway(options.gateway, options.key, options.workspace, options.answer_s)
        self.index: Index | None = None
        self.left_out: dict[str, int] = {}
        self.files, self.revision, self.poll_s = 0, 0, options.poll_s
        self.told, self.git_at, self.git_told = 0.0, 0.0, ""
        self.phase, self.held_told = "scan", set[bytes]()

    async def run(self) -> None:
        index = await self._in_index(self._open)
        self.index = index
        await self._choose(self.options.polling)
        async with _together(self.stop) as tasks:
            tasks.append(asyncio.create_task(self._look(index)))
            tasks.append(asyncio.create_task(self._push(index)))

    async def close(self) -> None:
        self.tree.stop()
        await self._in_index(self.watcher.close)
        if self.index is not None:
            await self._in_index(self.index.ledger.close)
        self.thread.shutdown(wait=True)
        await self.gateway.close()

    def _open(self) -> Index:
        words = "\0".join((str(self.options.root), self.options.gateway, self.options.workspace))
        name = hashlib.sha256(os.fsencode(words)).hexdigest()[:24]
        return Index(self.tree, Ledger(self.options.state, name))

    def _leave(self, folder: bytes) -> None:
        self.watcher.leave(folder)

    async def _choose(self, polling: bool) -> None:
        watcher = await self._in_index(choose, self.root, self._notify, polling)
        self.watcher = watcher
        if isinstance(watcher, Polling) and watcher.reason:
            self._say(watcher.reason)

    def _notify(self, events: list[Event]) -> None:
        """On the watcher's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self._events, events)

    def _events(self, events: list[Event]) -> None:
        self.debounce.add(events, time.monotonic())
        self.awake.set()

    async def _look(self, index: Index) -> None:
        """Events become knowledge; without events, look at everything now and then."""
        paths = {b""}
        while True:
            started = time.monotonic()
            try:
                delta = await self._refresh(index, paths)
            except RootGone:
                message = f"{self.options.root} is not there or cannot be read; waiting for it. Nothing is removed."
                self._tell("paused", message=message)
                await asyncio.sleep(ROOT_WAIT_S)
                paths = {b""}
                continue
            if b"" in paths:
                self.left_out = dict(+delta.left_out)
                self.files = await self._in_index(lambda: sum(1 for _ in self.tree.files()))
                self.poll_s = max(self.options.poll_s, 5 * (time.monotonic() - started))
                await self._in_index(self._watch_git)
            self._tell_of_git()
            self._tell_of_held(delta.held, everything=b"" in paths)
            if self.watcher.problem:
                await self._no_more_watches()
            if delta.content or b"" in paths:
                self.due.set()
            self._events([(path, True) for path in delta.again])  # being written: not at once again
            paths = await self._next()

    async def _refresh(self, index: Index, paths: set[bytes]) -> Delta:
        if GIT_CHANGED in paths:
            paths.discard(GIT_CHANGED)
            if await self._in_index(self.tree.rules_changed):
                paths.add(b"")
        progress = self._progress if b"" in paths or len(paths) > self.debounce.many else _quiet
        return await self._in_index(index.refresh, paths, progress)

    def _watch_git(self) -> None:
        tree = self.tree.work_tree
        if tree is not None and not isinstance(self.watcher, Polling):
            self.watcher.watch_rules(git.rule_files(self.root, tree, self.tree.git))

    def _tell_of_git(self) -> None:
        """Once for each way in which it fails."""
        problem, told = self.tree.git.problem, self.git_told
        self.git_told = problem
        if problem and problem != told:
            self._say(problem)

    def _tell_of_held(self, held: set[bytes], *, everything: bool) -> None:
        """Name each file once that its content holds back."""
        new = held - self.held_told
        self.held_told = set(held) if everything else self.held_told | held
        if new:
            self._say(held_message(sorted(wire(path) for path in new), self.options.root))

    async def _no_more_watches(self) -> None:
        message, old = self.watcher.problem, self.watcher
        self.watcher = Polling(message)
        await self._in_index(old.close)
        self._say(message)

    async def _next(self) -> set[bytes]:
        """The paths to look at, when it is time to."""
        polled = time.monotonic() + self.poll_s if isinstance(self.watcher, Polling) else None
        while True:
            self.awake.clear()
            times = [at for at in (self.debounce.due(), polled, self.git_at or None) if at is not None]
            now = time.monotonic()
            wait = min(times) - now if times else None
            if wait is None or wait > 0:
                await _within(self.awake, wait)
                continue
            paths = await self._take(now)
            if polled is not None and polled <= now:
                paths.add(b"")
            if paths:
                return paths

    async def _take(self, now: float) -> set[bytes]:
        """A branch switch holds git's lock from its beginning to its end: wait for that, and look once."""
        end = now + SWITCH_LIMIT_S
        while len(self.debounce) > self.debounce.many and git.busy(self.tree.work_tree) and time.monotonic() < end:
            await asyncio.sleep(self.options.quiet_s)
        paths = self.debounce.take(time.monotonic())
        if GIT_CHANGED in paths:  # asking git costs a process: not before it is quiet
            paths.discard(GIT_CHANGED)
            self.git_at = now + GIT_QUIET_S
        elif self.git_at and self.git_at <= now:
            self.git_at = 0.0
            paths.add(GIT_CHANGED)
        return paths

    async def _push(self, index: Index) -> None:
        """Knowledge becomes the gateway's."""
        backoff, begun = Backoff(), False
        pusher = Pusher(self.gateway, index, self._in_index, functools.partial(self._progress, "push"))
        while True:
            await _within(self.due, self.options.ask_s if begun else None)
            quiet, begun = not self.due.is_set(), True
            self.due.clear()
            try:
                await (pusher.ask() if quiet else pusher.sync())
            except Unavailable as error:
                wait_s = max(backoff.next(), min(error.wait_s, FULL_WAIT_S))
                self._tell("waiting", message=f"{error}. Trying again in {wait_s:.1f} s; nothing is lost.")
                self.due.set()
                await asyncio.sleep(wait_s)
                continue
            except Refused as error:
                if error.status not in (400, 413, 429):
                    raise
                if error.status == 400:  # whatever it was about, the whole tree leaves nothing to misunderstand
                    await self._in_index(index.forget_base)
                self._tell("waiting", message=f"{error}. Nothing is pushed until a file changes, or for a minute.")
                await _within(self.due, FULL_WAIT_S)
                self.due.set()
                continue
            backoff.reset()
            if quiet and (self.phase, self.revision) == ("watching", pusher.revision):
                continue
            self.revision = pusher.revision
            self._tell("watching", files=await self._in_index(lambda: sum(1 for _ in self.tree.files())))

    def _progress(self, phase: str, done: int, total: int) -> None:
        """From any thread, as often as it likes."""
        now = time.monotonic()
        if now - self.told >= REPORT_EVERY_S or (total and done == total):
            self.told = now
            self.loop.call_soon_threadsafe(functools.partial(self._tell, phase, done=done, total=total))

    def _tell(self, phase: str, done: int = 0, total: int = 0, files: int = -1, message: str = "") -> None:
        self.phase, self.files = phase, files if files >= 0 else self.files
        self.report(Progress(phase, done, total, self.files, self.revision, self.left_out, message))

    def _say(self, message: str) -> None:
        """Something to read, whatever goes on."""
        self._tell(self.phase, message=message)

    async def _in_index(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self.loop.run_in_executor(self.thread, functools.partial(function, *arguments))


def held_message(paths: Sequence[str], root: Path) -> str:
    """`paths`: of files whose content looks like a secret."""
    shown = ", ".join(paths[:HELD_SHOWN]) + (f" and {len(paths) - HELD_SHOWN} more" if len(paths) > HELD_SHOWN else "")
    return (
        f"not sent, since the content looks like a key or a password: {shown}. If one is harmless, a line like "
        f"{including(paths[0])} in {root / OWN_FILE.decode()} sends it."
    )


def _quiet(phase: str, done: int, total: int) -> None:
    """Progress of a look at a few files is of no interest."""


async def _within(event: asyncio.Event, limit_s: float | None) -> None:
    """Wait for the event, or as long. Not `wait_for`: in Python 3.11 it may swallow a cancellation."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()


@contextlib.asynccontextmanager
async def _together(stop: asyncio.Event) -> Any:
    """Runs the tasks that the body adds until `stop`, or until one fails; its error is raised."""
    tasks: list[asyncio.Task[None]] = []
    stopped = asyncio.create_task(stop.wait())
    try:
        yield tasks
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            with contextlib.suppress(Stopped):
                task.result()
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
