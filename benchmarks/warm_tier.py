"""What a KV tier on disk makes of a restart: rows of `warm.py`, with a server that has one and a server that has none.

The prompt is the one that a completion in the workspace had: header, pack and tail, more than 2,000 tokens. It is sent
through the gateway, as token ids, to an engine that has just become ready, whose cache is empty but for what warming
has done meanwhile: how much of it was not computed for the request stands beside its time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.bars import Bar, checked
from benchmarks.report import markdown_table
from benchmarks.warm_rig import Rig, start_rig

# The rows need no more of a disk; the tier leaves the rest of it alone.
SIZE = "8GiB"
# So many restarts of each server show how the pack becomes warm where nobody asks; the first prompt has one per round.
UNASKED = 2


@dataclass(slots=True)
class Started:
    """Engines that started with an empty cache: the first prompt of each, and how the pack of others became warm.
    `warm_after` is empty where more than that was to be done, such as indexing."""

    first: list[float] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    warm_after: list[float] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Tiers:
    """Seconds to the first token of a prompt of `tokens` tokens, `pack` of them the pack's."""

    tokens: int = 0
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    none: Started = field(default_factory=Started)
    disk: Started = field(default_factory=Started)
    replica: Started = field(default_factory=Started)
    pack: int = 0


def measure(folder: Path, repo: Path, budget: int, rounds: int, say: Console) -> Tiers:
    """Three servers one after the other: without a tier, with one, and a second one on the first one's folder."""
    found, disk = Tiers(), f"disk:{SIZE}:{folder / 'kv'}"
    prompt: list[int] = []
    for name, tier, started in (("no tier", "none", found.none), ("disk tier", disk, found.disk)):
        say.print(f"restarts with {name}")
        with start_rig(folder / name.replace(" ", "-"), repo, budget, say, tier) as rig:
            rig.watch()
            rig.wait_warm()
            place = rig.places(1)[0]
            prompt = rig.prompt_tokens(*place)
            if started is found.disk:
                found.tokens, found.pack = len(prompt), rig.pack_tokens()
                rig.open(place[0])  # until nothing is being warmed beside what is timed
                for _ in range(rounds):
                    found.cold.append(rig.send(prompt, salt=f"cold-{time.monotonic_ns()}").first_s)
                found.warm = [rig.send(prompt).first_s for _ in range(3 * rounds)]
            rig.stop_watch()
            for number in range(rounds):
                _restart(rig)
                _first(rig, prompt, started)
                say.print(f"first after restart {number + 1}: {started.first[-1]:.3f} s")
            for _ in range(min(rounds, UNASKED)):
                _restart(rig)
                since = time.monotonic()
                _warm(rig, started)
                started.warm_after.append(time.monotonic() - since)
    say.print("a second replica on the same folder")
    # The same files: another copy of the weights is another model to the tier.
    model = next((folder / "disk-tier" / "state" / "models").glob("*/config.json")).parent
    with start_rig(folder / "replica", repo, budget, say, disk, str(model)) as rig:
        _first(rig, prompt, found.replica)
        _restart(rig)  # nothing of that prompt is in its memory when its own workspace is warmed
        rig.watch()
        _warm(rig, found.replica)
    return found


def _restart(rig: Rig) -> None:
    rig.restart_engine()
    rig.wait_ready()


def _first(rig: Rig, prompt: Sequence[int], started: Started) -> None:
    answer = rig.send(prompt)
    started.first.append(answer.first_s)
    started.cached.append(answer.cached)


def _warm(rig: Rig, started: Started) -> None:
    rig.wait_warm()
    origin = next(iter(rig.lane()["engines"].values()))["origin"]
    started.computed.append(origin["computed"])
    started.found.append(origin["memory"] + origin["tier"])


def bars(found: Tiers) -> list[Bar]:
    """First after a restart against cold and warm."""
    cold, warm, first = (statistics.median(times) for times in (found.cold, found.warm, found.disk.first))
    return [
        checked("a pack of 2,000 tokens or more", found.pack >= 2000, f"{found.pack}"),
        checked(
            "first after a restart, disk tier: at least 10x faster than cold",
            cold >= 10 * first,
            f"{cold / first:.1f}x",
        ),
        checked("and at most 3x as long as warm", first <= 3 * warm, f"{first / warm:.2f}x"),
    ]


def table(found: Tiers) -> str:
    """First tokens and warm packs, as Markdown."""
    cold = statistics.median(found.cold)

    def row(name: str, times: Sequence[float], started: Started | None = None) -> tuple[str, ...]:
        middle = statistics.median(times)
        if started is None:
            return (name, str(len(times)), f"{middle:.3f}", f"{cold / middle:.1f}x", "", "", "", "")
        return (
            *(name, str(len(times)), f"{middle:.3f}", f"{cold / middle:.1f}x"),
            f"{statistics.median(started.cached):.0f} of {found.tokens}",
            f"{statistics.median(started.warm_after):.2f}" if started.warm_after else "",
            f"{statistics.median(started.computed):.0f}",
            f"{statistics.median(started.found):.0f}",
        )

    head = (
        "first token of the prompt, through the gateway",
        "times",
        "p50 s",
        "faster than cold",
        "of it not computed",
    )
    return markdown_table(
        (*head, "pack warm after s, nobody asking", "tokens computed for it", "tokens found"),
        [
            row("cold", found.cold),
            row("warm", found.warm),
            row("first after a restart, no tier", found.none.first, found.none),
            row("first after a restart, disk tier", found.disk.first, found.disk),
            row("first in a second replica, disk tier", found.replica.first, found.replica),
        ],
    )
