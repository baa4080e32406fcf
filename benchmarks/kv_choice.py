"""`kv_tier.py chooser`: load or compute, with a disk held back to several speeds.

Each speed has an engine of its own. At first it gets requests that the tier decides about, and no others: what it knows
is what they measured, and the speed of computing that an earlier engine left. Only then is it told to compute and to
load, to compare. Engines that know nothing at all have rows of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from aicockpit.kvdisk.chooser import Reason
from aicockpit.kvdisk.meter import STALE_S
from benchmarks.bars import Bar, checked
from benchmarks.kv_bench import ALWAYS, NEVER, Bench, long_prompt, median
from benchmarks.kv_engine import Engine

SPEEDS = "1,5,20,25,30,40,200,2000"
COLD = "1,30,2000"
# The choice against the better of both; a single request that measures on the way, against the same.
BAR, MEASURING_BAR = 1.1, 1.5
# A way that takes longer than this is not measured but counted, or asked for less often.
_LONGEST_S, _PATIENCE_S = 8.0, 20.0


@dataclass(slots=True)
class Disk:
    """What one speed showed, in seconds. `counted_s`: loading, from bytes and speed. `first`: of an engine that knows
    how fast it computes. `later`: one request after so long without a load that the measurement is stale; None: not
    asked, as loading is what is chosen."""

    speed: float
    counted_s: float
    first: float = 0.0
    chosen: list[float] = field(default_factory=list)
    compute: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    later: float | None = None
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def load_s(self) -> float:
        return median(self.load) if self.load else self.counted_s

    @property
    def better(self) -> float:
        return min(median(self.compute), self.load_s)

    @property
    def over(self) -> float:
        """How many times as long as the better way the choice takes."""
        return median(self.chosen) / self.better


@dataclass(frozen=True, slots=True)
class Single:
    """One request that also measures, and what the better way takes in its place."""

    speed: float
    what: str
    seconds: float
    better: float

    @property
    def over(self) -> float:
        return self.seconds / self.better


def chooser(bench: Bench, speeds: Sequence[float], cold: Sequence[float], rounds: int) -> bool:
    """`speeds` and `cold` in bytes per second."""
    with bench.engine(bench.tier("chooser")) as made:
        prompt = long_prompt(made)
        computed_first = made.complete(prompt).seconds
        made.settled()
        size = made.metric("aicockpit_kv_disk_stored_bytes_total")
    disks: list[Disk] = []
    for speed in speeds:
        if not list(_left(bench)):
            raise SystemExit(
                "the engine before left no speed.json: it measured nothing, or was ended too soon; see engine.log"
            )
        with bench.engine(bench.tier("chooser", throttle_bytes_per_s=speed)) as made:
            disks.append(_disk(bench, made, prompt, Disk(speed, size / speed), rounds))
        bench.note(", ".join(row(disks[-1])))
    singles = []
    for speed in cold:
        for path in _left(bench):
            path.unlink()
        with bench.engine(bench.tier("chooser", throttle_bytes_per_s=speed)) as made:
            singles += _cold(made, prompt, disks, Disk(speed, size / speed), computed_first)
        bench.note("; ".join(f"{one.what} {one.seconds:.3f} s" for one in singles if one.speed == speed))
    return told(bench, disks, [*singles, *_singles(disks, computed_first)], size)


def _left(bench: Bench) -> list[Path]:
    return list(Path(bench.tier("chooser")["folder"]).rglob("speed.json"))


def _disk(bench: Bench, made: Engine, prompt: Sequence[int], found: Disk, rounds: int) -> Disk:
    def ask(wish: dict[str, object] | None) -> float:
        made.forget()
        return made.complete(prompt, wish=wish).seconds

    found.first = ask(None)
    before = _reasons(made)
    # In turns: the machine is not equally fast all the time.
    began = bench.clock()
    for _ in range(rounds):
        if not found.chosen or bench.clock() - began < _PATIENCE_S:
            found.chosen.append(ask(None))
        found.compute.append(ask(NEVER))
    counts = {reason: count - before[reason] for reason, count in _reasons(made).items()}
    found.reasons = {reason: count for reason, count in counts.items() if reason != "asked for"}
    last_load = bench.clock()
    if found.reasons["computing is faster"]:
        bench.pause(max(0.0, STALE_S + 1 - (bench.clock() - last_load)))
        found.later = ask(None)
    if found.counted_s <= _LONGEST_S:
        found.load = _times(bench, rounds, lambda: ask(ALWAYS))
    return found


def _times(bench: Bench, rounds: int, ask: Callable[[], float]) -> list[float]:
    """So many, or fewer where they take too long."""
    began, found = bench.clock(), [ask()]
    while len(found) < rounds and bench.clock() - began < _PATIENCE_S:
        found.append(ask())
    return found


def _reasons(made: Engine) -> dict[str, int]:
    made.complete([1] * 5)  # the engine tells with its steps
    return {name: int(made.metric("aicockpit_kv_disk_choices_total", choice=name)) for name in get_args(Reason)}


def _cold(made: Engine, prompt: Sequence[int], disks: Sequence[Disk], new: Disk, computed_first: float) -> list[Single]:
    """The first request of an engine that knows nothing, and the second, unless the first took very long."""
    known = next((disk for disk in disks if disk.speed == new.speed), None)
    load_s = known.load_s if known else new.counted_s
    seconds = made.complete(prompt).seconds
    found = [Single(new.speed, "first, nothing known", seconds, min(computed_first, load_s))]
    if seconds <= _PATIENCE_S:
        made.forget()
        compute = median([one for disk in disks for one in disk.compute] or [computed_first])
        found.append(
            Single(new.speed, "second, nothing known before", made.complete(prompt).seconds, min(compute, load_s))
        )
    return found


def _singles(disks: Sequence[Disk], computed_first: float) -> list[Single]:
    found = [
        Single(disk.speed, "first, computing known", disk.first, min(computed_first, disk.load_s)) for disk in disks
    ]
    late = f"after {STALE_S:.0f} s without a load"
    return found + [Single(disk.speed, late, disk.later, disk.better) for disk in disks if disk.later is not None]


def row(disk: Disk) -> tuple[str, ...]:
    """Of the table of choices."""
    told = [f"{reason} {count}x" for reason, count in disk.reasons.items() if count]
    return (
        f"{disk.speed / 1e6:,.0f}",
        f"{median(disk.compute):.3f}",
        f"{disk.load_s:.3f}" if disk.load else f"{disk.load_s:.0f} (counted)",
        f"{median(disk.chosen):.3f}",
        f"{disk.over - 1:+.0%}",
        ", ".join(told),
    )


def bars(disks: Sequence[Disk], singles: Sequence[Single]) -> list[Bar]:
    """The choice at every speed, and the worst request that measures: of engines that know nothing, and of others."""
    found = []
    if disks:
        worst = max(disks, key=lambda disk: disk.over)
        found.append(
            checked(
                f"chosen: at most {BAR - 1:.0%} longer than the better way, at every speed",
                worst.over <= BAR,
                f"{worst.over - 1:+.0%} at {worst.speed / 1e6:,.0f} MB/s",
            )
        )
    for text, group in (
        ("an engine that knows nothing", [one for one in singles if "nothing" in one.what]),
        ("another request that measures", [one for one in singles if "nothing" not in one.what]),
    ):
        if group:
            slowest = max(group, key=lambda one: one.over)
            found.append(
                checked(
                    f"{text}: at most {MEASURING_BAR:g} times as long as the better way",
                    slowest.over <= MEASURING_BAR,
                    f"{slowest.over:.1f} times at {slowest.speed / 1e6:,.0f} MB/s ({slowest.what})",
                )
            )
    return found


def told(bench: Bench, disks: Sequence[Disk], singles: Sequence[Single], size: float) -> bool:
    """Tell it; whether the bars are cleared."""
    bench.tell(
        f"{size / 1e6:.0f} MB are on disk. What takes more than {_LONGEST_S:.0f} s to load is counted: bytes by speed."
    )
    if disks:
        head = ("disk, MB/s", "compute only, s", "load only, s", "chosen, s", "against the better", "reasons")
        bench.table(head, [row(disk) for disk in disks])
    bench.table(
        ("request that measures", "disk, MB/s", "s", "the better way, s", "times as long"),
        [
            (one.what, f"{one.speed / 1e6:,.0f}", f"{one.seconds:.3f}", f"{one.better:.3f}", f"{one.over:.1f}")
            for one in singles
        ],
    )
    return bench.bars(bars(disks, singles))
