"""The replay benchmark: its cache, its traces, and what a small replay shows of every layout."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import corpus, edits, replay, sections
from benchmarks.corpus import History
from benchmarks.edits import ACCEPT, BRANCH, JUMP, KEYSTROKE, KINDS, NEW, NEWLINE, SAVE, SWITCH
from benchmarks.kvsim import BLOCK, Background, Cache, chain
from benchmarks.replay import Cell, Plan, Seen
from benchmarks.replay_peers import Index, Kit, Sizes, Tabby

from aicockpit.prompts import fim
from tiny_tokenizers import of_family


def module(number: int, functions: int = 14) -> str:
    lines = [f'"""Module {number}."""', "", f"from mod_{(number + 1) % 9} import handle_{(number + 1) % 9}_0", ""]
    for each in range(functions):
        lines += [
            f"def handle_{number}_{each}(request, response):",
            f'    """Handle {each}."""',
            f"    prepared_{each} = request.prepare(number={number}, each={each})",
            f"    answer_{each} = handle_{(number + 1) % 9}_0(prepared_{each}, response)",
            f"    return answer_{each} or response.default({each})",
            "",
        ]
    return "\n".join(lines) + "\n"


@pytest.fixture
def tree() -> dict[str, str]:
    return {f"mod_{number}.py": module(number) for number in range(9)}


@pytest.fixture
def history(tree: dict[str, str]) -> History:
    return corpus.made_history("small", tree, 4, 1)


def plan(history: History) -> Plan:
    encoder = of_family("qwen")
    style, _ = fim.detect(encoder.specials)
    return Plan([history], encoder, style, Sizes(context=2_048, before=64, after=4), 1, 20_000, 65_536)


def measured(history: History) -> dict[str, Seen]:
    with Progress(console=Console(quiet=True)) as progress:
        return replay.run(plan(history), progress)


# The cache


def test_a_changed_token_changes_its_block_and_every_later_one() -> None:
    tokens = list(range(100))
    before = chain(tokens)
    tokens[40] = 7
    after = chain(tokens)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, False, False, False]


def test_the_last_token_is_always_computed() -> None:
    cache = Cache(100)
    assert replay.request(cache, range(2 * BLOCK)) == (2, 0)
    assert replay.request(cache, range(2 * BLOCK)) == (2, 1)
    assert replay.request(cache, range(2 * BLOCK + 1)) == (3, 2)


def test_a_full_cache_drops_the_deepest_blocks_of_what_was_used_least_recently() -> None:
    cache = Cache(4)
    first, second = chain(range(3 * BLOCK)), chain(range(1_000, 1_000 + 2 * BLOCK))
    cache.use(first)
    cache.use(second)
    assert cache.resident(second) == 2
    assert cache.resident(first) == 2


def test_idle_time_prefetches_as_far_as_it_goes_and_cannot_be_saved_up() -> None:
    cache = Cache(1_000)
    background = Background(cache, speed=1_000)
    background.advance(100)
    background.want(range(2_000))
    background.advance(0.6)
    assert cache.resident(chain(range(2_000))) == 512 // BLOCK
    background.advance(10)
    assert cache.resident(chain(range(2_000))) == 2_000 // BLOCK
    assert background.tokens == 2_000


# Histories and traces


def test_a_made_history_ends_in_the_tree_it_was_made_of(tree: dict[str, str], history: History) -> None:
    now = dict(history.base)
    for commit in history.commits:
        for path, text in commit.changes.items():
            if text is not None:
                now[path] = text
    assert now == tree
    assert history == corpus.made_history("small", tree, 4, 1)


def test_a_tree_that_is_too_small_is_refused() -> None:
    with pytest.raises(corpus.CorpusError, match="too few"):
        corpus.made_history("none", {"a.py": "pass\n"}, 4, 1)


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_a_git_history_is_read_commit_by_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    for number in range(5):
        (tmp_path / "main.py").write_text(module(1, functions=number + 2))
        (tmp_path / "notes.txt").write_text(str(number))
        if number == 3:
            (tmp_path / "new é.py").write_text("VALUE = 1\n")
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", str(number))
    found = corpus.history_of(tmp_path, 3, 1)
    assert found.base == {"main.py": module(1, functions=3)}
    assert [sorted(commit.changes) for commit in found.commits] == [["main.py"], ["main.py", "new é.py"], ["main.py"]]
    assert found.other == {"main.py": module(1, functions=2)}


def test_a_trace_is_the_same_for_the_same_seed_and_ends_in_the_last_commit(
    tree: dict[str, str], history: History
) -> None:
    editor = edits.Editor(history, 3)
    events = list(editor.trace(history))
    assert events == list(edits.trace(history, 3))
    assert events != list(edits.trace(history, 4))
    assert editor.tree == tree


def test_a_trace_has_every_kind_of_event(history: History) -> None:
    events = list(edits.trace(history, 1))
    assert {event.kind for event in events} == set(KINDS)
    assert all(0 <= event.cursor <= len(event.text) for event in events)
    saved = [event for event in events if event.kind in (SAVE, NEW)]
    assert all(event.changes[-1].path != event.path for event in saved)
    assert all((event.changes[-1].old is None) == (event.kind == NEW) for event in saved)


def test_keystrokes_type_the_lines_that_were_really_added(history: History, tree: dict[str, str]) -> None:
    before = None
    for event in edits.trace(history, 1):
        if before and before.path == event.path and event.kind in (KEYSTROKE, NEWLINE, ACCEPT, SAVE):
            assert event.text.startswith(before.text[: before.cursor])
            assert event.cursor > before.cursor or before.kind in (JUMP, BRANCH)
        if event.kind == ACCEPT:
            line = event.prefix.rpartition("\n")[2]
            assert line in tree[event.path].splitlines()
        before = event


# Layouts


@pytest.fixture(scope="module")
def found() -> dict[str, Seen]:
    tree = {f"mod_{number}.py": module(number) for number in range(9)}
    return measured(corpus.made_history("small", tree, 2, 1))


def test_the_pack_is_kept_through_a_switch_of_branch(found: dict[str, Seen]) -> None:
    assert len(found["ours"].pack_kept) == 2 * edits.BRANCH_KEYS
    assert min(found["ours"].pack_kept) == 1.0


def test_ours_recomputes_at_a_key_what_follows_the_cursor_and_continue_everything(found: dict[str, Seen]) -> None:
    ours, peer = found["ours"].cells[KEYSTROKE], found["Continue"].cells[KEYSTROKE]
    assert peer.mean < ours.mean - 0.3
    assert ours.mean > 0.85
    assert ours.cost < 400
    for kind in (KEYSTROKE, NEWLINE, ACCEPT, BRANCH):
        assert found["ours"].cells[kind].mean > found["Continue"].cells[kind].mean


def test_the_ring_costs_its_chunks_when_it_turns(found: dict[str, Seen]) -> None:
    ring = found["llama.vscode ring"]
    assert ring.cells[replay.FRESH].mean < ring.cells[KEYSTROKE].mean - 0.1
    assert ring.background > found["ours"].background
    assert ring.prompt_mean < 2_048 + 2_000  # the same budget as everybody's


def test_a_replay_is_deterministic(found: dict[str, Seen]) -> None:
    tree = {f"mod_{number}.py": module(number) for number in range(9)}
    again = measured(corpus.made_history("small", tree, 2, 1))
    assert replay.rows(again) == replay.rows(found)


def test_tabbys_snippets_stand_between_the_mark_and_the_prefix(history: History) -> None:
    chosen = plan(history)
    kit = Kit(chosen.encoder, chosen.style, chosen.sizes, Background(Cache(10), 0), 1, "small")
    event = next(event for event in edits.trace(history, 1) if event.kind == KEYSTROKE)
    text = chosen.encoder.decode(Tabby(kit, history.base).prompt(event).tokens)
    assert text.startswith("<|fim_prefix|># Path: ")
    assert text.endswith("<|fim_middle|>")


def test_an_index_ranks_rare_shared_words_first_and_forgets_old_text() -> None:
    index = Index({"a.py": "common rare_word\n", "b.py": "common\n", "c.py": "common rare_word\n"}, 32)
    assert index.ranked("rare_word common", without="c.py") == [("a.py", 0), ("b.py", 0)]
    index.put("a.py", "other\n")
    assert index.ranked("rare_word", without="c.py") == []


# The verdict


def seen(kept: float, kinds: Sequence[str] = (*KINDS, replay.FRESH)) -> Seen:
    found = Seen(pack_kept=[1.0])
    for kind in kinds:
        found.cells[kind] = Cell([kept], [10])
    return found


def test_the_bars_pass_only_when_ours_is_ahead_in_every_row() -> None:
    good = {"ours": seen(0.98), "Tabby": seen(0.4)}
    assert [bar.verdict for bar in replay.check(good)] == ["PASS"] * 5
    level = {"ours": seen(0.98), "Tabby": seen(0.98, [SWITCH])}
    last = replay.check(level)[-1]
    assert (last.verdict, last.seen) == ("MISSED", "behind in switch of file: Tabby")


def test_a_bar_that_was_not_measured_says_so() -> None:
    verdicts = [bar.verdict for bar in replay.check({"ours": Seen()})]
    assert verdicts == ["NOT MEASURED"] * 5


def test_a_section_is_replaced_between_its_own_markers() -> None:
    page = "# Page\n\n<!-- bench:replay:begin -->\nold\n<!-- bench:replay:end -->\n\nrest\n"
    assert sections.replaced(page, "replay", "new") == page.replace("old", "new")
    added = sections.replaced(page, "worth", "more")
    assert added.endswith("rest\n\n<!-- bench:worth:begin -->\nmore\n<!-- bench:worth:end -->\n")
    with pytest.raises(ValueError, match="once each"):
        sections.replaced("<!-- bench:replay:end -->", "replay", "new")
