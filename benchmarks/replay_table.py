"""What a replay found, as figures, bars and tables. Pure; `replay.py` fills it in and writes it down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from aicockpit.prompts.worth import Row, Table
from benchmarks.bars import Bar, checked
from benchmarks.edits import BRANCH, KEYSTROKE, KINDS, SAVE
from benchmarks.kvsim import BLOCK
from benchmarks.replay_kit import Sizes
from benchmarks.replay_layouts import Ours
from benchmarks.replay_peers import Continue, Ring, Tabby, WideRing
from benchmarks.report import markdown_table
from benchmarks.stats import percentile

LAYOUTS = (Ours.name, Tabby.name, Continue.name, Ring.name, WideRing.name)
PLAIN = " Its tokenizer has no infilling, so nothing behind the cursor is sent, in any layout."
CHANGED = "request with a changed head"


@dataclass(slots=True)
class Cell:
    """The requests of one kind of event in one layout."""

    kept: list[float] = field(default_factory=list)  # share of the prompt's blocks
    prefill: list[int] = field(default_factory=list)  # tokens
    length: list[int] = field(default_factory=list)  # tokens of the prompt

    def add(self, kept: float, prefill: int, length: int) -> None:
        self.kept.append(kept)
        self.prefill.append(prefill)
        self.length.append(length)

    @property
    def share(self) -> float:
        return _mean(self.kept)

    @property
    def cost(self) -> float:
        return _mean(self.prefill)

    @property
    def shown(self) -> str:
        """Tokens to prefill, mean (95th percentile), of the prompt's, and the share that was kept."""
        if not self.kept:
            return "-"
        return f"{self.cost:,.0f} ({percentile(self.prefill, 95):,.0f}) of {_mean(self.length):,.0f}; {self.share:.1%}"


@dataclass(slots=True)
class Seen:
    """What one layout did over all histories."""

    cells: dict[str, Cell] = field(default_factory=lambda: defaultdict(Cell))
    pack_kept: list[float] = field(default_factory=list)  # through switches of branch
    head: list[int] = field(default_factory=list)  # tokens of repository in a prompt
    background: int = 0
    packs: int = 0

    @property
    def requests(self) -> int:
        return len(self.head)

    @property
    def background_mean(self) -> float:
        return self.background / max(1, self.requests)


Found = Mapping[str, Seen]  # by layout


@dataclass(frozen=True, slots=True)
class Case:
    """One budget to replay at: whose it is, its tokens, and the prefill in idle time, tokens/s.

    `embedded`: it is of the embedded model, whose tokenizer has no infilling: the suffix is not sent, as it is served.
    """

    label: str
    sizes: Sizes
    speed: float
    embedded: bool = False

    @property
    def title(self) -> str:
        return f"{self.sizes.context:,} tokens"


def cases(table: Table, embedded: str, speed: float, embedded_speed: float, before: int, after: int) -> list[Case]:
    """The budgets that a table of worth gives completions, rows with the same segments as one, smallest first.

    `embedded`: the model whose engine is the CPU's, with a speed of its own.
    """
    rows: dict[tuple[int, int, int, int], list[Row]] = defaultdict(list)
    for row in table.rows:
        if row.lane == "completion":
            rows[row.pack, row.journal, row.neighbourhood, row.similar].append(row)
    found = []
    for segments, same in rows.items():
        own = any(row.fits(embedded, "completion") and row.pattern != "*" for row in same)
        label = ", ".join(map(_named, same))
        found.append(Case(label, Sizes(*segments, before, after), embedded_speed if own else speed, own))
    return sorted((one for one in found if one.sizes.context), key=lambda one: one.sizes.context)


def _named(row: Row) -> str:
    if row.pattern != "*":
        return f"models named `{row.pattern}`"
    if row.above_b is None and row.below_b is None:
        return "models whose name tells no size"
    above, below = (None if size is None else f"{size:g}B" for size in (row.above_b, row.below_b))
    return (
        f"models of {above} to {below}"
        if above and below
        else f"models under {below}"
        if below
        else f"models from {above}"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True, slots=True)
