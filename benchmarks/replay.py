"""How much of a prompt survives an edit: `python benchmarks/replay.py [PATH ...] [--write]`.

Replays editing (a git history, or a source distribution's real lines) through our layout and three peers', with a
real tokenizer and a prefix cache of 16-token blocks as vLLM's. No engine, no GPU, the same result every time.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tokenizers import AddedToken, Tokenizer

from aicockpit.models import smollm2
from aicockpit.prompts import fim, tokens
from aicockpit.prompts.tokens import Encoder
from aicockpit.settings import load
from benchmarks import corpus, edits, sections
from benchmarks.bars import Bar
from benchmarks.corpus import History
from benchmarks.edits import BRANCH, KEYSTROKE, KINDS, SAVE, Event
from benchmarks.kvsim import BLOCK, Background, Cache, chain
from benchmarks.proc import ROOT
from benchmarks.replay_layouts import Ours
from benchmarks.replay_peers import Continue, Kit, Layout, Ring, Sizes, Tabby
from benchmarks.report import markdown_table
from benchmarks.stats import percentile

PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / ".bench"
QWEN = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
LAYOUTS = ("ours", Tabby.name, Continue.name, Ring.name)
FRESH = "first request with newer context"
WARM_UP_S = 600.0  # idle time before the first event


@dataclass(slots=True)
class Cell:
    """The requests of one kind of event in one layout."""

    kept: list[float] = field(default_factory=list)  # share of the prompt's blocks
    prefill: list[int] = field(default_factory=list)  # tokens

    def add(self, kept: float, prefill: int) -> None:
        self.kept.append(kept)
        self.prefill.append(prefill)

    @property
    def mean(self) -> float:
        return sum(self.kept) / len(self.kept) if self.kept else 0.0

    @property
    def p5(self) -> float:
        return percentile(self.kept, 5)

    @property
    def cost(self) -> float:
        return sum(self.prefill) / len(self.prefill) if self.prefill else 0.0


@dataclass(slots=True)
class Seen:
    """What one layout did over all histories."""

    cells: dict[str, Cell] = field(default_factory=lambda: defaultdict(Cell))
    pack_kept: list[float] = field(default_factory=list)  # through switches of branch
    prompt: list[int] = field(default_factory=list)
    background: int = 0
    requests: int = 0
    epochs: int = 0

    @property
    def prompt_mean(self) -> float:
        return sum(self.prompt) / max(1, len(self.prompt))

    @property
    def background_mean(self) -> float:
        return self.background / max(1, self.requests)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to replay and on what engine: `speed` in tokens/s of prefill, `capacity` in tokens of KV cache."""

    histories: Sequence[History]
    encoder: Encoder
    style: fim.Style
    sizes: Sizes
    seed: int
    speed: float
    capacity: int


