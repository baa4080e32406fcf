"""One supervised engine: the fake vLLM as a real child, through every state."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import uvloop

from aicockpit.engines.health import HealthLimits
from aicockpit.engines.process import EngineProcess
from aicockpit.engines.restart import RestartPolicy
from aicockpit.errors import EngineStartError, UpstreamLost
from aicockpit.types import EngineState, Lane
from engine_rig import STUBBORN, fake_argv, make_process, pids, process_of, spec_of, until

READY, STARTING, STOPPED = EngineState.READY, EngineState.STARTING, EngineState.STOPPED
STOPPING, BACKOFF, FAILED = EngineState.STOPPING, EngineState.BACKOFF, EngineState.FAILED


async def fake_state(process: EngineProcess) -> dict[str, int]:
    _, body = await process.engine.upstream.fetch("GET", "/fake/state", limit_s=10)
    answer: dict[str, int] = json.loads(body)
    return answer


async def stream(process: EngineProcess, tokens: int) -> bytes:
    """A user's streamed request, counted as the gateway counts it."""
    body = {"model": "e", "prompt": "a", "max_tokens": tokens, "stream": True}
    process.engine.load.add(Lane.INTERACTIVE, 1)
    try:
        _, answer = await process.engine.upstream.fetch(
            "POST", "/v1/completions", json.dumps(body).encode(), limit_s=60
        )
        return answer
    finally:
        process.engine.load.add(Lane.INTERACTIVE, -1)


async def test_start_returns_when_a_generation_succeeded_and_stop_leaves_nothing(tmp_path: Path) -> None:
    async with process_of(tmp_path) as process:
        assert process.status is STOPPED
        await process.start()
        assert process.status is READY
        assert process.engine.pid in pids(tmp_path)
        assert (await fake_state(process))["started"] >= 1
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
        assert any("Application startup complete" in line for line in process.sink.tail(100))
        await process.start()
        await process.stop()
        assert process.status is STOPPED
        assert process.engine.pid is None
        assert pids(tmp_path) == []


async def test_calls_in_every_state_get_an_answer(tmp_path: Path) -> None:
    async with process_of(tmp_path) as process:
        await process.stop()
        await asyncio.gather(process.start(), process.start())
        first = process.engine.pid
        await process.restart()
        assert process.status is READY
        assert process.engine.pid != first
        stopping, again = asyncio.create_task(process.stop()), asyncio.create_task(process.start())
        await asyncio.gather(stopping, again, return_exceptions=True)
        assert process.status is READY
        await asyncio.gather(process.stop(), process.stop())
        await process.close()
        with pytest.raises(EngineStartError, match="engine e is closed"):
            await process.start()
        await process.stop()


