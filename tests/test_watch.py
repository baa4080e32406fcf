"""`aicockpit watch` as a process: a bar on a terminal while the first scan runs, lines in a log."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rich.console import Console

from aicockpit.console import Steps
from aicockpit.indexer.agent import Progress
from aicockpit.watch import _Bar, _Screen, _shown
from fake_workspace import FakeWorkspaces
from fake_workspace import serving as fake_serving
from indexer_rig import put
from serving import environ

COUNT = 3000
# A bar of rich on a terminal that takes UTF-8: what is done, and what is not.
FULL, EMPTY = "━", "╸"
COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
async def fake() -> AsyncIterator[FakeWorkspaces]:
    async with fake_serving(FakeWorkspaces(keep=False, slow_s=0.4)) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    put(made, {f"d{number % 40}/f{number}.py": f"x = {number}\n" * 40 for number in range(COUNT)})
    return made


@contextlib.asynccontextmanager
async def process(
    fake: FakeWorkspaces, root: Path, out: int, **extra: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", "aicockpit.cli", "watch", str(root), "--name", "w", "--gateway", fake.address)
    env = environ(root.parent, AICOCKPIT_API_KEY=fake.key, PYTHONUTF8="1", **extra)
    env.pop("COLUMNS", None)
    child = await asyncio.create_subprocess_exec(*command, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=out)
    try:
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), 20) == 0


async def in_terminal(fake: FakeWorkspaces, root: Path, columns: int, **extra: str) -> list[str]:
    """What a terminal of that width was told until the tree is in sync, piece by piece without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    text = b""

    def read() -> None:
        nonlocal text
        text += os.read(ours, 65536)

    loop = asyncio.get_running_loop()
    loop.add_reader(ours, read)
    try:
        async with process(fake, root, theirs, TERM=extra.pop("TERM", "xterm-256color"), **extra):
            await fake.until(lambda: b"in sync" in text, 40)
    finally:
        loop.remove_reader(ours)
        os.close(ours)
        os.close(theirs)
    return [line for line in re.split(r"[\r\n]+", COLOURS.sub("", text.decode())) if line.strip()]


async def test_the_first_scan_shows_a_bar_on_a_terminal(fake: FakeWorkspaces, root: Path) -> None:
    lines = await in_terminal(fake, root, 100)
    bars = [line for line in lines if FULL in line]
    counted = [found for line in bars if (found := re.search(r"(\d+)% +([\d,]+) of ([\d,]+)", line))]
    for found in counted:
        share, done, total = (int(one.replace(",", "")) for one in found.groups())
        assert share == round(100 * done / total)
    assert any(0 < int(found[1]) < 100 for found in counted), lines  # each of three bodies takes the gateway 0.4 s
    assert {found[3] for found in counted} == {f"{COUNT:,}"}
    assert max(map(len, lines[1:])) <= 100
    assert lines[-1].strip() == f"in sync: {COUNT:,} files at revision 1"


async def test_a_bar_fits_a_narrow_terminal(fake: FakeWorkspaces, root: Path) -> None:
    lines = await in_terminal(fake, root, 40)
    assert any(line.startswith("sending what") for line in lines)
    assert max(len(line) for line in lines if not line.startswith(("workspace", "/", "->"))) <= 40


async def test_a_log_gets_lines_and_no_bar(fake: FakeWorkspaces, root: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as out:
        async with process(fake, root, out.fileno()):
            await fake.until(lambda: "in sync" in log.read_text(), 40)
    lines = log.read_text().splitlines()
    assert lines[0].startswith("workspace w: ")
    assert lines[1].startswith("looking for files")
    assert any(line.startswith("sending what the gateway lacks") for line in lines)
    assert lines[-1] == f"in sync: {COUNT:,} files at revision 1"
    assert not re.search(f"[{FULL}{EMPTY}\x1b\r]", log.read_text())


async def test_a_terminal_that_cannot_move_its_cursor_gets_lines(fake: FakeWorkspaces, root: Path) -> None:
    lines = await in_terminal(fake, root, 100, TERM="dumb")
    assert not any(FULL in line for line in lines)
    assert any(line.startswith("sending what the gateway lacks") for line in lines)


def test_a_log_gets_a_line_every_few_seconds_while_only_a_count_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("aicockpit.watch.time.monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=80)
    screen = _Screen(console, None)
    for number in range(101):  # ten seconds of ten reports a second
        now = 100 + number / 10
        screen.show(Progress("hash", number * 1000, 100_000))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["reading files"] + [f"reading files {count},000 of 100,000" for count in (20, 40, 60, 80, 100)]


def test_a_new_phase_begins_its_own_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    bar = _Bar(console)
    for progress in (Progress("scan", 1234), Progress("hash", 50, 200), Progress("push", 3, 4)):
        console.print(bar.at(progress))
    scan, read, send = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert scan.rstrip().endswith("1,234")
    assert "%" not in scan
    assert "25% 50 of 200" in read
    assert send.startswith("sending what the gateway lacks")
    assert "75% 3 of 4" in send
    assert len(re.findall(FULL, read)) < len(re.findall(FULL, scan))


def test_what_is_to_be_read_stays_above_the_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with _shown(console) as screen:
        screen.show(Progress("hash", 1, 2, message="not sent, since the content looks like a key"))
        screen.show(Progress("watching", files=2, revision=1, left_out={"binary": 3}))
    text = COLOURS.sub("", console.file.getvalue())  # type: ignore[attr-defined]
    assert "not sent, since the content looks like a key\n" in text
    assert "left out: 3 binary\n" in text


def test_steps_are_lines_on_a_terminal_that_cannot_move_its_cursor() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "dumb"})
    with Steps(console) as steps:
        steps.update("model", "looking")
        steps.end("model", "found")
    first, last = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first.endswith("model: looking")
    assert last.endswith("model: found done")
