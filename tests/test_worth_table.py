"""What the worth benchmark makes of scored lines: means, errors, winners, the rows to ship."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.worth_lines import CHAT, CROSS, HELD, PEERS, RANDOM, TWICE, VARIANTS, Sizes
from benchmarks.worth_table import Result, expected, gains, mean_of, row_of, rows_to_ship, table, winner

from aicockpit.prompts.worth import parse


def results(
    gain: float,
    noise: float = 0.01,
    kind: str = RANDOM,
    count: int = 100,
    cross: bool = False,
    best: str = "neighbourhood",
) -> list[Result]:
    rng = random.Random(count)
    made = []
    for number in range(count):
        base = -1 - rng.random()
        scores = {v: base + (gain if v == best else 0.0) + rng.gauss(0, noise) for v in (*VARIANTS, *CHAT)}
        made.append(Result(f"{kind}{number}", kind, cross, 8, {**scores, "none": base, "chat: none": base}, {}))
    return made


def test_standard_errors_are_those_of_the_mean() -> None:
    found = mean_of([1.0, 2.0, 3.0, 4.0])
    assert (found.value, found.count) == (2.5, 4)
    assert found.error == pytest.approx(math.sqrt((2.25 + 0.25 + 0.25 + 2.25) / 3 / 4))
    assert mean_of([]).shown() == "-"


def test_the_paired_difference_is_far_sharper_than_the_means() -> None:
    found = gains(results(0.05), RANDOM, "neighbourhood")
    assert found.value == pytest.approx(0.05, abs=0.005)
    assert found.error < 0.002


def test_the_expected_gain_weighs_cross_lines_by_their_share() -> None:
    found = expected([*results(-0.1, 0), *results(0.4, 0, CROSS, cross=True)], "neighbourhood", 0.25)
    assert found.value == pytest.approx(0.75 * -0.1 + 0.25 * 0.4)


def test_no_context_wins_unless_another_is_ahead_by_its_standard_error() -> None:
    nothing = [*results(0.0, 0.5), *results(0.0, 0.5, CROSS, cross=True)]
    harm = [*results(-0.2), *results(0.1, kind=CROSS, cross=True)]
    assert winner(harm, "completion", 0.9)[0] == "neighbourhood"
    assert winner([*results(-0.2, 0), *results(0.1, 0, CROSS, cross=True)], "completion", 0.1)[0] == "none"
    assert winner([], "completion", 0.1) == ("none", "too few lines are scored")
    assert "standard error" in winner(nothing, "chat", 0.1)[1] or winner(nothing, "chat", 0.1)[0] != "none"


def test_the_peers_way_is_shown_and_never_shipped() -> None:
    found = [*results(0.5, best=PEERS), *results(0.5, kind=CROSS, cross=True, best=PEERS)]
    best, why = winner(found, "completion", 0.1)
    assert best != PEERS
    assert not why.startswith(f"{PEERS} +")
    shown = {cells[0]: cells[3] for cells in table(found, RANDOM)[1]}
    assert float(shown[PEERS].split()[0]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("best", "tokens"), [(HELD, 512), (TWICE, 1024), (f"pack + neighbourhood + {HELD}", 512)])
def test_a_winner_with_similar_snippets_ships_their_tokens(best: str, tokens: int) -> None:
    found = [*results(0.5, best=best), *results(0.5, kind=CROSS, cross=True, best=best)]
    row = row_of(found, "completion", 0.1, "SmolLM2-135M-Instruct", Sizes(), "small")
    assert (row.similar, row.pack, row.neighbourhood) == (tokens, *((1024, 512) if "pack" in best else (0, 0)))


def test_the_chat_lane_is_decided_by_the_chats_and_gets_no_neighbourhood() -> None:
    found = [*results(0.5), *results(0.5, kind=CROSS, cross=True, best="chat: neighbourhood")]
    assert winner(found, "chat", 0.1)[0] != "neighbourhood"
    row = row_of([*found, *results(0.3, kind=CROSS, best="chat: pack")], "chat", 0.1, "m-135M", Sizes(), "small")
    assert (row.pack, row.neighbourhood, row.similar, row.measured) == (1024, 0, 0, True)
    no_chat = [Result(r.id, r.kind, r.cross, 8, {v: r.scores[v] for v in VARIANTS}, {}) for r in found]
    row = row_of(no_chat, "chat", 0.1, "m-135M", Sizes(), "small")
    assert (row.pack, row.measured) == (0, False)
    assert row.note.startswith("0 random lines")


def test_the_rows_to_ship_are_a_table_that_the_product_reads() -> None:
    found = [*results(-0.2), *results(0.1, kind=CROSS, cross=True)]
    sizes = Sizes()
    rest = '[[row]]\npattern = "*"\nlane = "{}"\npack = 0\nneighbourhood = 0\nsimilar = 0\njournal = 0\n'
    rest += 'measured = false\nnote = "-"\n'
    text = rows_to_ship(found, 0.1, "org/SmolLM2-135M-Instruct", sizes, "small")
    shipped = parse("\n".join([text, rest.format("completion"), rest.format("chat")]), "test")
    assert shipped.lookup("SmolLM2-135M-Instruct", "completion").reason.startswith("row *smollm2-135m*, measured: 100")
    assert shipped.lookup("smollm2-135m-instruct", "chat").neighbourhood == 0
    assert row_of(found, "completion", 0.1, "SmolLM2-135M-Instruct", sizes, "small").measured
    assert not row_of(found[:50], "completion", 0.1, "SmolLM2-135M-Instruct", sizes, "small").measured


def test_a_rate_of_fewer_lines_than_the_row_says_so() -> None:
    found = results(0.1, count=4)
    found = [*found[1:], replace(found[0], exact={"none": True, "pack": False})]
    shown = {cells[0]: cells[-1] for cells in table(found, RANDOM)[1]}
    assert shown["none"] == "100.0% ± 0.0% (of 1)"
    assert shown["pack"] == "0.0% ± 0.0% (of 1)"
    assert shown[PEERS] == "-"
