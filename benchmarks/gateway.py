"""Measure gateways side by side: `python benchmarks/gateway.py [--quick] [--only ours,nginx] [--write] [--soak]`.

One run, on loopback: a stub engine, then each gateway in front of it, one after the other. The gateway has one core,
the stub and the load another. Peers from PyPI are installed into .bench/; what cannot run is named and left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import report, wrk
from benchmarks.bars import Bar, Results, Soak, all_pass, check
from benchmarks.measure import Bench, bench, measure
from benchmarks.model import CONNECTIONS, QUICK_CONNECTIONS, Measurement, Missing, Scenario, scenarios
from benchmarks.peers import PEERS, NotInstalled, NotStarted, Peer, Place
from benchmarks.proc import ROOT, Running, free_port
from benchmarks.soak import soak

PAGE = ROOT / "docs" / "performance.md"


@dataclass(slots=True)
class Run:
    """What a run has found so far."""

    measurements: list[Measurement] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    soak: Soak | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    scenes: list[Scenario]
    seconds: float
    rounds: int
    peers: list[Peer]
    soak: bool
    soak_scale: float


def arguments(words: list[str]) -> argparse.Namespace:
    names = ",".join(peer.name for peer in PEERS)
    parser = argparse.ArgumentParser(prog="benchmarks/gateway.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1 s a cell, 1 and 32 connections")
    parser.add_argument("--only", default=names, help=f"gateways, comma-separated: {names}; direct always runs")
    parser.add_argument("--seconds", type=float, help="seconds for each cell (5; with --quick 1)")
    parser.add_argument("--rounds", type=int, help="times to measure everything; the best cell counts (2; quick 1)")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/performance.md")
    parser.add_argument("--soak", action="store_true", help="ours: memory over 100,000 requests and 10,000 aborts")
    parser.add_argument("--soak-scale", type=float, default=1.0, help="a part of the soak, for a try (1.0)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is missed or was not measured")
    chosen = parser.parse_args(words)
    unknown = set(chosen.only.split(",")) - {peer.name for peer in PEERS} - {"direct", ""}
    if unknown:
        parser.error(f"no such gateway: {', '.join(sorted(unknown))}. Known: {names}")
    return chosen


def plan_of(chosen: argparse.Namespace) -> Plan:
    connections = QUICK_CONNECTIONS if chosen.quick else CONNECTIONS
    seconds = chosen.seconds or (1.0 if chosen.quick else 5.0)
    wanted = chosen.only.split(",")
    peers = [peer for peer in PEERS if peer.name in wanted]
    rounds = chosen.rounds or (1 if chosen.quick else 2)
    return Plan(scenarios(connections), seconds, rounds, peers, chosen.soak, chosen.soak_scale)


class Session:
    """One run: the stub stands, gateways come and go, the terminal tells."""

    def __init__(self, plan: Plan, place: Bench, progress: Progress) -> None:
        self.plan, self.bench, self.progress = plan, place, progress
        self.found = Run()
        self.last = True

    def say(self, text: str) -> None:
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def measure(self, name: str, running: Running | None, port: int) -> None:
        """Every scenario on one gateway, after a second of warm-up."""
        task = self.progress.add_task(name, total=len(self.plan.scenes))
        measure(name, running, port, Scenario("json", "2 kB", 32), 1.0, self.bench)
        for scene in self.plan.scenes:
            m = measure(name, running, port, scene, self.plan.seconds, self.bench)
            self.found.measurements.append(m)
            per = "requests/s" if scene.kind == "json" else "chunks/s"
            bad = f"  {m.load.errors} errors: {m.load.note}" if m.load.errors else ""
            what = f"{name:<14} {scene.title:<22} {scene.connections:>4} connections"
            self.say(f"{what} {report.rate(m):>10,.0f} {per}{bad}")
            self.progress.advance(task)
        self.progress.remove_task(task)

    def peer(self, peer: Peer) -> None:
        """Install, start, measure and stop one gateway; one that cannot run is noted with the reason."""
        self.say(f"{peer.name:<14} starting")
        port = free_port()
        try:
            peer.install()
            self.found.versions[peer.name] = peer.version()
            running = peer.start(Place(port, self.bench.stub_port, self.bench.gateway_core, self.bench.folder))
        except (NotInstalled, NotStarted) as error:
            self.found.versions.pop(peer.name, None)
            hidden = [str(ROOT), str(self.bench.folder), str(Path.home()), sys.prefix]
            self.found.missing.append(Missing(peer.name, report.clean(str(error), hidden)))
            self.say(f"{peer.name:<14} skipped: {error}")
            return
        try:
            self.measure(peer.name, running, port)
            if self.plan.soak and self.last and peer.name == "ours":
                self.found.soak = soak(running, port, self.bench, self.say, self.plan.soak_scale)
        finally:
            running.stop()


def run(plan: Plan, console: Console) -> Run:
    """Measure everything in `plan`, direct first."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with bench() as place, Progress(*columns, console=console, refresh_per_second=1, transient=True) as progress:
        os.sched_setaffinity(0, {place.load_core})
        session = Session(plan, place, progress)
        for number in range(plan.rounds):
            session.last = number == plan.rounds - 1
            session.measure("direct", None, place.stub_port)
            for peer in plan.peers:
                session.peer(peer)
    session.found.measurements = best(session.found.measurements)
    session.found.missing = list(dict.fromkeys(session.found.missing))
    return session.found


