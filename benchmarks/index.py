"""Measure the indexer: `python benchmarks/index.py [--files 100000] [--megabytes 1000] [--saves 200] [--write]`.

A tree of synthetic source files on a real disk, part of it a git repository's; the indexer in a process of its own,
and in another one the gateway's routes and store. Files lie under TMPDIR if that is set, else under `.bench`; they
are removed at the end, and everything ends by itself within six minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from aicockpit.indexer.git import environment
from aicockpit.indexer.watch import file_system
from benchmarks import sections
from benchmarks.gateway import machine
from benchmarks.index_site import Process, Site
from benchmarks.proc import ROOT
from benchmarks.report import markdown_table

PAGE = ROOT / "docs" / "performance.md"
MB = 1 << 20
SWITCHED = 5000
LIMIT_S = 320.0  # for measuring; growing the tree and removing it take the rest of six minutes
SETTLE_S, IDLE_S = 2.0, 10.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `bar`: what it must stay under, None without one."""

    what: str
    seen: float
    bar: float | None
    unit: str
    note: str = ""

    @property
    def verdict(self) -> str:
        return "-" if self.bar is None else "PASS" if self.seen < self.bar else "FAIL"

    @property
    def cells(self) -> list[str]:
        bar = "-" if self.bar is None else f"< {self.bar:g} {self.unit}"
        return [self.what, f"{self.seen:,.1f} {self.unit}", bar, self.verdict, self.note]


def paths(files: int) -> Iterator[str]:
    """Folders of 50 files each; the first of them are the repository's."""
    for number in range(files):
        yield f"p{number // 2500}/q{number // 50 % 50}/module_{number}.py"


