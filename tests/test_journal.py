"""Journal entries: the newer text of what changed, and nothing about what did not."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicockpit.prompts.journal import entry
from aicockpit.prompts.languages import Grammars
from aicockpit.prompts.skeleton import analyse
from sample import Sample
from sources import SAMPLES

OLD = '''"""Shop."""
import os

LIMIT = 1
OTHER = 2


@dataclass
class Shop:
    name: str

    def price(self, item):
        total = item.price
        return total

    def left(self):
        return 0


def convert(a):
    return a
'''


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars()


def told(old: str | None, new: str | None, grammars: Grammars, path: str = "shop.py", limit: int = 40) -> str:
    known = [None if text is None else analyse(path, text, grammars) for text in (old, new)]
    return entry(path, old, new, known[0], known[1], limit)


def test_a_changed_method_is_given_whole_under_its_class(grammars: Grammars) -> None:
    assert told(OLD, OLD.replace("return total", "return total * 2"), grammars) == (
        "class Shop:\n    # ...\n    def price(self, item):\n        total = item.price\n        return total * 2"
    )


def test_two_changed_symbols_are_both_given_and_nothing_between(grammars: Grammars) -> None:
    text = told(OLD, OLD.replace("return 0", "return 1").replace("return a\n", "return a + 1\n"), grammars)
    assert text == (
        "class Shop:\n    # ...\n    def left(self):\n        return 1\n# ...\ndef convert(a):\n    return a + 1"
    )


def test_a_changed_constant_is_given_alone(grammars: Grammars) -> None:
    assert told(OLD, OLD.replace("LIMIT = 1", "LIMIT = 5"), grammars) == "LIMIT = 5"


def test_a_change_outside_of_any_symbol_gives_the_lines_around_it(grammars: Grammars) -> None:
    assert told(OLD, OLD.replace("import os", "import sys"), grammars) == '"""Shop."""\nimport sys\n\nLIMIT = 1'


def test_lines_taken_away_show_what_is_left(grammars: Grammars) -> None:
    assert told(OLD, OLD.replace("        total = item.price\n", ""), grammars) == (
        "class Shop:\n    # ...\n    def price(self, item):\n        return total"
    )


def test_only_a_line_feed_ends_a_line(grammars: Grammars) -> None:
    pages = "import os\n\x0c\n\x0c\n" * 5 + OLD
    assert told(pages, pages.replace("return 0", "return 1"), grammars) == (
        "class Shop:\n    # ...\n    def left(self):\n        return 1"
    )
    assert told(pages.replace("\n", "\r\n"), pages.replace("LIMIT = 1", "LIMIT = 5"), grammars) == "LIMIT = 5"


@pytest.mark.parametrize("count", [340, 800, 3000])
def test_text_that_repeats_itself_is_told_soon(count: int, grammars: Grammars) -> None:
    old, new = "a\nb\n" * (count // 2), "b\nb\na\na\n" * (count // 4)
    began = time.perf_counter()
    assert told(old, new, grammars, "data.txt").count("\n") < 40
    assert time.perf_counter() - began < 5


def test_a_new_file_gives_its_skeleton_and_a_deleted_one_a_line(grammars: Grammars) -> None:
    assert told(None, OLD, grammars) == analyse("shop.py", OLD, grammars).skeleton
    assert told(OLD, None, grammars) == "# shop.py was deleted"
    assert told(OLD, None, grammars, "shop.ts") == "// shop.ts was deleted"
    assert told(None, None, grammars) == ""


@pytest.mark.parametrize("new", [OLD, OLD.replace("\n", "\n\n"), OLD.replace("    ", "  "), OLD + "\n\n", OLD.rstrip()])
def test_whitespace_is_not_worth_saying(new: str, grammars: Grammars) -> None:
    assert told(OLD, new, grammars) == ""


def test_an_entry_keeps_its_limit_and_says_that_there_was_more(grammars: Grammars) -> None:
    new = OLD + "".join(f"def function{number}():\n    return {number}\n" for number in range(100))
    lines = told(OLD, new, grammars, limit=10).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "# ..."
    assert told(OLD, new, grammars, limit=0) == ""


def test_a_symbol_longer_than_the_limit_gives_the_change_alone(grammars: Grammars) -> None:
    old = "def long():\n" + "".join(f"    step({number})\n" for number in range(100))
    text = told(old, old.replace("step(50)", "leap(50)"), grammars, limit=12)
    assert text.splitlines() == [
        *("def long():", "    # ...", "    step(48)", "    step(49)", "    leap(50)", "    step(51)", "    step(52)")
    ]


def test_other_text_gives_its_changed_lines(grammars: Grammars) -> None:
    old = "".join(f"line {number}\n" for number in range(50))
    assert told(old, old.replace("line 20\n", "row 20\n"), grammars, "a.md").splitlines() == [
        *("line 18", "line 19", "row 20", "line 21", "line 22")
    ]


def test_a_rewritten_file_is_told_in_bounded_time(grammars: Grammars) -> None:
    old = "".join(f"x{number} = {number}\n" for number in range(20_000))
    new = "".join(f"y{number} = {number}\n" for number in range(20_000))
    known = analyse("a.py", new, grammars)
    began = time.process_time()
    assert len(entry("a.py", old, new, None, known, 30).splitlines()) == 30
    assert time.process_time() - began < 5


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sample=st.sampled_from(SAMPLES),
    first=st.integers(0, 60),
    count=st.integers(0, 8),
    put=st.text("ab(){}:\n ", max_size=20),
)
def test_any_edit_is_told_within_the_limit_from_the_new_text(
    sample: Sample, first: int, count: int, put: str, grammars: Grammars
) -> None:
    old = sample.with_body("x = 1")
    lines = old.splitlines()
    new = "\n".join([*lines[:first], *put.splitlines(), *lines[first + count :]])
    text = told(old, new, grammars, sample.path, 25)
    assert len(text.splitlines()) <= 25
    have = {line.rstrip() for line in new.splitlines()}
    assert all(line in have or line.strip() in {"# ...", "// ..."} for line in text.splitlines())
    if "".join(old.split()) == "".join(new.split()):
        assert text == ""
