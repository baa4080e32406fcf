"""The guard as a real process, without the gateway."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aicockpit.engines import guard
from engine_rig import STUBBORN

GUARD = Path(guard.__file__)


class Guarded:
    """A guard over `python -c script`."""

    def __init__(self, script: str, grace: float = 0.3, argv: tuple[str, ...] = ()) -> None:
        command = argv or (sys.executable, "-c", script)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(GUARD), "--grace", str(grace), "--", *command],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.engine = int(self.process.stdout.readline().removeprefix(b"pid="))
        self.tree: list[psutil.Process] = []

    def up(self) -> None:
        """Wait until the script has printed its first line, and note every process."""
        assert self.process.stderr is not None
        assert self.process.stderr.readline()
        self.tree = psutil.Process(self.process.pid).children(recursive=True)

    def command(self, letter: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(letter)

    def status(self) -> int:
        return self.process.wait(20)

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self.process.wait(20)


@pytest.fixture
def made() -> Iterator[list[Guarded]]:
    guards: list[Guarded] = []
    yield guards
    for one in guards:
        one.close()


def test_only_the_standard_library_is_imported() -> None:
    tree = ast.parse(GUARD.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("script", "status"), [("raise SystemExit(3)", 3), ("pass", 0), ("import os; os.abort()", 134)]
)
def test_it_exits_with_the_engines_status(made: list[Guarded], script: str, status: int) -> None:
    made.append(Guarded(script))
    assert made[0].status() == status


def test_a_command_that_does_not_exist(made: list[Guarded]) -> None:
    made.append(Guarded("", argv=("no-such-command", "x")))
    assert made[0].status() == 127
    assert made[0].process.stderr is not None
    assert made[0].process.stderr.read() == (
        b"aicockpit guard: cannot start 'no-such-command': No such file or directory\n"
    )


def test_both_outputs_of_the_engine_are_the_log(made: list[Guarded]) -> None:
    made.append(Guarded("import os; os.write(1, b'one\\n'); os.write(2, b'two\\n')"))
    assert made[0].process.stderr is not None
    assert made[0].process.stderr.read() == b"one\ntwo\n"


def test_the_engine_has_default_signals_and_an_empty_stdin(made: list[Guarded]) -> None:
    script = """
import signal, sys
print([n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN and n not in (13, 25)])
print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), repr(sys.stdin.read()))
"""
    made.append(Guarded(script))
    assert made[0].process.stderr is not None
    assert made[0].process.stderr.read() == b"[]\n0 ''\n"


def test_t_is_sigterm_to_the_engine(made: list[Guarded]) -> None:
    script = "import signal, time\nsignal.signal(15, lambda *_: exit(5))\nprint('up', flush=True)\ntime.sleep(600)"
    made.append(Guarded(script))
    made[0].up()
    made[0].command(b"T")
    assert made[0].status() == 5


def test_k_kills_every_descendant_even_one_that_left_the_session(made: list[Guarded]) -> None:
    made.append(Guarded(STUBBORN))
    made[0].up()
    assert len(made[0].tree) == 2
    made[0].command(b"T")
    time.sleep(0.2)
    assert made[0].process.poll() is None
    made[0].command(b"K")
    assert made[0].status() == 128 + 9
    assert not any(process.is_running() for process in made[0].tree)


def test_the_end_of_the_pipe_ends_the_engine_after_the_grace(made: list[Guarded]) -> None:
    made.append(Guarded(STUBBORN))
    made[0].up()
    assert made[0].process.stdin is not None
    made[0].process.stdin.close()
    assert made[0].status() == 128 + 9
    assert not any(process.is_running() for process in made[0].tree)


def test_what_the_engine_leaves_behind_is_killed(made: list[Guarded]) -> None:
    script = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(600)
print("up", flush=True)
time.sleep(3)
"""
    made.append(Guarded(script))
    made[0].up()
    assert len(made[0].tree) == 2
    assert made[0].status() == 0
    assert not any(process.is_running() for process in made[0].tree)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_do_not_move_the_guard(made: list[Guarded], number: signal.Signals) -> None:
    made.append(Guarded("import time\nprint('up', flush=True)\ntime.sleep(600)"))
    made[0].up()
    os.kill(made[0].process.pid, number)
    time.sleep(0.2)
    assert made[0].process.poll() is None
    made[0].command(b"K")
    assert made[0].status() == 128 + 9


def test_the_engine_dies_with_a_killed_guard(made: list[Guarded]) -> None:
    made.append(Guarded("import time\nprint('up', flush=True)\ntime.sleep(600)"))
    made[0].up()
    made[0].process.kill()
    made[0].process.wait(20)
    psutil.wait_procs(made[0].tree, timeout=20)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in made[0].tree)


def test_orphans_are_reaped_while_the_engine_runs(made: list[Guarded]) -> None:
    script = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        if os.fork() > 0:
            os._exit(0)
        time.sleep(0.1)
        os._exit(0)
    os.wait()
time.sleep(0.5)
print('up', flush=True)
time.sleep(600)
"""
    made.append(Guarded(script))
    made[0].up()
    assert [process.pid for process in made[0].tree] == [made[0].engine]
    made[0].command(b"K")
    made[0].status()
