"""A file that is being typed in: what is newer costs its requests nothing, and is not withheld for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aicockpit.workspace.epoch import Chain, Cut, with_runway
from aicockpit.workspace.steps import Key, WarmState
from aicockpit.workspace.track import EpochLimits
from epoch_rig import BLOCK, MODEL, Given, Rig, text_of

QUIET = EpochLimits(idle_s=60.0, retry_s=0.05, render_retry_s=0.05)
TAIL = "the text of the file that is open, up to the cursor; " * 6
# What one key may cost: the last block and what was typed.
A_KEY = 2 * BLOCK
SAVED = "api of b.py\nanother body that is long enough to fill blocks"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, limits=QUIET).start()
    yield made
    await made.close()


async def opened(rig: Rig, path: str = "a.py") -> None:
    """In service, with one file open and typed in."""
    await rig.in_service()
    await rig.contexts.focus(rig.workspace, path)
    for name, engine in rig.engines.items():
        await rig.told(f"(near {path})", name)
        engine.warm()
        rig.typed(path, TAIL, name)
        assert rig.text(name, path).endswith(f"(near {path})")


async def saved(rig: Rig, text: str = SAVED, path: str = "b.py", tail: str = TAIL) -> None:
    """Another file is saved, and every engine is asked to warm it with a runway."""
    await rig.write({path: text})
    said = text.partition("\n")[2]
    for engine in rig.engines.values():
        await rig.told(said, engine.engine.name)
        await rig.until(lambda engine=engine: said in target_of(engine))  # type: ignore[misc]
        assert target_of(engine).endswith(tail)


def target_of(engine: Any, path: str = "a.py") -> str:
    return "".join(text_of(one.tokens) for one in engine.targets if one.key[3] == path)


def key_of(engine: Any, path: str = "a.py") -> Key:
    return next(one.key for one in engine.targets if one.key[3] == path)


async def test_a_save_changes_nothing_for_the_one_who_types_until_it_costs_nothing(rig: Rig) -> None:
    await opened(rig)
    before, engine = rig.head(path="a.py"), rig.engines["e0"]
    await saved(rig)
    engine.warm(only="''")  # pack and journal
    assert "another body" in rig.text()
    assert rig.head(path="a.py").tokens is before.tokens
    assert rig.head(path="a.py").reason == "warm; the newest saves are being warmed"
    assert rig.typed("a.py", TAIL + "ty") <= A_KEY
    whole = len(engine.targets[1].tokens)
    engine.warm(only="a.py", tokens=whole - len(TAIL))  # and the neighbourhood
    assert rig.head(path="a.py").tokens is before.tokens
    engine.warm(only="a.py", tokens=whole - BLOCK - whole % BLOCK)
    assert rig.head(path="a.py").tokens is before.tokens
    engine.warm(only="a.py")
    assert rig.typed("a.py", TAIL + "typed") <= A_KEY
    assert "another body" in rig.text(path="a.py")
    assert rig.text(path="a.py").endswith("(near a.py)")
    assert rig.head(path="a.py").reason == "warm"
    assert rig.head(path="a.py").tokens is rig.head(path="a.py").tokens


async def test_a_file_nobody_types_in_and_a_request_without_a_path_get_the_newest_at_once(rig: Rig) -> None:
    await opened(rig)
    await saved(rig)
    rig.engines["e0"].warm(only="''")
    assert "another body" in rig.text()
    assert "another body" in rig.text(path="c.py")
    assert "another body" not in rig.text(path="a.py")


async def test_keystrokes_change_no_target(rig: Rig) -> None:
    await opened(rig)
    await saved(rig)
    engine = rig.engines["e0"]
    before = engine.targets
    for end in range(1, 9):
        rig.typed("a.py", TAIL + "typed on"[:end])
        await asyncio.sleep(0.002)
        assert engine.targets is before
    await saved(rig, SAVED + " and again", "c.py", TAIL + "typed on")  # as it is when the next chain is made


async def test_what_was_opened_a_moment_ago_gets_its_runway_with_the_first_request(rig: Rig) -> None:
    await rig.in_service()
    engine = rig.engines["e0"]
    await rig.contexts.focus(rig.workspace, "a.py")
    await rig.told("(near a.py)")
    assert target_of(engine).endswith("(near a.py)")
    rig.typed("a.py", TAIL)
    await rig.until(lambda: target_of(engine).endswith(TAIL))
    rig.typed("a.py", TAIL + "more")
    engine.warm(only="a.py", tokens=len(engine.targets[1].tokens) - len(TAIL))
    assert not rig.head(path="a.py").neighbourhood_tokens
    engine.warm()
    assert rig.typed("a.py", TAIL + "more") <= A_KEY
    assert rig.head(path="a.py").neighbourhood_tokens
    focus = rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]["focus"]
    assert [(one["path"], one["runway_tokens"]) for one in focus] == [("a.py", len(TAIL))]


async def test_a_runway_has_a_limit(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=replace(QUIET, runway=100)).start()
    await opened(rig)
    await rig.write({"b.py": SAVED})
    await rig.until(lambda: target_of(rig.engines["e0"]).endswith(TAIL[:100]))
    await rig.close()


async def test_the_newest_text_is_not_withheld_for_longer_than_patience_lasts(tmp_path: Path) -> None:
    worth = {"completion": Given(journal=4000), "chat": Given(0, 0, 0)}
    rig = Rig(tmp_path, limits=replace(QUIET, patience_s=0.2), worth=worth).start()
    await opened(rig)
    before = rig.head(path="a.py").tokens
    await saved(rig)
    rig.engines["e0"].warm(only="''")
    assert rig.head(path="a.py").tokens is before
    for number in range(4):  # saves that keep it from getting warm do not prolong it
        await rig.write({"c.py": f"api of c.py\nbody {number} that is long enough to fill a block"})
        await rig.told(f"body {number}")
    await rig.until(lambda: "another body" in rig.text(path="a.py"))
    await rig.close()


@pytest.mark.parametrize("how", ["stuck", "refused"])
async def test_a_target_that_was_given_up_withholds_nothing(rig: Rig, how: str) -> None:
    await opened(rig)
    engine = rig.engines["e0"]
    before = rig.head(path="a.py").tokens
    await saved(rig)
    engine.warm(only="''")
    assert rig.head(path="a.py").tokens is before
    key = key_of(engine)
    if how == "stuck":
        engine.states[key] = WarmState.STUCK
    else:
        engine.refused.add(key)
    assert "another body" in rig.text(path="a.py")
    engine.warm(only="''")  # any news: the neighbourhood is tried without a runway
    await rig.until(lambda: target_of(engine).endswith("(near a.py)"))
    engine.states.clear()
    engine.refused.clear()
    engine.warm()
    assert rig.text(path="a.py").endswith("(near a.py)")


async def test_what_is_held_is_not_served_once_it_is_evicted(rig: Rig) -> None:
    await opened(rig)
    engine = rig.engines["e0"]
    await saved(rig)
    engine.warm(only="''")
    engine.open()
    rig.contexts.engines_changed()
    assert rig.head(path="a.py").tokens == ()
    engine.warm(only="''")
    assert "another body" in rig.text(path="a.py")
    assert not rig.head(path="a.py").neighbourhood_tokens
    await rig.until(lambda: target_of(engine).endswith(TAIL))
    engine.warm()
    assert rig.text(path="a.py").endswith("(near a.py)")


async def test_each_engine_changes_over_when_it_is_warm_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=QUIET, names=("e0", "e1")).start()
    await opened(rig)
    before = rig.head("e1", "a.py").tokens
    await saved(rig)
    rig.engines["e0"].warm()
    rig.engines["e1"].warm(only="''")
    assert "another body" in rig.text("e0", "a.py")
    assert rig.head("e1", "a.py").tokens is before
    rig.engines["e1"].warm()
    assert "another body" in rig.text("e1", "a.py")
    await rig.close()


async def test_a_new_epoch_takes_over_in_an_open_file_with_its_runway(rig: Rig) -> None:
    await opened(rig)
    engine = rig.engines["e0"]
    before = rig.head(path="a.py")
    await rig.write({f"n{number:03}.py": f"api {number}\n" for number in range(101)})
    await rig.until(lambda: len(engine.targets) == 3)
    engine.warm(only="''")
    await rig.until(lambda: rig.head().epoch != before.epoch)
    assert rig.head(path="a.py").tokens is before.tokens
    await rig.until(lambda: len(engine.targets) == 2 and target_of(engine).endswith(TAIL))
    assert "api 100" in target_of(engine)
    rig.contexts.status(rig.workspace)
    assert rig.typed("a.py", TAIL + "ty") <= A_KEY  # the old epoch is gone, its head still serves
    engine.warm()
    assert rig.typed("a.py", TAIL + "typed") <= A_KEY
    assert rig.head(path="a.py").epoch == rig.head().epoch
    assert rig.text(path="a.py").endswith("(near a.py)")


async def test_a_journal_that_is_folded_costs_nothing_either(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=replace(QUIET, idle_s=0.2)).start()
    await opened(rig)
    engine = rig.engines["e0"]
    await saved(rig)
    engine.warm()
    told = rig.head(path="a.py")
    assert told.journal_tokens
    longer = TAIL + "what was typed since the file was opened; " * 3
    rig.typed("a.py", longer)
    await rig.until(lambda: not rig.head().journal_tokens and target_of(engine).endswith(longer))
    assert rig.head(path="a.py").tokens is told.tokens
    assert rig.typed("a.py", longer + "ty") <= A_KEY
    engine.warm()
    assert rig.typed("a.py", longer + "typed") <= A_KEY
    assert not rig.head(path="a.py").journal_tokens
    await rig.write({"b.py": SAVED + ", once more"})  # entries count from one again
    await rig.told("once more")
    engine.warm()
    assert "once more" in rig.text(path="a.py")
    await rig.close()


async def test_a_save_after_a_fold_is_newer_than_what_is_held(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=replace(QUIET, idle_s=0.3, patience_s=0.05)).start()
    await opened(rig)
    engine = rig.engines["e0"]
    await saved(rig)
    engine.warm()
    told = rig.head(path="a.py")
    longer = TAIL + "what was typed since the file was opened; " * 3
    rig.typed("a.py", longer)
    await rig.until(lambda: not rig.head().journal_tokens and target_of(engine).endswith(longer))
    await rig.write({"c.py": "api of c.py\nafter the fold"})
    await rig.told("after the fold")
    engine.warm(only="''")
    assert rig.head(path="a.py").tokens is told.tokens
    await rig.until(lambda: "after the fold" in rig.text(path="a.py"), 0.25)
    await rig.close()


async def test_without_a_neighbourhood_the_runway_stands_behind_the_journal(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limits=QUIET, worth={"completion": Given(neighbourhood=0), "chat": Given(0, 0, 0)}).start()
    await rig.in_service()
    engine = rig.engines["e0"]
    rig.typed("a.py", TAIL)
    rig.typed("a.py", TAIL)
    before = rig.head(path="a.py").tokens
    await saved(rig)
    engine.warm(only="''")
    assert rig.head(path="a.py").tokens == before
    engine.warm()
    assert rig.typed("a.py", TAIL) <= A_KEY
    assert "another body" in rig.text(path="a.py")
    await rig.close()


async def test_a_limit_of_the_request_holds_for_a_held_head_too(rig: Rig) -> None:
    await opened(rig)
    await saved(rig)
    rig.engines["e0"].warm(only="''")
    whole = rig.head(path="a.py").tokens
    less = rig.head(path="a.py", asked=len(whole) - 1)
    assert less.tokens == whole[: len(less.tokens)]
    assert text_of(less.tokens)[-1] in "]>"


def test_another_runway_leaves_the_head_the_same_object() -> None:
    chain = Chain(tuple(range(40)), (Cut(30, 30), Cut(40, 30, neighbourhood=10)))
    one = with_runway(chain, (7,) * 20)
    other = with_runway(one, (8,) * 5)
    assert (one.runway, other.runway, chain.runway) == (20, 5, 0)
    assert one.head is other.head is chain.tokens
    assert other.tokens == (*range(40), *(8,) * 5)
    assert with_runway(other, ()).tokens is chain.tokens