class Versus(Bar):
    """A bar against the other layouts. `short`: what the table of bars says, where `seen` names every row."""

    short: str


def check(found: Found) -> list[Bar]:
    """The bars at one budget. Those of class Versus: ours behind no peer by either measure, then ahead of all.

    Two layouts whose means are less than one block apart are level: where the last block of a prompt begins is chance.
    """
    ours = found[Ours.name]

    def at_least(text: str, kind: str, floor: float) -> Bar:
        cell = ours.cells[kind]
        if not cell.kept:
            return Bar(text, "NOT MEASURED", "-")
        return checked(text, cell.share >= floor, f"{cell.share:.1%}")

    lowest = min(ours.pack_kept, default=None)
    text = "100 % of the pack kept through a branch switch, every request"
    return [
        at_least("at least 97 % of the blocks kept per keystroke", KEYSTROKE, 0.97),
        at_least("at least 90 % kept after a save of another file", SAVE, 0.90),
        at_least("at least 90 % kept by a request with a changed head", CHANGED, 0.90),
        Bar(text, "NOT MEASURED", "no pack" if ours.cells[BRANCH].kept else "no branch switch")
        if lowest is None
        else checked(text, lowest == 1.0, f"lowest {lowest:.1%}"),
        _against(found, "of every event at most one block less kept than by any peer, by share", _more_kept),
        _against(found, "at every event at most one block more to prefill than any peer", _less_cost),
        _in_front(found, "ours ahead of every peer layout in every row: fewer tokens to prefill"),
    ]


def _more_kept(ours: Cell, peer: Cell) -> float:
    """Tokens of our prompt."""
    return (ours.share - peer.share) * _mean(ours.length)


def _less_cost(ours: Cell, peer: Cell) -> float:
    """Tokens."""
    return peer.cost - ours.cost


def _gaps(found: Found, ahead_by: Callable[[Cell, Cell], float]) -> dict[str, dict[str, float]]:
    """By how much ours is ahead of each peer, for every kind of event that came."""
    ours = found[Ours.name]
    peers = {name: seen for name, seen in found.items() if name != Ours.name}
    return {
        kind: {name: ahead_by(cell, peer.cells[kind]) for name, peer in peers.items() if peer.cells[kind].kept}
        for kind, cell in ((kind, ours.cells[kind]) for kind in KINDS)
        if cell.kept
    }


def _missing(came: Collection[str]) -> str:
    """The kinds of event that the history has none of: a verdict speaks of the others."""
    missing = [kind for kind in KINDS if kind not in came]
    return f" (no {', no '.join(missing)})" if missing else ""


def _against(found: Found, text: str, ahead_by: Callable[[Cell, Cell], float]) -> Versus:
    """MISSED with every event and peer where ours is behind by a block or more."""
    gaps = _gaps(found, ahead_by)
    every = [(f"{kind}, {name}", gap) for kind, peers in gaps.items() for name, gap in peers.items()]
    if not every:
        return Versus(text, "NOT MEASURED", "-", "-")
    missing = _missing(gaps)
    behind = [f"{name}: {-gap:,.0f} tokens" for name, gap in every if gap <= -BLOCK]
    if behind:
        return Versus(text, "MISSED", "; ".join(behind) + missing, f"behind in {len(behind)}{missing}")
    ahead = sum(gap >= BLOCK for _, gap in every)
    seen = f"ahead in {ahead}, level in {len(every) - ahead}{missing}"
    return Versus(text, "PASS", seen, seen)


