"""A room and engines that do not render a chat: asked less and less often, or not again in their life, and told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aicockpit.errors import AicockpitError, BadGateway
from aicockpit.workspace.builds import KINDS
from aicockpit.workspace.desk import RenderRefused
from aicockpit.workspace.track import EpochLimits
from epoch_rig import MODEL, Given, Rig

LIMITS = EpochLimits(idle_s=60.0, retry_s=0.05, render_retry_s=0.05)
BOTH = {"completion": Given(), "chat": Given()}
NO_TEMPLATE = RenderRefused("it answered 400 to /tokenize: default chat template is no longer allowed")


class Deaf(Rig):
    """`answers`: what an engine raises, by its name. `asked`: (engine, when) of each try."""

    answers: dict[str, AicockpitError]
    asked: list[tuple[str, float]]

    async def rendered(self, engine: str, model: str, text: str) -> tuple[int, ...]:
        self.asked.append((engine, time.monotonic()))
        if engine in self.answers:
            raise self.answers[engine]
        return await super().rendered(engine, model, text)


async def begun(folder: Path, names: tuple[str, ...], **answers: AicockpitError) -> Deaf:
    rig = Deaf(folder, limits=LIMITS, worth=BOTH, names=names)
    rig.answers, rig.asked = dict(answers), []
    rig.start()
    await rig.write({"a.py": "api of a.py\n", "b.py": "api of b.py\n"})
    return rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Deaf]:
    made = await begun(tmp_path, ("e0",), e0=NO_TEMPLATE)
    yield made
    await made.close()


def lanes(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = rig.contexts.status(rig.workspace)["models"].get(MODEL, {"lanes": {}})["lanes"]
    return found


def off(rig: Rig) -> bool:
    return bool(lanes(rig).get("chat", {}).get("state") == "off")


async def news(rig: Rig, count: int = 30) -> None:
    """Time passes, and things happen: a room looks at all of its lanes."""
    room, ends = rig.contexts._rooms[rig.workspace], time.monotonic() + count * 0.01
    while time.monotonic() < ends:
        room.ring()
        await rig.until(lambda: not room._bell.is_set())


async def test_an_engine_that_refuses_to_render_is_not_asked_again(rig: Deaf) -> None:
    await rig.until(lambda: off(rig))
    assert "default chat template is no longer allowed" in lanes(rig)["chat"]["reason"]
    assert "once it has restarted" in rig.contexts.head(rig.workspace, MODEL, "chat", "", "e0").reason
    await rig.write({"a.py": "api of a.py\nsaved, and long enough to fill some blocks"})
    await rig.told("saved, and long")
    await news(rig)
    assert len(rig.asked) == 1
    assert lanes(rig)["completion"]["reason"] == ""


async def test_a_lane_that_no_engine_renders_takes_no_share_of_the_cache(rig: Deaf) -> None:
    rig.engines["e0"].blocks = 1024
    rig.engines["e0"].open()
    rig.worth = {"completion": Given(pack=1_000_000), "chat": Given(pack=1_000_000)}
    await rig.until(lambda: off(rig))
    await rig.until(lambda: any("each of 1 shares" in why for why in lanes(rig)["completion"]["budget"]["reasons"]))


async def test_an_engine_that_restarted_is_asked_again(rig: Deaf) -> None:
    await rig.until(lambda: off(rig))
    rig.answers.clear()
    rig.contexts.engines_changed()
    await news(rig)
    assert off(rig)  # the same life
    builds = rig.builder.builds
    rig.engines["e0"].engine.generation += 1
    rig.contexts.engines_changed()
    await rig.until(lambda: not off(rig) and "chat" in lanes(rig))
    await rig.wanted(count=2)
    rig.engines["e0"].warm()
    assert "api of a.py" in rig.head(lane="chat").text
    assert rig.head().tokens  # the other lane is the one that it was
    assert rig.builder.builds <= builds + 1


async def test_an_engine_that_refuses_leaves_the_asking_to_another(tmp_path: Path) -> None:
    rig = await begun(tmp_path, ("e0", "e1"), e0=NO_TEMPLATE)
    await rig.wanted("e1", count=2)
    rig.engines["e1"].warm()
    assert "api of a.py" in rig.head("e1", lane="chat").text
    assert [engine for engine, _ in rig.asked] == ["e0", "e1"]
    await rig.close()


async def test_a_second_engine_that_comes_later_is_asked(rig: Deaf) -> None:
    await rig.until(lambda: off(rig))
    rig.names = ("e0", "e1")
    rig.engines["e1"] = type(rig.engines["e0"])("e1", rig.warmth, rig.contexts.report)
    rig.contexts.engines_changed()
    await rig.until(lambda: not off(rig) and "chat" in lanes(rig))
    await rig.wanted("e1", count=2)
    assert [engine for engine, _ in rig.asked] == ["e0", "e1"]


async def test_what_was_refused_is_forgotten_with_its_model(rig: Deaf) -> None:
    await rig.until(lambda: off(rig))
    models, rig.models = rig.models, []
    rig.contexts.engines_changed()
    await rig.until(lambda: rig.contexts.status(rig.workspace)["models"] == {})
    rig.models = models
    rig.contexts.engines_changed()
    await rig.until(lambda: off(rig))
    assert len(rig.asked) == 2


async def test_other_errors_are_tried_again_less_and_less_often(tmp_path: Path) -> None:
    rig = await begun(tmp_path, ("e0",), e0=BadGateway("engine e0 answered 502 to /tokenize"))
    await rig.until(lambda: len(rig.asked) == 4)
    times = [at for _, at in rig.asked]
    waits = [after - before for before, after in pairwise(times)]
    assert all(wait >= least for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True))
    assert "e0 did not render the chat: engine e0 answered 502" in lanes(rig)["chat"]["reason"]
    rig.answers.clear()
    await rig.wanted(count=2)
    await rig.until(lambda: lanes(rig)["chat"]["reason"] == "")
    await rig.close()


async def test_a_lane_that_a_role_leaves_out_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, worth=BOTH).start()
    try:
        rig.models[0] = replace(rig.models[0], kinds=("completion",))
        await rig.in_service()
        assert "its role" in rig.head(lane="chat").reason
        rig.models[0] = replace(rig.models[0], kinds=KINDS)
        rig.engines["e0"].auto = True
        rig.contexts.engines_changed()
        await rig.until(lambda: rig.head(lane="chat").tokens)
    finally:
        await rig.close()
