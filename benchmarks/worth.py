"""What repository context is worth to a model: `python benchmarks/worth.py PATH --model M [--write]`.

Scores the lines that were really written, with each segment in front against none: random lines, and lines that use
a symbol of another file which the window does not show. On a server that runs (`--engine`, `--gateway`), or on a vLLM
that is started for it. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import xxhash
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from aicockpit.errors import AicockpitError
from aicockpit.models import smollm2
from aicockpit.prompts import fim, tokens
from aicockpit.prompts.worth import LANES
from aicockpit.settings import load
from benchmarks import sections
from benchmarks.corpus import archive_tree, folder_tree
from benchmarks.proc import ROOT
from benchmarks.report import markdown_table
from benchmarks.worth_engine import files_of, own_scorer
from benchmarks.worth_lines import (
    CHAT,
    CROSS,
    LATE,
    NEAR,
    NONE,
    PACK,
    RANDOM,
    SEGMENTS,
    TWICE,
    VARIANTS,
    WALK,
    Corpus,
    Prompts,
    Sample,
    Sizes,
    Walk,
)
from benchmarks.worth_score import Probe, ScoreError, Scorer
from benchmarks.worth_table import Result, rows_to_ship, table, winner

PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / ".bench"
BLOCK = 32  # tokens of a block where the estimate has to assume one
TITLES = {RANDOM: "Random lines", CROSS: "Lines that use a symbol of another file"}
Todo = tuple[Sample, Prompts]
IN_CHAT = ", asked for in a chat"


@dataclass(frozen=True, slots=True)
class Task:
    """One run: whose lines, and what is asked of the model."""

    corpus: Corpus
    style: fim.Style
    exact: bool
    chat: bool = False

    def wanting(self, found: Result | None, prompts: Prompts) -> list[str]:
        """The variants that were never scored, or with another prompt."""
        marks = {v: _mark([prompts.before[v], prompts.line]) for v in VARIANTS}
        marks |= {v: _mark([messages, prompts.said]) for v, messages in prompts.chats.items() if self.chat}
        if found is None:
            return list(marks)
        unwritten = {v for v in VARIANTS if self.exact and v not in found.exact}
        return [v for v, mark in marks.items() if v in unwritten or found.prompts.get(v) != mark]


class Results:
    """Scored lines in a JSONL file: one is appended as soon as it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.all: dict[str, Result] = {}
        text = path.read_text() if path.is_file() else ""
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):  # the last one may have been cut short
                found = Result(**json.loads(line))
                self.all[found.id] = found
        if text and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1])

    def add(self, result: Result) -> None:
        self.all[result.id] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def arguments(words: list[str]) -> argparse.Namespace:
    sizes = Sizes()
    parser = argparse.ArgumentParser(prog="benchmarks/worth.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("path", type=Path, help="a source tree, or a source distribution (.tar.gz)")
    parser.add_argument(
        "--model", required=True, help="its name on the server; to start one: a Hugging Face id or a folder"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--engine", help="a vLLM, such as http://127.0.0.1:8000 (one is started on the CPU for it)")
    where.add_argument("--gateway", help="the gateway in front of one")
    parser.add_argument("--key", default="", help="API key")
    tokenizer = "folder with the tokenizer.json (that of the model that is started; of a server, the embedded model's)"
    parser.add_argument("--tokenizer", type=Path, help=tokenizer)
    parser.add_argument("--style", default="", help="fill-in-the-middle style, if the detected one is wrong")
    parser.add_argument("--lines", type=int, default=100, help="lines of either kind (100)")
    parser.add_argument("--pack", type=int, default=sizes.pack, help=f"tokens ({sizes.pack})")
    parser.add_argument("--near", type=int, default=sizes.near, help=f"tokens ({sizes.near})")
    parser.add_argument("--similar", type=int, default=sizes.similar, help=f"tokens of snippets ({sizes.similar})")
    parser.add_argument("--before", type=int, default=sizes.before, help=f"tokens before the line ({sizes.before})")
    parser.add_argument("--after", type=int, default=sizes.after, help=f"tokens behind it ({sizes.after})")
    exact = "let the model write each line, too, for the exact-line rate: about a third of the time (yes)"
    parser.add_argument("--exact", action=argparse.BooleanOptionalAction, default=True, help=exact)
    parser.add_argument("--chat", action="store_true", help="ask for each line in a chat, too")
    parser.add_argument("--limit", type=int, help="score at most so many lines now")
    parser.add_argument("--seconds", type=float, help="stop after about so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md")
    return parser.parse_args(words)


def estimate(
    sizes: Sizes, lines: int, exact: bool, speed: float, prompt_mode: bool, suffix: bool = True, chat: bool = False
) -> float:
    """Seconds for `lines` lines, at `speed` tokens of prefill a second: an upper bound without luck in the cache.

    Counted per line: the window and the context of each variant; in token mode the pack is there for all of them, and
    for a group of about two lines, and the line's own prompts cost less than a block each.
    """
    window = sizes.before + (sizes.after if suffix else 0)
    each = {PACK: sizes.pack if prompt_mode else 0, NEAR: sizes.near, TWICE: 2 * sizes.similar}
    variants = [*SEGMENTS.values(), *((name,) for name in CHAT.values() if chat)]
    context = sum(each.get(part, sizes.similar) for parts in variants for part in parts if part != NONE)
    if prompt_mode:
        tokens_each = (len(variants) * window + context) * 1.25  # logits of the whole prompt
    else:
        tokens_each = len(variants) * (window + 12 * (BLOCK // 2 + 6)) + context + sizes.pack / 2
    decoded = len(VARIANTS) * speed if exact else 0.0  # twenty tokens, each costs as much as about 20 prefilled
    return lines * (tokens_each + decoded) / max(1.0, speed)


def results_path(chosen: argparse.Namespace, name: str, sizes: Sizes, encoder: tokens.Encoder) -> Path:
    """The file of one model, tree and setting."""
    setting = json.dumps([name, asdict(sizes), chosen.seed, chosen.style, encoder.fingerprint])
    mark = xxhash.xxh3_64_hexdigest(setting.encode())[:8]
    model = "".join(letter if letter.isalnum() else "-" for letter in chosen.model)
    return FOLDER / f"worth-{model}-{name}-{mark}.jsonl"


def is_exact(written: str, target: str) -> bool:
    """Whether greedy decoding wrote the line and ended it there."""
    return written.startswith(target) and not written[len(target) :].partition("\n")[0].strip()


def score(task: Task, scorer: Scorer, sample: Sample, prompts: Prompts, found: Result | None = None) -> Result:
    """One line in every variant that is wanting in `found`; equal prompts are scored once. Raises ScoreError."""
    had = found or Result(sample.id, sample.kind, bool(sample.symbol), len(prompts.line), {}, {})
    values: dict[tuple[int, ...], float] = {}
    hits: dict[tuple[int, ...], bool] = {}
    scores, exact, marks = dict(had.scores), dict(had.exact), dict(had.prompts)
    for variant in task.wanting(found, prompts):
        if variant in CHAT:
            messages = prompts.chats[variant]
            scores[variant] = _mean(scorer.score(scorer.render(messages), prompts.said))
            marks[variant] = _mark([messages, prompts.said])
            continue
        before, mark = prompts.before[variant], _mark([prompts.before[variant], prompts.line])
        if marks.get(variant) != mark:
            if before not in values:
                values[before] = _mean(scorer.score(before, prompts.line))
            scores[variant], marks[variant] = values[before], mark
            exact.pop(variant, None)
        if task.exact:
            if before not in hits:
                written = scorer.greedy(before, len(prompts.line) + 4, task.style.stops)
                hits[before] = is_exact(written, prompts.text)
            exact[variant] = hits[before]
    return replace(had, tokens=len(prompts.line), scores=scores, exact=exact, prompts=marks)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mark(prompt: object) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(prompt).encode())


def run(
    task: Task, scorer: Scorer, todo: Sequence[Todo], results: Results, seconds: float | None, progress: Progress
) -> str:
    """Score what is left; why it ended, "" when it is done."""
    began = time.monotonic()
    bar = progress.add_task("lines", total=len(todo))
    for sample, prompts in todo:
        if seconds is not None and time.monotonic() - began > seconds:
            return f"stopped after {seconds:.0f} s; the same command goes on"
        try:
            results.add(score(task, scorer, sample, prompts, results.all.get(sample.id)))
        except ScoreError as error:
            return f"stopped: {error}. The same command goes on"
        except KeyboardInterrupt:
            return "interrupted; the same command goes on"
        progress.advance(bar)
    return ""


def section(command: str, about: Sequence[str], results: Sequence[Result], share: float, ship: str) -> str:
    """The part for docs/performance.md."""
    lines = [f"{time.strftime('%Y-%m-%d')}. Made by `{command}`.", "", *(f"- {line}" for line in about)]
    for (kind, title), chat in ((item, chat) for chat in _asked(results) for item in TITLES.items()):
        lines += ["", f"### {title}{chat * IN_CHAT}", "", markdown_table(*table(results, kind, chat))]
    lines += ["", "Gain: paired difference to no context, natural logarithm, ± its standard error."]
    lines += ["", *(f"- {lane}: {best}; {why}" for lane, (best, why) in _winners(results, share).items())]
    return "\n".join([*lines, "", "```toml", ship.rstrip(), "```"])


def _asked(results: Sequence[Result]) -> list[bool]:
    """Whether the lines were asked for in a chat: they always are as completions."""
    return [False, True] if any(f"chat: {NONE}" in result.scores for result in results) else [False]


def _winners(results: Sequence[Result], share: float) -> Mapping[str, tuple[str, str]]:
    return {lane: winner(results, lane, share) for lane in LANES}


def _corpus(
    chosen: argparse.Namespace, sizes: Sizes, model: Path | None
) -> tuple[Corpus, tokens.Encoder, fim.Style, str]:
    folder = chosen.tokenizer or model or smollm2.ensure(load().state_dir)
    encoder = tokens.load(folder if folder.is_dir() else folder.parent)
    style, why = fim.detect(encoder.specials, chosen.style)
    tree = archive_tree(chosen.path) if chosen.path.is_file() else folder_tree(chosen.path)
    name = chosen.path.resolve().name.removesuffix(".tar.gz")
    return Corpus(name, tree, encoder, style, sizes), encoder, style, why


def _walked(walks: Sequence[Walk]) -> str:
    lines, searches = sum(walk.lines for walk in walks), sum(walk.searches - 1 for walk in walks)
    age = sum(walk.age for walk in walks) / max(1, len(walks))
    return (
        f"similar held: the cursor comes down to the line from up to {WALK} lines above it; a search every "
        f"{lines / max(1, searches):.0f} lines, whose snippets are used {LATE} lines later, on average "
        f"{age:.0f} lines below where it was made"
    )


def _print(results: Sequence[Result], share: float, console: Console) -> None:
    for (kind, title), chat in ((item, chat) for chat in _asked(results) for item in TITLES.items()):
        head, lines = table(results, kind, chat)
        shown = Table(title=title + chat * IN_CHAT, title_justify="left")
        for place, name in enumerate(head):
            shown.add_column(name, justify="right" if place else "left")
        for cells in lines:
            shown.add_row(*cells)
        console.print(shown)
    for lane, (best, why) in _winners(results, share).items():
        console.print(f"{lane}: {best}; {why}", highlight=False, soft_wrap=True)


def _todo(task: Task, samples: Sequence[Sample], results: Results, limit: int | None) -> list[Todo]:
    """The lines of which something is not scored, or what is scored is another prompt by now."""
    todo: list[Todo] = []
    for sample in samples:
        if limit is not None and len(todo) >= limit:
            break
        prompts = task.corpus.prompts(sample)
        if task.wanting(results.all.get(sample.id), prompts):
            todo.append((sample, prompts))
    return todo


def _begin(task: Task, scorer: Scorer, todo: Sequence[Todo], console: Console) -> Probe:
    """Ask the server how it can score, and say how long it will take."""
    _, prompts = todo[0]
    found = scorer.probe(prompts.before[f"{PACK} + {NEAR}"], prompts.line)
    sizes = task.corpus.sizes
    seconds = estimate(sizes, len(todo), task.exact, found.speed, found.mode == "prompt", task.style.fim, task.chat)
    agree = "" if found.difference is None else f"; both ways agree within {found.difference:.3f}"
    console.print(
        f"{len(todo)} lines x {len(VARIANTS) + task.chat * len(CHAT)} variants at {found.speed:,.0f} tokens/s "
        f"(mode {found.mode}{agree}): "
        f"about {seconds / 60:.0f} min",
        highlight=False,
    )
    return found


def _scored(
    chosen: argparse.Namespace, folder: Path | None, task: Task, todo: Sequence[Todo], results: Results, say: Console
) -> str:
    """Score what is left on the server that was named, or on an engine of its own for the model in `folder`; why it
    ended, "" when it is done. Raises ScoreError."""
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with ExitStack() as stack:
        if folder is None:
            scorer = Scorer(chosen.engine or chosen.gateway, chosen.model, chosen.key)
        else:
            say.print(f"starting vLLM on the CPU with {chosen.model}", markup=False)
            scorer = stack.enter_context(own_scorer(folder, task.corpus.sizes, FOLDER / "worth-engine.log"))
        stack.callback(scorer.close)
        _begin(task, scorer, todo, say)
        progress = Progress(*columns, TimeRemainingColumn(), console=say, refresh_per_second=1, transient=True)
        return run(task, scorer, todo, results, chosen.seconds, stack.enter_context(progress))


def main(words: list[str]) -> int:
    """Run it; 0 when every line is scored, 1 when it has to go on later, 2 when it cannot start."""
    chosen = arguments(words)
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    sizes = Sizes(chosen.pack, chosen.near, chosen.similar, chosen.before, chosen.after)
    try:
        files = None if chosen.engine or chosen.gateway else files_of(chosen.model)
        folder = files.path if files else None
        chosen.model = files.served_name if files else chosen.model
        corpus, encoder, style, why = _corpus(chosen, sizes, folder)
    except (AicockpitError, OSError) as error:
        console.print(f"cannot start: {error}", markup=False, soft_wrap=True)
        return 2
    samples, share = corpus.samples(chosen.lines, chosen.seed)
    kept = results_path(chosen, corpus.name, sizes, encoder)
    results = Results(kept)
    console.print(f"{corpus.name}: {len(corpus.tree)} files, {share:.1%} of the lines use hidden symbols of others")
    console.print(
        f"prompts in the style {style.name} ({why}); {len(results.all)} lines known, kept in .bench/{kept.name}"
    )
    task = Task(corpus, style, chosen.exact, chosen.chat)
    todo = _todo(task, samples, results, chosen.limit)
    try:
        ended = _scored(chosen, folder, task, todo, results, console) if todo else ""
    except ScoreError as error:
        console.print(f"cannot start: {error}", markup=False, soft_wrap=True)
        return 2
    wanted = {sample.id for sample in samples}
    every = {*VARIANTS, *(CHAT if chosen.chat else ())}
    known = [result for result in results.all.values() if result.id in wanted]
    found = [result for result in known if every <= set(result.scores)]  # so that all variants speak of the same lines
    _print(found, share, console)
    ship = rows_to_ship(found, share, chosen.model, sizes, corpus.name)
    console.print(f"\nrows for prompts/data/worth.toml:\n\n{ship}", markup=False, highlight=False, soft_wrap=True)
    if ended:
        console.print(ended, markup=False, soft_wrap=True)
    if chosen.write and found:
        command = shlex.join(["python", "benchmarks/worth.py", *_public(words)])
        about = [
            f"model {chosen.model}, prompts in the style {style.name} ({why})",
            f"{corpus.name}: {len(corpus.tree)} files, {share:.1%} of the lines use hidden symbols of other files",
            f"tokens: pack {sizes.pack}, neighbourhood {sizes.near}, similar snippets {sizes.similar} (twice: "
            f"{2 * sizes.similar}), {sizes.before} "
            f"before and {sizes.after} behind the line; the open file is in none of them, and there is no journal",
            _walked([corpus.walk(sample) for sample in samples]),
        ]
        sections.write(PAGE, f"worth:{chosen.model}", section(command, about, found, share, ship))
        console.print(f"written: {PAGE.parent.name}/{PAGE.name}")
    return int(bool(ended))


def _public(words: Sequence[str]) -> list[str]:
    """The command without what belongs to this machine."""
    shown = list(words)
    for place, word in enumerate(words):
        if word == "--key" and place + 1 < len(words):
            shown[place + 1] = "KEY"
        elif word.startswith("--key="):
            shown[place] = "--key=KEY"
        elif word.startswith("/"):
            shown[place] = Path(word).name
    return shown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
