"""A room goes on: what fails in it is told and tried again, a defect too, and no save is lost meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aicockpit.workspace.builds import BuildFailed, Built, Change, Kind, ModelSpec, NearBy, Said, Similar, Snapshot
from aicockpit.workspace.track import EpochLimits
from aicockpit.workspace.troubles import Troubles
from epoch_rig import MODEL, Given, Letters, Rig, text_of

QUIET = EpochLimits(idle_s=60.0, retry_s=0.05, render_retry_s=0.05)
LONG = EpochLimits(idle_s=60.0, retry_s=0.3, render_retry_s=0.05)


class Faulty(Letters):
    """A builder with defects. `faults`: what a call raises, by its name, or by its name and lane."""

    faults: dict[str, BaseException]

    def _meet(self, *names: str) -> None:
        for name in names:
            if name in self.faults:
                raise self.faults[name]

    async def journal(self, spec: ModelSpec, kind: Kind, changes: Sequence[Change], lines: int, /) -> list[Said]:
        self._meet("journal", f"journal/{kind}")
        return await super().journal(spec, kind, changes, lines)

    async def build(self, snapshot: Snapshot, spec: ModelSpec, kind: Kind, budget: int, /, *rest: Any) -> Built:
        self._meet("build")
        return await super().build(snapshot, spec, kind, budget, *rest)

    async def near(self, snapshot: Snapshot, spec: ModelSpec, path: str, /, *rest: Any) -> NearBy:
        self._meet("near")
        return await super().near(snapshot, spec, path, *rest)

    async def similar(self, *all: Any) -> Similar:
        self._meet("similar")
        return await super().similar(*all)


class Broken(list[ModelSpec]):
    """Models that nobody can list."""

    def __iter__(self) -> Iterator[ModelSpec]:
        raise RuntimeError("nobody listens")


def faulty(rig: Rig) -> dict[str, BaseException]:
    rig.builder.__class__ = Faulty
    assert isinstance(rig.builder, Faulty)
    rig.builder.faults = {}
    return rig.builder.faults


def lane(rig: Rig, kind: Kind = "completion") -> dict[str, Any]:
    found: dict[str, Any] = (
        rig.contexts.status(rig.workspace)["models"].get(MODEL, {"lanes": {}})["lanes"].get(kind, {})
    )
    return found


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, limits=QUIET).start()
    yield made
    await made.close()


async def test_a_defect_of_a_journal_is_told_and_a_later_save_is_told_and_warmed(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    faults = faulty(rig)
    await rig.in_service()
    faults["journal"] = RuntimeError("the transport is closed")
    await rig.write({"a.py": "api of a.py\nsaved while there was a defect, long enough"})
    await rig.until(lambda: lane(rig)["state"] == "stuck")
    assert lane(rig)["reason"].startswith("stuck: a defect: RuntimeError: the transport is closed; tried again in ")
    assert any(record.exc_info for record in caplog.records if "the transport is closed" in record.getMessage())
    assert rig.head().tokens  # what is warm serves on
    faults.clear()
    await rig.write({"b.py": "api of b.py\nsaved later, and long enough to fill blocks"})
    await rig.told("saved while there was")
    await rig.told("saved later")
    rig.engines["e0"].warm()
    assert "saved later" in rig.text()
    await rig.until(lambda: (lane(rig)["state"], lane(rig)["reason"]) == ("warm", ""))


async def test_a_defect_of_a_build_is_told_and_tried_again(rig: Rig) -> None:
    faults = faulty(rig)
    faults["build"] = RuntimeError("generator raised StopIteration")
    rig.apply({"a.py": "x\n"})
    rig.head()
    await rig.until(lambda: "a defect: RuntimeError: generator raised" in rig.head().reason)
    assert lane(rig)["state"] == "stuck"
    faults.clear()
    await rig.wanted()
    await rig.until(lambda: lane(rig)["reason"] == "")


async def test_what_waits_for_something_that_is_given_up_goes_on_later(rig: Rig) -> None:
    faults = faulty(rig)
    await rig.in_service()
    faults["journal"] = faults["build"] = asyncio.CancelledError()
    await rig.write({"a.py": "api of a.py\nsaved while nobody could tell of it"})
    await rig.until(lambda: "given up" in lane(rig)["reason"])
    await rig.write({f"n{number}.py": f"api {number}\n" for number in range(101)})
    await asyncio.sleep(0.1)
    faults.clear()
    await rig.until(lambda: lane(rig)["reason"] == "")
    await rig.until(lambda: rig.builder.builds == 2)


async def test_a_defect_in_one_lane_leaves_the_other_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=QUIET, worth={"completion": Given(), "chat": Given()}).start()
    faults = faulty(rig)
    await rig.in_service()
    faults["journal/completion"] = RuntimeError("not this one")
    await rig.write({"a.py": "api of a.py\nsaved, and told to the chats alone"})
    await rig.told("told to the chats alone")
    assert (lane(rig)["state"], lane(rig, "chat")["reason"]) == ("stuck", "")
    await rig.close()


async def test_a_defect_of_the_whole_room_is_told_and_it_is_launched_again(rig: Rig) -> None:
    await rig.in_service()
    models, rig.models = rig.models, Broken(rig.models)
    await rig.write({"a.py": "api of a.py\nsaved right before the defect, long enough"})
    await rig.until(lambda: "a defect: RuntimeError: nobody listens" in lane(rig)["reason"])
    assert lane(rig)["state"] == "stuck"
    await rig.write({"b.py": "api of b.py\nsaved while nothing goes on, long enough"})
    await asyncio.sleep(0.1)
    rig.models = models
    await rig.told("saved right before")
    await rig.told("saved while nothing")
    rig.engines["e0"].warm()
    assert "saved while nothing" in rig.text()
    await rig.until(lambda: (lane(rig)["state"], lane(rig)["reason"]) == ("warm", ""))


async def test_a_room_that_cannot_begin_says_why(rig: Rig) -> None:
    models, rig.models = rig.models, Broken(rig.models)
    await rig.write({"a.py": "api of a.py\n"})
    await rig.until(lambda: "nobody listens" in rig.contexts.status(rig.workspace)["reason"])
    rig.models = models
    await rig.wanted()
    await rig.until(lambda: rig.contexts.status(rig.workspace)["reason"] == "")


async def test_what_was_being_told_when_the_room_ended_is_not_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.in_service()
    track = rig.contexts._rooms[rig.workspace].tracks[MODEL, "completion"]
    saved, calls = track.saved, []

    def broken(*all: Any) -> None:
        calls.append(all)
        if len(calls) == 1:
            raise RuntimeError("half way")
        saved(*all)

    monkeypatch.setattr(track, "saved", broken)
    await rig.write({"a.py": "api of a.py\nonly once in the news, and long enough"})
    await rig.told("only once in the news")


@pytest.mark.parametrize("broken", [True, False])
async def test_a_room_that_is_closed_stays_closed(
    tmp_path: Path, broken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, limits=LONG).start()
    await rig.in_service()
    if broken:
        rig.models = Broken(rig.models)
        await rig.write({"a.py": "x\n"})
        await rig.until(lambda: "nobody listens" in lane(rig)["reason"])
    caplog.clear()
    await rig.close()
    assert not caplog.records
    await asyncio.sleep(0.35)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("workspace")]


async def test_a_search_with_a_defect_is_told_and_tried_again(tmp_path: Path) -> None:
    limits = EpochLimits(idle_s=60.0, retry_s=0.1, search_s=0.0, search_most_s=0.0)
    rig = Rig(tmp_path, limits=limits, worth={"completion": Given(similar=400), "chat": Given(0, 0, 0)}).start()
    faults = faulty(rig)
    await rig.in_service()
    faults["similar"] = RuntimeError("no index")
    await rig.contexts.focus(rig.workspace, "a.py")
    text = "several words of this place stand here\nand here"
    rig.contexts.seen(rig.workspace, MODEL, "a.py", (1, 2), text)
    await rig.until(lambda: any("a defect: RuntimeError: no index" in one["similar"] for one in lane(rig)["focus"]))
    faults.clear()
    rig.contexts.seen(rig.workspace, MODEL, "a.py", (1, 2), text)
    await rig.until(lambda: rig.builder.searches)
    await rig.close()


async def test_a_journal_that_failed_is_well_again_without_a_build(rig: Rig) -> None:
    faults = faulty(rig)
    await rig.in_service()
    faults["journal"] = BuildFailed("the builder is away")
    await rig.write({"a.py": "api of a.py\nanother body that is long enough to fill blocks"})
    await rig.until(lambda: lane(rig)["reason"].startswith("stuck: the builder is away"))
    faults.clear()
    await rig.told("another body")
    await rig.until(lambda: lane(rig)["reason"] == "")
    assert rig.builder.builds == 1


async def test_a_neighbourhood_that_failed_is_made_without_any_news(rig: Rig) -> None:
    faults = faulty(rig)
    await rig.in_service()
    faults["near"] = BuildFailed("the builder is away")
    await rig.contexts.focus(rig.workspace, "a.py")
    await rig.until(lambda: lane(rig)["reason"].startswith("stuck: the builder is away"))
    await rig.write({"b.py": "api of b.py\na journal that goes on all the same, long enough"})
    await rig.told("goes on all the same")
    faults.clear()
    await rig.told("(near a.py)")
    await rig.until(lambda: lane(rig)["reason"] == "")


async def test_of_models_that_are_gone_nothing_is_told_but_their_epochs_are_kept(rig: Rig) -> None:
    await rig.in_service()
    before = rig.head().tokens
    await rig.until(lambda: rig.store.get_state(rig.workspace, f"journal/completion/{MODEL}") is not None)
    served = rig.models
    rig.models = [ModelSpec("far", None, "it runs elsewhere")]
    rig.contexts.engines_changed()
    await rig.until(lambda: list(rig.contexts.status(rig.workspace)["models"]) == ["far"])
    rig.models = served
    rig.contexts.engines_changed()
    await rig.until(lambda: list(rig.contexts.status(rig.workspace)["models"]) == [MODEL])
    await rig.until(lambda: rig.head().tokens == before)
    assert rig.builder.builds == 1


async def test_a_lane_without_budget_is_looked_at_again_when_the_budget_changes(rig: Rig) -> None:
    rig.models = [ModelSpec(MODEL, rig.folder, max_model_len=100_000, budget=0)]
    await rig.write({"a.py": "api of a.py\n"})
    await rig.until(lambda: lane(rig).get("state") == "off")
    rig.models = [ModelSpec(MODEL, rig.folder, max_model_len=100_000)]
    rig.contexts.engines_changed()
    await rig.wanted()
    assert "api of a.py" in text_of(rig.engines["e0"].targets[0].tokens)


def test_the_wait_after_a_failure_grows_and_has_an_end() -> None:
    now = 100.0
    troubles, waits = Troubles(lambda: now), []
    for _ in range(6):
        told = troubles.fail("it", "why", 10.0)
        waits.append(troubles.at("it") - now)
        assert told == f"why; tried again in {waits[-1]:g} s"
        assert not troubles.due("it")
        now = troubles.at("it")
        assert troubles.due("it")
    assert waits == [10.0, 20.0, 40.0, 80.0, 80.0, 80.0]
    troubles.fail("other", "what", 1.0)
    assert troubles.told() == "why; tried again in 80 s. what; tried again in 1 s"
    assert len(troubles.waits()) == 2
    troubles.trying("it")
    assert (troubles.waits(), troubles.told("it")) == ([now + 1.0], "why; tried again in 80 s")
    troubles.well("it")
    troubles.fail("it", "why", 10.0)
    assert troubles.at("it") == now + 10.0
