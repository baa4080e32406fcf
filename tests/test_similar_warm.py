"""Similar snippets behind the skeletons of an open file: searched for beside the requests, served only when warm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from aicockpit.workspace.steps import WarmState
from aicockpit.workspace.track import EpochLimits
from epoch_rig import BLOCK, MODEL, Given, Rig, text_of

QUIET = EpochLimits(idle_s=60.0, retry_s=0.05, render_retry_s=0.05, search_s=0.01, search_most_s=0.05)
WORTH = {"completion": Given(journal=4000, similar=300), "chat": Given(0, 0, 0)}
# What one key may cost: the last block and what was typed.
A_KEY = 2 * BLOCK
TAIL = "the text of the file that is open, up to the cursor; " * 4
FILES = {
    "open.py": "api of open\nalpha beta gamma",
    "one.py": "api of one\nalpha beta gamma delta",
    "two.py": "api of two\nred green blue violet",
    "three.py": "api of three\nnothing in common",
}
HERE, THERE = "alpha beta gamma", "red green blue"


async def begun(folder: Path, **other: Any) -> Rig:
    """In service with these files, `open.py` open, its skeletons warm, and somebody has typed in it."""
    rig = Rig(folder, **{"limits": QUIET, "worth": WORTH, **other}).start()
    await rig.write(dict(FILES))
    for name, engine in rig.engines.items():
        await rig.wanted(name)
        engine.warm()
        await rig.until(lambda name=name: rig.head(name).tokens)  # type: ignore[misc]
    await rig.contexts.focus(rig.workspace, "open.py")
    for name, engine in rig.engines.items():
        await rig.told("(near open.py)", name)
        engine.warm()
        assert rig.text(name, "open.py").endswith("(near open.py)")
    return rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = await begun(tmp_path)
    yield made
    await made.close()


def at(rig: Rig, prefix: str, tail: str = TAIL, engine: str = "e0") -> int:
    """A key is hit at a place of the open file; the tokens that the engine had to compute."""
    return rig.typed("open.py", tail, engine, prefix)


def wish(rig: Rig, path: str = "open.py", engine: str = "e0") -> str:
    return "".join(text_of(one.tokens) for one in rig.engines[engine].targets if one.key[3] == path)


def shown(rig: Rig, engine: str = "e0") -> str:
    """What stands behind the skeletons."""
    return rig.text(engine, "open.py").partition("(near open.py)")[2]


def told_of(rig: Rig) -> dict[str, Any]:
    focus = rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]["focus"]
    return next(one for one in focus if one["path"] == "open.py")


async def served(rig: Rig, prefix: str, file: str) -> None:
    """The snippet of a file is warm for this place."""
    at(rig, prefix)
    await rig.until(lambda: f"{{{file}~" in wish(rig))
    for engine in rig.engines.values():
        engine.warm()
    assert shown(rig).startswith(f"{{{file}~")


async def test_snippets_serve_only_when_they_are_warm_with_the_runway(rig: Rig) -> None:
    engine = rig.engines["e0"]
    at(rig, HERE)
    before = rig.head(path="open.py")
    await rig.until(lambda: "{one.py~" in wish(rig))
    target = next(one.tokens for one in engine.targets if one.key[3])
    assert text_of(target).endswith(f"{{one.py~ {FILES['one.py']}}}{TAIL}")
    for end in range(len(before.tokens), len(target) - BLOCK, BLOCK):
        engine.warm(only="open.py", tokens=end)
        assert rig.head(path="open.py").tokens == before.tokens
        assert at(rig, HERE) <= A_KEY
    engine.warm()
    head = rig.head(path="open.py")
    assert shown(rig) == f"{{one.py~ {FILES['one.py']}}}"
    assert head.similar_tokens == len(shown(rig))
    assert head.neighbourhood_tokens == len("(near open.py)")
    assert head.reason == "warm"
    assert at(rig, HERE) <= A_KEY


async def test_keys_hit_at_one_place_search_once_and_change_no_target(rig: Rig) -> None:
    await served(rig, HERE, "one.py")
    engine = rig.engines["e0"]
    before, searches = engine.targets, len(rig.builder.searches)
    for number in range(20):
        at(rig, HERE + " typed"[:number])
        await asyncio.sleep(0.005)
    assert engine.targets is before
    assert len(rig.builder.searches) == searches == 1


async def test_moving_on_brings_other_snippets_once_they_are_warm_and_no_request_pays_for_it(rig: Rig) -> None:
    await served(rig, HERE, "one.py")
    engine = rig.engines["e0"]
    before = rig.head(path="open.py").tokens
    assert at(rig, THERE) <= A_KEY
    await rig.until(lambda: "{two.py~" in wish(rig))
    assert "{one.py~" not in wish(rig)
    whole = next(one.tokens for one in engine.targets if one.key[3])
    for end in range(0, len(whole) - BLOCK, BLOCK):
        engine.warm(only="open.py", tokens=end)
        assert rig.head(path="open.py").tokens is before
        assert rig.head(path="open.py").reason == "warm"  # what is held is no older text
        assert at(rig, THERE) <= A_KEY
    engine.warm()
    assert at(rig, THERE + " blu") <= A_KEY
    assert shown(rig).startswith("{two.py~")


async def test_a_request_never_searches_and_waits_for_none(rig: Rig) -> None:
    rig.builder.search_gate.clear()
    before = rig.head(path="open.py").tokens
    for place in (HERE, THERE, HERE):
        assert at(rig, place) <= len(TAIL) + A_KEY
        assert rig.head(path="open.py").tokens is before
        await asyncio.sleep(0.02)
    assert len(rig.builder.searches) == 1
    assert told_of(rig)["similar"] in ("searching", "searching: 0 of 4 files read")
    await rig.write({"three.py": "api of three\nsaved while a search was in work"})
    await rig.told("saved while a search was in work")
    rig.builder.search_gate.set()
    await rig.until(lambda: "{one.py~" in wish(rig))  # the newest place is the one that counts


async def test_who_moves_on_and_on_is_searched_for_seldom_and_leaves_nothing_behind(tmp_path: Path) -> None:
    limits = replace(QUIET, search_s=0.02, search_most_s=10.0)
    rig = await begun(tmp_path, limits=limits)
    places = ["".join(pair) + " " + "".join(pair) * 2 for pair in product("abcdefg", "vwxyz")]
    await rig.write({f"p{number}.py": f"api\n{place}" for number, place in enumerate(places)})
    engine = rig.engines["e0"]
    engine.warm()
    made: set[int] = set()
    for number in range(400):
        at(rig, places[number % len(places)])
        made.add(hash(wish(rig)))
        assert len(engine.targets) == 2
        await asyncio.sleep(0.002)
    # 0.02, 0.04, 0.08, ... s between them while nothing gets warm.
    assert 2 <= len(rig.builder.searches) <= 8
    assert len(made) <= 10
    opened = rig.contexts._rooms[rig.workspace].tracks[MODEL, "completion"].open.get("open.py")
    assert opened is not None
    assert len(opened.nears) == len(opened.holds) == 1
    assert opened.lookout.wait_s > 0.1
    engine.auto = True  # an engine that keeps up
    engine.warm()
    for place, file in ((HERE, "one.py"), (THERE, "two.py"), (HERE, "one.py")):
        await rig.until(lambda: opened.lookout.fresh_at is None)
        opened.lookout.next_at = 0.0
        at(rig, place)
        await rig.until(lambda file=file: shown(rig).startswith(f"{{{file}~"))  # type: ignore[misc]
    await rig.close()


async def test_the_same_snippets_in_another_order_stay_as_they_are(rig: Rig) -> None:
    at(rig, f"{HERE} {THERE} violet")
    await rig.until(lambda: wish(rig).endswith(f"{{one.py~ {FILES['one.py']}}}{{two.py~ {FILES['two.py']}}}{TAIL}"))
    rig.engines["e0"].warm()
    targets = rig.engines["e0"].targets
    at(rig, f"{HERE} delta red some other words that none has")
    await rig.until(lambda: len(rig.builder.searches) == 2)
    await asyncio.sleep(0.05)
    assert rig.engines["e0"].targets is targets
    assert [one["path"] for one in told_of(rig)["snippets"]] == ["one.py", "two.py"]


async def test_the_status_tells_which_places_and_why(rig: Rig) -> None:
    assert "nothing was searched for yet" in told_of(rig)["similar"]
    await served(rig, HERE, "one.py")
    told = told_of(rig)
    (snippet,) = told["snippets"]
    assert (snippet["path"], snippet["first_line"], snippet["last_line"]) == ("one.py", 1, 2)
    assert snippet["why"].startswith("like the lines above the cursor")
    assert told["similar_tokens"] == len(shown(rig))
    assert told["similar"] == "searched in 4 places"
    assert told["warm_on"] == ["e0"]
    lane = rig.contexts.status(rig.workspace)["models"][MODEL]["lanes"]["completion"]
    assert lane["budget"]["similar"] == 300
    at(rig, THERE)
    await rig.until(lambda: "{two.py~" in wish(rig))
    assert told_of(rig)["warm_on"] == []


async def test_a_snippets_file_that_is_saved_is_told_by_the_journal_and_then_shown_as_it_is_now(rig: Rig) -> None:
    await served(rig, HERE, "one.py")
    before = rig.head(path="open.py").tokens
    newer = "api of one\nalpha beta gamma and something new"
    await rig.write({"one.py": newer})
    await rig.until(lambda: f"{{one.py~ {newer}}}" in wish(rig))
    assert f"<one.py= {newer}>" in wish(rig)
    assert rig.head(path="open.py").tokens is before
    rig.engines["e0"].warm()
    assert at(rig, HERE) <= A_KEY
    assert shown(rig) == f"{{one.py~ {newer}}}"
    await rig.write({"one.py": None})
    await rig.until(lambda: "<one.py gone>" in wish(rig) and "{one.py~" not in wish(rig))
    await rig.write({"uno.py": FILES["one.py"]})
    at(rig, THERE)
    await rig.until(lambda: "{two.py~" in wish(rig))
    at(rig, HERE)
    await rig.until(lambda: "{uno.py~" in wish(rig))


async def test_a_search_that_fails_is_told_and_tried_again_and_costs_nothing(rig: Rig) -> None:
    await served(rig, HERE, "one.py")
    rig.builder.search_fail = "the builder's process died 2 times"
    at(rig, THERE)
    await rig.until(lambda: "died 2 times" in told_of(rig)["similar"])
    assert shown(rig).startswith("{one.py~")
    assert at(rig, THERE) <= A_KEY
    rig.builder.search_fail = ""
    await rig.until(lambda: "{two.py~" in wish(rig))


async def test_a_file_can_be_open_for_one_model_only(rig: Rig) -> None:
    rig.engines["e0"].engine.served_names = (MODEL, "other")
    rig.models.append(replace(rig.models[0], name="other"))
    rig.contexts.engines_changed()
    tracks = rig.contexts._rooms[rig.workspace].tracks
    await rig.until(lambda: ("other", "completion") in tracks)
    await rig.contexts.focus(rig.workspace, "two.py", None, "other")
    await rig.contexts.focus(rig.workspace, "three.py", 2, MODEL)
    assert list(tracks["other", "completion"].open) == ["two.py", "open.py"]
    assert list(tracks[MODEL, "completion"].open) == ["three.py", "open.py"]


@pytest.mark.parametrize("how", ["stuck", "refused"])
async def test_without_room_it_goes_without_a_runway_then_without_snippets(rig: Rig, how: str) -> None:
    engine = rig.engines["e0"]
    at(rig, HERE)
    await rig.until(lambda: "{one.py~" in wish(rig))
    key = next(one.key for one in engine.targets if one.key[3])
    engine.states[key] = WarmState.STUCK
    if how == "refused":
        engine.states.clear()
        engine.refused.add(key)
    rig.contexts.engines_changed()  # any news
    await rig.until(lambda: wish(rig).endswith(f"{{one.py~ {FILES['one.py']}}}"))
    rig.contexts.engines_changed()
    await rig.until(lambda: wish(rig).endswith("(near open.py)"))
    assert rig.text(path="open.py").endswith("(near open.py)")
    assert at(rig, HERE) <= A_KEY


async def test_after_a_restart_of_the_server_the_first_requests_bring_them_back(rig: Rig) -> None:
    await served(rig, HERE, "one.py")
    before = rig.text(path="open.py")
    await rig.until(lambda: rig.contexts._rooms[rig.workspace].tracks[MODEL, "completion"].kept is not None)
    await rig.restart()
    await rig.contexts.restore()
    await rig.wanted()
    rig.engines["e0"].warm()
    at(rig, HERE)
    at(rig, HERE)
    await rig.until(lambda: "{one.py~" in wish(rig))
    rig.engines["e0"].warm()
    assert rig.text(path="open.py") == before
    assert rig.builder.builds == 0


async def test_an_engine_that_restarts_is_warmed_with_the_same_snippets(rig: Rig) -> None:
    await served(rig, HERE, "one.py")
    before, engine = rig.head(path="open.py").tokens, rig.engines["e0"]
    engine.open()
    rig.contexts.engines_changed()
    assert rig.head(path="open.py").tokens == ()
    engine.warm()
    assert rig.head(path="open.py").tokens == before


async def test_each_engine_takes_them_over_when_they_are_warm_there(tmp_path: Path) -> None:
    rig = await begun(tmp_path, names=("e0", "e1"))
    for name in rig.engines:
        at(rig, HERE, engine=name)
    await rig.until(lambda: "{one.py~" in wish(rig))
    rig.engines["e0"].warm()
    assert shown(rig).startswith("{one.py~")
    assert shown(rig, "e1") == ""
    assert told_of(rig)["warm_on"] == ["e0"]
    await rig.close()


@pytest.mark.parametrize("why", ["no tokens", "no text", "no path", "chat"])
async def test_where_there_is_nothing_to_search_for_nothing_changes(tmp_path: Path, why: str) -> None:
    similar = 0 if why == "no tokens" else 300
    worth = {"completion": Given(similar=similar), "chat": Given(similar=similar if why == "chat" else 0)}
    rig = await begun(tmp_path, worth=worth)
    before = rig.text(path="open.py")
    for place in (HERE, THERE):
        if why == "no path":
            rig.typed("", TAIL, prefix=place)
        elif why == "chat":
            rig.head(path="open.py", lane="chat")
        else:
            at(rig, place if why == "no tokens" else "")
        await asyncio.sleep(0.03)
    rig.engines["e0"].warm()
    assert rig.builder.searches == []
    assert rig.text(path="open.py") == before
    if why == "no tokens":
        assert told_of(rig)["similar"].startswith("off")
    await rig.close()


async def test_snippets_stand_behind_the_journal_where_there_are_no_skeletons(tmp_path: Path) -> None:
    worth = {"completion": Given(neighbourhood=0, similar=300), "chat": Given(0, 0, 0)}
    rig = Rig(tmp_path, limits=QUIET, worth=worth).start()
    await rig.write(dict(FILES))
    await rig.wanted()
    rig.engines["e0"].warm()
    at(rig, HERE)
    at(rig, HERE)
    await rig.until(lambda: "{one.py~" in wish(rig))
    rig.engines["e0"].warm()
    assert rig.text(path="open.py").endswith(f"{{one.py~ {FILES['one.py']}}}")
    assert rig.head(path="open.py").neighbourhood_tokens == 0
    await rig.close()


async def test_two_who_type_at_once_take_no_turns_in_front_and_one_who_goes_on_alone_comes_first(rig: Rig) -> None:
    track = rig.contexts._rooms[rig.workspace].tracks[MODEL, "completion"]
    await rig.contexts.focus(rig.workspace, "two.py")
    assert list(track.open) == ["two.py", "open.py"]
    for _ in range(5):
        rig.typed("two.py", TAIL)
        at(rig, HERE)
    assert list(track.open) == ["two.py", "open.py"]
    opened = track.open.get("two.py")
    assert opened is not None
    opened.seen_at -= 60.0
    at(rig, HERE)
    assert list(track.open) == ["open.py", "two.py"]


async def test_more_files_than_are_kept_warm_are_remembered(rig: Rig) -> None:
    await served(rig, HERE, "one.py")
    before = rig.head(path="open.py").tokens
    for number in range(40):
        await rig.contexts.focus(rig.workspace, f"f{number % 6}.py")
    await rig.until(lambda: len(rig.engines["e0"].targets) == 5 and not wish(rig))
    assert at(rig, HERE) <= A_KEY
    assert rig.head(path="open.py").tokens is before
    await rig.until(lambda: wish(rig))
    await asyncio.sleep(0.03)
    assert len(rig.builder.searches) == 1
    for number in range(40):
        await rig.contexts.focus(rig.workspace, f"g{number}.py")
    assert rig.contexts._rooms[rig.workspace].tracks[MODEL, "completion"].open.get("open.py") is None
