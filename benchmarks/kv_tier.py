"""What the KV disk tier costs and gives, with real vLLM: `python benchmarks/kv_tier.py WHAT [--model FOLDER]`.

- identity: the same tokens, greedy, with the tier and without, for 200 prompts, and for 8 long ones 4 at a time
- restart: a prompt of 2,000+ tokens: cold, warm, first after a restart, in a second replica
- store: what storing adds to the time of computing a prompt, against an engine without a tier
- kills: kill -9 while blocks are written; what the next engine serves from them
- chooser: compute only, load only, and the tier's choice, with a disk held back to several speeds
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from aicockpit.models import smollm2
from benchmarks import kv_choice, sections
from benchmarks.gateway import machine
from benchmarks.kv_bench import Bench, long_prompt, median
from benchmarks.kv_choice import chooser
from benchmarks.kv_cost import store
from benchmarks.kv_same import identity, kills
from benchmarks.proc import ROOT

PAGE = ROOT / "docs" / "performance.md"
# Prompts of `identity`, rounds of the others.
COUNTS = {"identity": 200, "restart": 3, "store": 2, "kills": 5, "chooser": 4}


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


def speeds(text: str) -> list[float]:
    """MB/s, comma between; bytes per second."""
    return [float(one) * 1e6 for one in text.split(",") if one]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(COUNTS))
    parser.add_argument("--model", type=Path, help="a model's folder (default: the SmolLM2-135M of aicockpit[cpu])")
    parser.add_argument("--folder", type=Path, help="where files and logs go (default: a temporary folder)")
    counts = ", ".join(f"{what} {count}" for what, count in COUNTS.items())
    parser.add_argument("--count", type=int, help=f"prompts of identity, rounds of the others ({counts})")
    parser.add_argument("--write", action="store_true", help="write the result into docs/performance.md")
    parser.add_argument("--speeds", default=kv_choice.SPEEDS, help="of `chooser`, in MB/s")
    parser.add_argument(
        "--cold", default=kv_choice.COLD, help="of those engines of `chooser` that know nothing, in MB/s"
    )
    chosen = parser.parse_args(arguments)
    say = Console()
    count = chosen.count or COUNTS[chosen.what]
    ways: dict[str, Callable[[Bench], bool]] = {
        "identity": lambda bench: identity(bench, count),
        "restart": lambda bench: restart(bench, count),
        "store": lambda bench: store(bench, count),
        "kills": lambda bench: kills(bench, count),
        "chooser": lambda bench: chooser(bench, speeds(chosen.speeds), speeds(chosen.cold), count),
    }
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(chosen.model or smollm2.ensure(folder), folder, say)
        fine = ways[chosen.what](bench)
    verdict = "PASS" if fine else "MISSED"
    took = f"{(time.monotonic() - began) / 60:.1f} minutes"
    say.print(f"{verdict}, {took}")
    if chosen.write:
        words = [chosen.what, *(["--count", f"{chosen.count}"] if chosen.count else [])]
        for name in ("speeds", "cold"):
            value = getattr(chosen, name)
            words += [f"--{name}", value] if value != parser.get_default(name) else []
        command = f"`.venv/bin/python benchmarks/kv_tier.py {' '.join(words)} --write`"
        made = f"{time.strftime('%Y-%m-%d')}; {machine()}; {took}. Made by {command}."
        sections.write(PAGE, f"kv-{chosen.what}", "\n\n".join([made, *bench.told, f"**{verdict}**"]))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