def grow(root: Path, files: int, size: int) -> None:
    """Files of about `size` bytes each, no two alike, on the disk and not in its cache."""
    chance = random.Random(1)
    words = " ".join(f"name_{chance.randrange(10**6)}" for _ in range(size // 8)).encode()
    made = [root / name for name in paths(files)]
    for number, path in enumerate(made):
        if number % 50 == 0:
            path.parent.mkdir(parents=True)
        start = chance.randrange(max(1, len(words) - size))
        path.write_bytes(b"# %d\n" % number + words[start : start + size])
    os.sync()
    for path in made:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def git(root: Path, *words: str) -> None:
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "core.compression=0", "-c", "gc.auto=0")
    command = ["git", *who, *words]
    subprocess.run(command, cwd=root, env=environment(os.environ), check=True, capture_output=True)


def branches(root: Path, files: int) -> int:
    """The first files are a repository of two branches, in which all of them differ; returns how many those are."""
    chosen = list(paths(min(files, SWITCHED)))
    listed = "\0".join(chosen).encode()
    git(root, "init", "-q", "-b", "main")
    (root / ".git/listed").write_bytes(listed)
    for branch in ("main", "other"):
        if branch == "other":
            git(root, "checkout", "-q", "-b", branch)
            for name in chosen:
                with (root / name).open("ab") as file:
                    file.write(b"# on the other branch\n")
        git(root, "add", "--pathspec-from-file=.git/listed", "--pathspec-file-nul")
        git(root, "commit", "-q", "-m", branch)
    git(root, "checkout", "-q", "main")
    return len(chosen)


async def first(site: Site, files: int) -> list[Row]:
    """From nothing until everything is at the gateway."""
    before = site.gateway.cpu_s
    async with site.indexer() as indexer:
        await site.until(lambda: bool(site.revisions), indexer)
        arrived = site.revisions[0]
        hashed = indexer.when(lambda line: line["phase"] == "hash" and line["done"] == line["total"])
        assert hashed is not None
        assert arrived.changes == files, arrived
        memory, cpu = indexer.peak, indexer.cpu_s
    took = arrived.at - indexer.start
    return [
        Row("first scan: every file read and hashed", hashed, 60, "s", f"{len(indexer.told)} progress reports"),
        Row("first scan: and everything at the gateway", took, 60, "s", f"{arrived.requests} requests"),
        Row("first scan: memory of the indexer, peak", memory / MB, 300, "MB"),
        Row("first scan: CPU of the indexer", cpu, None, "s"),
        Row("first scan: CPU of the gateway", site.gateway.cpu_s - before, None, "s"),
        Row("first scan: memory of the gateway, peak", site.gateway.peak / MB, None, "MB"),
        Row("first scan: the gateway's event loop at a standstill, longest", 1000 * arrived.stall_s, None, "ms"),
    ]


async def restart(site: Site, indexer: Process) -> list[Row]:
    known, requests = len(site.revisions), site.gateway.cpu_s
    await site.until(lambda: any(line["phase"] == "watching" for line in indexer.told), indexer)
    ready = indexer.when(lambda line: line["phase"] == "watching")
    assert ready is not None
    assert len(site.revisions) == known, "nothing has changed, so nothing may be sent"
    note = f"CPU of the gateway {site.gateway.cpu_s - requests:.2f} s"
    return [
        Row("restart with nothing changed", ready, 5, "s", note),
        Row("restart: memory of the indexer, peak", indexer.peak / MB, 300, "MB"),
    ]


async def saves(site: Site, indexer: Process, files: int, count: int) -> list[Row]:
    """Single saves of files anywhere; the time until the store has each."""
    chance = random.Random(2)
    names = list(paths(files))
    waits = []
    for number in range(count):
        known, start = len(site.revisions), time.monotonic()
        (site.root / chance.choice(names)).write_text(f"# saved {number}\n")
        await site.more_than(known, indexer)
        waits.append(1000 * (site.revisions[known].at - start))
        await asyncio.sleep(0.05 + chance.random() * 0.1)
    waits.sort()
    return [
        Row("a save, until the store has it, p50", waits[len(waits) // 2], None, "ms", f"{count} saves"),
        Row("a save, until the store has it, p95", waits[int(len(waits) * 0.95)], 100, "ms", f"max {waits[-1]:.0f} ms"),
    ]


async def switch(site: Site, indexer: Process, count: int) -> list[Row]:
    """`git checkout` of a branch in which so many files differ; there, and back."""
    rows = []
    for branch, what in (("other", "never seen before"), ("main", "and back: known contents")):
        known, start = len(site.revisions), time.monotonic()
        await asyncio.to_thread(git, site.root, "checkout", "-q", branch)
        took = time.monotonic() - start
        while sum(revision.changes for revision in site.revisions[known:]) < count:
            await site.more_than(len(site.revisions), indexer)
        seen = site.revisions[known:]
        sent = sum(revision.requests for revision in seen)
        note = f"git took {took:.1f} s; {len(seen)} revision{'s' * (len(seen) > 1)}, {sent} requests"
        rows.append(Row(f"branch switch, {count:,} files, {what}", seen[-1].at - start, None, "s", note))
        await asyncio.sleep(SETTLE_S)  # git's index is asked when it is quiet
    return rows


async def idle(site: Site, indexer: Process) -> list[Row]:
    await asyncio.sleep(SETTLE_S)
    before = indexer.cpu_s
    await asyncio.sleep(IDLE_S)
    share = 100 * (indexer.cpu_s - before) / IDLE_S
    return [Row("CPU of the indexer while nothing changes", share, None, "% of a core", f"over {IDLE_S:.0f} s")]


async def measure(place: Path, files: int, megabytes: int, count: int, say: Say) -> list[Row]:
    """All rows. Raises TimeoutError."""
    root = place / "tree"
    say(f"growing {files:,} files, {megabytes:,} MB in {place}")
    switched = 0

    def prepare() -> None:
        nonlocal switched
        grow(root, files, megabytes * 1_000_000 // files)
        switched = branches(root, files)

    await asyncio.to_thread(prepare)
    rows: list[Row] = []
    async with asyncio.timeout(LIMIT_S), Site(root, place) as site:
        say("first scan")
        rows += await first(site, files)
        say("restart")
        async with site.indexer() as indexer:
            rows += await restart(site, indexer)
            say("idle")
            rows += await idle(site, indexer)
            say("branch switch")
            rows += await switch(site, indexer, switched)
            say("saves")
            rows += await saves(site, indexer, files, count)
            rows.append(Row("all of this: memory of the indexer, peak", indexer.peak / MB, 300, "MB"))
    return rows


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/index.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000, help="files in the tree (100000)")
    parser.add_argument("--megabytes", type=int, default=1000, help="their size together (1000)")
    parser.add_argument("--saves", type=int, default=200, help="single saves to time (200)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """0 when every bar holds, 1 when one does not, 2 when there was no time to measure."""
    chosen = parsed(words)
    console = Console(width=150)
    start = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - start:6.1f} s  {text}", highlight=False, markup=False, soft_wrap=True)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(2))  # so that the files go
    folder = Path(os.environ.get("TMPDIR") or Path.cwd() / ".bench").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="index-", dir=folder) as name:
            rows = asyncio.run(measure(Path(name), chosen.files, chosen.megabytes, chosen.saves, say))
            say("removing the files")
    except TimeoutError:
        say(f"not done after {LIMIT_S:.0f} s: nothing is written")
        return 2
    head = ["what", "seen", "bar", "verdict", "note"]
    table = Table(*head)
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)
    failed = [row.what for row in rows if row.verdict == "FAIL"]
    say(f"FAIL: {'; '.join(failed)}" if failed else "PASS: every bar")
    if chosen.write:
        command = shlex.join(["python", "benchmarks/index.py", *words])
        facts = f"{time.strftime('%Y-%m-%d')}; {machine()}; {chosen.files:,} files, {chosen.megabytes:,} MB on "
        facts += (
            f"{file_system(os.fsencode(folder)) or 'a disk of unknown kind'}, their contents not in the page cache; "
        )
        facts += f"the gateway's routes and store, in a process of their own, on the same disk. Made by `{command}`."
        sections.write(PAGE, "index", f"{facts}\n\n{markdown_table(head, [r.cells for r in rows])}")
        say(f"written: {PAGE.name}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
