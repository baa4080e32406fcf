"""The warm benchmark's pure parts: which places it asks at, and what it makes of what was measured."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import warm, warm_middle
from benchmarks.bars import all_pass
from benchmarks.warm_middle import BEHIND, LEAST, MOST, Middle, middle_of, places
from benchmarks.warm_rig import Answer, tally


def module(count: int, line: str = "    value_{} = compute({})\n") -> str:
    return "".join(line.format(number, number) for number in range(count))


def middle(first: int = 60, key: int = 40, untold: int = 900) -> Middle:
    def answers(tokens: int, seconds: float) -> list[Answer]:
        return [Answer(seconds, 3000, 2000, 3000 - tokens)] * 3

    return Middle(answers(first, 0.25), answers(key, 0.2), answers(untold, 1.1), [0.8, 1.0, 1.2])


def found() -> warm.Found:
    return warm.Found(
        cold=[4.0, 4.2],
        warm=[0.2, 0.3],
        bare=[0.4],
        middle=middle(),
        saved=[0.5],
        save_to_warm=[0.3],
        restarted=[2.0, 0.3],
        rewarm_s=3.0,
        same_epoch=True,
        alone=[0.05],
        beside=[0.1],
        steps_beside=5,
        step_s=0.4,
        steps=9,
        steps_apart=7,
        pack_tokens=2400,
        first_warm_s=5.0,
        never_cold=[(2500, 2500)],
    )


def test_the_middle_is_inside_a_line_with_the_lines_behind_it() -> None:
    text = module(400)
    place = middle_of("a.py", text)
    assert place is not None
    assert place.line == 201
    assert text.startswith(place.prefix + place.suffix)
    assert place.prefix.count("\n") == 200
    assert place.prefix.rpartition("\n")[2].strip()
    assert not place.suffix.startswith("\n")
    assert place.suffix.count("\n") == BEHIND


def test_blank_lines_have_no_middle() -> None:
    text = module(200) + "\n" * 40 + module(200)
    place = middle_of("a.py", text)
    assert place is not None
    assert place.line == 241


@pytest.mark.parametrize("text", ["", module(LEAST - 1), module(MOST + 1), "\n" * LEAST])
def test_a_file_without_a_middle_is_left_out(text: str) -> None:
    assert middle_of("a.py", text) is None


def test_places_are_of_different_files_and_always_the_same(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"m{number}.py").write_text(module(LEAST + number))
    (tmp_path / "short.py").write_text("pass\n")
    (tmp_path / "long.txt").write_text(module(LEAST))
    (tmp_path / "other.py").write_bytes(b"\xff\n" * LEAST)
    first = places(tmp_path, 6)
    assert len({one.path for one in first}) == 6
    assert places(tmp_path, 6) == first
    assert len(places(tmp_path, 20)) == 9


def test_rows_are_compared_with_cold() -> None:
    rows = {name: rest for name, *rest in warm.rows(found())}
    assert rows["warm"] == ["2", "0.300", "0.300", "16.4x"]
    assert rows["warm, mid-file, first request after focus"] == ["3", "0.250", "0.250", "16.4x"]
    assert rows["warm, mid-file, first request, its line not told"][-1] == "3.7x"


def missed(one: warm.Found) -> list[str]:
    return [bar.text.split(":")[0] for bar in warm.bars(one) if bar.verdict == "MISSED"]


def test_bars_are_missed_where_the_figures_say_so() -> None:
    assert missed(found()) == []
    assert missed(replace(found(), middle=middle(first=900))) == ["mid-file, the first request after focus"]
    assert missed(replace(found(), middle=replace(middle(), late=1))) == ["mid-file, the first request after focus"]
    assert missed(replace(found(), warm=[0.9])) == ["warm at least 10x faster than cold"]
    assert missed(replace(found(), saved=[0.9])) == ["right after a save at least 5x faster than cold"]
    assert missed(replace(found(), never_cold=[(2500, 2400)])) == ["never a cold request once the first epoch is warm"]
    assert missed(replace(found(), pack_tokens=1999)) == ["a pack of 2,000 tokens or more"]
    assert missed(replace(found(), pack_tokens=2000)) == []
    assert missed(replace(found(), steps_beside=0)) == ["no step starts while an interactive request is in flight"]
    asked = replace(found(), steps_while_asked=1)
    assert missed(asked) == ["no step starts while an interactive request is in flight"]
    assert missed(replace(found(), same_epoch=False)) == ["the same epoch re-warmed after kill -9 without the indexer"]


def test_the_p99_beside_warming_may_grow_by_a_step_and_by_half_a_second_at_most() -> None:
    """Alone it is 0.05 s."""
    beside, length = "interactive p99 beside warming", "a step of warming that meets no request"
    assert missed(replace(found(), beside=[0.44], step_s=0.4)) == []
    assert missed(replace(found(), beside=[0.46], step_s=0.4)) == [beside]
    assert missed(replace(found(), beside=[0.1] * 98 + [0.46, 0.46], step_s=0.4)) == [beside]
    assert missed(replace(found(), beside=[0.54], step_s=0.9)) == [length]
    assert missed(replace(found(), beside=[0.56], step_s=0.9)) == [beside, length]


def test_the_page_says_where_the_cursor_was() -> None:
    page = warm.page(found(), ["facts"])
    assert "the cursor has 6 to 9 lines in front of it and 2 behind" in page
    assert "computed 60 in the first request after `focus` named the line, 40 at the next keystroke, and 900" in page
    assert "1 of 3 not within 60 s." in warm_middle.sentence(replace(middle(), late=1))


def step(began: float, seconds: float) -> str:
    return f"DEBUG prefetch step began={began:.4f} seconds={seconds:.4f} tokens=512 cached=256 proof=0 of (1, 'm')\n"


def test_a_step_that_meets_a_request_tells_what_the_request_cost() -> None:
    log = step(10.0, 0.3) + "INFO something else\n" + step(20.0, 2.4) + step(30.0, 0.4)
    counted = tally(log, [(20.1, 24.0)])
    assert (counted.steps, counted.apart, counted.while_asked) == (3, 2, 0)
    assert counted.longest_s == pytest.approx(0.4)
    assert tally(log, []).longest_s == pytest.approx(2.4)


def test_a_step_that_begins_during_a_request_is_counted() -> None:
    log = step(10.0, 0.3) + step(20.0, 0.3)
    assert tally(log, [(19.5, 21.0)]).while_asked == 1
    # At its end, and at its beginning, the clocks of the two sides need not agree.
    assert tally(log, [(19.5, 20.01)]).while_asked == 0
    assert tally(log, [(19.99, 21.0)]).while_asked == 0


def test_a_long_step_misses_the_bar_and_so_does_none_at_all() -> None:
    def verdict(one: warm.Found) -> str:
        return next(bar.verdict for bar in warm.bars(one) if "step of warming" in bar.text)

    assert verdict(found()) == "PASS"
    assert verdict(replace(found(), step_s=0.6)) == "MISSED"
    assert verdict(replace(found(), steps_apart=0)) == "MISSED"


def test_one_missed_bar_is_enough_for_a_run_to_miss() -> None:
    assert all_pass(warm.bars(found()))
    assert not all_pass(warm.bars(replace(found(), saved=[0.9])))
