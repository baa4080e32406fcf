"""The rows of `warm.py` with the cursor in the middle of a file, whose line was told by `focus` or was not.

The places are cut by pure functions; the requests go through the rig of `warm.py`.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.bars import Bar, checked
from benchmarks.warm_rig import SUFFIXES, Answer, Rig

# Lines of a file that has a middle worth the name, and lines behind the cursor that an editor sends.
LEAST, MOST, BEHIND = 240, 1200, 32
# How long (seconds) a place may take to get warm before it is asked for all the same.
PATIENCE_S = 60.0
# What the first request may compute more than the next keystroke: the rest of a block, and its own line.
MORE_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor inside line `line` (from 1) of a file, and the text around it."""

    path: str
    line: int
    prefix: str
    suffix: str


@dataclass(slots=True)
class Middle:
    """Requests mid-file: the first after `focus` named the line, the keystroke after it, the first without a line."""

    told: list[Answer] = field(default_factory=list)
    next: list[Answer] = field(default_factory=list)
    untold: list[Answer] = field(default_factory=list)
    focus_s: list[float] = field(default_factory=list)
    late: int = 0


def middle_of(path: str, text: str) -> Place | None:
    """The middle of the file's middle line that has something in it; None when the file is too short or too long."""
    lines = text.splitlines(keepends=True)
    if not LEAST <= len(lines) <= MOST:
        return None
    at = next((at for at in range(len(lines) // 2, len(lines)) if len(lines[at].strip()) > 8), None)
    if at is None:
        return None
    own = lines[at]
    half = (len(own) - len(own.lstrip()) + len(own.rstrip())) // 2
    suffix = own[half:] + "".join(lines[at + 1 : at + BEHIND])
    return Place(path, at + 1, "".join(lines[:at]) + own[:half], suffix)


def places(tree: Path, count: int) -> list[Place]:
    """Middles of that many files, each of another one, always the same; fewer where there are no more."""
    files = sorted(path for path in tree.rglob("*") if path.suffix in SUFFIXES)
    random.Random(2).shuffle(files)
    found: list[Place] = []
    for path in files:
        if len(found) == count:
            break
        try:
            place = middle_of(path.relative_to(tree).as_posix(), path.read_bytes().decode())
        except (UnicodeDecodeError, OSError):
            continue
        if place is not None:
            found.append(place)
    return found


def measure(rig: Rig, count: int, say: Console) -> Middle:
    """`count` places of each kind; each in a file that was not opened before."""
    found, there = Middle(), places(rig.tree, 2 * count)
    for number, place in enumerate(there):
        if number % 2:
            rig.open(place.path)
            found.untold.append(rig.complete(place.path, place.prefix, place.suffix))
            continue
        began = time.monotonic()
        rig.focus(place.path, place.line)
        warm = rig.wait_place(place.path, place.line, PATIENCE_S)
        found.focus_s.append(time.monotonic() - began)
        found.late += not warm
        found.told.append(rig.complete(place.path, place.prefix, place.suffix))
        found.next.append(rig.complete(place.path, place.prefix + "x", place.suffix))
    say.print(sentence(found))
    return found


def computed(answers: Sequence[Answer]) -> float:
    """Tokens that the engine computed, median."""
    return statistics.median(one.prompt - one.cached for one in answers)


def rows(found: Middle) -> list[tuple[str, list[float]]]:
    """Names of rows, and seconds to the first token."""
    return [
        ("warm, mid-file, first request after focus", [one.first_s for one in found.told]),
        ("warm, mid-file, next keystroke", [one.first_s for one in found.next]),
        ("warm, mid-file, first request, its line not told", [one.first_s for one in found.untold]),
    ]


def sentence(found: Middle) -> str:
    size, late = statistics.median(one.prompt for one in found.told), found.late
    told = (
        f"Mid-file, of prompts of {size:.0f} tokens, the engine computed {computed(found.told):.0f} in the first "
        f"request after `focus` named the line, {computed(found.next):.0f} at the next keystroke, and "
        f"{computed(found.untold):.0f} in the first request of a file whose line it was not told; a place was warm "
        f"{statistics.median(found.focus_s):.2f} s after `focus` (all medians)"
    )
    return told + (f"; {late} of {len(found.told)} not within {PATIENCE_S:.0f} s." if late else ".")


def bars(found: Middle) -> list[Bar]:
    first, key = computed(found.told), computed(found.next)
    return [
        checked(
            f"mid-file, the first request after focus: at most {MORE_TOKENS} tokens more than the next keystroke",
            first <= key + MORE_TOKENS and not found.late,
            f"{first:.0f} <= {key:.0f} + {MORE_TOKENS}, {found.late} places not warm in time",
        )
    ]
