"""The life of an epoch: cold, warming, warm, saves, the next one, switches, restarts, and that nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from aicockpit.workspace.steps import WarmState
from aicockpit.workspace.track import EpochLimits
from epoch_rig import MODEL, Given, Rig, text_of

QUIET = EpochLimits(idle_s=60.0, retry_s=0.05, render_retry_s=0.05)
QUICK = EpochLimits(idle_s=0.05, retry_s=0.05, render_retry_s=0.05)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, limits=QUIET).start()
    yield made
    await made.close()


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, limits=QUICK).start()
    yield made
    await made.close()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, limits=QUIET, names=("e0", "e1")).start()
    yield made
    await made.close()


async def test_before_the_first_epoch_is_warm_the_head_is_empty_and_says_how_far_it_is(rig: Rig) -> None:
    rig.apply({f"{name}.py": "an api of forty letters, more or less ...\n" for name in "abcdefgh"})
    assert rig.head().reason == "warming 0 %"  # asking for it begins it
    await rig.wanted()
    target = rig.engines["e0"].targets[0]
    rig.engines["e0"].warm(tokens=len(target.tokens) * 2 // 5)
    head = rig.head()
    assert head.tokens == ()
    assert head.reason.startswith("warming 3")
    rig.engines["e0"].warm()
    assert len(rig.head().tokens) == len(target.tokens)
    assert rig.head().reason == "warm"
    assert rig.head().predicted >= len(target.tokens) - 15


async def test_a_save_is_in_the_head_when_it_is_warm_and_not_before(rig: Rig) -> None:
    await rig.in_service()
    before = rig.head()
    await rig.write({"a.py": "api of a.py\nanother body that is long enough to fill blocks"})
    await rig.until(lambda: len(rig.engines["e0"].targets[0].tokens) > len(before.tokens))
    assert rig.head().tokens == before.tokens
    rig.engines["e0"].warm()
    head = rig.head()
    assert head.tokens[: len(before.tokens)] == before.tokens
    assert "another body" in rig.text()
    assert head.journal_tokens == len(head.tokens) - len(before.tokens)
    lane = rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]
    await rig.until(lambda: rig.contexts._rooms[rig.workspace].tracks[MODEL, "completion"].save_to_warm_s is not None)
    assert lane["epoch"]["journal_tokens"] == head.journal_tokens


async def test_a_body_edit_is_folded_without_any_warming(quick: Rig) -> None:
    rig = quick
    await rig.in_service()
    pack = rig.head()
    await rig.write({"a.py": "api of a.py\nanother body that is long enough to fill blocks"})
    await rig.until(lambda: rig.builder.builds >= 2)
    await rig.until(lambda: rig.head().tokens and not rig.head().journal_tokens and rig.head().reason == "warm")
    assert rig.head().tokens == pack.tokens
    assert rig.head().epoch == pack.epoch
    builds = rig.builder.builds
    await rig.write({"a.py": "api of a.py\nanother body that is long enough to fill blocks"})
    assert rig.builder.builds == builds  # nothing is new: nothing is built


async def test_the_next_epoch_takes_over_only_when_it_is_warm(quick: Rig) -> None:
    rig = quick
    await rig.in_service()
    old = rig.head()
    await rig.write({"a.py": "another api of a\nbody"})
    engine = rig.engines["e0"]
    await rig.until(lambda: rig.builder.builds >= 2 and len({one.key for one in engine.targets}) >= 2)
    assert rig.head().epoch == old.epoch
    newest = engine.targets[1]
    engine.warm(tokens=len(newest.tokens) - 16)
    assert rig.head().epoch == old.epoch
    engine.warm()
    assert rig.head().epoch != old.epoch
    assert "another api of a" in rig.text()
    await rig.until(lambda: len(engine.targets) == 1)  # the old one is not asked for any more


async def test_a_full_journal_builds_the_next_epoch_at_once(rig: Rig) -> None:
    await rig.in_service()
    for number in range(12):
        await rig.write({"b.py": f"api number {number}\n{'x' * 40}"})
        rig.engines["e0"].warm()
        await asyncio.sleep(0.01)
    await rig.until(lambda: rig.builder.builds >= 2)
    rig.engines["e0"].auto = True
    rig.engines["e0"].warm()
    await rig.until(lambda: "api number 11" in rig.text())


async def test_saves_during_a_build_belong_to_the_next_epoch_too(quick: Rig) -> None:
    rig = quick
    await rig.in_service()
    rig.builder.gate.clear()
    await rig.write({"a.py": "changed api of a\n"})
    await rig.until(lambda: rig.builder.builds >= 2)
    await rig.write({"c.py": "saved while it was built\n"})
    await rig.told("saved while it was built")
    rig.engines["e0"].warm()
    assert "saved while it was built" in rig.text()  # in the journal of what serves
    rig.builder.gate.set()
    await rig.until(lambda: len(rig.engines["e0"].targets) >= 2)
    await rig.until(lambda: "saved while" in "".join(map(chr, rig.engines["e0"].targets[1].tokens)))
    rig.engines["e0"].warm()
    text = rig.text()
    assert "[a.py: changed api of a]" in text
    assert "saved while it was built" in text


async def test_a_branch_switch_builds_and_keeps_the_old_pack_in_service(rig: Rig) -> None:
    await rig.in_service(*(f"f{number:04}.py" for number in range(2000)))
    old = rig.head()
    said = rig.builder.said
    await rig.write({f"f{number:04}.py": f"other branch {number}\n" for number in range(2000)})
    await rig.until(lambda: rig.builder.builds >= 2)
    assert rig.builder.said == said  # no entries for a branch switch
    await rig.until(lambda: len(rig.engines["e0"].targets) >= 2)
    assert rig.head().tokens == old.tokens
    rig.engines["e0"].warm()
    assert "other branch" in rig.text()
    rig.builder.gate.clear()
    rig.engines["e0"].auto = True
    await rig.write({f"f{number:04}.py": f"third branch {number}\n" for number in range(2000)})
    await rig.until(lambda: rig.builder.builds >= 3)
    await rig.write({f"f{number:04}.py": f"fourth branch {number}\n" for number in range(2000)})
    await rig.until(lambda: rig.builder.builds >= 4)  # the build of the third is given up
    rig.builder.gate.set()
    await rig.until(lambda: "fourth branch" in rig.text() and "third" not in rig.text())


async def test_two_engines_each_serve_what_is_warm_there(two: Rig) -> None:
    rig = two
    await rig.in_service()
    old = rig.head().epoch
    await rig.write({f"n{number}.py": f"api {number}\n" for number in range(101)})
    await rig.until(lambda: all(len(engine.targets) >= 2 for engine in rig.engines.values()))
    rig.engines["e0"].warm()
    await rig.until(lambda: rig.head("e0").epoch != old)
    assert rig.head("e1").epoch == old
    await rig.until(lambda: len(rig.engines["e0"].targets) == 1)
    assert len(rig.engines["e1"].targets) == 2
    status = rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]["engines"]
    assert status["e0"]["state"] == "warm"
    assert status["e1"]["serves"] == old
    rig.engines["e1"].warm()
    await rig.until(lambda: rig.head("e1").epoch == rig.head("e0").epoch)


async def test_an_engine_that_restarts_is_cold_and_is_warmed_with_the_same_tokens(rig: Rig) -> None:
    await rig.in_service()
    before = rig.head().tokens
    engine = rig.engines["e0"]
    rig.warmth.forget("e0")
    assert rig.head().tokens == ()
    engine.open()
    rig.contexts.engines_changed()
    engine.targets = []
    await rig.wanted()
    assert rig.head().tokens == ()
    engine.warm()
    assert rig.head().tokens == before


async def test_a_restarted_server_serves_the_same_tokens_without_a_build(rig: Rig) -> None:
    await rig.in_service()
    await rig.write({"a.py": "api of a.py\nanother body that is long enough to fill blocks"})
    await rig.told("another body")
    rig.engines["e0"].warm()
    before = rig.head()
    await rig.until(lambda: rig.store.get_state(rig.workspace, f"journal/completion/{MODEL}") is not None)
    await rig.until(lambda: _kept(rig))
    await rig.restart()
    await rig.contexts.restore()
    await rig.wanted()
    rig.engines["e0"].warm()
    assert rig.head().tokens == before.tokens
    assert rig.builder.builds == 0


def _kept(rig: Rig) -> bool:
    track = rig.contexts._rooms[rig.workspace].tracks[MODEL, "completion"]
    return track.kept is not None and track.kept.said is track.epochs[0].said


async def test_what_was_saved_while_the_server_was_down_is_told_after_it(rig: Rig) -> None:
    await rig.in_service()
    await rig.until(lambda: _kept(rig))
    await rig.restart()
    rig.apply({"b.py": "api of b.py\nsaved while nobody was there to see it", "c.py": None})
    await rig.contexts.restore()
    await rig.until(lambda: rig.builder.said == 2)
    await rig.until(lambda: rig.engines["e0"].targets and len(rig.engines["e0"].targets[0].tokens) > 100)
    rig.engines["e0"].warm()
    assert "while nobody was there" in rig.text()
    assert "<c.py gone>" in rig.text()
    assert rig.builder.builds == 0


@pytest.mark.parametrize("how", ["broken", "other tokenizer", "other budget"])
async def test_a_state_that_does_not_fit_is_dropped_and_built_anew(rig: Rig, how: str) -> None:
    await rig.in_service()
    await rig.until(lambda: _kept(rig))
    if how == "broken":
        rig.store.put_state(rig.workspace, f"epoch/completion/{MODEL}", b"x" * 100)
    elif how == "other budget":
        rig.worth = {**rig.worth, "completion": Given(pack=50)}
    await rig.restart()
    if how == "other tokenizer":
        rig.builder.fingerprint = "numbers"
    await rig.contexts.restore()
    await rig.until(lambda: rig.builder.builds == 1)
    await rig.wanted()
    rig.engines["e0"].warm()
    assert rig.head().tokens


async def test_an_open_file_gets_its_neighbourhood_behind_the_journal(rig: Rig) -> None:
    await rig.in_service()
    pack = rig.head().tokens
    await rig.contexts.focus(rig.workspace, "a.py")
    await rig.wanted(count=2)
    assert rig.head(path="a.py").tokens == pack
    rig.engines["e0"].warm()
    assert rig.text(path="a.py").endswith("(near a.py)")
    assert rig.head(path="b.py").tokens == pack
    held = rig.head(path="a.py").tokens
    await rig.write({"b.py": "api of b.py\nanother body that is long enough to fill blocks"})
    await rig.until(lambda: rig.builder.said == 1)
    await rig.until(lambda: len(rig.engines["e0"].targets[0].tokens) > len(pack))
    assert rig.head(path="a.py").tokens == held  # warm as it was, until the newer one is
    rig.engines["e0"].warm()
    text = rig.text(path="a.py")
    assert "another body" in text
    assert text.endswith("(near a.py)")


async def test_few_open_files_are_kept(rig: Rig) -> None:
    await rig.in_service()
    for number in range(20):
        await rig.contexts.focus(rig.workspace, f"f{number}.py")
    await rig.until(lambda: len(rig.engines["e0"].targets) == 5)
    assert [target.key[3] for target in rig.engines["e0"].targets[1:]] == [f"f{n}.py" for n in (19, 18, 17, 16)]


async def test_a_limit_of_the_request_takes_a_shorter_cut(rig: Rig) -> None:
    await rig.in_service()
    whole = rig.head()
    assert rig.head(asked=0).tokens == ()
    assert rig.head(asked=len(whole.tokens)).tokens == whole.tokens
    less = rig.head(asked=len(whole.tokens) - 1)
    assert 0 < len(less.tokens) < len(whole.tokens)
    assert rig.text()[: len(less.tokens)].endswith("]")
    assert rig.head(asked=1).tokens == ()
    assert "no legal cut" in rig.head(asked=1).reason


async def test_a_build_that_fails_is_told_and_tried_again(rig: Rig) -> None:
    rig.builder.fail = "the builder's process died 2 times"
    rig.apply({"a.py": "x\n"})
    rig.head()
    await rig.until(lambda: "died 2 times" in rig.head().reason)
    lane = rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]
    assert lane["state"] == "stuck"
    assert "died 2 times" in lane["reason"]
    rig.builder.fail = ""
    await rig.wanted()


async def test_the_chat_lane_serves_a_message_that_only_grows(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=QUIET, worth={"completion": Given(), "chat": Given()}).start()
    await rig.write({"a.py": "api of a.py\n", "b.py": "api of b.py\n"})
    engine = rig.engines["e0"]
    await rig.wanted(count=2)
    assert [str(target.key[2]).partition("/")[0] for target in engine.targets] == ["completion", "chat"]
    assert rig.head(lane="chat").tokens == ()
    engine.warm()
    first = rig.head(lane="chat")
    assert "api of a.py" in first.text
    await rig.write({"a.py": "api of a.py\nanother body that is long enough to fill blocks"})
    await rig.until(lambda: rig.builder.said == 2)
    assert rig.head(lane="chat").text == first.text
    await rig.until(lambda: len(engine.targets[1].tokens) > len(first.tokens))
    engine.warm()
    assert rig.head(lane="chat").text.startswith(first.text)
    assert "another body" in rig.head(lane="chat").text
    await rig.close()


@pytest.mark.parametrize("dated", [True, False])
async def test_on_another_day_a_chat_begins_with_that_days_date(tmp_path: Path, dated: bool) -> None:
    worth = {"completion": Given(0, 0, 0), "chat": Given()}
    rig = Rig(tmp_path, limits=QUIET, worth=worth, dated=dated, today=datetime(2026, 3, 1, 23, 59, 59, 950_000))
    await rig.start().write({"a.py": "api of a.py\n"})
    engine = rig.engines["e0"]
    await rig.wanted()
    engine.warm()
    before = rig.head(lane="chat").tokens
    assert before
    assert ("today is 01 March" in text_of(before)) == dated
    rig.today += timedelta(hours=1)  # and nothing else happens: no save, no news of an engine
    if dated:
        await rig.until(lambda: not rig.head(lane="chat").tokens)  # what is warm is not what the engine would render
        await rig.told("today is 02 March")
        engine.warm()
        assert "today is 02 March" in text_of(rig.head(lane="chat").tokens)
    else:
        await asyncio.sleep(0.2)
        assert rig.head(lane="chat").tokens is before
    await rig.close()


async def test_a_model_without_tokenizer_and_a_lane_without_worth_say_so(rig: Rig) -> None:
    await rig.in_service()
    assert rig.contexts.head(rig.workspace, MODEL, "chat", "", "e0").reason == "given"
    rig.models.append(rig.models[0].__class__("far", None, "it runs elsewhere"))
    await rig.write({"a.py": "new\n"})
    await rig.until(lambda: rig.contexts.head(rig.workspace, "far", "chat", "", "e0").reason == "it runs elsewhere")
    status = rig.contexts.status(rig.workspace)["models"]
    assert status["far"]["reason"] == "it runs elsewhere"
    assert status[MODEL]["lanes"]["chat"]["state"] == "off"


async def test_the_next_epoch_waits_while_the_newest_is_being_warmed(quick: Rig) -> None:
    rig = quick
    await rig.in_service()
    await rig.write({"a.py": "second api\n"})
    engine = rig.engines["e0"]
    await rig.until(lambda: len(engine.targets) >= 2)
    engine.states[engine.targets[1].key] = WarmState.WARMING
    builds = rig.builder.builds
    await rig.write({"a.py": "third api\n"})
    await rig.until(lambda: "third api" in "".join(map(chr, engine.targets[1].tokens)))
    engine.states[engine.targets[1].key] = WarmState.WARMING
    assert rig.builder.builds == builds
    engine.warm()
    await rig.until(lambda: rig.builder.builds > builds)


async def test_a_deleted_workspace_leaves_nothing(rig: Rig) -> None:
    await rig.in_service()
    await rig.contexts.deleted(rig.workspace)
    rig.store.delete(rig.workspace)
    await rig.until(lambda: not rig.engines["e0"].targets)
    assert rig.contexts.head(rig.workspace, MODEL, "completion", "", "e0").reason == "there is no such workspace"
    assert rig.contexts.status(rig.workspace)["models"] == {}


async def test_a_workspace_that_nobody_works_on_takes_no_share_of_the_cache(rig: Rig) -> None:
    await rig.in_service()
    other = rig.store.create("me", "other").id
    rig.contexts.head(other, MODEL, "completion", "", "e0", None)
    rooms = rig.contexts._rooms
    track = rooms[rig.workspace].tracks[MODEL, "completion"]

    async def shares(count: int) -> None:
        rooms[rig.workspace].ring()
        cut = f"to each of {count} shares"
        await rig.until(lambda: any(cut in reason for reason in track.budget.reasons))

    rig.worth = {**rig.worth, "completion": Given(pack=1_000_000)}
    await shares(2)
    rooms[other].used -= 5 * 3600
    await shares(1)
    rooms[other].used = rooms[rig.workspace].used
    await shares(2)