def _in_front(found: Found, text: str) -> Versus:
    """To the token: PASS when ours computes fewer than every peer at every event; else with the rows where not."""
    gaps = _gaps(found, _less_cost)
    least = {kind: min(peers.values()) for kind, peers in gaps.items() if peers}
    if not least:
        return Versus(text, "NOT MEASURED", "-", "-")
    rest = [kind for kind, gap in least.items() if gap <= 0]
    ahead, clear = len(least) - len(rest), sum(gap >= BLOCK for gap in least.values())
    behind = sum(gap <= -BLOCK for gap in least.values())
    short = f"ahead in {ahead} ({clear} by a block or more), level within a block in {len(rest) - behind}"
    short += (f", behind in {behind}" if behind else "") + _missing(gaps)
    if not rest:
        return Versus(text, "PASS", short, short)
    return Versus(text, "MISSED", f"{short}; not ahead: {', '.join(rest)}", short)


def rows(found: Found) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one budget's table."""
    head = ["event", "requests", *found]
    lines = []
    for kind in KINDS:
        cells = [seen.cells[kind] for seen in found.values()]
        if any(cell.kept for cell in cells):
            lines.append([kind, f"{len(cells[0].kept):,}", *(cell.shown for cell in cells)])
    changed = [seen.cells[CHANGED] for seen in found.values()]
    counted = [f"{len(cell.kept):,} times: {cell.shown}" if cell.kept else "never" for cell in changed]
    lines.append([CHANGED, "", *counted])
    lines.append(["tokens of repository, mean", "", *(f"{_mean(seen.head):,.0f}" for seen in found.values())])
    idle = [f"{seen.background_mean:,.0f}" for seen in found.values()]
    lines.append(["tokens prefilled in idle time, per request", "", *idle])
    return head, lines


def bars_table(results: Sequence[tuple[Case, Found]]) -> str:
    """Every bar at every budget."""
    checks = [check(found) for _, found in results]
    head = ["bar", *(case.title for case, _ in results)]
    lines = [[first[0].text, *(_verdict(bar) for bar in first)] for first in zip(*checks, strict=True)]
    return markdown_table(head, lines)


def _verdict(bar: Bar) -> str:
    return f"{bar.verdict}, {bar.short if isinstance(bar, Versus) else bar.seen}"


def versus_table(results: Sequence[tuple[Case, Found]]) -> str:
    """Tokens to prefill, ours and the cheaper of the two rings, for every event at every budget."""
    lines = []
    for kind in (*KINDS, CHANGED):
        line = [kind]
        for _, found in results:
            rings = [found[name].cells[kind] for name in (Ring.name, WideRing.name) if name in found]
            peer = min((cell.cost for cell in rings if cell.kept), default=None)
            ours = found[Ours.name].cells[kind]
            line.append("-" if peer is None or not ours.kept else f"{ours.cost:,.0f} / {peer:,.0f}")
        lines.append(line)
    return markdown_table(["tokens to prefill: ours / ring", *(case.title for case, _ in results)], lines)


def part_of(case: Case, found: Found) -> list[str]:
    """The lines for one budget: its table, and where ours is behind, or not ahead."""
    sizes = case.sizes
    head, lines = rows(found)
    bars = [bar for bar in check(found) if isinstance(bar, Versus) and bar.verdict == "MISSED"]
    missed = [f"- Missed: {bar.text}. {bar.seen[0].upper()}{bar.seen[1:]}." for bar in bars]
    return [
        f"**{case.title}**: {case.label}. In ours a pack of up to {sizes.pack:,}, a journal of {sizes.journal:,}, "
        f"skeletons of {sizes.neighbourhood:,} and snippets of {sizes.similar:,}; idle time prefills {case.speed:,.0f} "
        f"tokens/s, for ours and for the ring.{PLAIN if case.embedded else ''}",
        "",
        markdown_table(head, lines),
        "",
        *missed,
        *([""] if missed else []),
    ]


def figures(results: Sequence[tuple[Case, Found]]) -> dict[str, object]:
    """Everything, for a file."""
    return {
        case.label: {
            name: {
                kind: {"requests": len(c.kept), "share": c.share, "prefill": c.cost, "prompt": _mean(c.length)}
                | {"share_p5": percentile(c.kept, 5), "prefill_p95": percentile(c.prefill, 95)}
                for kind, c in seen.cells.items()
                if c.kept
            }
            for name, seen in found.items()
        }
        for case, found in results
    }
