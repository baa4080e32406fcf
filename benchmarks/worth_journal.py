"""What the journal is worth to a model: `python benchmarks/worth_journal.py REPO --model M --gateway URL [--write]`.

REPO is a git repository with a history. Of commits that touch several source files, lines are scored that the commit
added to one of them, with and without a journal of what it did to the others: entries made as the workspace makes
them, behind nothing and behind a pack of the tree before the commit. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import xxhash
from rich.console import Console
from rich.table import Table

from aicockpit.errors import AicockpitError
from aicockpit.models import smollm2
from aicockpit.prompts import fim, tokens, worth
from aicockpit.settings import load
from benchmarks import sections
from benchmarks.corpus import CorpusError
from benchmarks.proc import ROOT
from benchmarks.report import markdown_table
from benchmarks.worth_lines import CROSS, RANDOM
from benchmarks.worth_scenes import FILES, Bench, Line, Setting, choose, scenes
from benchmarks.worth_score import ScoreError, Scorer
from benchmarks.worth_table import Mean

PAGE = ROOT / "docs" / "performance.md"
FOLDER = ROOT / ".bench"
# A journal's gain is that over the same prompt without it.
WITHOUT = {"journal": "none", "pack and journal": "pack"}
TITLES = {RANDOM: "Lines that the commit added", CROSS: "Added lines that use a symbol that it changed elsewhere"}


@dataclass(frozen=True, slots=True)
class Result:
    """One scored line. `scores`: log-probability per token of each variant; `journal`: tokens of it."""

    id: str
    kind: str
    scene: str
    cross: bool
    tokens: int
    journal: int
    scores: Mapping[str, float]


def clustered(rows: Sequence[tuple[str, float]]) -> Mean:
    """Mean of (commit, value) with the standard error of lines that come in groups (CR1: Liang & Zeger 1986)."""
    if not rows:
        return Mean(0.0, 0.0, 0)
    middle = sum(value for _, value in rows) / len(rows)
    groups: dict[str, float] = {}
    for group, value in rows:
        groups[group] = groups.get(group, 0.0) + value - middle
    many = len(groups)
    square = sum(part**2 for part in groups.values()) * many / (many - 1) if many > 1 else 0.0
    return Mean(middle, math.sqrt(square) / len(rows), len(rows))


def gain(results: Sequence[Result], variant: str, wanted: Callable[[Result], bool]) -> Mean:
    """What the journal adds in this variant."""
    base = WITHOUT[variant]
    rows = [(r.scene, r.scores[variant] - r.scores[base]) for r in results if wanted(r) and variant in r.scores]
    return clustered(rows)


def expected(results: Sequence[Result], variant: str, share: float) -> Mean:
    """The gain over all added lines: those that use a changed symbol are measured apart because they are few."""
    rest = gain(results, variant, lambda r: r.kind == RANDOM and not r.cross)
    using = gain(results, variant, lambda r: r.kind == CROSS)
    error = math.hypot((1 - share) * rest.error, share * using.error)
    return Mean((1 - share) * rest.value + share * using.value, error, min(rest.count, using.count))


def verdict(results: Sequence[Result], share: float, setting: Setting, packed: bool) -> str:
    """Which budget these lines speak for. `packed`: the model gets a pack, so the journal stands behind it."""
    variant = "pack and journal" if packed and setting.pack else "journal"
    found = expected(results, variant, share)
    where = "behind a pack" if variant != "journal" else "in front of the file"
    seen = f"{found.shown(sign=True)} per token over all added lines, {where}"
    if found.count < 2:
        return "none: too few lines are scored"
    if found.value > found.error:
        return f"{setting.journal} tokens: {seen}"
    return f"none: {seen}, which is not above its standard error"


def table(
    results: Sequence[Result], kind: str, variants: Sequence[str], told: Collection[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and one line for each variant. `told`: ids of lines that stand word for word in their journal."""
    lines = []
    for variant in variants:
        seen = clustered([(r.scene, r.scores[variant]) for r in results if r.kind == kind])
        cells = [variant, str(seen.count), seen.shown(), "-", "-"]
        if variant in WITHOUT:
            more = gain(results, variant, lambda r: r.kind == kind)
            rest = gain(results, variant, lambda r: r.kind == kind and r.id not in told)
            cells[3] = f"{more.shown(sign=True)} (over {WITHOUT[variant]})"
            cells[4] = f"{rest.shown(sign=True)} ({rest.count} lines)"
        lines.append(cells)
    head = ["in front of the file", "lines", "log-probability per token", "gain of the journal, paired"]
    return [*head, "of lines that do not stand in it word for word"], lines


