"""One row of the doctor's table, and what the rows together mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["ok", "warn", "bad"]  # bad: a start with these settings fails


@dataclass(frozen=True, slots=True)
class Finding:
    """`id` is for programs and stays; `what` was looked at, `found` there, `fix`: what to do when it is not good."""

    id: str
    what: str
    mark: Mark
    found: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings ask of the machine. `gpus`: the most that one model asks for (models can take turns on GPUs);
    `engine`: the most for one engine; `named`: those asked for by id; `cpu`: an engine is to run on the CPU."""

    gpus: int = 0
    cpu: bool = False
    engine: int = 0
    named: tuple[str, ...] = ()

    @property
    def mark(self) -> Mark:
        """How bad it is when the GPUs cannot be used."""
        return "bad" if self.gpus else "warn"


def worst(findings: Sequence[Finding]) -> Mark:
    """`bad` before `warn` before `ok`."""
    marks = {finding.mark for finding in findings}
    return "bad" if "bad" in marks else "warn" if "warn" in marks else "ok"


def verdict(findings: Sequence[Finding]) -> int:
    """The exit code: 1 when something is bad."""
    return 1 if worst(findings) == "bad" else 0
