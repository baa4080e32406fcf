"""Several engines together: independent, stopped in parallel, visible."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aicockpit import settings as settings_module
from aicockpit.engines.orphans import MARK, StateLock, end_marked, mark
from aicockpit.engines.restart import RestartPolicy
from aicockpit.engines.supervisor import Supervisor, child_environ, limits_of
from aicockpit.errors import EngineStartError, SettingError
from aicockpit.settings import Settings
from aicockpit.types import Address, EngineSpec, EngineState
from engine_rig import LIMITS, spec_of, until
from fake_client import start_fake


def settings_of(tmp_path: Path, **values: str) -> Settings:
    environ = {"AICOCKPIT_STATE_DIR": str(tmp_path / "state"), "AICOCKPIT_CHECK_PERIOD": "5", **values}
    return settings_module.load(environ=environ)


@contextlib.asynccontextmanager
async def supervised(
    tmp_path: Path, *specs: EngineSpec, external: tuple[Address, ...] = (), limits: Any = LIMITS
) -> AsyncIterator[Supervisor]:
    settings = settings_of(tmp_path)
    with StateLock(settings.state_dir):
        supervisor = Supervisor(specs, external, settings, limits=limits)
        try:
            yield supervisor
        finally:
            await supervisor.close()
            assert end_marked(mark(settings.state_dir), ours=True) == []


def states(supervisor: Supervisor) -> list[EngineState]:
    return [engine.state for engine in supervisor.engines]


async def test_the_crash_of_one_touches_no_other(tmp_path: Path) -> None:
    async with supervised(tmp_path, spec_of(tmp_path, name="a"), spec_of(tmp_path, name="b")) as supervisor:
        await supervisor.start()
        assert set(states(supervisor)) == {EngineState.STARTING}
        ready = await supervisor.wait_ready()
        assert [engine.name for engine in ready] == ["a", "b"]
        first, second = supervisor.engines
        before = second.pid
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: first.restarts == 1 and first.ready)
        assert (second.pid, second.restarts, second.state) == (before, 0, EngineState.READY)


async def test_one_that_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    specs = spec_of(tmp_path, name="good"), spec_of(tmp_path, "--fake-exit-text", "gated", name="bad")
    async with supervised(tmp_path, *specs) as supervisor:
        await supervisor.start()
        assert [engine.name for engine in await supervisor.wait_ready()] == ["good"]
        assert supervisor.engines[1].reason == "the model is gated, and this account has no access to it"


async def test_all_failed(tmp_path: Path) -> None:
    specs = [spec_of(tmp_path, "--fake-exit-text", text, name=text) for text in ("gated", "context-kv")]
    async with supervised(tmp_path, *specs) as supervisor:
        await supervisor.start()
        with pytest.raises(EngineStartError, match=r"(?s)no engine started:\ngated: the model is gated.*context-kv: "):
            await supervisor.wait_ready()
    async with supervised(tmp_path, specs[0]) as supervisor:
        await supervisor.start()
        with pytest.raises(EngineStartError, match=r"set HF_TOKEN of that account"):
            await supervisor.wait_ready()


async def test_no_engines(tmp_path: Path) -> None:
    async with supervised(tmp_path) as supervisor:
        await supervisor.start()
        assert await supervisor.wait_ready() == []


async def test_external_engines_look_the_same(tmp_path: Path) -> None:
    with start_fake(tmp_path, names=("far",)) as fake:
        address = Address(uds=fake.uds or "")
        async with supervised(tmp_path, spec_of(tmp_path, name="near"), external=(address,)) as supervisor:
            await supervisor.start()
            await supervisor.wait_ready()
            await until(lambda: all(engine.ready for engine in supervisor.engines))
            assert [(e.name, e.served_names, e.supervised) for e in supervisor.engines] == [
                ("near", ("near",), True),
                ("external-1", ("far",), False),
            ]
            assert supervisor.log_tail("external-1", 9) == []
            await supervisor.stop("external-1")
            await supervisor.start_engine("external-1")
            await until(lambda: supervisor.engines[1].ready)


async def test_operators_calls_and_the_log(tmp_path: Path) -> None:
    async with supervised(tmp_path, spec_of(tmp_path, name="a")) as supervisor:
        await supervisor.start_engine("a")
        (engine,) = supervisor.engines
        first = engine.pid
        await supervisor.restart("a")
        assert engine.pid != first
        assert any("startup complete" in line for line in supervisor.log_tail("a", 50))
        await supervisor.stop("a")
        assert engine.state is EngineState.STOPPED
        for call in (supervisor.start_engine, supervisor.stop, supervisor.restart):
            with pytest.raises(KeyError):
                await call("nobody")


async def test_changes_can_be_waited_for(tmp_path: Path) -> None:
    async with supervised(tmp_path, spec_of(tmp_path, "--fake-start-delay", "4", name="a")) as supervisor:
        seen, stages = supervisor.version, set()
        await supervisor.start()
        while not supervisor.engines[0].ready:
            seen = await supervisor.changed(seen)
            stages.add(supervisor.engines[0].stage)
        assert {"importing", "weights loaded"} <= stages
        waiting = asyncio.create_task(supervisor.changed())
        await asyncio.sleep(0)
        await supervisor.stop("a")
        assert await waiting > seen
        assert await supervisor.changed(seen) > seen


async def test_everything_stops_in_parallel(tmp_path: Path) -> None:
    specs = [spec_of(tmp_path, "--fake-ignore-sigterm", name=name) for name in "abc"]
    async with supervised(tmp_path, *specs, limits=replace(LIMITS, term_wait=2)) as supervisor:
        await supervisor.start()
        await supervisor.wait_ready()
        closing = asyncio.create_task(supervisor.close())
        await until(lambda: set(states(supervisor)) == {EngineState.STOPPING})
        await closing
        assert set(states(supervisor)) == {EngineState.STOPPED}


def test_two_engines_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="two engines are named 'a'"):
        Supervisor([spec_of(tmp_path, name="a")] * 2, (), settings_of(tmp_path))


def test_an_engine_inherits_no_key_of_ours(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, HF_TOKEN="hf_x")
    spec = spec_of(tmp_path, env=(("OMP_NUM_THREADS", "1"),))
    base = {"PATH": "/bin", "AICOCKPIT_API_KEY": "secret", "VLLM_API_KEY": "secret", "OMP_NUM_THREADS": "9"}
    base |= {"HF_TOKEN": "hf_x", "HUGGING_FACE_HUB_TOKEN": "hf_x"}
    assert child_environ(base, settings, spec) == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "1",
        "SPT_NOENV": "1",
        MARK: mark(settings.state_dir, "e"),
    }


def test_limits_come_from_the_settings(tmp_path: Path) -> None:
    values = {"START_WAIT": "7", "STOP_WAIT": "8", "CHECK_PERIOD": "0", "RESTARTS": "3", "RESTART_WINDOW": "9"}
    limits = limits_of(settings_of(tmp_path, **{f"AICOCKPIT_{name}": value for name, value in values.items()}))
    assert (limits.start_wait, limits.drain_wait, limits.health.period_s) == (7, 8, 0.1)
    assert limits.restart == RestartPolicy(3, 9)
