"""How much of a prompt survives an edit: `python benchmarks/replay.py [PATH ...] [--write]`.

Replays editing (a git history, or a source distribution's real lines) through our layout and three peers', at every
budget that the shipped table gives completions, with a real tokenizer and a prefix cache of 16-token blocks as vLLM's.
No engine, no GPU, the same result every time.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tokenizers import AddedToken, Tokenizer

from aicockpit.models import smollm2
from aicockpit.prompts import fim, tokens, worth
from aicockpit.prompts.tokens import Encoder
from aicockpit.settings import load
from benchmarks import corpus, edits, sections
from benchmarks.bars import all_pass
from benchmarks.corpus import History
from benchmarks.edits import BRANCH, NEWLINE, SWITCH, Event
from benchmarks.kvsim import BLOCK, Background, Cache, chain
from benchmarks.proc import ROOT
from benchmarks.replay_kit import Kit, Layout, Memo, Sizes, whole
from benchmarks.replay_layouts import Ours, leading
from benchmarks.replay_peers import Continue, Ring, Tabby, WideRing
from benchmarks.replay_table import (
    CHANGED,
    LAYOUTS,
    Case,
    Found,
    Seen,
    bars_table,
    cases,
    check,
    figures,
    part_of,
    rows,
    versus_table,
)

PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / ".bench"
QWEN = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
WARM_UP_S = 60.0  # idle time before the first event
# One stops to think: at a file that was just opened, and at one new line of so many. Long enough for every layout to
# take in what is new: the ring waits for 3 s without a request.
THINKING_S, THINKS_AT = 5.0, 5
# Prefill on two cores of a CPU with the embedded model, tokens/s; see docs/performance.md, "Warm".
CPU_SPEED = 400.0
REMEMBERED = 64  # texts


@dataclass(frozen=True, slots=True)
class Voice:
    """A tokenizer and the prompt style it speaks. `about`: both, for the report."""

    encoder: Encoder
    style: fim.Style
    about: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to replay and on what engine: `capacity` in tokens of KV cache. `plain`: of the embedded model itself."""

    histories: Sequence[History]
    voice: Voice
    plain: Voice
    cases: Sequence[Case]
    seed: int
    capacity: int
    layouts: Sequence[str] = LAYOUTS


class Remembering(Encoder):
    """The same encoder, which remembers the last texts: layouts share what stands around the cursor."""

    __slots__ = ("_last",)

    def __init__(self, encoder: Encoder) -> None:
        for name in Encoder.__slots__:
            setattr(self, name, getattr(encoder, name))
        self._last: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        found = self._last.pop(text, None)
        self._last[text] = found = super().encode(text) if found is None else found
        if len(self._last) > REMEMBERED:
            del self._last[next(iter(self._last))]
        return found