class Kept:
    """Results in a JSONL file; one is appended as soon as it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text() if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]  # the last one may have been cut short
        if whole != text:
            path.write_text(whole)
        rows = [Result(**json.loads(line)) for line in whole.splitlines()]
        self.all = {row.id: row for row in rows}

    def add(self, result: Result) -> None:
        self.all[result.id] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def score(bench: Bench, scorer: Scorer, line: Line) -> Result:
    """One line in every variant. Raises ScoreError."""
    before, ids = bench.prompts(line)
    scores = {}
    for variant in bench.setting.variants:
        values = scorer.score(before[variant], ids)
        scores[variant] = sum(values) / len(values)
    size = len(bench.journal(line.scene, line.path))
    return Result(line.id, line.kind, line.scene.id, bool(line.symbol), len(ids), size, scores)


def run(bench: Bench, scorer: Scorer, todo: Sequence[Line], kept: Kept, seconds: float | None) -> Iterator[str]:
    """Score what is left; yields what to print."""
    began = time.monotonic()
    for number, line in enumerate(todo):
        if seconds is not None and time.monotonic() - began > seconds:
            yield f"stopped after {seconds:.0f} s; the same command goes on"
            return
        kept.add(score(bench, scorer, line))
        if number % 10 == 9:
            yield f"{number + 1} of {len(todo)} lines, {time.monotonic() - began:.0f} s"


def parsed(words: list[str]) -> argparse.Namespace:
    setting = Setting()
    parser = argparse.ArgumentParser(prog="benchmarks/worth_journal.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("path", type=Path, help="a git repository, bare or not")
    parser.add_argument("--name", default="", help="what to call it (its folder's name)")
    parser.add_argument("--model", required=True, help="the name under which the server has it")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--engine", help="a vLLM, such as http://127.0.0.1:8000")
    where.add_argument("--gateway", help="the gateway in front of it")
    parser.add_argument("--key", default="", help="API key")
    parser.add_argument("--tokenizer", type=Path, help="folder with the model's tokenizer.json (the embedded model's)")
    parser.add_argument("--style", default="", help="fill-in-the-middle style, if the detected one is wrong")
    parser.add_argument("--lines", type=int, default=60, help="lines of either kind (60)")
    parser.add_argument("--commits", type=int, default=1500, help="commits of its history to look at (1500)")
    for name in ("journal", "pack", "before", "after"):
        size = getattr(setting, name)
        parser.add_argument(f"--{name}", type=int, default=size, help=f"tokens ({size})")
    parser.add_argument("--seconds", type=float, help="stop after about so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md")
    return parser.parse_args(words)


def _public(words: Sequence[str]) -> str:
    """The command without the key, and without folders of this machine."""
    shown = [Path(word).name if word.startswith("/") else word for word in words]
    shown = [f"{word.partition('=')[0]}=KEY" if word.startswith("--key=") else word for word in shown]
    for place, word in enumerate(words[:-1]):
        if word == "--key":
            shown[place + 1] = "KEY"
    return shlex.join(["python", "benchmarks/worth_journal.py", *shown])


def main(words: list[str]) -> int:
    """Run it; 0 when every line is scored, 1 when it has to go on later, 2 when it cannot start."""
    chosen = parsed(words)
    console = Console(width=150, highlight=False, markup=False, soft_wrap=True)
    setting = Setting(chosen.journal, chosen.pack, chosen.before, chosen.after)
    try:
        folder = chosen.tokenizer or smollm2.ensure(load().state_dir)
        encoder = tokens.load(folder if folder.is_dir() else folder.parent)
        style, why = fim.detect(encoder.specials, chosen.style)
        found, note = scenes(chosen.path, chosen.commits)
    except (AicockpitError, CorpusError, OSError) as error:
        console.print(f"cannot start: {error}")
        return 2
    name = chosen.name or chosen.path.resolve().name
    bench = Bench(name, encoder, style, setting)
    lines, share = choose(bench, found, chosen.lines, chosen.seed)
    about = [
        f"model {chosen.model}, prompts in the style {style.name} ({why})",
        f"{name}, {note}: {len(found)} of them touch {FILES[0]} to {FILES[1]} source files; "
        f"{share:.1%} of the lines that they add use a symbol changed in another file and not visible in the window",
        f"tokens: journal {setting.journal}, pack {setting.pack}, {setting.before} before the line and {setting.after} "
        "behind it; the open file is in neither; the pack is of the tree before the commit",
    ]
    mark = xxhash.xxh3_64_hexdigest(json.dumps([name, asdict(setting), style.name, encoder.fingerprint]).encode())[:8]
    model = "".join(letter if letter.isalnum() else "-" for letter in chosen.model)
    kept = Kept(FOLDER / f"worth-journal-{model}-{name}-{mark}.jsonl")
    todo = [line for line in lines if line.id not in kept.all]
    console.print(
        "\n".join([*about, f"{len(lines) - len(todo)} of {len(lines)} lines known, in .bench/{kept.path.name}"])
    )
    scorer = Scorer(chosen.engine or chosen.gateway, chosen.model, chosen.key)
    try:
        if todo:
            before, ids = bench.prompts(todo[0])
            probe = scorer.probe(before["journal"], ids)
            console.print(f"{len(todo)} lines x {len(setting.variants)} variants at {probe.speed:,.0f} tokens/s")
        for text in run(bench, scorer, todo, kept, chosen.seconds):
            console.print(text)
    except ScoreError as error:
        console.print(f"stopped: {error}. The same command goes on")
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on")
    finally:
        scorer.close()
    results = [kept.all[line.id] for line in lines if line.id in kept.all]
    told = {line.id for line in lines if bench.told(line)}
    tables = {title: table(results, kind, setting.variants, told) for kind, title in TITLES.items()}
    _show(tables, console)
    packed = worth.lookup(chosen.model, "completion").pack > 0
    shipped = verdict(results, share, setting, packed)
    console.print(f"shipped would be: {shipped}")
    if chosen.write and results:
        part = [f"{time.strftime('%Y-%m-%d')}. Made by `{_public(words)}`.", "", *(f"- {line}" for line in about)]
        for title, shown in tables.items():
            part += ["", f"### {title}", "", markdown_table(*shown)]
        part += ["", "Natural logarithm, ± its standard error over commits. Shipped would be: " + shipped + "."]
        sections.write(PAGE, f"worth-journal:{chosen.model}", "\n".join(part))
        console.print(f"written: {PAGE.name}")
    return int(len(results) < len(lines))


def _show(tables: Mapping[str, tuple[list[str], list[list[str]]]], console: Console) -> None:
    for title, (head, rows) in tables.items():
        shown = Table(*head, title=title, title_justify="left")
        for cells in rows:
            shown.add_row(*cells)
        console.print(shown)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
