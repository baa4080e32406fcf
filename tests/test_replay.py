"""The replay benchmark: its cache, its traces, and what a small replay shows of every layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import corpus, edits, replay, sections
from benchmarks.corpus import History
from benchmarks.edits import ACCEPT, BRANCH, JUMP, KEYSTROKE, KINDS, NEW, NEWLINE, SAVE, SWITCH, Change, Event
from benchmarks.kvsim import BLOCK, Background, Cache, chain
from benchmarks.replay_kit import Kit, Sizes, whole
from benchmarks.replay_layouts import Ours, leading
from benchmarks.replay_peers import Index, Ring, Tabby, WideRing
from benchmarks.replay_table import CHANGED, Found, cases, rows

from aicockpit.models import smollm2
from aicockpit.prompts import fim, worth
from replay_rig import SIZES, measured, module
from tiny_tokenizers import of_family


@pytest.fixture
def tree() -> dict[str, str]:
    return {f"mod_{number}.py": module(number) for number in range(9)}


@pytest.fixture
def history(tree: dict[str, str]) -> History:
    return corpus.made_history("small", tree, 4, 1)


def kit_of(sizes: Sizes = SIZES, speed: float = 20_000) -> tuple[Kit, Cache]:
    encoder, cache = of_family("qwen"), Cache(10_000)
    style, _ = fim.detect(encoder.specials)
    return Kit(encoder, style, whole(style, encoder), sizes, Background(cache, speed), 1, "small"), cache


def event_at(path: str, text: str, line: int, kind: str = KEYSTROKE, changes: tuple[Change, ...] = ()) -> Event:
    cursor = sum(map(len, text.splitlines(keepends=True)[:line]))
    return Event(kind, 0.2, changes, path, text, cursor)


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


@pytest.mark.parametrize("known", [0, 1, 5, 6])
def test_leading_blocks_are_found_without_looking_at_each(known: int) -> None:
    cache, hashes = Cache(100), chain(range(6 * BLOCK))
    cache.use(hashes[:known])
    assert leading(cache, hashes) == cache.resident(hashes) == known


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


def test_thinking_lengthens_pauses_and_changes_nothing_else(history: History) -> None:
    events = list(edits.trace(history, 1))
    paced = list(replay.paced(events, 1))
    assert [(e.kind, e.text, e.cursor) for e in paced] == [(e.kind, e.text, e.cursor) for e in events]
    assert all(after.pause_s >= before.pause_s for before, after in zip(events, paced, strict=True))
    assert {e.pause_s for e in paced if e.kind == SWITCH} == {replay.THINKING_S}
    assert len({e.pause_s for e in paced if e.kind == NEWLINE}) == 2


# Layouts


@pytest.fixture(scope="module")
def found() -> Found:
    tree = {f"mod_{number}.py": module(number) for number in range(9)}
    return measured(corpus.made_history("small", tree, 2, 1))


def test_the_pack_is_kept_through_a_switch_of_branch(found: Found) -> None:
    assert len(found["ours"].pack_kept) == 2 * edits.BRANCH_KEYS
    assert min(found["ours"].pack_kept) == 1.0


def test_ours_recomputes_at_a_key_what_follows_the_cursor_and_continue_everything(found: Found) -> None:
    ours, peer = found["ours"].cells[KEYSTROKE], found["Continue"].cells[KEYSTROKE]
    assert peer.share < ours.share - 0.3
    assert ours.share > 0.85
    assert ours.cost < 400
    for kind in (KEYSTROKE, NEWLINE, ACCEPT, BRANCH):
        assert found["ours"].cells[kind].share > found["Continue"].cells[kind].share


def test_the_ring_costs_its_chunks_when_it_turns(found: Found) -> None:
    ring = found[Ring.name]
    assert ring.cells[CHANGED].share < ring.cells[KEYSTROKE].share - 0.1
    assert max(ring.head) <= SIZES.context + 50  # the same budget as everybody's, and the header


def test_what_ours_serves_stays_within_its_budget_and_gets_other_heads(found: Found) -> None:
    ours = found["ours"]
    assert max(ours.head) <= SIZES.context + 50
    assert min(ours.head) > SIZES.pack / 2
    assert ours.cells[CHANGED].kept
    assert ours.packs > 1


def test_a_replay_is_deterministic(found: Found) -> None:
    tree = {f"mod_{number}.py": module(number) for number in range(9)}
    again = measured(corpus.made_history("small", tree, 2, 1))
    assert rows(again) == rows(found)


def test_ours_serves_snippets_once_they_are_warm(tree: dict[str, str]) -> None:
    kit, cache = kit_of(Sizes(pack=0, journal=200, neighbourhood=0, similar=800, before=64, after=4))
    layout = Ours(kit, tree, cache)
    event = event_at("mod_3.py", tree["mod_3.py"], 40)
    layout.event(event)
    first = layout.prompt(event)
    assert first.head < BLOCK  # the header; nothing is warm yet
    for _ in range(2):
        layout.pause(5)
        shown = layout.prompt(event)
        replay.request(cache, shown.tokens)
    text = kit.encoder.decode(shown.tokens[: shown.head])
    assert 200 < shown.head < 900
    assert "<|file_sep|>mod_3.py" not in text
    assert "prepared_" in text


def ring_events(tree: dict[str, str], kind: type[Ring] = Ring) -> tuple[Ring, Kit]:
    kit, _ = kit_of()
    ring = kind(kit, tree)
    ring.event(event_at("mod_3.py", tree["mod_3.py"], 40))
    return ring, kit


def head_of(ring: Ring, tree: dict[str, str]) -> tuple[int, ...]:
    prompt = ring.prompt(event_at("mod_3.py", tree["mod_3.py"], 40))
    return prompt.tokens[: prompt.head]


def test_the_ring_turns_after_three_seconds_without_a_request_and_then_once_a_second(tree: dict[str, str]) -> None:
    ring, _ = ring_events(tree)
    ring.event(event_at("mod_4.py", tree["mod_4.py"], 40))  # leaving and opening: two more chunks wait
    heads = [head_of(ring, tree)]
    for seconds in (2.9, 3.0, 4.0):
        ring.pause(seconds)
        heads.append(head_of(ring, tree))
    assert heads[0] == heads[1]
    assert len(set(heads)) == 3
    assert len(ring._queue) == 1  # of four: two opened, one left, one beyond the local context


def test_the_ring_takes_half_of_a_long_text_and_the_whole_of_a_short_one(tree: dict[str, str]) -> None:
    ring, _ = ring_events(tree)
    ring._queue.clear()
    short = "".join(f"value_{n} = {n}\n" for n in range(10))
    changes = (Change("long.py", None, tree["mod_1.py"]), Change("short.py", None, short))
    ring.event(event_at("mod_3.py", tree["mod_3.py"], 40, SAVE, changes))
    assert [(path, len(text.splitlines())) for path, text in ring._queue] == [("long.py", 32), ("short.py", 11)]


def test_the_ring_sees_no_change_that_no_editor_saved(tree: dict[str, str]) -> None:
    ring, _ = ring_events(tree)
    before = list(ring._queue)
    changes = (Change("mod_1.py", tree["mod_1.py"], tree["mod_2.py"]),)
    ring.event(event_at("mod_3.py", tree["mod_3.py"], 40, BRANCH, changes))
    assert list(ring._queue) == before


def test_the_enlarged_ring_fills_the_budget_and_the_default_has_sixteen_chunks() -> None:
    tree = {f"mod_{number}.py": module(number) for number in range(9)}
    kit, _ = kit_of(Sizes(pack=20_000, journal=0, neighbourhood=0, similar=0))
    wide, ring = WideRing(kit, tree), Ring(kit, tree)
    assert len(ring._ring) == 16
    assert len(wide._ring) > 16
    largest = max(len(kit.item(*one)) for one in wide._ring)
    assert kit.sizes.context - largest < len(head_of(wide, tree)) <= kit.sizes.context + 50


def test_tabbys_snippets_stand_between_the_mark_and_the_prefix(history: History) -> None:
    kit, _ = kit_of()
    event = next(event for event in edits.trace(history, 1) if event.kind == KEYSTROKE)
    text = kit.encoder.decode(Tabby(kit, history.base).prompt(event).tokens)
    assert text.startswith("<|fim_prefix|># Path: ")
    assert text.endswith("<|fim_middle|>")


def test_an_index_ranks_rare_shared_words_first_and_forgets_old_text() -> None:
    index = Index({"a.py": "common rare_word\n", "b.py": "common\n", "c.py": "common rare_word\n"}, 32)
    assert index.ranked("rare_word common", without="c.py") == [("a.py", 0), ("b.py", 0)]
    index.put("a.py", "other\n")
    assert index.ranked("rare_word", without="c.py") == []


# Budgets


def test_every_shipped_budget_of_completions_is_replayed_once() -> None:
    table = worth.shipped()
    found = cases(table, smollm2.REPO_ID, 5_000, 400, 256, 32)
    sizes = [(one.sizes.pack, one.sizes.journal, one.sizes.neighbourhood, one.sizes.similar) for one in found]
    shipped = {(r.pack, r.journal, r.neighbourhood, r.similar) for r in table.rows if r.lane == "completion"}
    assert len(sizes) == len(shipped)
    assert set(sizes) == shipped
    embedded = table.lookup(smollm2.REPO_ID, "completion")
    total = embedded.pack + embedded.journal + embedded.neighbourhood + embedded.similar
    assert [one.sizes.context for one in found if one.speed == 400] == [total]


def test_the_page_shows_every_shipped_budget() -> None:
    page = replay.PAGE.read_text()
    for one in cases(worth.shipped(), smollm2.REPO_ID, 5_000, 400, 256, 32):
        assert f"**{one.title}**: {one.label}." in page, "run: .venv/bin/python benchmarks/replay.py --write"


def test_a_section_is_replaced_between_its_own_markers() -> None:
    page = "# Page\n\n<!-- bench:replay:begin -->\nold\n<!-- bench:replay:end -->\n\nrest\n"
    assert sections.replaced(page, "replay", "new") == page.replace("old", "new")
    added = sections.replaced(page, "worth", "more")
    assert added.endswith("rest\n\n<!-- bench:worth:begin -->\nmore\n<!-- bench:worth:end -->\n")
    with pytest.raises(ValueError, match="once each"):
        sections.replaced("<!-- bench:replay:end -->", "replay", "new")
