"""When a place of an open file is looked at, and how snippets stand in a chain."""

from __future__ import annotations

import pytest

from aicockpit.workspace.builds import Similar, Snippet
from aicockpit.workspace.epoch import Chain, Cut, similar_chain, with_runway
from aicockpit.workspace.lookout import PLACE_CHARS, Lookout


def found(*names: str) -> Similar:
    """Snippets of one token each."""
    snippets = tuple(Snippet(name, name.encode(), 1, 2, 0.5, name.encode()) for name in names)
    return Similar(tuple(map(ord, names)), snippets)


def test_searches_leave_an_engine_most_of_its_time_and_more_when_it_does_not_keep_up() -> None:
    lookout, now, waits = Lookout(), 100.0, []
    for number, warm_s in enumerate((0.1, 0.1, 2.0, None, None, None, None, 60.0, 0.2, 0.2)):
        lookout.begin(now, 1.0, 15.0)
        waits.append(lookout.wait_s)
        assert lookout.next_at == now + lookout.wait_s
        lookout.take(now, frozenset("ab"), Similar((1, 2), (Snippet("a", b"", 1, 2, 0.5, bytes([number])),)))
        if warm_s is not None:
            lookout.warmed(now + warm_s)
        now += 100.0
    assert waits == pytest.approx([1.0, 1.0, 1.0, 6.0, 12.0, 15.0, 15.0, 15.0, 15.0, 1.0])


def test_only_the_text_near_the_cursor_is_remembered() -> None:
    lookout = Lookout()
    assert lookout.see("x" * 3 * PLACE_CHARS)
    assert len(lookout.place) == PLACE_CHARS
    assert not lookout.see("the newest place wins")
    assert lookout.look(0.0, 1.0) == {"the", "newest", "place", "wins"}
    assert not lookout.pending
    assert not lookout.due(10.0)


def test_the_head_without_snippets_stays_the_same_object_in_every_chain() -> None:
    base = Chain(tuple(range(40)), (Cut(30, 30), Cut(40, 30, neighbourhood=10)))
    one = with_runway(similar_chain(base, (7,) * 8), (9,) * 20)
    other = with_runway(similar_chain(base, (8,) * 6), (9,) * 20)
    assert one.upto(40) is other.upto(40) is base.tokens
    assert (one.cuts[-1].similar, one.cuts[-1].end, one.runway) == (8, 48, 20)
    assert similar_chain(base, ()) is base
    for end in range(39):
        assert one.upto(end) == one.tokens[:end]
    assert len(one._parts) <= 4


def test_what_was_found_is_outdated_by_other_text_by_a_pack_that_has_it_and_by_a_smaller_budget() -> None:
    lookout = Lookout()
    lookout.take(0.0, frozenset(("word",)), found("a", "b"))
    files = {"a": b"a", "b": b"b"}
    lookout.check(files, frozenset(), 2)
    assert not lookout.pending
    for changed, packed, budget in (
        ({"a": b"a", "b": b"other"}, frozenset(), 2),
        ({"a": b"a"}, frozenset(), 2),
        (files, frozenset((b"a",)), 2),
        (files, frozenset(), 1),
    ):
        lookout.check(changed, packed, budget)
        assert lookout.pending
        assert lookout.look(0.0, 1.0) == {"word"}
        assert not lookout.due(0.9)
        assert lookout.due(1.0)
        lookout.check(files, frozenset(), 2)
        assert not lookout.pending


def test_the_same_snippets_found_again_keep_their_order_and_their_tokens() -> None:
    lookout = Lookout()
    lookout.take(0.0, frozenset("a"), found("a", "b"))
    tokens = lookout.found.tokens
    lookout.take(1.0, frozenset("b"), found("b", "a"))
    assert lookout.found.tokens is tokens
    assert [one.path for one in lookout.found.snippets] == ["a", "b"]
    assert lookout.used == frozenset("b")
    lookout.take(2.0, frozenset("b"), found("b"))
    assert lookout.found.tokens == (ord("b"),)


def test_a_search_that_failed_leaves_what_there_is_and_says_when_it_is_tried_again() -> None:
    lookout = Lookout()
    lookout.take(0.0, frozenset("a"), found("a"))
    lookout.begin(1.0, 1.0, 15.0)
    lookout.fail("no memory", 60.0)
    assert lookout.found.tokens == (ord("a"),)
    lookout.see("another place")
    assert not lookout.due(59.0)
    assert lookout.due(60.0)


def test_a_line_that_an_editor_names_and_a_place_that_a_request_has_replace_each_other() -> None:
    lookout = Lookout()
    assert lookout.point(0)
    assert lookout.line == 1
    assert not lookout.see("text before the cursor")
    assert lookout.line is None
    assert lookout.place == "text before the cursor"
    assert not lookout.point(7)
    assert not lookout.place
    assert not lookout.see("")
    assert lookout.line == 7
