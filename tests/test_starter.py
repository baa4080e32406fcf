"""One start of an engine: how far it is, why it failed, what it needs and what it leaves."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from aicockpit.engines.gpus import GpuTurns
from aicockpit.engines.orphans import MARK
from aicockpit.engines.restart import RestartPolicy
from aicockpit.engines.starter import prepare_socket
from aicockpit.errors import EngineStartError
from aicockpit.types import EngineState
from engine_rig import LIMITS, make_process, mark_of, pids, process_of, spec_of, until

STARTING, FAILED = EngineState.STARTING, EngineState.FAILED
SLEEP = (sys.executable, "-c", "import time\nprint('up', flush=True)\ntime.sleep(600)")


async def test_stages_are_told_while_it_starts(tmp_path: Path) -> None:
    seen: list[str] = []
    process = make_process(tmp_path, spec_of(tmp_path, "--fake-start-delay", "1"))
    process._on_change = lambda: seen.append(process.engine.stage)
    await process.start()
    assert "loading weights (2/2)" in seen
    assert seen.index("importing") < seen.index("weights loaded")
    assert process.engine.stage == ""
    await process.close()


async def test_a_start_that_cannot_work_fails_at_once_with_a_reason_and_a_fix(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-exit-text", "context-kv") as process:
        with pytest.raises(EngineStartError) as caught:
            await process.start()
        assert process.status is FAILED
        assert "3168 tokens would fit" in process.engine.reason
        assert "--max-model-len 3168" in caught.value.fix
        assert "estimated maximum model length is 3168" in Path(caught.value.log_path).read_text()
        assert process.engine.restarts == 0


async def test_the_cause_is_found_in_a_flood(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-exit-text", "flood", restart=RestartPolicy(limit=0)) as process:
        with pytest.raises(EngineStartError):
            await process.start()
        assert "RuntimeError: the one line that matters in a flood of others" in process.engine.reason


async def test_a_missing_command(tmp_path: Path) -> None:
    async with process_of(tmp_path, argv=("no-such-command",)) as process:
        with pytest.raises(EngineStartError, match="the command 'no-such-command' cannot be started"):
            await process.start()
        assert process.status is FAILED


async def test_start_wait(tmp_path: Path) -> None:
    async with process_of(tmp_path, argv=SLEEP, start_wait=1, restart=RestartPolicy(limit=0)) as process:
        with pytest.raises(EngineStartError, match="not ready after 1 s; last stage: importing"):
            await process.start()
        await until(lambda: process.status is FAILED)
        assert pids(tmp_path) == []


async def test_it_is_not_ready_before_a_generation_succeeded(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-status", "503") as process:
        process.launch()
        await until(lambda: process.engine.stage == "first generation")
        await asyncio.sleep(0.3)
        assert process.status is STARTING


async def test_a_stale_socket_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "e.sock"))
    async with process_of(tmp_path) as process:
        await process.start()


def test_sockets_that_cannot_be(tmp_path: Path) -> None:
    prepare_socket("")
    with pytest.raises(OSError, match="longer than the 107 bytes"):
        prepare_socket(str(tmp_path / ("x" * 110)))
    file = tmp_path / "file.sock"
    file.touch()
    with pytest.raises(OSError, match="is not a socket"):
        prepare_socket(str(file))
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(OSError, match="open to other users"):
        prepare_socket(str(folder / "e.sock"))


async def test_a_socket_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    spec = replace(spec_of(tmp_path), uds=str(tmp_path / ("x" * 110)))
    process = make_process(tmp_path, spec)
    with pytest.raises(EngineStartError, match="use a shorter AICOCKPIT_STATE_DIR"):
        await process.start()
    await process.close()


async def test_a_flood_of_output_neither_blocks_the_engine_nor_grows_memory(tmp_path: Path) -> None:
    script = """
import os, sys
line = b"x" * 99 + b"\\n"
for _ in range(500):
    os.write(2, line * 1000)
for _ in range(50):
    os.write(1, b"y" * 1_000_000)
print("\\nend of the flood", flush=True)
sys.exit(7)
"""
    before = psutil.Process().memory_info().rss
    argv = (sys.executable, "-c", script)
    async with process_of(tmp_path, argv=argv, start_wait=60, restart=RestartPolicy(limit=0)) as process:
        with pytest.raises(EngineStartError, match="exit code 7"):
            await process.start()
        assert "end of the flood" in process.sink.tail(5)
        assert psutil.Process().memory_info().rss - before < 60 << 20
        assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) < 60 << 20


async def test_two_engines_on_one_gpu_start_one_after_the_other(tmp_path: Path) -> None:
    gpus = GpuTurns()
    made = [make_process(tmp_path, spec_of(tmp_path, name=name, gpus=("0",)), gpus=gpus) for name in ("a", "b")]
    seen: list[tuple[str, str]] = []
    for process in made:
        process._on_change = lambda p=process: seen.append((p.engine.name, str(p.status)))  # type: ignore[misc]
    try:
        for process in made:
            process.launch()
        await until(lambda: made[0].engine.stage not in ("", "waiting for its turn on the GPU"))
        assert made[1].engine.stage == "waiting for its turn on the GPU"
        assert pids(tmp_path, "b") == []
        await asyncio.gather(*(process.start() for process in made))
        assert seen.index(("a", "ready")) < seen.index(("b", "ready"))
    finally:
        await asyncio.gather(*(process.close() for process in made))


async def test_environment_and_limits_reach_the_engine(tmp_path: Path) -> None:
    script = f"import os, time; print(os.environ[{MARK!r}], flush=True); time.sleep(600)"
    async with process_of(tmp_path, argv=(sys.executable, "-c", script), term_wait=1) as process:
        process.launch()
        await until(lambda: process.sink.tail(1) == [mark_of(tmp_path)])
        assert LIMITS.kill_wait == process.limits.kill_wait


async def test_a_stop_between_ready_and_the_last_look_at_the_gpu_leaves_no_process(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def free(gpu: str) -> int:
        if pids(tmp_path):  # the engine runs: this is the look after it became ready
            asked.set()
            go_on.wait(20)
        return 40 << 30

    gpus = GpuTurns(free, read_period=0.001)
    process = make_process(tmp_path, spec_of(tmp_path, gpus=("0",)), gpus=gpus)
    process.launch()
    try:
        await until(asked.is_set)
        stopping = asyncio.create_task(process.stop())
        await asyncio.sleep(0.1)
        go_on.set()
        await stopping
        assert pids(tmp_path) == []
    finally:
        go_on.set()
        await process.close()
