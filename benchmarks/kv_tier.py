"""What the KV disk tier costs and gives, with real vLLM: `python benchmarks/kv_tier.py WHAT [--model FOLDER]`.

- identity: the same tokens, greedy, with the tier and without, for 200 prompts
- restart: a prompt of 2,000+ tokens: cold, warm, first after a restart, in a second replica
- store: what storing adds to the time of computing a prompt
- kills: kill -9 while blocks are written; what the next engine serves from them
- chooser: compute only, load only, and the tier's choice, with a disk held back to several speeds
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
from rich.console import Console

from aicockpit.models import smollm2
from benchmarks import sections
from benchmarks.gateway import machine
from benchmarks.kv_engine import GIGABYTE, Completion, Engine, engine, texts
from benchmarks.proc import ROOT
from benchmarks.report import markdown_table

PAGE = ROOT / "docs" / "performance.md"
LONG = 2_300
_NEVER: dict[str, Any] = {"max_load_tokens": 0, "store": False}
_ALWAYS: dict[str, Any] = {"load_always": True}


class Bench:
    """A model, a folder for everything, and where results are told."""

    def __init__(self, model: Path, folder: Path, say: Console) -> None:
        self.model = model
        self.folder = folder
        self.say = say
        self.told: list[str] = []

    def tier(self, name: str, **options: Any) -> dict[str, Any]:
        return {"folder": str(self.folder / name), "bytes": 20 * GIGABYTE, **options}

    def engine(self, tier: dict[str, Any] | None, *flags: str, cores: str = "0-1") -> Any:
        return engine(self.model, self.folder / "engine.log", tier, flags, cores)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.tell(markdown_table(list(head), [list(row) for row in rows]))

    def tell(self, text: str) -> None:
        """A result; `say` is for what happens on the way."""
        self.told.append(text)
        self.say.print(text, markup=False, soft_wrap=True)


def long_prompt(made: Engine, length: int = LONG) -> list[int]:
    found: list[int] = []
    for text in texts(40, 4_000):
        found += made.tokens(text)
        if len(found) >= length:
            return found[:length]
    raise SystemExit("this repository has too little text")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def identity(bench: Bench, count: int) -> bool:
    """Four passes over the same prompts, one request at a time; one core, so that sums are made in one order."""
    chance = random.Random(5)
    passes: dict[str, list[Completion]] = {}

    def run(name: str, made: Engine, prompts: Sequence[Sequence[int]]) -> None:
        began = time.monotonic()
        passes[name] = [made.complete(prompt, 12) for prompt in prompts]
        cached = sum(one.cached for one in passes[name])
        bench.say.print(f"{name}: {time.monotonic() - began:.0f} s, {cached} tokens cached")

    with bench.engine(None, cores="0") as made:
        prompts = [made.tokens(text)[: chance.randrange(65, 500)] for text in texts(count, 4_000)]
        # Each twice, one after the other: the engine's memory holds a few prompts only.
        run("no tier, cold and warm", made, [prompt for prompt in prompts for _ in range(2)])
    both = passes.pop("no tier, cold and warm")
    passes["no tier, cold"], passes["no tier, warm"] = both[::2], both[1::2]
    for name in ("disk tier, storing", "disk tier, loading"):
        with bench.engine(bench.tier("identity"), cores="0") as made:
            run(name, made, prompts)
            failures = made.metric("aicockpit_kv_disk_load_failures_total")
    cold, loading = [one.tokens for one in passes["no tier, cold"]], passes["disk tier, loading"]
    warm = [one.tokens for one in passes["no tier, warm"]]
    rows = []
    for name, found in passes.items():
        same = [sum(one.tokens == other for one, other in zip(found, others, strict=True)) for others in (cold, warm)]
        hits = sum(one.cached > 0 for one in found)
        rows.append((name, f"{len(found)}", f"{hits}", f"{same[0]}", f"{same[1]}"))
    bench.table(("pass", "prompts", "with cached tokens", "as no tier, cold", "as no tier, warm"), rows)
    bench.tell(f"Failed loads: {failures:.0f}.")
    return all(one.cached > 0 for one in loading) and [one.tokens for one in loading] == warm


def restart(bench: Bench, rounds: int) -> bool:
    """The first request of a new engine is the one that is timed: nothing else has warmed anything up."""
    cold: list[float] = []
    warm: list[float] = []
    after: list[float] = []
    without: list[float] = []
    tier = bench.tier("restart")
    with bench.engine(tier) as made:
        prompt = long_prompt(made)
        made.complete(prompt[:200])
        for _ in range(rounds):
            made.forget()
            cold.append(made.complete(prompt, wish={"max_load_tokens": 0}).seconds)
        warm = [made.complete(prompt).seconds for _ in range(5 * rounds)]
    for number in range(rounds):
        with bench.engine(tier) as made:
            first = made.complete(prompt)
            after.append(first.seconds)
            bench.say.print(
                f"after restart {number + 1}: {first.seconds:.3f} s, {first.cached} of {len(prompt)} tokens"
            )
            if number == 0:
                with bench.engine(tier) as second:
                    replica = second.complete(prompt)
        with bench.engine(None) as made:
            without.append(made.complete(prompt).seconds)
    rows = [
        (f"cold, {len(prompt)} tokens", f"{median(cold):.3f}"),
        ("warm in the engine's memory", f"{median(warm):.3f}"),
        ("first after a restart, no tier", f"{median(without):.3f}"),
        ("first after a restart, disk tier", f"{median(after):.3f}"),
        ("first in a second replica, disk tier", f"{replica.seconds:.3f}"),
    ]
    bench.table(("time to the first token", "s (median)"), rows)
    faster = min(median(cold), median(without)) / median(after)
    slower = median(after) / median(warm)
    bench.tell(
        f"After a restart {faster:.1f} times faster than cold (bar: 10), {slower:.2f} times as long as warm (bar: 3)."
    )
    return faster >= 10 and slower <= 3


def store(bench: Bench, rounds: int) -> bool:
    """Pairs of new prompts, one stored and one not, in random order; chunks of 512, so that writing meets computing."""
    chance = random.Random(time.time())
    found: dict[bool, list[float]] = {True: [], False: []}
    with bench.engine(bench.tier("store"), "--max-num-batched-tokens", "512") as made:
        for number in range(rounds + 1):
            for stored in chance.sample((True, False), 2):
                prompt = [chance.randrange(1000, 40_000) for _ in range(2_049)]
                seconds = made.complete(prompt, wish={"store": stored}).seconds
                if number:
                    found[stored].append(seconds)
                time.sleep(0.3)
        blocks = made.stored()
        copying = made.metric("aicockpit_kv_disk_copy_seconds_total")
        unstored = made.metric("aicockpit_kv_disk_unstored_blocks_total")
    ratios = [one / other for one, other in zip(found[True], found[False], strict=True)]
    rows = [
        (name, f"{min(times):.3f}", f"{median(times):.3f}", f"{max(times):.3f}")
        for name, times in (("not stored", found[False]), ("stored", found[True]))
    ]
    bench.table(("2,049 new tokens, s", "least", "median", "most"), rows)
    added = median(found[True]) / median(found[False]) - 1
    share = copying / (rounds + 1) / median(found[True])
    bench.tell(
        f"Storing adds {added:+.1%} to the median ({median(ratios) - 1:+.1%} in the median pair, "
        f"{min(found[True]) / min(found[False]) - 1:+.1%} to the least); "
        f"steps waited {share:.1%} of their time for copies; {blocks} blocks written, {unstored:.0f} not. Bar: 5 %."
    )
    return added <= 0.05


def kills(bench: Bench, rounds: int) -> bool:
    """Each engine first serves what the one killed before it had begun to store, and computes it too, and is killed."""
    tier, chance = bench.tier("kills"), random.Random(3)
    begun: list[list[int]] = []
    wrong = loaded = flawed = 0
    for number in range(rounds + 1):
        with bench.engine(tier, "--max-num-batched-tokens", "256", cores="0") as made:
            for prompt in begun:
                served = made.complete(prompt, 12, wish=_ALWAYS | {"store": False})
                made.forget()
                made.complete(prompt[: served.cached + 1], wish=_NEVER)
                wrong += served.tokens != made.complete(prompt, 12, wish=_NEVER).tokens
                loaded += served.cached
                made.forget()
            made.complete([1] * 5)
            flawed += int(made.metric("aicockpit_kv_disk_load_failures_total"))
            if number == rounds:
                break
            begun = [[chance.randrange(1000, 40_000) for _ in range(500)] for _ in range(4)]
            threads = [threading.Thread(target=_until_killed, args=(made, prompt)) for prompt in begun]
            for thread in threads:
                thread.start()
            time.sleep(0.5 + 2 * chance.random())
            made.kill()
            for thread in threads:
                thread.join()
        bench.say.print(f"kill {number + 1}: {len(list(Path(tier['folder']).rglob('*.kv')))} blocks on disk")
    bench.tell(
        f"{rounds} kills; {loaded} tokens served from the disk afterwards, {wrong} answers wrong, "
        f"{flawed} blocks refused."
    )
    return wrong == 0 and loaded > 0


def _until_killed(made: Engine, prompt: Sequence[int]) -> None:
    with suppress(httpx.HTTPError, RuntimeError):
        made.complete(prompt, 12)


def chooser(bench: Bench, speeds: Sequence[float], rounds: int) -> bool:
    """Each speed with an engine of its own, which first measures; the three ways take turns, so that a neighbour on the
    machine disturbs them alike."""
    rows, fine = [], True
    with bench.engine(bench.tier("chooser")) as made:
        prompt = long_prompt(made)
        made.complete(prompt)
    for speed in speeds:
        with bench.engine(bench.tier("chooser", throttle_bytes_per_s=speed)) as made:
            found: dict[str, list[float]] = {"compute": [], "load": [], "chosen": []}
            wishes = {"compute": _NEVER, "load": _ALWAYS, "chosen": None}
            for number in range(rounds + 1):
                for way in random.sample(list(wishes), 3) if number else ("compute", "load", "chosen"):
                    made.forget()
                    seconds = made.complete(prompt, wish=wishes[way]).seconds
                    if number:
                        found[way].append(seconds)
            chosen = {
                reason: made.metric("aicockpit_kv_disk_choices_total", choice=reason)
                for reason in ("loading is faster", "computing is faster", "probe")
            }
        middle = {way: median(seconds) for way, seconds in found.items()}
        better = min(middle["compute"], middle["load"])
        fine &= middle["chosen"] <= 1.1 * better
        rows.append(
            (
                f"{speed / 1e6:,.0f}",
                *(f"{middle[way]:.3f}" for way in ("compute", "load", "chosen")),
                f"{middle['chosen'] / better - 1:+.0%}",
                ", ".join(f"{reason} {count:.0f}x" for reason, count in chosen.items() if count),
            )
        )
        bench.say.print(", ".join(rows[-1]), markup=False, soft_wrap=True)
    bench.table(("disk, MB/s", "compute only, s", "load only, s", "chosen, s", "against the better", "reasons"), rows)
    return fine


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("identity", "restart", "store", "kills", "chooser"))
    parser.add_argument("--model", type=Path, help="a model's folder (default: the SmolLM2-135M of aicockpit[cpu])")
    parser.add_argument("--folder", type=Path, help="where files and logs go (default: a temporary folder)")
    parser.add_argument("--count", type=int, help="prompts of `identity` (200); rounds of the others (3, 12, 5, 5)")
    parser.add_argument("--write", action="store_true", help="write the result into docs/performance.md")
    parser.add_argument("--speeds", default="10,20,25,30,35,40,80,200,2000", help="of `chooser`, in MB/s")
    chosen = parser.parse_args(arguments)
    say = Console()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(chosen.model or smollm2.ensure(folder), folder, say)
        if chosen.what == "identity":
            fine = identity(bench, chosen.count or 200)
        elif chosen.what == "restart":
            fine = restart(bench, chosen.count or 3)
        elif chosen.what == "kills":
            fine = kills(bench, chosen.count or 5)
        elif chosen.what == "store":
            fine = store(bench, chosen.count or 12)
        else:
            fine = chooser(bench, [float(speed) * 1e6 for speed in chosen.speeds.split(",")], chosen.count or 5)
    verdict = "PASS" if fine else "MISSED"
    say.print(verdict)
    if chosen.write:
        count = f" --count {chosen.count}" if chosen.count else ""
        count += f" --speeds {chosen.speeds}" if chosen.speeds != parser.get_default("speeds") else ""
        command = f"`.venv/bin/python benchmarks/kv_tier.py {chosen.what}{count} --write`"
        made = f"{time.strftime('%Y-%m-%d')}; {machine()}. Made by {command}."
        sections.write(PAGE, f"kv-{chosen.what}", "\n\n".join([made, *bench.told, f"**{verdict}**"]))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
