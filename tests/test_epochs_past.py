"""Several files change at once and are again as they were: the head that told of them serves again, as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aicockpit.workspace.steps import WarmState
from aicockpit.workspace.track import EpochLimits, Track
from epoch_rig import MODEL, Given, Rig

FILES = ("a.py", "b.py", "c.py", "d.py")
HERE = {path: f"api of {path}\nbody" for path in FILES}
OTHER = {path: f"other {path}\nbody" for path in FILES}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    limits = EpochLimits(idle_s=30.0, patience_s=30.0)
    rig = Rig(tmp_path, limits=limits, worth={"completion": Given(4000, 900, 200), "chat": Given(0, 0, 0)}).start()
    await rig.in_service(*FILES)
    rig.engines["e0"].auto = True
    yield rig
    await rig.close()


async def told(rig: Rig, text: str, path: str = "") -> None:
    await rig.until(lambda: text in rig.text(path=path))


def track(rig: Rig) -> Track:
    return rig.contexts._rooms[rig.workspace].tracks[MODEL, "completion"]


async def test_a_branch_that_is_switched_back_serves_the_very_head_it_had(rig: Rig) -> None:
    before, said, builds = rig.text(), rig.builder.said, rig.builder.builds
    await rig.write(OTHER)
    await told(rig, "<d.py= other")
    said += len(OTHER)
    await rig.write(HERE)
    await rig.until(lambda: rig.text() == before)
    assert (rig.builder.said, rig.builder.builds) == (said, builds)


async def test_the_open_file_keeps_all_of_its_tail(rig: Rig) -> None:
    await rig.contexts.focus(rig.workspace, "a.py")
    await told(rig, "(near a.py)", "a.py")
    tail = "x" * 320
    rig.typed("a.py", tail)
    assert rig.typed("a.py", tail) <= 32
    await rig.write(OTHER)
    await told(rig, "<d.py= other", "a.py")
    rig.typed("a.py", "y" * 320)
    before = rig.warmth.resident("e0", ()).tokens
    await rig.write(HERE)
    await rig.until(lambda: "other" not in rig.text(path="a.py"))
    assert rig.typed("a.py", tail) <= 32
    assert before == 0


async def test_what_else_was_saved_meanwhile_is_told_behind_it(rig: Rig) -> None:
    await rig.write(OTHER)
    await told(rig, "<d.py= other")
    await rig.write({path: text for path, text in HERE.items() if path != "d.py"} | {"d.py": "newest\nbody"})
    await told(rig, "<d.py= newest")
    text = rig.text()
    assert "other" not in text
    assert text.count("<") == 1


async def test_one_that_tells_hardly_better_is_not_taken(rig: Rig) -> None:
    await rig.write(OTHER)
    await told(rig, "<d.py= other")
    await rig.write({"a.py": HERE["a.py"], "b.py": "third\nbody"})
    await told(rig, "<b.py= third")
    assert "<d.py= other" in rig.text(), "only one of four files is what it was"


async def test_a_single_save_remembers_nothing(rig: Rig) -> None:
    for number in range(3):
        await rig.write({"a.py": f"v{number}\nbody"})
        await told(rig, f"<a.py= v{number}")
    assert not track(rig).past


async def test_a_build_of_the_tree_that_was_left_does_not_come_back(rig: Rig) -> None:
    before = rig.text()
    await rig.write(OTHER)
    await told(rig, "<d.py= other")
    rig.builder.gate.clear()
    await rig.write({f"many{number}.py": "new\nbody" for number in range(120)})
    await rig.until(lambda: track(rig).building is not None)
    await rig.write(HERE | {f"many{number}.py": None for number in range(120)})
    await rig.until(lambda: rig.text() == before)
    assert track(rig).building is None
    rig.builder.gate.set()
    await rig.write({"a.py": "later\nbody"})
    await told(rig, "<a.py= later")
    assert "many" not in rig.text()


async def test_what_is_evicted_meanwhile_is_warmed_and_not_served_cold(rig: Rig) -> None:
    before = rig.text()
    await rig.write(OTHER)
    await told(rig, "<d.py= other")
    rig.engines["e0"].auto = False
    rig.engines["e0"].open()
    rig.contexts.engines_changed()
    await rig.write(HERE)
    await rig.until(lambda: not track(rig).pending[track(rig).epochs[0].serial])
    assert rig.text() == ""  # asserts that what is served is resident
    rig.engines["e0"].auto = True
    rig.contexts.engines_changed()
    await rig.until(lambda: rig.text() == before)
    assert rig.engines["e0"].status(rig.engines["e0"].targets[0].key).state is WarmState.WARM


async def test_few_are_kept(rig: Rig) -> None:
    for number in range(8):
        await rig.write({path: f"{number} {path}\nbody" for path in ("a.py", "b.py")})
        await rig.until(lambda number=number: f"<b.py= {number}" in rig.text() or track(rig).full)  # type: ignore[misc]
    assert len(track(rig).past) <= 4


async def test_a_head_that_waits_is_warmed_with_the_text_that_is_there_now(rig: Rig) -> None:
    """The file became another one while its next head was being warmed: the runway is of the new text."""
    await rig.contexts.focus(rig.workspace, "a.py")
    await told(rig, "(near a.py)", "a.py")
    rig.typed("a.py", "x" * 600)
    engine = rig.engines["e0"]
    engine.auto = False
    await rig.write({"b.py": "v1\nbody"})
    await rig.told("<b.py= v1")
    await rig.until(lambda: any("x" * 600 in "".join(map(chr, one.tokens)) for one in engine.targets))
    rig.typed("a.py", "z" * 600)
    await rig.told("z" * 600)
    engine.auto = True
    engine.warm()
    await told(rig, "<b.py= v1", "a.py")
    assert rig.typed("a.py", "z" * 600) <= 32
