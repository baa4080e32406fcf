"""The bars of the replay benchmark: what their verdicts say, and that a session of some length clears them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import corpus
from benchmarks.edits import ACCEPT, BRANCH, KEYSTROKE, KINDS, NEW, SAVE, SWITCH
from benchmarks.kvsim import BLOCK
from benchmarks.replay_kit import Sizes
from benchmarks.replay_peers import Continue, Ring, Tabby, WideRing
from benchmarks.replay_table import CHANGED, Case, Cell, Found, Seen, bars_table, check, part_of

from replay_rig import measured, module

LONG = Sizes(pack=2_400, journal=400, neighbourhood=600, similar=600, before=64, after=16)


def seen(kept: float, kinds: Sequence[str] = (*KINDS, CHANGED)) -> Seen:
    found = Seen(pack_kept=[1.0])
    for kind in kinds:
        found.cells[kind] = costs(round(1_000 * (1 - kept)))
    return found


def costs(tokens: int) -> Cell:
    return Cell([1 - tokens / 1_000], [tokens], [1_000])


# Verdicts


def test_the_bars_pass_only_when_ours_is_nowhere_behind_by_a_block() -> None:
    good = {"ours": seen(0.98), "Tabby": seen(0.4)}
    assert [bar.verdict for bar in check(good)] == ["PASS"] * 7
    assert check(good)[-2].seen == "ahead in 8, level in 0"
    level = {"ours": seen(0.98), "Tabby": seen(0.99)}
    assert [bar.seen for bar in check(level)[-3:-1]] == ["ahead in 0, level in 8"] * 2
    behind = {"ours": seen(0.96), "Tabby": seen(0.976, [SWITCH])}
    *_, share, cost, _ = check(behind)
    assert (share.verdict, share.seen) == ("MISSED", "switch of file, Tabby: 16 tokens")
    assert (cost.verdict, cost.seen) == ("MISSED", "switch of file, Tabby: 16 tokens")


def test_a_longer_prompt_is_ahead_by_share_alone() -> None:
    ours, peer = seen(0.9), seen(0.95)
    for kind in KINDS:
        peer.cells[kind] = Cell([0.95], [200], [4_000])
    *_, share, cost, _ = check({"ours": ours, "peer": peer})
    assert (share.verdict, cost.verdict) == ("MISSED", "PASS")


@pytest.mark.parametrize(
    ("tokens", "verdict", "said"),
    [
        (36, "PASS", "ahead in 8 (8 by a block or more), level within a block in 0"),
        (21, "PASS", "ahead in 8 (7 by a block or more), level within a block in 0"),
        (20, "MISSED", "ahead in 7 (7 by a block or more), level within a block in 1"),
        (5, "MISSED", "ahead in 7 (7 by a block or more), level within a block in 1"),
        (4, "MISSED", "ahead in 7 (7 by a block or more), level within a block in 0, behind in 1"),
    ],
)
def test_ahead_in_every_row_is_judged_to_the_token_against_the_best_peer(tokens: int, verdict: str, said: str) -> None:
    best = seen(0.4)
    best.cells[SAVE] = costs(tokens)
    found = {"ours": seen(0.98), "worse": seen(0.3), "best": best}  # ours: 20 tokens at every event
    bar = check(found)[-1]
    assert bar.verdict == verdict
    assert bar.seen == (said if verdict == "PASS" else f"{said}; not ahead: save of another file")
    table = bars_table([(Case("one", LONG, 1), found)])
    assert f"| {bar.text} | {verdict}, {said} |" in table
    lines = part_of(Case("one", LONG, 1), found)
    assert any(line.startswith(f"- Missed: {bar.text}. Ahead in 7") for line in lines) is (verdict == "MISSED")


def test_a_history_without_a_kind_of_event_is_judged_by_the_others_and_says_so() -> None:
    kinds = [kind for kind in KINDS if kind not in (NEW, SWITCH)]
    *_, share, cost, front = check({"ours": seen(0.98, kinds), "Tabby": seen(0.4, kinds)})
    assert (share.verdict, share.seen) == ("PASS", "ahead in 6, level in 0 (no switch of file, no new file)")
    assert (cost.verdict, cost.seen) == (share.verdict, share.seen)
    assert front.seen.endswith("level within a block in 0 (no switch of file, no new file)")
    *_, share, cost, front = check({"ours": seen(0.96, kinds), "Tabby": seen(0.98, kinds)})
    assert (share.verdict, cost.verdict, front.verdict) == ("MISSED", "MISSED", "MISSED")
    assert cost.seen.startswith("keystroke, Tabby: 20 tokens; ")
    assert cost.seen.endswith(" tokens (no switch of file, no new file)")
    table = bars_table([(Case("one", LONG, 1), {"ours": seen(0.96, kinds), "Tabby": seen(0.98, kinds)})])
    assert "MISSED, behind in 6 (no switch of file, no new file)" in table


def test_a_bar_that_was_not_measured_says_so() -> None:
    assert [bar.verdict for bar in check({"ours": Seen()})] == ["NOT MEASURED"] * 7
    alone = {bar.text: bar.verdict for bar in check({"ours": seen(0.98)})}
    assert list(alone.values()) == ["PASS"] * 4 + ["NOT MEASURED"] * 3  # nobody to compare with
    without = seen(0.98)
    without.pack_kept.clear()
    assert check({"ours": without})[3].seen == "no pack"
    del without.cells[BRANCH]
    assert check({"ours": without})[3].seen == "no branch switch"


# A session of some length


@pytest.fixture(scope="module")
def session() -> Found:
    tree = {f"mod_{number}.py": module(number, 24) for number in range(16)}
    return measured(corpus.made_history("long", tree, 5, 1), LONG)


def test_a_session_of_some_length_clears_the_bars(session: Found) -> None:
    ours = session["ours"]
    assert len(ours.cells[KEYSTROKE].kept) > 300
    assert min(len(ours.cells[kind].kept) for kind in KINDS) >= 1
    assert ours.cells[KEYSTROKE].share >= 0.97
    assert ours.cells[SAVE].share >= 0.90
    assert ours.cells[CHANGED].share >= 0.90
    assert ours.pack_kept
    assert set(ours.pack_kept) == {1.0}
    assert {bar.text: bar.verdict for bar in check(session)[:4]} == {bar.text: "PASS" for bar in check(session)[:4]}


@pytest.mark.parametrize("peer", [Tabby.name, Continue.name, Ring.name, WideRing.name])
def test_no_peer_is_ahead_by_a_block_in_a_session_of_some_length(session: Found, peer: str) -> None:
    ours, theirs = session["ours"].cells, session[peer].cells
    more = {kind: ours[kind].cost - theirs[kind].cost for kind in KINDS}
    assert {kind: cost for kind, cost in more.items() if cost >= BLOCK} == {}
    assert len(ours[ACCEPT].prefill) == len(theirs[ACCEPT].prefill)  # of the same events