def with_fim(path: Path) -> Path:
    """The tokenizer with Qwen's special tokens added where it has no fill-in-the-middle, in .bench/."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in QWEN])
    folder = FOLDER / "tokenizer-fim"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def encoder_of(chosen: Path | None, say: Callable[[str], None]) -> tuple[Encoder, fim.Style, str]:
    """The tokenizer, the prompt style it speaks, and a line about both for the report."""
    if chosen is None:
        state = load().state_dir
        say(f"tokenizer: {smollm2.REPO_ID} (converted once into the state folder)")
        chosen = smollm2.ensure(state)
    folder = chosen if chosen.is_dir() else chosen.parent
    name = folder.name
    encoder = tokens.load(folder)
    style, why = fim.detect(encoder.specials)
    if not style.fim:
        encoder = tokens.load(with_fim(folder / "tokenizer.json"))
        style, why = fim.detect(encoder.specials)
        why = f"Qwen's special tokens added, since it has none of its own: {why}"
    return encoder, style, f"{name}, prompts in the style {style.name} ({why})"


def request(cache: Cache, prompt: Sequence[int]) -> tuple[int, int]:
    """Blocks of a prompt, and those found in the cache; its own are there afterwards.

    A hit never covers the last token: vLLM computes at least one.
    """
    hashes = chain(prompt)
    found = min(cache.resident(hashes), max(0, len(prompt) - 1) // BLOCK)
    cache.use(hashes)
    return -(-len(prompt) // BLOCK), found


def replay(
    layout: Layout, events: Iterable[Event], cache: Cache, background: Background, seen: Seen, tick: Callable[[], None]
) -> None:
    """One history through one layout: event, idle time, request."""
    background.advance(WARM_UP_S)
    start = background.tokens
    for event in events:
        layout.event(event)
        background.advance(event.pause_s)
        prompt = layout.prompt(event)
        blocks, kept = request(cache, prompt.tokens)
        share, cost = kept / max(1, blocks), len(prompt.tokens) - kept * BLOCK
        seen.cells[event.kind].add(share, cost)
        if prompt.fresh:
            seen.cells[FRESH].add(share, cost)
        if event.kind == BRANCH and isinstance(layout, Ours):
            whole = prompt.pack // BLOCK
            seen.pack_kept.append(min(kept, whole) / whole if whole else 0.0)
        seen.prompt.append(len(prompt.tokens))
        seen.requests += 1
        tick()
    seen.background += background.tokens - start


def run(plan: Plan, progress: Progress) -> dict[str, Seen]:
    """Every history through every layout, each on a cache of its own."""
    found = {name: Seen() for name in LAYOUTS}
    traces = [list(edits.trace(history, plan.seed)) for history in plan.histories]
    for history, events in zip(plan.histories, traces, strict=True):
        for name in LAYOUTS:
            task = progress.add_task(f"{history.name}: {name}", total=len(events))
            cache = Cache(plan.capacity // BLOCK)
            background = Background(cache, plan.speed)
            kit = Kit(plan.encoder, plan.style, plan.sizes, background, plan.seed, history.name)
            layout = made(name, kit, history.base, cache)
            replay(layout, events, cache, background, found[name], lambda task=task: progress.advance(task))  # type: ignore[misc]
            if isinstance(layout, Ours):
                found[name].epochs += layout.epochs
            progress.remove_task(task)
    return found


def made(name: str, kit: Kit, tree: Mapping[str, str], cache: Cache) -> Layout:
    """The layout of that name, at the start of a session."""
    if name == Ours.name:
        return Ours(kit, tree, cache)
    kinds: dict[str, type[Tabby | Continue | Ring]] = {kind.name: kind for kind in (Tabby, Continue, Ring)}
    return kinds[name](kit, tree)


def check(found: Mapping[str, Seen]) -> list[Bar]:
    """The bars, ours against the peers in every row included."""
    ours = found["ours"]

    def at_least(text: str, cell: Cell, floor: float) -> Bar:
        if not cell.kept:
            return Bar(text, "NOT MEASURED", "-")
        return Bar(text, "PASS" if cell.mean >= floor else "MISSED", f"{cell.mean:.1%} (p5 {cell.p5:.1%})")

    bars = [
        at_least("at least 97 % of the blocks kept per keystroke", ours.cells[KEYSTROKE], 0.97),
        at_least("at least 90 % kept after a save of another file", ours.cells[SAVE], 0.90),
        at_least("at least 90 % kept by the first request with newer context", ours.cells[FRESH], 0.90),
    ]
    lowest = min(ours.pack_kept, default=None)
    text = "100 % of the pack kept through a branch switch, every request"
    verdict = "NOT MEASURED" if lowest is None else "PASS" if lowest == 1.0 else "MISSED"
    bars.append(Bar(text, verdict, "-" if lowest is None else f"lowest {lowest:.1%}"))  # type: ignore[arg-type]
    behind = [
        f"{kind}: {name}"
        for kind in KINDS
        for name, seen in found.items()
        if name != "ours" and seen.cells[kind].kept and seen.cells[kind].mean >= ours.cells[kind].mean
    ]
    measured = all(ours.cells[kind].kept for kind in KINDS)
    seen_text = f"behind in {', '.join(behind)}" if behind else "every row"
    bars.append(
        Bar(
            "ours ahead of every peer in every row",
            "MISSED" if behind else "PASS" if measured else "NOT MEASURED",
            seen_text,
        )
    )
    return bars


def rows(found: Mapping[str, Seen]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: share kept, its fifth percentile, tokens to prefill."""
    head = ["event", "requests", *found]
    lines = []
    for kind in (*KINDS, FRESH):
        cells = [seen.cells[kind] for seen in found.values()]
        if any(cell.kept for cell in cells):
            shown = [f"{c.mean:.1%} ({c.p5:.1%}), {c.cost:,.0f}" if c.kept else "-" for c in cells]
            lines.append([kind, str(len(cells[0].kept)), *shown])
    lines.append(["tokens of a prompt, mean", "", *(f"{seen.prompt_mean:,.0f}" for seen in found.values())])
    idle = [f"{seen.background_mean:,.0f}" for seen in found.values()]
    lines.append(["tokens prefilled in idle time, per request", "", *idle])
    return head, lines


