"""Measure the indexer: `python benchmarks/index.py [--files 100000] [--megabytes 1000] [--saves 200] [--write]`.

A tree of synthetic source files; `aicockpit.indexer` in a process of its own, against the fake gateway of the tests in
this one. First scan (hashes, and everything pushed), a restart with nothing changed, single saves, a branch switch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "tests"))

import psutil
from rich.console import Console
from rich.table import Table

from aicockpit.indexer.agent import Options, Progress, run
from aicockpit.indexer.watch import file_system
from benchmarks import sections
from benchmarks.gateway import machine
from benchmarks.proc import ROOT
from benchmarks.report import markdown_table
from fake_workspace import FakeWorkspaces, serving

PAGE = ROOT / "docs" / "performance.md"
MB = 1 << 20
SWITCHED = 3000
SMALL = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `bar`: what it must not pass, None without one."""

    what: str
    seen: float
    bar: float | None
    unit: str
    note: str = ""

    @property
    def cells(self) -> list[str]:
        bar = "-" if self.bar is None else f"{self.bar:g} {self.unit}"
        verdict = "-" if self.bar is None else "PASS" if self.seen <= self.bar else "MISS"
        return [self.what, f"{self.seen:,.1f} {self.unit}", bar, verdict, self.note]


def grow(root: Path, files: int, size: int) -> None:
    """Folders of 50 files of about `size` bytes each, no two alike."""
    chance = random.Random(1)
    words = " ".join(f"name_{chance.randrange(10**6)}" for _ in range(size // 8)).encode()
    for number in range(files):
        path = root / f"p{number // 2500}" / f"q{number // 50 % 50}" / f"module_{number}.py"
        if number % 50 == 0:
            path.parent.mkdir(parents=True)
        start = chance.randrange(max(1, len(words) - size))
        path.write_bytes(b"# %d\n" % number + words[start : start + size])


class Indexer:
    """The process under measurement; its reports come as lines of JSON."""

    def __init__(self, root: Path, state: Path, fake: FakeWorkspaces) -> None:
        self._command = [sys.executable, __file__, "--agent", str(root), str(state), fake.address, fake.key]
        self.phases: dict[str, float] = {}
        self.reports = 0
        self.files = 0

    async def __aenter__(self) -> Indexer:
        self.start = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
        self._reader = asyncio.create_task(self._read())
        self._memory = psutil.Process(self._process.pid)
        self.peak = 0
        return self

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            found = json.loads(line)
            self.phases.setdefault(found["phase"], time.monotonic() - self.start)
            self.reports, self.files = self.reports + 1, found["files"]

    async def until(self, true: Callable[[], bool], limit_s: float = 170.0) -> float:
        """Seconds since the start when `true()` came true."""
        while not true():
            assert self._process.returncode is None, "the indexer has ended"
            assert time.monotonic() - self.start < limit_s, "too slow"
            self.peak = max(self.peak, self._memory.memory_info().rss)
            await asyncio.sleep(0.005)
        return time.monotonic() - self.start

    async def __aexit__(self, *error: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        await self._reader


async def agent(words: list[str]) -> None:
    """The measured process."""
    root, state, address, key = words
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(15, stop.set)

    def report(progress: Progress) -> None:
        print(json.dumps({"phase": progress.phase, "files": progress.files}), flush=True)

    await run(Options(Path(root), Path(state), address, key, "w"), report, stop)


async def measure(files: int, megabytes: int, saves: int, say: Callable[[str], None]) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="aicockpit-index-") as name:
        place = Path(name)
        root = place / "tree"
        say(f"growing {files:,} files, {megabytes:,} MB")
        grow(root, files, megabytes * 1_000_000 // files)
        await asyncio.sleep(0.2)
        async with serving(FakeWorkspaces(keep=False)) as fake:
            say("first scan")
            rows = await first(root, place, fake, files)
            say("restart")
            rows += await again(root, place, fake, saves, say)
        await asyncio.to_thread(shutil.rmtree, root)
    return rows


async def first(root: Path, place: Path, fake: FakeWorkspaces, files: int) -> list[Row]:
    async with Indexer(root, place / "state", fake) as indexer:
        hashed = await indexer.until(lambda: bool(fake.manifests))
        memory = indexer.peak
        pushed = await indexer.until(lambda: fake.count() == files)
        return [
            Row("first scan: every file read and hashed", hashed, 60, "s", f"{indexer.reports} progress reports"),
            Row("first scan: and everything at the gateway", pushed, None, "s", f"{len(fake.calls)} requests"),
            Row("memory of the indexer after hashing, peak", memory / MB, 300, "MB"),
            Row("memory of the indexer while pushing, peak", indexer.peak / MB, 300, "MB"),
        ]


async def again(root: Path, place: Path, fake: FakeWorkspaces, saves: int, say: Callable[[str], None]) -> list[Row]:
    calls = len(fake.calls)
    async with Indexer(root, place / "state", fake) as indexer:
        ready = await indexer.until(lambda: "watching" in indexer.phases)
        rows = [Row("restart with nothing changed", ready, 5, "s", f"requests: {len(fake.calls) - calls}")]
        paths = sorted(await asyncio.to_thread(lambda: list(root.rglob("*.py"))))
        chance = random.Random(2)
        waits = []
        say("saves")
        for number in range(saves):
            count, start = len(fake.applied_at), time.monotonic()
            chance.choice(paths).write_text(f"# saved {number}\n")
            await fake.until(lambda count=count: len(fake.applied_at) > count)
            waits.append(1000 * (fake.applied_at[-1] - start))
            await asyncio.sleep(chance.random() * 0.05)
        waits.sort()
        rows += [
            Row("a save at the gateway, p50", waits[len(waits) // 2], None, "ms", f"{saves} saves"),
            Row("a save at the gateway, p95", waits[int(len(waits) * 0.95)], 100, "ms", f"max {waits[-1]:.0f} ms"),
        ]
        say("many files at once")
        count, start, switched = len(fake.applied_at), time.monotonic(), paths[:SWITCHED]

        def switch() -> None:
            for number, path in enumerate(switched):
                path.write_text(f"# switched {number}\n")

        await asyncio.to_thread(switch)
        wrote = time.monotonic() - start
        names = [str(path.relative_to(root)) for path in switched]
        await fake.until(lambda: _stands(fake, names), 60)
        took, pushes = time.monotonic() - start, len(fake.applied_at) - count
        note = f"written within {wrote:.1f} s, {pushes} push{'es' * (pushes != 1)}"
        rows.append(Row(f"{len(switched):,} files changed at once, at the gateway", took, None, "s", note))
        rows.append(Row("memory of the indexer after a restart, peak", indexer.peak / MB, 300, "MB"))
    return rows


def _stands(fake: FakeWorkspaces, paths: list[str]) -> bool:
    files = fake.workspaces["w"].files
    return all(files[path][1] < SMALL for path in paths)


def main(words: list[str]) -> int:
    if words[:1] == ["--agent"]:
        asyncio.run(agent(words[1:]))
        return 0
    parser = argparse.ArgumentParser(prog="benchmarks/index.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000, help="files in the tree (100000)")
    parser.add_argument("--megabytes", type=int, default=1000, help="their size together (1000)")
    parser.add_argument("--saves", type=int, default=200, help="single saves to time (200)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    chosen = parser.parse_args(words)
    console = Console(width=150)
    start = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - start:6.1f} s  {text}", highlight=False)

    rows = asyncio.run(measure(chosen.files, chosen.megabytes, chosen.saves, say))
    head = ["what", "seen", "bar", "verdict", "note"]
    table = Table(*head)
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)
    if chosen.write:
        command = shlex.join(["python", "benchmarks/index.py", *words])
        kind = file_system(tempfile.gettempdir().encode())
        facts = f"{time.strftime('%Y-%m-%d')}; {machine()}; {chosen.files:,} files, {chosen.megabytes:,} MB on {kind}, "
        facts += f"just written, so in the page cache; the gateway is the tests' fake. Made by `{command}`."
        sections.write(PAGE, "index", f"{facts}\n\n{markdown_table(head, [r.cells for r in rows])}")
        console.print(f"written: {PAGE.relative_to(ROOT)}")
    return int(any(row.cells[3] == "MISS" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