def best(measurements: list[Measurement]) -> list[Measurement]:
    """Of each cell the round with the highest rate: a shared machine can only slow a gateway down."""
    cells: dict[tuple[str, Scenario], Measurement] = {}
    for m in measurements:
        known = cells.get((m.gateway, m.scenario))
        if known is None or report.rate(m) > report.rate(known):
            cells[m.gateway, m.scenario] = m
    return list(cells.values())


def facts_of(found: Run, plan: Plan, words: list[str], machine: str) -> report.Facts:
    return report.Facts(
        date=time.strftime("%Y-%m-%d"),
        machine=machine,
        command=shlex.join(["python", "benchmarks/gateway.py", *words]),
        seconds=plan.seconds,
        rounds=plan.rounds,
        generator="wrk" if wrk.available() else "benchmarks/load.py",
        versions=found.versions,
        missing=found.missing,
    )


def machine() -> str:
    count = len(os.sched_getaffinity(0))
    shared = "" if count > 1 else ", shared by all: figures are low"
    return f"{count} core{'s' * (count != 1)}{shared}, {platform.machine()}, Python {platform.python_version()}"


def _console() -> Console:
    """The terminal; into a file or a pipe, wide enough for the tables."""
    console = Console()
    return console if console.is_terminal and console.width >= 150 else Console(width=150)


def _print(results: Results, bars: list[Bar], found: Run, console: Console) -> None:
    for table in report.terminal_tables(results):
        console.print(table)
    for line in report.ceiling(results):
        console.print(f"near the ceiling of the load: {line}", highlight=False)
    for missing in found.missing:
        console.print(f"{missing.gateway}: not measured: {missing.reason}", markup=False, soft_wrap=True)
    for bar in bars:
        console.print(f"{bar.verdict:<13} {bar.text}: {bar.seen}", highlight=False, soft_wrap=True)


def main(words: list[str]) -> int:
    """Run it; 0, or with --strict 1 when a bar is not cleared."""
    chosen = arguments(words)
    plan, console, this_machine = plan_of(chosen), _console(), machine()
    found = run(plan, console)
    results = Results(found.measurements)
    bars = check(results, found.soak)
    _print(results, bars, found, console)
    if chosen.write:
        part = report.render(facts_of(found, plan, words, this_machine), results, bars)
        report.write(PAGE, part)
        console.print(f"written: {PAGE.relative_to(ROOT)}")
    return int(chosen.strict and not all_pass(bars))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