def section(found: Mapping[str, Seen], bars: Sequence[Bar], plan: Plan, about: str, command: str, took: float) -> str:
    """The part for docs/performance.md."""
    head, lines = rows(found)
    return "\n".join(
        [
            f"{time.strftime('%Y-%m-%d')}; {took:.0f} s, no engine. Made by `{command}`.",
            "",
            *(f"- {history.name}: {history.note}" for history in plan.histories),
            f"- tokenizer: {about}",
            f"- budget of every layout: {plan.sizes.context:,} tokens of repository, {plan.sizes.before} lines before "
            f"and {plan.sizes.after} behind the cursor; a KV cache of {plan.capacity:,} tokens in blocks of {BLOCK}; "
            f"idle time prefills {plan.speed:,.0f} tokens/s, for ours and for the ring",
            "",
            "A cell: share of the prompt's blocks that were in the cache, mean (fifth percentile), and tokens to "
            "prefill, mean. A save of another file falls between two keystrokes 0.2 s apart: the next request still "
            "gets the head that is warm, and the row below the events is the first request with the new text.",
            "",
            markdown_table(head, lines),
            "",
            markdown_table(["bar", "verdict", "seen"], [[bar.text, bar.verdict, bar.seen] for bar in bars]),
        ]
    )


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/replay.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="git repositories, folders or .tar.gz (three packages)")
    parser.add_argument("--commits", type=int, default=5, help="commits of each history (5)")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json or its folder (the embedded SmolLM2's)")
    parser.add_argument("--context", type=int, default=Sizes().context, help="tokens of repository (16384)")
    parser.add_argument("--suffix-lines", type=int, default=Sizes().after, help="behind the cursor (the product's)")
    parser.add_argument("--speed", type=float, default=5_000, help="prefill in idle time, tokens/s (5000)")
    parser.add_argument("--capacity", type=int, default=131_072, help="tokens of KV cache (131072)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every figure there as well")
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is missed")
    return parser.parse_args(words)


def _print(found: Mapping[str, Seen], bars: Sequence[Bar], console: Console) -> None:
    head, lines = rows(found)
    table = Table(title="blocks kept: mean (p5), tokens to prefill", title_justify="left")
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left")
    for cells in lines:
        table.add_row(*cells)
    console.print(table)
    for bar in bars:
        console.print(f"{bar.verdict:<13} {bar.text}: {bar.seen}", highlight=False, soft_wrap=True)


def main(words: list[str]) -> int:
    """Run it; 0, 1 with --strict when a bar is missed, 2 when there is nothing to replay."""
    chosen = arguments(words)
    console = Console()
    if not console.is_terminal or console.width < 150:
        console = Console(width=150)
    began = time.monotonic()
    try:
        paths = chosen.paths or corpus.download(corpus.PACKAGES, FOLDER / "sdist")
        histories = [corpus.history_of(path, chosen.commits, chosen.seed) for path in paths]
    except corpus.CorpusError as error:
        console.print(f"nothing to replay: {error}", markup=False, soft_wrap=True)
        return 2
    encoder, style, about = encoder_of(chosen.tokenizer, console.print)
    sizes = Sizes(context=chosen.context, after=chosen.suffix_lines)
    plan = Plan(histories, encoder, style, sizes, chosen.seed, chosen.speed, chosen.capacity)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
        found = run(plan, progress)
    bars = check(found)
    _print(found, bars, console)
    if chosen.json:
        cells = {n: {k: [c.mean, c.p5, c.cost, len(c.kept)] for k, c in s.cells.items()} for n, s in found.items()}
        chosen.json.write_text(json.dumps(cells, indent=1))
    if chosen.write:
        command = shlex.join(["python", "benchmarks/replay.py", *words])
        part = section(found, bars, plan, about, command, time.monotonic() - began)
        sections.write(PAGE, "replay", part)
        console.print(f"written: {PAGE.relative_to(ROOT)}")
    return int(chosen.strict and any(bar.verdict != "PASS" for bar in bars))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
