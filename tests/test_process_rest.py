"""Stops that wait for the last answer, or end in sleep: what else may happen meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from aicockpit.engines.health import HealthLimits
from aicockpit.engines.orphans import MARK
from aicockpit.engines.process import EngineProcess
from aicockpit.engines.starter import Starter
from aicockpit.types import EngineState, Residence
from engine_rig import mark_of, pids, process_of, spec_of, until


@pytest.mark.parametrize("end", ["close", "stop", "restart"])
async def test_one_that_is_to_end_while_it_falls_asleep_does_not_sleep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    asked, sleep = asyncio.Event(), Starter.sleep

    async def slowly(self: Starter) -> bool:
        asked.set()
        await asyncio.sleep(0.3)
        return await sleep(self)

    monkeypatch.setattr(Starter, "sleep", slowly)
    async with process_of(tmp_path) as process:
        await process.start()
        first = process.engine.pid
        falling = asyncio.create_task(process.sleep())
        await asked.wait()
        await asyncio.wait_for(getattr(process, end)(), 20)
        await falling
        if end == "restart":
            assert (process.status, process.engine.pid != first) == (EngineState.READY, True)
        else:
            assert (process.status, pids(tmp_path)) == (EngineState.STOPPED, [])


async def _hang(process: EngineProcess, tmp_path: Path) -> None:
    assert process.engine.pid is not None
    for one in psutil.Process(process.engine.pid).children(recursive=True):
        os.kill(one.pid, signal.SIGSTOP)
    os.kill(process.engine.pid, signal.SIGSTOP)


async def test_a_patient_stop_does_not_wait_for_an_engine_that_hangs(tmp_path: Path) -> None:
    async with process_of(tmp_path, health=HealthLimits(period_s=0.2)) as process:
        await process.start()
        process.engine.load.interactive += 1  # will never be answered
        stopping = asyncio.create_task(process.stop(patient=True))
        await until(lambda: process.status is EngineState.STOPPING)
        await _hang(process, tmp_path)
        await asyncio.wait_for(stopping, 15)
        assert pids(tmp_path) == []
        process.engine.load.interactive -= 1


async def test_a_new_command_counts_from_the_next_start_and_its_memory_too(tmp_path: Path) -> None:
    environ = {**os.environ, MARK: mark_of(tmp_path)}
    small, large = (Residence(pinned=False, needs=(("cpu", size),)) for size in (1, 2))
    async with process_of(tmp_path) as process:
        process.respec(spec_of(tmp_path, residence=large), environ)
        assert process.engine.residence == large
        await process.start()
        process.respec(spec_of(tmp_path, residence=small), environ)
        assert process.engine.residence == large
        await process.stop()
        assert process.engine.residence == small


async def test_a_new_process_does_not_suffer_from_the_failures_of_the_old_one(tmp_path: Path) -> None:
    async with process_of(tmp_path) as process:
        for _ in range(9):
            process.engine.breaker.failed(time.monotonic())
        assert process.engine.breaker.open
        await process.start()
        assert not process.engine.breaker.open