class Run:
    """One layout at one budget through one history, on a cache of its own."""

    def __init__(self, plan: Plan, case: Case, name: str, history: History, memo: Memo, seen: Seen) -> None:
        cache = Cache(plan.capacity // BLOCK)
        self._cache, self._background, self._seen = cache, Background(cache, case.speed), seen
        voice = plan.plain if case.embedded else plan.voice
        style = whole(voice.style, voice.encoder)
        kit = Kit(voice.encoder, voice.style, style, case.sizes, self._background, plan.seed, history.name, memo)
        self._layout = made(name, kit, history.base, cache)
        self._layout.pause(WARM_UP_S)
        self._start = self._background.tokens
        self._head: tuple[int, ...] | None = None

    def step(self, event: Event) -> None:
        """Event, idle time, request."""
        seen, layout = self._seen, self._layout
        layout.event(event)
        layout.pause(event.pause_s)
        prompt = layout.prompt(event)
        blocks, kept = request(self._cache, prompt.tokens)
        length = len(prompt.tokens)
        share, cost = kept / max(1, blocks), length - kept * BLOCK
        seen.cells[event.kind].add(share, cost, length)
        head = prompt.tokens[: prompt.head]
        if self._head not in (None, head):
            seen.cells[CHANGED].add(share, cost, length)
        self._head = head
        if event.kind == BRANCH and isinstance(layout, Ours):
            whole = prompt.pack // BLOCK
            if whole:  # else the budget has no pack
                seen.pack_kept.append(min(kept, whole) / whole)
        seen.head.append(prompt.head)

    def close(self) -> None:
        """Add what was not of one request."""
        self._seen.background += self._background.tokens - self._start
        if isinstance(self._layout, Ours):
            self._seen.packs += self._layout.epochs


def with_fim(path: Path) -> Path:
    """The tokenizer with Qwen's special tokens added where it has no fill-in-the-middle, in .bench/."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in QWEN])
    folder = FOLDER / "tokenizer-fim"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def voices_of(chosen: Path | None, say: Callable[[str], None]) -> tuple[Voice, Voice]:
    """With infilling and as the tokenizer is: of the embedded model, if no other was chosen."""
    if chosen is None:
        state = load().state_dir
        say(f"tokenizer: {smollm2.REPO_ID} (converted once into the state folder)")
        chosen = smollm2.ensure(state)
    folder = chosen if chosen.is_dir() else chosen.parent
    own = _voice(folder, folder.name, "as it is")
    if own.style.fim:
        return own, own
    added = _voice(with_fim(folder / "tokenizer.json"), folder.name, "Qwen's special tokens added, it has none")
    return added, own


def _voice(folder: Path, name: str, why: str) -> Voice:
    encoder = tokens.load(folder)
    style, _ = fim.detect(encoder.specials)
    return Voice(Remembering(encoder), style, f"{name} ({why}), prompts in the style {style.name}")


def request(cache: Cache, prompt: Sequence[int]) -> tuple[int, int]:
    """Blocks of a prompt, and those found in the cache; its own are there afterwards.

    A hit never covers the last token: vLLM computes at least one.
    """
    hashes = chain(prompt)
    found = min(leading(cache, hashes), max(0, len(prompt) - 1) // BLOCK)
    cache.use(hashes)
    return -(-len(prompt) // BLOCK), found


def paced(events: Iterable[Event], seed: int) -> Iterator[Event]:
    """The same events, with pauses to think."""
    rng = random.Random(f"{seed} pauses")
    for event in events:
        thinks = event.kind == SWITCH or (event.kind == NEWLINE and rng.randrange(THINKS_AT) == 0)
        yield replace(event, pause_s=max(event.pause_s, THINKING_S)) if thinks else event


def run(plan: Plan, progress: Progress) -> list[tuple[Case, Found]]:
    """Every history through every layout at every budget."""
    results = [(case, {name: Seen() for name in plan.layouts}) for case in plan.cases]
    for history in plan.histories:
        events = list(paced(edits.trace(history, plan.seed), plan.seed))
        task = progress.add_task(history.name, total=len(events))
        memos = {False: Memo(), True: Memo()}  # by style
        runs = [
            Run(plan, case, name, history, memos[case.embedded], seen)
            for case, found in results
            for name, seen in found.items()
        ]
        for event in events:  # side by side, so that what they compute alike is computed once
            for one in runs:
                one.step(event)
            progress.advance(task)
        for one in runs:
            one.close()
    return [(case, found) for case, found in results]


def made(name: str, kit: Kit, tree: Mapping[str, str], cache: Cache) -> Layout:
    """The layout of that name, at the start of a session."""
    if name == Ours.name:
        return Ours(kit, tree, cache)
    kinds: dict[str, type[Tabby | Continue | Ring]] = {kind.name: kind for kind in (Tabby, Continue, Ring, WideRing)}
    return kinds[name](kit, tree)


def section(results: Sequence[tuple[Case, Found]], plan: Plan, command: str, took: float) -> str:
    """The part for docs/performance.md."""
    sizes = plan.cases[0].sizes
    return "\n".join(
        [
            f"{time.strftime('%Y-%m-%d')}; {took:.0f} s, no engine. Made by `{command}`.",
            "",
            *(f"- {history.name}: {history.note}" for history in plan.histories),
            f"- tokenizer: {plan.voice.about}",
            f"- every layout may fill the same budget, and has {sizes.before} lines before and {sizes.after} behind "
            f"the cursor; a KV cache of {plan.capacity:,} tokens in blocks of {BLOCK}; {THINKING_S:g} s of thought at "
            f"an opened file and at one new line in {THINKS_AT}",
            "",
            bars_table(results),
            "",
            versus_table(results),
            "",
            "A cell below: tokens to prefill, mean (95th percentile), of the mean length of the prompt; the share of "
            "the prompt's blocks that were in the cache, mean. A save falls between two keystrokes 0.2 s apart: the "
            "next request still gets the head that is warm. The row below the events is of the requests whose "
            "repository part is another one than the request's before.",
            "",
            *(line for case, found in results for line in part_of(case, found)),
        ]
    ).rstrip()


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/replay.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="git repositories, folders or .tar.gz (three packages)")
    parser.add_argument("--commits", type=int, default=5, help="commits of each history (5)")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json or its folder (the embedded SmolLM2's)")
    parser.add_argument("--model", action="append", help="the budget of a model of this name (every shipped budget)")
    parser.add_argument("--suffix-lines", type=int, default=Sizes().after, help="behind the cursor (the product's)")
    parser.add_argument("--speed", type=float, default=5_000, help="prefill in idle time, tokens/s (5000)")
    parser.add_argument("--capacity", type=int, default=131_072, help="tokens of KV cache (131072)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS, help="ours and others (all)")
    parser.add_argument("--json", type=Path, help="write every figure there as well")
    parser.add_argument("--section", default="replay", help="which part of the page --write writes (replay)")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is missed")
    return parser.parse_args(words)


def chosen_cases(table: worth.Table, chosen: argparse.Namespace) -> list[Case]:
    """Every shipped budget, or those of the models that were named."""
    every = cases(table, smollm2.REPO_ID, chosen.speed, CPU_SPEED, Sizes().before, chosen.suffix_lines)
    if not chosen.model:
        return every
    wanted = {
        (row.pack, row.journal, row.neighbourhood, row.similar)
        for row in (table.lookup(name, "completion") for name in chosen.model)
    }
    return [
        one
        for one in every
        if (one.sizes.pack, one.sizes.journal, one.sizes.neighbourhood, one.sizes.similar) in wanted
    ]


def _print(results: Sequence[tuple[Case, Found]], console: Console) -> None:
    for case, found in results:
        head, lines = rows(found)
        table = Table(title=f"{case.title}: {case.label}", title_justify="left")
        for place, name in enumerate(head):
            table.add_column(name, justify="right" if place else "left")
        for cells in lines:
            table.add_row(*cells)
        console.print(table)
        for bar in check(found):
            console.print(f"{bar.verdict:<13} {bar.text}: {bar.seen}", highlight=False, soft_wrap=True)


def main(words: list[str]) -> int:
    """Run it; 0, 1 with --strict when a bar is missed, 2 when there is nothing to replay."""
    chosen = arguments(words)
    console = Console()
    if not console.is_terminal or console.width < 150:
        console = Console(width=220)
    began = time.monotonic()
    try:
        paths = chosen.paths or corpus.download(corpus.PACKAGES, FOLDER / "sdist")
        histories = [corpus.history_of(path, chosen.commits, chosen.seed) for path in paths]
    except corpus.CorpusError as error:
        console.print(f"nothing to replay: {error}", markup=False, soft_wrap=True)
        return 2
    voice, plain = voices_of(chosen.tokenizer, console.print)
    layouts = tuple(dict.fromkeys((Ours.name, *chosen.layouts)))
    picked = chosen_cases(worth.shipped(), chosen)
    plan = Plan(histories, voice, plain, picked, chosen.seed, chosen.capacity, layouts)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
        results = run(plan, progress)
    _print(results, console)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures(results), indent=1))
    if chosen.write:
        given = {str(path): f"PATH/{path.name}" for path in chosen.paths} | {str(chosen.json): "FILE"}
        command = shlex.join(["python", "benchmarks/replay.py", *(given.get(word, word) for word in words)])
        part = section(results, plan, command, time.monotonic() - began)
        sections.write(PAGE, chosen.section, part)
        console.print(f"written: {PAGE.relative_to(ROOT)}")
    return int(chosen.strict and not all(all_pass(check(found)) for _, found in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