async def test_stop_during_start_leaves_no_process(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-start-delay", "60") as process:
        starting = asyncio.create_task(process.start())
        await until(lambda: process.sink.tail(1))
        assert pids(tmp_path)
        await process.stop()
        assert pids(tmp_path) == []
        assert process.status is STOPPED
        with pytest.raises(EngineStartError, match="stopped while it started"):
            await starting


async def test_a_caller_that_leaves_does_not_end_the_start(tmp_path: Path) -> None:
    async with process_of(tmp_path) as process:
        starting = asyncio.create_task(process.start())
        await until(lambda: process.status is STARTING)
        starting.cancel()
        await until(lambda: process.status is READY)


@pytest.mark.parametrize("ready", [False, True])
async def test_cancelling_the_owner_leaves_no_process(tmp_path: Path, ready: bool) -> None:
    process = make_process(tmp_path, spec_of(tmp_path, *(() if ready else ("--fake-start-delay", "60"))))
    process.launch()
    await until(lambda: process.status is READY if ready else process.sink.tail(1))
    (owner,) = [task for task in asyncio.all_tasks() if task.get_name() == "engine e"]
    owner.cancel()
    await asyncio.wait({owner})
    assert pids(tmp_path) == []


async def test_a_crash_loop_gives_up_and_says_so(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-exit-early", "1") as process:
        with pytest.raises(EngineStartError):
            await process.start()
        await until(lambda: process.status is FAILED)
        assert process.engine.restarts == 2
        assert process.engine.reason.startswith(
            "gave up after 2 restarts in 60 s; last reason: it ended with exit code 1"
        )
        assert len(list((tmp_path / "logs").iterdir())) == 3


async def test_exit_code_zero_of_a_running_engine_is_a_crash_too(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-die-after", "1", restart=RestartPolicy(limit=0)) as process:
        await process.start()
        with pytest.raises(UpstreamLost):
            await stream(process, 3)
        await until(lambda: process.status is FAILED)
        assert "it ended with exit code 0 and gave no reason" in process.engine.reason


async def test_a_killed_engine_core_alone(tmp_path: Path) -> None:
    """vLLM ends with code 0 then."""
    async with process_of(tmp_path, "--fake-engine-core") as process:
        await process.start()
        first = process.engine.pid
        os.kill((await fake_state(process))["core_pid"], signal.SIGKILL)
        await until(lambda: process.status is READY and process.engine.pid != first)
        assert process.engine.restarts == 1
        assert process.engine.reason == ""


async def test_the_whole_engine_killed(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-engine-core", restart=RestartPolicy(limit=0)) as process:
        await process.start()
        assert process.engine.pid is not None
        os.kill(process.engine.pid, signal.SIGKILL)
        await until(lambda: process.status is FAILED)
        assert "killed by signal 9" in process.engine.reason
        assert pids(tmp_path) == []
        assert process.error is not None
        assert "dmesg" in process.error.fix


async def test_the_guard_killed(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-engine-core") as process:
        await process.start()
        assert process.engine.pid is not None
        guard = psutil.Process(process.engine.pid).parent()
        assert guard is not None
        before = set(pids(tmp_path))
        guard.kill()
        await until(lambda: process.status is READY and process.engine.restarts == 1)
        assert before.isdisjoint(pids(tmp_path))


@pytest.mark.parametrize("whole", [False, True])
async def test_a_hung_engine_is_killed_and_started_again(tmp_path: Path, whole: bool) -> None:
    health = HealthLimits(period_s=0.5)
    async with process_of(tmp_path, "--fake-engine-core", health=health) as process:
        await process.start()
        first = process.engine.pid
        assert first is not None
        core = (await fake_state(process))["core_pid"]
        if whole:
            os.kill(first, signal.SIGSTOP)
        os.kill(core, signal.SIGSTOP)
        await until(lambda: process.status is BACKOFF)
        assert process.engine.reason.startswith("it hung: it has made no progress for")
        await until(lambda: process.status is READY and process.engine.pid != first)
        assert not psutil.pid_exists(core)


async def test_a_stop_lets_requests_finish_and_routes_nothing_new(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-token-delay", "0.05", drain_wait=60) as process:
        await process.start()
        request = asyncio.create_task(stream(process, 30))
        await until(lambda: process.engine.load.total == 1)
        stopping = asyncio.create_task(process.stop())
        await until(lambda: process.status is STOPPING)
        assert not process.engine.ready
        assert b"[DONE]" in await request
        await stopping


async def test_a_stop_waits_for_requests_no_longer_than_its_limit(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-token-delay", "0.05", drain_wait=0.3, term_wait=0.5) as process:
        await process.start()
        request = asyncio.create_task(stream(process, 100_000))
        await until(lambda: process.engine.load.total == 1)
        await process.stop()
        with contextlib.suppress(Exception):
            await request
        assert process.engine.load.total == 0


async def test_an_engine_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async with process_of(tmp_path, "--fake-ignore-sigterm", "--fake-engine-core", term_wait=0.3) as process:
        await process.start()
        await process.stop()
        assert process.status is STOPPED
        assert pids(tmp_path) == []


async def test_a_descendant_that_left_the_session_is_killed(tmp_path: Path) -> None:
    argv = (sys.executable, "-c", STUBBORN)
    async with process_of(tmp_path, argv=argv, term_wait=0.3) as process:
        process.launch()
        await until(lambda: process.sink.tail(1) == ["up"])
        assert len(pids(tmp_path)) == 3
        await process.stop()
        assert pids(tmp_path) == []


async def test_backoff_can_be_cut_short_and_stopped(tmp_path: Path) -> None:
    slow = RestartPolicy(limit=5, first_s=600, most_s=600)
    async with process_of(tmp_path, "--fake-exit-early", "1", restart=slow) as process:
        with pytest.raises(EngineStartError):
            await process.start()
        await until(lambda: process.status is BACKOFF)
        assert process.engine.stage.startswith("restart 1 of 5 in ")
        with pytest.raises(EngineStartError):
            await process.start()
        await until(lambda: process.status is BACKOFF)
        await process.stop()
        assert process.status is STOPPED


async def test_a_failed_engine_can_be_started_again(tmp_path: Path) -> None:
    marker = tmp_path / "fixed"
    script = f"import os, sys; os.path.exists({str(marker)!r}) or sys.exit(3); os.execv(sys.argv[1], sys.argv[1:])"
    uds = str(tmp_path / "run" / "e.sock")
    argv = (sys.executable, "-c", script, *fake_argv(uds, name="e"))
    async with process_of(tmp_path, argv=argv, restart=RestartPolicy(limit=0)) as process:
        with pytest.raises(EngineStartError, match="exit code 3"):
            await process.start()
        await until(lambda: process.status is FAILED)
        marker.touch()
        await process.start()
        assert process.status is READY
        assert process.error is None


async def test_a_bug_in_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    errors = iter([RuntimeError("a bug")])

    def on_change() -> None:
        for error in errors:
            raise error

    async with process_of(tmp_path) as process:
        await process.start()
        process._on_change = on_change
        with pytest.raises(EngineStartError, match=r"error of the supervisor itself: RuntimeError\('a bug'\)"):
            await process.restart()
        assert process.status is FAILED
        assert pids(tmp_path) == []
        await process.start()


def test_it_runs_on_uvloop_too(tmp_path: Path) -> None:
    async def once() -> None:
        async with process_of(tmp_path, "--fake-engine-core", "--fake-log-flood", "3000000") as process:
            await process.start()
            first = process.engine.pid
            os.kill((await fake_state(process))["core_pid"], signal.SIGKILL)
            await until(lambda: process.status is READY and process.engine.pid != first)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(once())


GATEWAY = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from engine_rig import make_process, spec_of, LIMITS
from dataclasses import replace

async def main():
    flags = ("--fake-engine-core", "--fake-ignore-sigterm") if sys.argv[3] == "ready" else ("--fake-start-delay", "60")
    process = make_process(Path(sys.argv[1]), spec_of(Path(sys.argv[1]), *flags), replace(LIMITS, orphan_grace=0.3))
    process.launch()
    while process.status != sys.argv[3] or not process.sink.tail(1):
        await asyncio.sleep(0.05)
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("state", ["ready", "starting"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
async def test_the_gateway_ends_and_the_engine_with_it(tmp_path: Path, state: str, number: signal.Signals) -> None:
    """kill -9: only the guard can help. SIGINT: asyncio.run cancels every task."""
    command = [sys.executable, "-c", GATEWAY, str(tmp_path), str(Path(__file__).parent), state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as gateway:
        assert gateway.stdout is not None
        assert await asyncio.to_thread(gateway.stdout.readline) == b"up\n"
        assert len(pids(tmp_path)) >= 2
        gateway.send_signal(number)
        await asyncio.to_thread(gateway.wait, 30)
    await until(lambda: pids(tmp_path) == [])
