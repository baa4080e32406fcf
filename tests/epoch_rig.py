"""A workspace server without engines: real store and warmth, a scripted prefetcher, and a builder that speaks letters.

A token is the code of a letter, so a test can read a head. A file's first line is its skeleton.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import xxhash

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.engines.kv import KvInfo
from aicockpit.prompts import tail
from aicockpit.prompts.pack import Item, Pack
from aicockpit.types import Address, EngineState
from aicockpit.workspace.builder import Builder
from aicockpit.workspace.builds import (
    BuildFailed,
    Built,
    Change,
    Described,
    Kind,
    Left,
    ModelSpec,
    NearBy,
    Progress,
    Said,
    Similar,
    Snapshot,
    Snippet,
    Sought,
    silent,
)
from aicockpit.workspace.epochs import Contexts, EpochLimits
from aicockpit.workspace.head import Head
from aicockpit.workspace.manifest import File
from aicockpit.workspace.steps import Key, Target, WarmState
from aicockpit.workspace.steps import Progress as Warming
from aicockpit.workspace.store import Applied, Store
from aicockpit.workspace.warmth import Warmth

BLOCK = 16
MODEL = "coder"
HEADER = "# "


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def text_of(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def digest(data: bytes) -> bytes:
    return xxhash.xxh3_128(data).digest()


@dataclass(frozen=True)
class Given:
    """A row of the table of budgets."""

    pack: int = 4000
    journal: int = 400
    neighbourhood: int = 200
    similar: int = 0
    reason: str = "given"


class Letters:
    """The builder. `gate` holds builds back, `fail` makes them fail."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail = ""
        self.fingerprint = "letters"
        self.builds = self.said = 0
        self.journal_gate = asyncio.Event()
        self.journal_gate.set()
        self.search_gate = asyncio.Event()
        self.search_gate.set()
        self.search_fail = ""
        self.searches: list[Sought] = []
        self.cut: list[tuple[str, int]] = []

    def _read(self, content: bytes | None) -> str:
        data = None if content is None else self.store.blob(content)
        return "" if data is None else data.decode()

    async def describe(self, spec: ModelSpec, /) -> Described:
        return Described("plain", False, "letters", self.fingerprint)

    async def build(
        self, snapshot: Snapshot, spec: ModelSpec, kind: Kind, budget: int, report: Progress = silent, /
    ) -> Built:
        self.builds += 1
        report(0, len(snapshot.files))
        await self.gate.wait()
        if self.fail:
            raise BuildFailed(self.fail)
        parts, items, cuts, end = [ids(HEADER)], [], [], len(HEADER)
        for path, file in sorted(snapshot.files.items()):
            text = self._read(file.hash).partition("\n")[0]
            item = ids(f"[{path}: {text}]")
            if end + len(item) <= budget:
                end += len(item)
                parts.append(item)
                cuts.append(end)
                items.append(Item(path, "skeleton", text, item, "it fits", file.hash))
        tokens = tuple(token for part in parts for token in part)
        return Built(
            Pack(digest(repr(tokens).encode()).hex(), tokens, tuple(items), len(HEADER), tuple(cuts)), 1, Left()
        )

    async def journal(self, spec: ModelSpec, kind: Kind, changes: Sequence[Change], lines: int, /) -> list[Said]:
        await self.journal_gate.wait()
        self.said += len(changes)
        return [self._said(path, new) for path, _, new in changes]

    def _said(self, path: str, new: bytes | None) -> Said:
        text = f"<{path}= {self._read(new)}>" if new is not None else f"<{path} gone>"
        return Said(path, new, text, ids(text))

    async def near(
        self,
        snapshot: Snapshot,
        spec: ModelSpec,
        path: str,
        content: bytes | None,
        budget: int,
        without: frozenset[str],
        /,
    ) -> NearBy:
        text = f"(near {path})"
        return NearBy(ids(text), ((f"of {path}", "test", len(text)),))

    async def runway(
        self, spec: ModelSpec, path: str, content: bytes | None, line: int, begun: str, /
    ) -> tuple[int, ...]:
        self.cut.append((path, line))
        limits = tail.limits_of(spec.max_model_len or 0)
        before, behind = tail.at_line(self._read(content), line)
        return ids(tail.window(before, behind, limits, tail.found(before, begun, limits))[0])

    async def similar(
        self, snapshot: Snapshot, spec: ModelSpec, sought: Sought, report: Progress = silent, /
    ) -> Similar:
        """Files that have a word of the place in them, whole: the more words the nearer to the cursor."""
        self.searches.append(sought)
        report(0, len(snapshot.files))
        await self.search_gate.wait()
        if self.search_fail:
            raise BuildFailed(self.search_fail)
        found = []
        for path, file in snapshot.files.items():
            text = self._read(file.hash)
            common = len(sought.query & set(text.split()))
            if common and path != sought.path and file.hash not in sought.without:
                found.append((common, path, file.hash, ids(f"{{{path}~ {text}}}")))
        parts: list[tuple[Snippet, tuple[int, ...]]] = []
        left = sought.budget
        for common, path, content, tokens in sorted(found, reverse=True):
            if len(tokens) <= left:
                left -= len(tokens)
                parts.insert(0, (Snippet(path, content, 1, 2, common / 10, digest(repr(tokens).encode())), tokens))
        joined = tuple(token for _, tokens in parts for token in tokens)
        return Similar(joined, tuple(snippet for snippet, _ in parts), len(snapshot.files))


