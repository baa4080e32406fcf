"""What the status of a workspace says of each engine: where its head came from, how sure that is, what comes next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aicockpit import console
from aicockpit.engines.kv import KvInfo
from aicockpit.engines.kv_events import KvIndex
from aicockpit.gateway import workspaces
from aicockpit.workspace.steps import Key, Origin, Progress
from aicockpit.workspace.store import Info
from aicockpit.workspace.track import EpochLimits
from epoch_rig import BLOCK, MODEL, Given, Rig, Script


class Says(Script):
    """A scripted prefetcher that says `more` of each of its targets."""

    more: dict[str, Any] = {}  # noqa: RUF012

    def status(self, key: Key, /) -> Progress:
        return replace(super().status(key), **self.more)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    worth = {"completion": Given(), "chat": Given(0, 0, 0, 0, "worth nothing")}
    limits = EpochLimits(idle_s=60.0, retry_s=0.05)
    made = Rig(tmp_path, limits=limits, worth=worth, names=("e0", "e1")).start()
    for name in made.names:
        made.engines[name] = Says(name, made.warmth, made.contexts.report)
    yield made
    await made.close()


def lane(rig: Rig) -> dict[str, Any]:
    return dict(rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"])


def words(rig: Rig, engine: str) -> str:
    info = rig.store.info(rig.workspace)
    assert isinstance(info, Info)
    (line,) = [one for one in console.workspace_lines(workspaces._status(info, rig.contexts)) if f"  {engine}:" in one]
    return line


def say(rig: Rig, engine: str, **more: Any) -> None:
    script = rig.engines[engine]
    assert isinstance(script, Says)
    script.more = more


async def test_computed_memory_and_tier_stand_side_by_side(rig: Rig) -> None:
    await rig.in_service()
    say(rig, "e0", origin=Origin(48, 1416, 32))
    assert lane(rig)["engines"]["e0"]["origin"] == {"computed": 48, "memory": 1416, "tier": 32}
    assert lane(rig)["engines"]["e1"]["origin"] == {"computed": 0, "memory": 0, "tier": 0}
    assert "its last warming: 48 tokens computed, 1,416 in memory before, 32 from a KV tier" in words(rig, "e0")


async def test_an_estimate_has_an_age_and_a_reason(rig: Rig) -> None:
    before = time.monotonic()
    await rig.in_service()
    after = time.monotonic()
    await asyncio.sleep(0.3)
    least = time.monotonic() - after
    told = lane(rig)["engines"]["e0"]
    most = time.monotonic() - before
    assert least - 0.06 <= told["verified_age_s"] <= most + 0.06
    assert (told["exact"], told["why_inexact"]) == (False, "it sends no KV events")
    assert " s ago (an estimate: it sends no KV events)" in words(rig, "e0")


async def test_kv_events_are_exact_until_they_say_why_not(rig: Rig) -> None:
    await rig.in_service()
    head, index = rig.head().tokens, KvIndex(4096)
    rig.warmth.open("e0", KvInfo(BLOCK, 4096), index)
    index.trust()
    assert rig.warmth.confirm("e0", head, index.version)
    told = lane(rig)["engines"]["e0"]
    assert (told["exact"], told["why_inexact"], told["verified_age_s"]) == (True, "", 0.0)
    assert "by its KV events 0.0 s ago" in words(rig, "e0")
    assert "estimate" not in words(rig, "e0")
    index.doubt("batches 3 to 4 are lost")
    told = lane(rig)["engines"]["e0"]
    assert (told["exact"], told["why_inexact"]) == (False, "batches 3 to 4 are lost")
    assert "(an estimate: batches 3 to 4 are lost)" in words(rig, "e0")


async def test_where_nothing_serves_there_is_no_age(rig: Rig) -> None:
    await rig.in_service()
    rig.engines["e0"].open()
    rig.contexts.engines_changed()
    told = lane(rig)["engines"]
    assert told["e0"]["verified_age_s"] is None
    assert told["e1"]["verified_age_s"] is not None


async def test_the_predicted_time_is_that_of_the_last_requests_on_the_fastest_engine(rig: Rig) -> None:
    await rig.in_service()
    assert lane(rig)["predicted_ttft_s"] is None, "no request came"
    say(rig, "e0", speed_tokens_s=None)
    say(rig, "e1", speed_tokens_s=None)
    rig.contexts.finished(rig.workspace, MODEL, "completion", 600)
    assert lane(rig)["predicted_ttft_s"] is None, "no speed is known"
    say(rig, "e0", speed_tokens_s=1000.0)
    assert lane(rig)["predicted_ttft_s"] == 0.6
    say(rig, "e1", speed_tokens_s=1500.0)
    assert lane(rig)["predicted_ttft_s"] == 0.4
    rig.contexts.finished(rig.workspace, MODEL, "completion", 1100)
    assert lane(rig)["predicted_ttft_s"] == round((600 + 0.2 * 500) / 1500, 3)
