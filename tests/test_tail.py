"""Windows that rest while one types, and suffixes that are held only while they are true."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.prompts.tail import TailLimits, first_line, hold, window

LIMITS = TailLimits()
SMALL = TailLimits(prefix_lines=8, suffix_lines=4, step=4, prefix_chars=10**6, suffix_chars=10**6)


def lines(count: int, first: int = 0) -> str:
    return "".join(f"line {number}\n" for number in range(first, first + count))


def test_a_short_file_is_sent_whole() -> None:
    assert window("def f(", "):\n    pass\n", LIMITS) == ("def f(", "):\n    pass\n")
    assert window("", "", LIMITS) == ("", "")


def test_a_long_file_begins_at_a_multiple_of_64_lines_and_ends_with_a_line() -> None:
    sent = window(lines(1000) + "here", lines(1000, 1000), LIMITS)
    assert sent == (lines(1000 - 768, 768) + "here", lines(32, 1000))


@pytest.mark.parametrize("before", [0, 223, 224, 287, 288, 351, 352, 1000])
def test_there_are_224_to_287_lines_in_front_of_the_cursor_once_the_file_is_long_enough(before: int) -> None:
    prefix, _ = window(lines(before), "", LIMITS)
    sent = prefix.count("\n")
    assert sent == before if before < 288 else 224 <= sent < 288


@pytest.mark.parametrize("start", [0, 10, 300, 1000])
def test_typing_moves_the_window_once_in_64_new_lines(start: int) -> None:
    begins = [first_line(lines(start + typed), LIMITS) for typed in range(300)]
    moves = [typed for typed in range(1, 300) if begins[typed] != begins[typed - 1]]
    assert all(later - earlier == 64 for earlier, later in pairwise(moves))
    assert all(begin % 64 == 0 for begin in begins)


@settings(max_examples=300)
@given(start=st.integers(0, 60), edits=st.lists(st.integers(-9, 9) | st.sampled_from([-1, 1]), max_size=150))
def test_whatever_one_types_the_window_rests_for_a_step_of_lines(start: int, edits: list[int]) -> None:
    """New lines and deleted ones, to and fro over any border; half a step when they come in larger pieces."""
    count, previous, changed, pieces = start, first_line(lines(start), SMALL), SMALL.step, False
    for edit in edits:
        after = max(0, count + edit)
        changed += abs(after - count)
        pieces |= abs(after - count) > 1
        count = after
        now = first_line(lines(count), SMALL, previous)
        if now != previous:
            assert changed >= (SMALL.step // 2 if pieces else SMALL.step)
            changed, pieces = 0, abs(edit) > 1
        previous = now
        sent, _ = window(lines(count) + "x", "", SMALL, previous)
        assert sent.endswith("x")
        assert min(count, SMALL.prefix_lines - SMALL.step) <= sent.count("\n") < SMALL.prefix_lines + SMALL.step


def test_a_cursor_that_goes_to_and_fro_over_a_border_moves_nothing() -> None:
    begin = first_line(lines(319), LIMITS)
    begins = []
    for typed in (1, 0, 1, 2, 0, 1, 60, 0):
        begin = first_line(lines(319 + typed), LIMITS, begin)
        begins.append(begin)
    assert begins == [64] * 8


@given(typed=st.text(alphabet="ab (\n", max_size=200), start=st.integers(0, 40))
def test_text_is_only_added_at_the_end_between_two_moves(typed: str, start: int) -> None:
    """A keystroke leaves everything that was sent before it as it was, unless a new line moved the window."""
    sent, _ = window(lines(start), "rest\n", SMALL)
    for end in range(1, len(typed) + 1):
        now, suffix = window(lines(start) + typed[:end], "rest\n", SMALL)
        assert now == sent + typed[end - 1] or (typed[end - 1] == "\n" and (sent + "\n").endswith(now))
        assert suffix == "rest\n"
        sent = now


@given(
    prefix=st.text(alphabet="ab\n", max_size=400),
    suffix=st.text(alphabet="ab\n", max_size=200),
    prefix_chars=st.integers(1, 60),
    suffix_chars=st.integers(0, 60),
    previous=st.none() | st.integers(-8, 80),
)
def test_text_at_the_cursor_is_never_cut_and_the_limits_hold(
    prefix: str, suffix: str, prefix_chars: int, suffix_chars: int, previous: int | None
) -> None:
    limits = TailLimits(prefix_lines=8, suffix_lines=4, step=4, prefix_chars=prefix_chars, suffix_chars=suffix_chars)
    before, after = window(prefix, suffix, limits, previous)
    assert prefix.endswith(before)
    assert suffix.startswith(after)
    assert len(before) <= prefix_chars
    assert len(after) <= suffix_chars
    assert after.count("\n") <= 4
    assert before.endswith(prefix.rpartition("\n")[2][-prefix_chars:])
    assert bool(after) == bool(suffix and suffix_chars)
    assert window(prefix, suffix, limits, previous) == (before, after)


def test_one_endless_line_is_cut_at_rare_places() -> None:
    limits = TailLimits(prefix_chars=400, suffix_chars=100)
    begins = {5000 + typed - len(window("x" * (5000 + typed), "", limits)[0]) for typed in range(400)}
    assert len(begins) <= 5
    assert all(begin % 100 == 0 for begin in begins)
    assert window("a", "y" * 500, limits)[1] == "y" * 100


def test_long_lines_take_away_whole_steps() -> None:
    limits = TailLimits(prefix_lines=8, step=4, prefix_chars=900)
    text = "".join(f"{number:099}\n" for number in range(16))
    begins = {int(window(text + "x" * typed, "", limits)[0][:99]) for typed in range(100)}
    assert begins == {8}


def test_the_rest_of_the_cursors_line_is_part_of_the_suffix() -> None:
    assert window("f(", ")\nb\nc\nd\ne\n", SMALL)[1] == ")\nb\nc\nd\n"
    assert window("f(", "\nb\n", SMALL)[1] == "\nb\n"
    assert window("f(", "no line break", SMALL)[1] == "no line break"
    assert window("f(", "b\n", TailLimits(suffix_lines=0))[1] == ""


def test_limits_that_make_no_sense_are_refused() -> None:
    for wrong in ({"step": 0}, {"prefix_chars": 0}, {"suffix_lines": -1}, {"prefix_lines": 10}):
        with pytest.raises(ValueError, match="must be"):
            TailLimits(**wrong)


BODY = ")\n" + "".join(f"    value_{number} = compute({number})\n" for number in range(40))


def test_a_suffix_with_a_small_edit_below_the_first_lines_is_held() -> None:
    assert hold(BODY, BODY) == BODY
    assert hold(BODY, BODY.replace("value_30", "renamed")) == BODY
    assert hold(BODY, BODY.replace("compute(2)", "compute(9)")) == BODY
    assert hold(BODY, BODY.replace("    value_20 = compute(20)\n", "")) == BODY


def test_a_suffix_that_is_no_longer_true_is_not_held() -> None:
    for now in (
        "",
        BODY[1:],  # the bracket was typed: it stands in the prefix now
        "x" + BODY,
        BODY.replace("value_0", "other"),  # the first line below the cursor
        ")\n" + BODY.split("\n", 2)[2],  # that line is gone
        BODY.replace("compute", "calculate"),
        "\n".join(BODY.split("\n")[:20]),  # half of it is gone
        BODY.split("\n", 5)[5],  # the cursor is five lines below
    ):
        assert hold(BODY, now) == now
    assert hold("", BODY) == BODY


@given(
    text=st.lists(st.sampled_from(["", "    ", "}", "    }", "x = 1", "return x"]), min_size=2, max_size=60),
    data=st.data(),
)
def test_a_cursor_that_moved_is_never_sent_the_old_suffix(text: list[str], data: st.DataObject) -> None:
    """Also where the same lines come again and again."""
    a = data.draw(st.integers(0, len(text) - 1))
    b = data.draw(st.integers(0, len(text) - 1))
    before, now = "\n" + "\n".join(text[a:]), "\n" + "\n".join(text[b:])
    assert hold(before, now) == now


@given(before=st.text(alphabet="ab\n ", max_size=120), now=st.text(alphabet="ab\n ", max_size=120))
def test_what_is_sent_is_one_of_the_two_and_joins_the_cursors_line(before: str, now: str) -> None:
    held = hold(before, now)
    assert held in (before, now)
    assert held.split("\n")[0] == now.split("\n")[0]
