"""What an empty head lacks, and that a workspace says so when warming waits for a quiet moment."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aicockpit.workspace.head import Lacks
from aicockpit.workspace.track import EpochLimits
from epoch_rig import MODEL, Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, limits=EpochLimits(idle_s=60.0, retry_s=0.05, render_retry_s=0.05)).start()
    yield made
    await made.close()


def engine_of(rig: Rig) -> dict[str, Any]:
    lane = rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]
    return dict(lane["engines"]["e0"])


async def test_an_empty_head_says_what_it_lacks(rig: Rig) -> None:
    rig.apply({f"{name}.py": "an api of forty letters, more or less ...\n" for name in "abcdefgh"})
    assert rig.head().lacks is Lacks.EPOCH
    await rig.wanted()
    assert rig.head().tokens == ()
    assert rig.head().lacks is Lacks.WARMTH
    rig.engines["e0"].warm()
    assert rig.head(asked=1).tokens == ()
    assert rig.head(asked=1).lacks is Lacks.ROOM
    assert rig.head().tokens
    chat = rig.contexts.head(rig.workspace, MODEL, "chat", "", "e0")
    assert (chat.tokens, chat.lacks) == ((), Lacks.BUDGET), "the rig's model gets no context for chats"


async def test_a_step_that_waits_for_a_quiet_moment_is_told_with_the_seconds(rig: Rig) -> None:
    rig.apply({f"{name}.py": "an api of forty letters, more or less ...\n" for name in "abcdefgh"})
    rig.head()
    await rig.wanted()
    assert engine_of(rig)["waiting_s"] is None
    held = rig.engines["e0"].engine.load.held
    held.append(time.monotonic() - 42.2)
    told = engine_of(rig)
    assert told["reason"] == "warming 0 %; waiting 42 s for a quiet moment: somebody's answer is in work"
    assert 42 < told["waiting_s"] < 44
    held.append(time.monotonic() - 100.2)  # the one that waits longest
    assert "waiting 100 s" in engine_of(rig)["reason"]
    held[:] = [time.monotonic() - 0.2]
    assert engine_of(rig)["reason"] == "warming 0 %"  # one request's time is no news
    held[:] = [time.monotonic() - 42.2]
    rig.engines["e0"].warm()
    assert (engine_of(rig)["state"], engine_of(rig)["reason"], engine_of(rig)["waiting_s"]) == ("warm", "", None)
