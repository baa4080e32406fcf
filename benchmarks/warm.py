"""Time to first token in a repository, cold and warm: `python benchmarks/warm.py [--repo PATH] [--write] [--quick]`.

Real vLLM on the CPU: starts `aicockpit serve` with the CPU profile, indexes a copy of the repository with
`aicockpit watch`, and asks for completions in it: cold (a salt of its own), warm, in the middle of files, right after a
save of another file, after a kill -9 of the engine; then small requests with and without warming going on beside them.
With `--tiers` instead: restarts of an engine without a KV tier, with one on disk, and a second replica on that disk.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from benchmarks import sections, warm_middle, warm_tier
from benchmarks.bars import Bar, all_pass, checked
from benchmarks.gateway import machine
from benchmarks.proc import ROOT
from benchmarks.report import bars_markdown, markdown_table
from benchmarks.warm_rig import AFTER, BEFORE, NAME, Answer, Rig, start_rig

PAGE = ROOT / "docs" / "performance.md"
STEP_S = 0.5
_SMALL = "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n"


@dataclass(frozen=True, slots=True)
class Plan:
    repo: Path | None
    budget: int
    colds: int
    warms: int
    saves: int
    small_s: float
    middles: int


@dataclass(slots=True)
class Found:
    """Seconds to the first token, per situation; what the requests found in the cache."""

    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    middle: warm_middle.Middle = field(default_factory=warm_middle.Middle)
    saved: list[float] = field(default_factory=list)
    save_to_warm: list[float] = field(default_factory=list)
    restarted: list[float] = field(default_factory=list)
    rewarm_s: float = 0.0
    same_epoch: bool = False
    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    steps_beside: int = 0
    steps_while_asked: int = 0
    step_s: float = 0.0
    step_met_s: float = 0.0
    steps: int = 0
    steps_apart: int = 0
    pack_tokens: int = 0
    first_warm_s: float = 0.0
    never_cold: list[tuple[int, int]] = field(default_factory=list)


def p(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def measure(rig: Rig, plan: Plan, say: Console) -> Found:
    found = Found()
    say.print("indexing and warming the first epoch")
    began = time.monotonic()
    rig.watch()
    rig.wait_warm()
    found.first_warm_s = time.monotonic() - began
    found.pack_tokens = rig.pack_tokens()
    say.print("budget: " + "; ".join(rig.lane()["budget"]["reasons"]))
    say.print(f"pack of {found.pack_tokens} tokens warm after {found.first_warm_s:.1f} s")
    places = rig.places(max(plan.warms, plan.saves) + plan.colds)
    for number in range(plan.colds):
        found.cold.append(rig.complete(*places[number], salt=f"cold-{time.monotonic_ns()}").first_s)
    say.print(f"cold: {statistics.median(found.cold):.2f} s")
    rig.wait_warm()
    for place in places[: plan.warms]:
        rig.open(place[0])
        note(found, rig.complete(*place), found.warm)
        found.bare.append(rig.bare(*place))
    say.print(f"warm: {statistics.median(found.warm):.3f} s")
    found.middle = warm_middle.measure(rig, plan.middles, say)
    for answer in (*found.middle.told, *found.middle.next, *found.middle.untold):
        found.never_cold.append((answer.predicted, answer.cached))
    for number, place in enumerate(places[: plan.saves]):
        rig.open(place[0])
        rig.save(number, place[0])
        note(found, rig.complete(*place), found.saved)
        found.save_to_warm.append(rig.wait_journal_warm())
    say.print(f"right after a save: {statistics.median(found.saved):.3f} s")
    restart(rig, found, places, say)
    small(rig, found, plan, say)
    return found


def note(found: Found, answer: Answer, times: list[float]) -> None:
    times.append(answer.first_s)
    found.never_cold.append((answer.predicted, answer.cached))


def restart(rig: Rig, found: Found, places: list[tuple[str, str, str]], say: Console) -> None:
    """kill -9 of the engine, with the indexer gone: what the gateway has must be enough."""
    rig.stop_watch()
    epoch = rig.epoch()
    rig.kill_engine()
    began = time.monotonic()
    rig.wait_ready()
    ready = time.monotonic()
    found.restarted.append(rig.complete(*places[0]).first_s)
    rig.wait_warm()
    found.rewarm_s, found.same_epoch = time.monotonic() - ready, rig.epoch() == epoch
    say.print(f"engine back after {ready - began:.0f} s, warm again {found.rewarm_s:.1f} s later")
    for place in places[:5]:
        rig.open(place[0])
        note(found, rig.complete(*place), found.restarted)


def small(rig: Rig, found: Found, plan: Plan, say: Console) -> None:
    """Small requests in no workspace, alone and while prefixes are being warmed."""
    found.alone = ask_for(rig, plan.small_s, found=None)
    stop = threading.Event()
    before = rig.counters()
    churn = threading.Thread(target=rig.churn, args=(stop,))
    churn.start()
    try:
        found.beside = ask_for(rig, plan.small_s, found=found)
    finally:
        stop.set()
        churn.join()
    after = rig.counters()
    found.steps_beside = after.steps - before.steps
    found.steps_while_asked = after.while_asked - before.while_asked
    found.step_s, found.step_met_s = after.longest_s, after.longest_met_s
    found.steps_apart, found.steps = after.apart, after.steps
    say.print(f"small requests: p99 {p(found.alone, 0.99):.3f} s alone, {p(found.beside, 0.99):.3f} s beside warming")


def ask_for(rig: Rig, seconds: float, found: Found | None) -> list[float]:
    """One small request after the other, with a pause to think, for `seconds`."""
    times = []
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        times.append(rig.ask(f"# {number} {time.monotonic_ns()}\n" + _SMALL))
        time.sleep(0.05 + 0.35 * ((number * 7919) % 100) / 100)
    return times


def bars(found: Found) -> list[Bar]:
    cold, warm = statistics.median(found.cold), statistics.median(found.warm)
    saved = statistics.median(found.saved)
    cold_ones = [pair for pair in found.never_cold if pair[1] < pair[0] or pair[0] < 0.9 * found.pack_tokens]
    alone, beside, step = p(found.alone, 0.99), p(found.beside, 0.99), min(found.step_s, STEP_S)
    return [
        checked("a pack of 2,000 tokens or more", found.pack_tokens >= 2000, f"{found.pack_tokens}"),
        checked("warm at least 10x faster than cold", cold >= 10 * warm, f"{cold / warm:.1f}x"),
        checked("right after a save at least 5x faster than cold", cold >= 5 * saved, f"{cold / saved:.1f}x"),
        *warm_middle.bars(found.middle),
        checked(
            "never a cold request once the first epoch is warm",
            not cold_ones,
            f"{len(cold_ones)} of {len(found.never_cold)} found less of the repository than predicted, or than 90 % of "
            "the pack",
        ),
        checked(
            "interactive p99 beside warming: at most p99 alone and one step",
            beside <= alone + step,
            f"{beside:.3f} s <= {alone:.3f} + {step:.3f} s",
        ),
        checked(
            f"a step of warming that meets no request: at most {STEP_S} s",
            found.step_s <= STEP_S and found.steps_apart > 0,
            f"{found.step_s:.3f} s, the longest of {found.steps_apart}; {found.steps - found.steps_apart} met one and "
            f"shared the engine with it, {found.step_met_s:.3f} s at most",
        ),
        checked(
            "no step starts while an interactive request is in flight",
            found.steps_while_asked == 0 and found.steps_beside > 0,
            f"{found.steps_while_asked} of {found.steps_beside}",
        ),
        checked(
            "the same epoch re-warmed after kill -9 without the indexer",
            found.same_epoch,
            f"{found.rewarm_s:.1f} s after ready",
        ),
    ]


def rows(found: Found) -> list[tuple[str, ...]]:
    def row(name: str, values: Sequence[float]) -> tuple[str, ...]:
        ratio = statistics.median(found.cold) / statistics.median(values)
        return (name, str(len(values)), f"{p(values, 0.5):.3f}", f"{p(values, 0.99):.3f}", f"{ratio:.1f}x")

    return [
        row("cold", found.cold),
        row("warm", found.warm),
        row("the same without context, its own lines computed", found.bare),
        *(row(*one) for one in warm_middle.rows(found.middle)),
        row("right after a save of another file", found.saved),
        row("first after an engine restart (no context yet)", found.restarted[:1]),
        row("once re-warmed after the restart", found.restarted[1:]),
        row("small request, nothing beside it", found.alone),
        row("small request, warming beside it", found.beside),
    ]


_PLACES = (
    f"*Mid-file*: the cursor is inside the middle line of a file of {warm_middle.LEAST} lines or more that was not "
    f"open before, with {warm_middle.BEHIND} lines behind it (a model without infilling tokens, as the CPU profile's, "
    f"is not sent those). In all other rows of a completion in a file the cursor has {BEFORE} to {BEFORE + 3} lines in "
    f"front of it and {AFTER} behind, so next to nothing of the open file is computed. All are compared with that cold."
)
_HEAD = ("completion", "times", "first token p50 s", "p99 s", "faster than cold")


def page(found: Found, facts: Sequence[str]) -> str:
    table = markdown_table(_HEAD, rows(found))
    told = (
        f"First epoch warm {found.first_warm_s:.1f} s after `aicockpit watch` began; a save was warm "
        f"{statistics.median(found.save_to_warm):.2f} s later (median), the pack {found.rewarm_s:.1f} s after a killed "
        f"engine was ready again. {warm_middle.sentence(found.middle)}"
    )
    return "\n\n".join(["\n".join(facts), _PLACES, table, told, bars_markdown(bars(found))])


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/warm.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repo", type=Path, help="repository to index a copy of (default: this one)")
    parser.add_argument("--budget", type=int, default=4096, help="tokens of context asked for (4096)")
    parser.add_argument("--tiers", action="store_true", help="restarts with a KV tier and without, instead")
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--write", action="store_true", help="write the table into docs/performance.md")
    chosen = parser.parse_args(words)
    quick = chosen.quick
    plan = Plan(
        repo=chosen.repo,
        budget=chosen.budget,
        colds=2 if quick else 4,
        warms=5 if quick else 20,
        saves=3 if quick else 8,
        small_s=8 if quick else 40,
        middles=4 if quick else 12,
    )
    console = Console(highlight=False)
    if chosen.tiers:
        return tiers(plan, words, 1 if quick else 3, chosen.write, console)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="warm-")))
        rig = stack.enter_context(start_rig(folder, plan.repo or ROOT, plan.budget, console))
        found = measure(rig, plan, console)
        facts = [
            f"{time.strftime('%Y-%m-%d')}; {machine()}; {rig.engine_told()}; repository {rig.repo_told()} as `{NAME}`.",
            f"Made by `{shlex.join(['python', 'benchmarks/warm.py', *words])}`.",
        ]
    for line in rows(found):
        console.print("  ".join(line))
    for bar in bars(found):
        console.print(f"{bar.verdict:<7} {bar.text}: {bar.seen}")
    if chosen.write:
        sections.write(PAGE, "warm", page(found, facts))
    return int(not all_pass(bars(found)))


def tiers(plan: Plan, words: Sequence[str], rounds: int, write: bool, say: Console) -> int:
    """The rows of restarts with a KV tier and without, which take servers of their own."""
    with tempfile.TemporaryDirectory(prefix="warm-tier-") as made:
        found = warm_tier.measure(Path(made), plan.repo or ROOT, plan.budget, rounds, say)
    seen = warm_tier.bars(found)
    parts = [warm_tier.table(found), bars_markdown(seen)]
    for text in parts:
        say.print(text, markup=False, soft_wrap=True)
    if write:
        command = shlex.join(["python", "benchmarks/warm.py", *words])
        facts = f"{time.strftime('%Y-%m-%d')}; {machine()}. A prompt of {found.tokens} tokens. Made by `{command}`."
        sections.write(PAGE, "warm-tier", "\n\n".join([facts, *parts]))
    return int(not all_pass(seen))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
