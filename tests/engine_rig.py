"""Engines under supervision for tests: the fake vLLM as a child, short waits, and ways to look at its processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from aicockpit.engines.client import Upstream
from aicockpit.engines.engine import Engine
from aicockpit.engines.gpus import GpuTurns
from aicockpit.engines.health import HealthLimits
from aicockpit.engines.logs import LogSink
from aicockpit.engines.orphans import MARK
from aicockpit.engines.process import EngineProcess
from aicockpit.engines.restart import RestartPolicy
from aicockpit.engines.starter import Limits
from aicockpit.types import Address, EngineSpec
from fake_client import FAKE

LIMITS = Limits(
    start_wait=30,
    drain_wait=5,
    term_wait=10,
    kill_wait=10,
    orphan_grace=1,
    ready_poll=0.05,
    health=HealthLimits(period_s=5),
    restart=RestartPolicy(limit=2, window_s=60, first_s=0.05, most_s=0.1),
)
# Ends never by itself; ignores SIGTERM; has a grandchild in a session of its own whose parent is gone.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    time.sleep(600)
os.wait()
print("up", flush=True)
time.sleep(600)
"""


def fake_argv(uds: str, *flags: str, name: str = "fake") -> tuple[str, ...]:
    return (sys.executable, str(FAKE), "serve", "/models/m", "--served-model-name", name, "--uds", uds, *flags)


def spec_of(tmp_path: Path, *flags: str, name: str = "e", argv: tuple[str, ...] = (), **fields: Any) -> EngineSpec:
    uds = str(tmp_path / "run" / f"{name}.sock")
    return EngineSpec(name, "/models/m", (name,), argv or fake_argv(uds, *flags, name=name), uds, **fields)


def make_process(
    tmp_path: Path, spec: EngineSpec, limits: Limits = LIMITS, gpus: GpuTurns | None = None
) -> EngineProcess:
    address = Address(uds=spec.uds)
    engine = Engine(spec.name, address, Upstream(address), spec.served_names)
    sink = LogSink(tmp_path / "logs", spec.name)
    environ = {**os.environ, MARK: mark_of(tmp_path, spec.name)}
    return EngineProcess(engine, spec, limits, sink, gpus or GpuTurns(), environ)


@contextlib.asynccontextmanager
async def process_of(
    tmp_path: Path, *flags: str, argv: tuple[str, ...] = (), **limits: Any
) -> AsyncIterator[EngineProcess]:
    """One EngineProcess of the fake (or of `argv`), closed at the end; then no process of it may be left."""
    process = make_process(tmp_path, spec_of(tmp_path, *flags, argv=argv), replace(LIMITS, **limits))
    try:
        yield process
    finally:
        await process.close()
        assert pids(tmp_path) == []


def mark_of(tmp_path: Path, name: str = "e") -> str:
    return f"test{tmp_path}:{name}"


def pids(tmp_path: Path, name: str = "e") -> list[int]:
    """Every living process of the engine, the guard too, found by its mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark_of(tmp_path, name) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


async def until(condition: Callable[[], object], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        await asyncio.sleep(0.02)
