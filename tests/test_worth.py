"""The table of context budgets: what is shipped, and that a broken one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.errors import SettingError
from aicockpit.prompts.worth import LANES, Row, lookup, parse, render, shipped, size_b, with_own

DEFAULTS = tuple(Row("*", lane, 1, 2, 4, 3, False, "default") for lane in LANES)


def test_a_small_coder_model_gets_no_pack_but_the_neighbourhood() -> None:
    worth = lookup("Qwen/Qwen2.5-Coder-0.5B", "completion")
    assert (worth.pack, worth.neighbourhood, worth.similar, worth.measured) == (0, 1500, 1024, False)
    assert worth.reason.startswith("row * under 1B, not measured: ")


def test_a_model_of_unknown_size_is_treated_as_a_small_one() -> None:
    assert lookup("my-model", "completion").pack == 0
    assert "tells no size" in lookup("my-model", "completion").reason


def test_the_embedded_model_has_its_own_rows() -> None:
    for name in ("HuggingFaceTB/SmolLM2-135M-Instruct", "/var/lib/models/SmolLM2-135M-Instruct"):
        for lane in LANES:
            assert lookup(name, lane).reason.startswith("row *smollm2-135m*")


@pytest.mark.parametrize("lane", LANES)
def test_the_budget_grows_with_the_model_and_chat_takes_no_smaller_a_pack(lane: str) -> None:
    packs = [lookup(f"some/coder-{size}", lane).pack for size in ("0.5b", "1.5B", "7B", "32B")]
    assert packs == sorted(packs)
    assert packs[0] < packs[-1]
    for size in ("0.5b", "1.5B", "7B", "32B"):
        assert lookup(f"coder-{size}", "chat").pack >= lookup(f"coder-{size}", "completion").pack


def test_only_completions_get_similar_snippets() -> None:
    """A chat has no cursor to search for."""
    for row in shipped().rows:
        assert row.lane == "completion" or row.similar == 0
    assert all(lookup(f"coder-{size}", "completion").similar >= 512 for size in ("0.5b", "1.5B", "7B", "32B"))


@given(model=st.text(max_size=60), lane=st.sampled_from(LANES))
def test_every_model_has_a_budget(model: str, lane: str) -> None:
    worth = lookup(model, lane)
    assert min(worth.pack, worth.neighbourhood, worth.similar, worth.journal) >= 0
    assert worth.reason


def test_what_is_shipped_as_measured_stands_in_the_table() -> None:
    page = (Path(__file__).parent.parent / "docs/performance.md").read_text()
    measured = [row for row in shipped().rows if row.measured]
    assert measured
    for row in measured:
        assert row.note in page
        assert f"pack = {row.pack}\nneighbourhood = {row.neighbourhood}\nsimilar = {row.similar}\n" in page


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2.5-Coder-0.5B-Instruct", 0.5),
        ("Qwen3-Coder-30B-A3B-Instruct", 30.0),
        ("mixtral-8x7b", 56.0),
        ("SmolLM2-135M-Instruct", 0.135),
        ("/models/models--Qwen--Qwen2.5-Coder-7B/snapshots/3b1f0c", 7.0),
        ("llama-3.1-70b-awq-4bit", 70.0),
        ("qwen_7b_q4", 7.0),
        ("/data/7b/run-2", 7.0),
        ("starcoder2", None),
        ("phi-4", None),
        ("v2.5b", None),
        ("", None),
    ],
)
def test_a_size_is_read_from_a_name(name: str, size: float | None) -> None:
    found = size_b(name)
    assert found == (None if size is None else pytest.approx(size))


def test_the_first_row_that_fits_decides() -> None:
    rows = (
        Row("*coder*", "completion", 10, 0, 7, 0, True, "all coders", above_b=2.0),
        Row("Acme/*", "completion", 20, 0, 0, 0, False, "of acme"),
        *DEFAULTS,
    )
    table = parse(render(rows), "t")
    assert table.rows == rows
    assert table.lookup("acme/CODER-2b", "completion").pack == 10
    assert table.lookup("acme/CODER-2b", "completion").similar == 7
    assert table.lookup("acme/CODER-2b", "completion").reason == "row *coder* from 2B, measured: all coders"
    assert table.lookup("acme/coder-1b", "completion").pack == 20
    assert table.lookup("acme/coder-2b", "chat").pack == 1
    with pytest.raises(ValueError, match="no lane 'edit'"):
        table.lookup("m", "edit")


@given(note=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_rows_are_written_as_they_are_read(note: str) -> None:
    rows = (Row('a"b\\*', "chat", 0, 1, 5, 2, True, note, 0.5, 1.5), *DEFAULTS)
    assert parse(render(rows), "t").rows == rows


GOOD = render(DEFAULTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("= 1", "t is not TOML"),
        ("rows = 1\n" + GOOD, "unknown key 'rows'"),
        ("row = 1", r"rows are written as \[\[row\]\]"),
        ("row = [1]", "t, row 1 is not a table"),
        (GOOD.replace("pack =", "packs ="), "t, row 1 has the unknown key 'packs'"),
        (GOOD.replace('note = "default"\n', ""), "t, row 1 lacks note"),
        (GOOD.replace("similar = 4\n", ""), "t, row 1 lacks similar"),
        (GOOD.replace("similar = 4", "similar = -4"), "similar must be a number of tokens, 0 or more, not -4"),
        (GOOD.replace("pack = 1", "pack = -1"), "row 1: pack must be a number of tokens, 0 or more, not -1"),
        (GOOD.replace("pack = 1", "pack = true"), "pack must be a number of tokens"),
        (GOOD.replace("journal = 3", "journal = 3.5"), "journal must be a number of tokens"),
        (GOOD.replace('"chat"', '"chats"'), "lane must be one of completion, chat, not 'chats'"),
        (GOOD.replace("measured = false", 'measured = "no"'), "measured must be true or false"),
        (GOOD.replace('"*"', '""'), "pattern must be a text"),
        (GOOD.replace("pack = 1", "pack = 1\nabove_b = nan"), "above_b must be a number of billions"),
        (GOOD.replace("pack = 1", "pack = 1\nabove_b = 3\nbelow_b = 2"), "above_b must be less than below_b"),
        ("", "the last row of the lane completion must fit every model"),
        (render(DEFAULTS[:1]), "the last row of the lane chat must fit every model"),
        (GOOD.replace("pack = 1", "pack = 1\nabove_b = 3"), "the last row of the lane completion must fit every model"),
    ],
)
def test_a_wrong_table_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse(text, "t")


def test_a_users_own_rows_come_first(tmp_path: Path) -> None:
    own = Row("mine*", "completion", 7, 0, 0, 0, True, "mine")
    (tmp_path / "own.toml").write_text(render([own]))
    table = with_own(tmp_path / "own.toml")
    assert table.lookup("mine-1b", "completion").pack == 7
    assert table.lookup("mine-1b", "chat") == lookup("mine-1b", "chat")
    assert with_own(None) == shipped()


@pytest.mark.parametrize("content", [None, b"\xff", b"[[row]]\npattern = 1"])
def test_a_file_of_rows_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=r"own\.toml"):
        with_own(path)
