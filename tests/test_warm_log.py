"""The log says when a pack becomes warm on an engine and when it no longer is, once each, and nothing for saves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aicockpit.types import EngineState
from aicockpit.workspace.steps import Key, Origin, Progress
from aicockpit.workspace.track import EpochLimits
from epoch_rig import MODEL, Given, Rig, Script

NAMES = ("a.py", "b.py", "c.py")


class Timed(Script):
    """A scripted prefetcher that says where its heads came from."""

    reason = ""

    def status(self, key: Key, /) -> Progress:
        told = super().status(key)
        return replace(told, origin=Origin(16, 32, 48), seconds=1.26, reason=self.reason)


@pytest.fixture
async def rig(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Rig]:
    caplog.set_level(logging.INFO, "aicockpit.workspace.care")
    worth = {"completion": Given(), "chat": Given(0, 0, 0, 0, "worth nothing")}
    made = Rig(tmp_path, limits=EpochLimits(idle_s=60.0, retry_s=0.05), worth=worth).start()
    made.engines["e0"] = Timed("e0", made.warmth, made.contexts.report)
    yield made
    await made.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aicockpit.workspace.care"]


def lane(rig: Rig) -> dict[str, Any]:
    return dict(rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"])


async def warm(rig: Rig, caplog: pytest.LogCaptureFixture, lines: int = 1) -> None:
    await rig.in_service(*NAMES)
    await rig.until(lambda: len(said(caplog)) == lines)


async def test_a_pack_that_is_warm_is_told_once_with_what_it_took(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await warm(rig, caplog)
    size = len(rig.engines["e0"].targets[0].tokens)
    assert said(caplog) == [
        f"workspace repo, completion of coder: warm on e0 after 1.3 s: {size} tokens "
        "(16 computed, 32 in memory before, 48 from a KV tier)"
    ]
    (record,) = [one for one in caplog.records if "warm on" in one.getMessage()]
    assert record.levelno == logging.INFO


async def test_saves_make_no_line(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def told(saves: int) -> bool:
        return lane(rig)["state"] == "warm" and len(lane(rig)["epoch"]["journal"]) == saves

    await warm(rig, caplog)
    rig.engines["e0"].auto = True
    for number in range(3):
        await rig.write({"a.py": f"api of a.py\nbody {number}, long enough to fill a block or two"})
        await rig.until(partial(told, number + 1))
        await asyncio.sleep(0.02)
    assert len(said(caplog)) == 1


async def test_a_lost_head_is_told_and_so_is_its_return(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await warm(rig, caplog)
    script = rig.engines["e0"]
    assert isinstance(script, Timed)
    script.reason = "64 of its 96 tokens were evicted"
    script.open()
    rig.contexts.engines_changed()
    await rig.until(lambda: len(said(caplog)) == 2)
    for _ in range(3):
        rig.contexts.engines_changed()
        await asyncio.sleep(0.01)
    lost = "workspace repo, completion of coder: no longer warm on e0: 64 of its 96 tokens were evicted"
    assert said(caplog)[1:] == [lost]
    script.reason = ""
    script.warm()
    await rig.until(lambda: len(said(caplog)) == 3)
    assert "warm on e0 after" in said(caplog)[2]


async def test_an_engine_that_went_away_has_a_reason_too(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await warm(rig, caplog)
    rig.engines["e0"].engine.state = EngineState.BACKOFF
    rig.warmth.forget("e0")
    rig.contexts.engines_changed()
    await rig.until(lambda: len(said(caplog)) == 2)
    assert said(caplog)[1].endswith("no longer warm on e0: the engine is not ready")


async def test_a_new_pack_is_told_and_the_one_it_replaces_is_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aicockpit.workspace.care")
    worth = {"completion": Given(), "chat": Given(0, 0, 0, 0, "worth nothing")}
    rig = Rig(tmp_path, limits=EpochLimits(idle_s=0.05, retry_s=0.05), worth=worth).start()
    try:
        await warm(rig, caplog)
        rig.engines["e0"].auto = True
        before = lane(rig)["epoch"]["id"]
        await rig.write({"a.py": "api of a.py, and more of it\nbody"})
        await rig.until(lambda: lane(rig)["epoch"]["id"] != before and lane(rig)["state"] == "warm")
        await rig.until(lambda: len(said(caplog)) == 2)
        assert [": warm on e0: " in line for line in said(caplog)] == [True, True]
    finally:
        await rig.close()