class Script:
    """A prefetcher that warms what and when a test says."""

    def __init__(
        self, name: str, warmth: Warmth, report: Callable[[Target, Warming], None], blocks: int = 4096
    ) -> None:
        self.engine = Engine(
            name, Address(uds="none"), Upstream(Address(uds="none")), (MODEL,), state=EngineState.READY
        )
        self.warmth, self.blocks, self._report = warmth, blocks, report
        self.targets: list[Target] = []
        self.auto = False
        self.states: dict[Key, WarmState] = {}
        self.refused: set[Key] = set()
        self.open()

    def open(self) -> None:
        """A fresh life: nothing is resident."""
        self.warmth.open(self.engine.name, KvInfo(BLOCK, self.blocks))

    def set_targets(self, targets: Sequence[Target], /) -> None:
        self.targets = list(targets)
        if self.auto:
            self.warm()

    def status(self, key: Key, /) -> Warming:
        target = next((one for one in self.targets if one.key == key), None)
        if target is None:
            return Warming(reason="not asked for")
        done, total = self.warmth.resident(self.engine.name, target.tokens).tokens, len(target.tokens)
        state = WarmState.WARM if done >= total - total % BLOCK else self.states.get(key, WarmState.COLD)
        return Warming(state, done, total, None, 1000.0, refused=key in self.refused)

    def learn(self, tokens: tuple[int, ...]) -> None:
        """These are resident now, and proven."""
        whole = len(tokens) // BLOCK * BLOCK
        if not whole:  # less than a block is never cached
            return
        there = self.warmth.resident(self.engine.name, tokens).tokens
        self.warmth.learn(self.engine.name, tokens, min(there, (len(tokens) - 1) // BLOCK * BLOCK))
        self.warmth.learn(self.engine.name, (*tokens[:whole], 0), whole)

    def warm(self, *, only: str = "", tokens: int | None = None) -> None:
        """Warm all targets whose key has `only` in it, or only their first tokens."""
        for target in list(self.targets):
            if only in repr(target.key):
                self.learn(target.tokens[:tokens])
                self._report(target, self.status(target.key))


@dataclass
class Rig:
    """All of it, on one folder. `build` makes it anew after `close`, as a restarted server would."""

    folder: Path
    limits: EpochLimits = field(default_factory=lambda: EpochLimits(idle_s=0.05, retry_s=0.05, render_retry_s=0.05))
    worth: Mapping[str, Given] = field(default_factory=lambda: {"completion": Given(), "chat": Given(0, 0, 0)})
    names: tuple[str, ...] = ("e0",)
    build: Callable[[Path], Builder] | None = None
    workspace: int = 0
    dated: bool = False
    today: datetime = datetime(2026, 3, 1, 12)

    def start(self, model: Path | None = None) -> Rig:
        self.store = Store(self.folder)
        self.builder = Letters(self.store)
        self.real = self.build(self.folder) if self.build else None
        self.warmth = Warmth()
        self.engines: dict[str, Script] = {}
        self.models = [ModelSpec(MODEL, model or self.folder, max_model_len=100_000)]
        self.contexts = Contexts(
            self.store,
            self.real or self.builder,
            self.warmth,
            lambda: self.engines,
            lambda: self.models,
            self.rendered,
            worth=lambda model, lane: self.worth[lane],
            limits=self.limits,
            today=lambda: self.today,
        )
        for name in self.names:
            self.engines[name] = Script(name, self.warmth, self.contexts.report)
        self.workspace = self.store.create("me", "repo").id
        return self

    async def rendered(self, engine: str, model: str, text: str) -> tuple[int, ...]:
        """By a template that may print the date in front."""
        return ids(f"{self.today:|today is %d %B %Y}|system {text}|user " if self.dated else f"|system {text}|user ")

    async def close(self) -> None:
        await self.contexts.close()
        if self.real is not None:
            await self.real.close()
        self.store.close()

    async def restart(self) -> Rig:
        """The server ends and begins again; so do its engines."""
        await self.close()
        return self.start()

    async def write(self, files: Mapping[str, str | None]) -> None:
        """Files become other files (None: gone), as an indexer would tell it."""
        self.apply(files)
        if self.changes:
            await self.contexts.changed(self.workspace, self.changes)

    def apply(self, files: Mapping[str, str | None]) -> None:
        contents = {path: text.encode() for path, text in files.items() if text is not None}
        self.store.put_blobs([(digest(data), data) for data in contents.values()])
        info = self.store.info(self.workspace)
        assert info is not None
        rows = [File(path, digest(data), len(data), 1) for path, data in contents.items()]
        gone = [path for path, text in files.items() if text is None]
        applied = self.store.propose(self.workspace, info.revision, rows, gone)
        assert isinstance(applied, Applied)
        self.changes = applied.changed

    def head(self, engine: str = "e0", path: str = "", asked: int | None = None, lane: Kind = "completion") -> Head:
        head = self.contexts.head(self.workspace, MODEL, lane, path, engine, asked)
        found = self.warmth.resident(engine, head.tokens).tokens
        assert found >= len(head.tokens) - len(head.tokens) % BLOCK, "a head that is not resident"
        return head

    def text(self, engine: str = "e0", path: str = "") -> str:
        return text_of(self.head(engine, path).tokens)

    def typed(self, path: str, tail: str, engine: str = "e0", prefix: str = "") -> int:
        """A completion of an open file, as the gateway makes it; the tokens that the engine had to compute."""
        prompt = (*self.head(engine, path).tokens, *ids(tail))
        self.contexts.seen(self.workspace, MODEL, path, ids(tail), prefix)
        computed = len(prompt) - self.warmth.resident(engine, prompt).tokens
        self.engines[engine].learn(prompt)
        return computed

    async def until(self, condition: Callable[[], object], limit_s: float = 5.0) -> None:
        """Wait until it holds; a test fails when it does not."""
        ends = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < ends, "it never came to that"
            await asyncio.sleep(0.002)

    async def wanted(self, engine: str = "e0", count: int = 1) -> None:
        """Wait until an engine has targets."""
        await self.until(lambda: len(self.engines[engine].targets) >= count)

    async def told(self, text: str, engine: str = "e0") -> None:
        """Wait until some target of an engine has this text."""
        await self.until(lambda: any(text in text_of(one.tokens) for one in self.engines[engine].targets))

    async def in_service(self, *files: str) -> None:
        """The first epoch, warm on every engine."""
        await self.write({path: f"api of {path}\nbody" for path in files or ("a.py", "b.py", "c.py")})
        for name, engine in self.engines.items():
            await self.wanted(name)
            engine.warm()
        await self.until(lambda: all(self.head(name).tokens for name in self.engines))
