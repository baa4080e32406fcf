"""When a look is due: soon, once for many events, seldom where a file never rests, and never not at all."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.indexer.debounce import Debounce, Pace


def test_a_look_is_due_when_it_is_quiet_and_at_the_latest_in_time() -> None:
    debounce = Debounce(0.02, 0.1)
    assert debounce.due() is None
    debounce.add([(b"a", False)], 10.0)
    assert debounce.due() == pytest.approx(10.02)
    for step in range(1, 12):
        debounce.add([(b"b", False)], 10 + step / 100)
    assert debounce.due() == pytest.approx(10.1)
    assert debounce.take(10.1) == {b"a", b"b"}
    assert debounce.due() is None


def test_a_file_open_for_writing_waits_for_its_close() -> None:
    debounce = Debounce(0.02, 0.1, open_s=0.5)
    debounce.add([(b"a", True)], 10.0)
    debounce.add([(b"a", True), (b"b", False)], 10.1)
    assert debounce.due() == pytest.approx(10.12)
    assert debounce.take(10.2) == {b"b"}
    assert debounce.due() == pytest.approx(10.5)
    debounce.add([(b"a", False)], 10.3)
    assert debounce.take(10.32) == {b"a"}
    debounce.add([(b"a", True)], 11.0)
    assert debounce.take(11.5) == {b"a"}
    assert debounce.due() is None


def test_a_file_that_grows_on_and_on_waits_ever_longer_until_it_rests() -> None:
    debounce, taken, now = Debounce(open_s=0.5, longest_s=30), [], 0.0
    while now < 200:
        debounce.add([(b"log", True)], now)
        if debounce.take(now):
            taken.append(now)
        now += 0.1
    waits = [after - before for before, after in pairwise(taken)]
    assert taken[0] == pytest.approx(0.5, abs=0.11)
    assert waits[:7] == pytest.approx([1, 2, 4, 8, 16, 30, 30], abs=0.25)
    debounce.take(now + 60)
    debounce.add([(b"log", True)], now + 100)
    assert debounce.due() == pytest.approx(now + 100.5)
    debounce.take(now + 101)
    debounce.add([(b"log", True), (b"log", False)], now + 101.1)  # closed, and opened once more
    debounce.take(now + 102)
    debounce.add([(b"log", True)], now + 102)
    assert debounce.due() == pytest.approx(now + 102.5)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.floats(0, 0.3)), max_size=80))
def test_no_event_is_lost_and_none_waits_longer_than_the_longest_waits(events: list[tuple[int, bool, float]]) -> None:
    debounce, now, taken = Debounce(longest_s=2, pace=Pace(free=2, longest_s=2)), 0.0, set()
    added: dict[bytes, float] = {}
    for number, soft, pause in events:
        now += pause
        while (due := debounce.due()) is not None and due <= now:
            for path in debounce.take(due):
                taken.add(path)
                assert due - added.pop(path) <= 2 + 2 + 0.1 + 1e-9  # open, then closed and held back
        path = b"%d" % number
        added.setdefault(path, now)
        debounce.add([(path, soft)], now)
    while (due := debounce.due()) is not None:
        for path in debounce.take(due):
            taken.add(path)
            del added[path]
    assert taken == {b"%d" % number for number, _, _ in events}
    assert not added


def looks(every_s: float, seconds: float, path: bytes = b"log", debounce: Debounce | None = None) -> list[float]:
    """When a file is looked at that is saved every so many seconds."""
    debounce, taken, now, saved = debounce or Debounce(), [], 0.0, 0.0
    while now < seconds or debounce.due() is not None:
        if saved <= now < seconds:
            debounce.add([(path, True), (path, False)], now)
            saved += every_s
        if (due := debounce.due()) is not None and due <= now and debounce.take(now):
            taken.append(now)
        now += 0.005
    return taken


def test_a_file_saved_again_and_again_is_looked_at_ever_more_seldom() -> None:
    taken = looks(0.05, 40)
    waits = [after - before for before, after in pairwise(taken)]
    assert max(waits[:3]) <= 0.11
    assert waits[3:8] == pytest.approx([0.25, 0.5, 1, 2, 3], abs=0.1)
    assert waits[8:] == pytest.approx([3] * len(waits[8:]), abs=0.1)
    assert 39.94 <= taken[-1] <= 43.1, "the last save is looked at, too"
    assert len(taken) <= 20


@pytest.mark.parametrize("every_s", [1.0, 3.0])
def test_saves_of_a_person_or_an_editor_are_never_held_back(every_s: float) -> None:
    taken = looks(every_s, 30)
    assert [seen - n * every_s for n, seen in enumerate(taken)] == pytest.approx([0.02] * len(taken), abs=0.011)
    assert len(taken) == 30 / every_s


def test_a_save_a_formatter_and_two_more_are_looked_at_at_once() -> None:
    debounce, waits = Debounce(), []
    for start in (0.0, 0.2, 0.4, 0.6):
        debounce.add([(b"a.py", False)], start)
        due = debounce.due()
        assert due is not None
        waits.append(due - start)
        assert debounce.take(due) == {b"a.py"}
    assert waits == pytest.approx([0.02] * 4)


def test_a_busy_file_holds_no_other_back_and_a_rest_makes_it_quick_again() -> None:
    debounce = Debounce()
    for step in range(400):
        now = step * 0.05
        debounce.add([(b"log", False)], now)
        debounce.take(now + 0.03)
    debounce.add([(b"a.py", False)], 20.0)
    assert debounce.due() == pytest.approx(20.02)
    assert debounce.take(20.02) == {b"a.py"}
    due = debounce.due()
    assert due is not None
    assert 20.02 < due <= 23
    assert debounce.take(due) == {b"log"}
    again = due + 3.8  # longer than the last wait and a rest
    debounce.add([(b"log", False)], again)
    assert debounce.due() == pytest.approx(again + 0.02)


def test_what_has_rested_is_forgotten() -> None:
    debounce = Debounce()
    for number in range(1000):
        debounce.add([(b"%d" % number, False)], number / 10)
        debounce.take(number / 10 + 0.02)
    assert len(debounce._looks) < 20
