"""How much repository context a model gets: a table of measurements, shipped as `data/worth.toml`.

That a prefix is warm makes it free, not good: small models complete most lines worse with other files in front.
`benchmarks/worth.py` measures a model and writes rows; the budget of an epoch starts here and is then cut to what
the engine can hold.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from aicockpit.errors import SettingError

LANES = ("completion", "chat")
_SIZE = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Tokens of each segment; sizes in billions of parameters, None for no bound."""

    pattern: str
    lane: str
    pack: int
    neighbourhood: int
    similar: int
    journal: int
    measured: bool
    note: str
    above_b: float | None = None
    below_b: float | None = None

    def fits(self, model: str, lane: str) -> bool:
        """Whether this row speaks of the model (its name or path, whatever the case) in this lane."""
        if lane != self.lane or not fnmatchcase(model.lower(), self.pattern.lower()):
            return False
        if self.above_b is None and self.below_b is None:
            return True
        size = size_b(model)
        return size is not None and (self.above_b or 0.0) <= size < (self.below_b or float("inf"))


@dataclass(frozen=True, slots=True)
class Worth:
    """The budget for one model in one lane, in tokens. `measured` False: nobody measured it for this model."""

    pack: int
    neighbourhood: int
    similar: int
    journal: int
    measured: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in order: the first that fits decides."""

    rows: tuple[Row, ...]

    def lookup(self, model: str, lane: str) -> Worth:
        """Raises ValueError: no such lane."""
        if lane not in LANES:
            raise ValueError(f"there is no lane {lane!r} in the table of context budgets, only {', '.join(LANES)}")
        row = next(row for row in self.rows if row.fits(model, lane))
        proof = "measured" if row.measured else "not measured"
        return Worth(
            row.pack,
            row.neighbourhood,
            row.similar,
            row.journal,
            row.measured,
            f"{_named(row)}, {proof}: {row.note}",
        )


def lookup(model: str, lane: str) -> Worth:
    """What the shipped table says of a model (the served name, or its path) in the lane "completion" or "chat".

    Reads the table; who asks often keeps `shipped()`.
    """
    return shipped().lookup(model, lane)


def shipped() -> Table:
    """The table in this package. Raises SettingError if somebody broke it."""
    return parse(resources.files("aicockpit.prompts").joinpath("data/worth.toml").read_text("utf-8"), "worth.toml")


def with_own(path: Path | None) -> Table:
    """The user's own rows, in a file as `benchmarks/worth.py` writes it, before the shipped ones.

    Raises SettingError if the file cannot be read or is wrong.
    """
    if path is None:
        return shipped()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"AICOCKPIT_WORTH: cannot read {path}: {error}") from error
    return Table((*_rows(text, str(path)), *shipped().rows))


def size_b(model: str) -> float | None:
    """Billions of parameters as a name tells them: "Qwen3-Coder-30B-A3B" 30, "8x7b" 56, "SmolLM2-135M" 0.135.

    The last part of a path that tells a size counts; None if none does.
    """
    for part in reversed(model.lower().replace("--", "/").split("/")):
        if found := _SIZE.search(part):
            experts, number, unit = found.groups()
            return int(experts or 1) * float(number) * (0.001 if unit == "m" else 1.0)
    return None


def parse(text: str, origin: str) -> Table:
    """A whole table from TOML. Raises SettingError naming `origin`, the row and what is wrong with it."""
    rows = _rows(text, origin)
    for lane in LANES:
        last = next((row for row in reversed(rows) if row.lane == lane), None)
        if last is None or last.pattern != "*" or last.above_b is not None or last.below_b is not None:
            raise SettingError(
                f'{origin}: the last row of the lane {lane} must fit every model (pattern = "*", no size)'
            )
    return Table(rows)


def render(rows: Sequence[Row]) -> str:
    """Rows as TOML, as `parse` reads them."""
    return "\n".join(_rendered(row) for row in rows)


def _rows(text: str, origin: str) -> tuple[Row, ...]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{origin} is not TOML: {error}") from error
    if unknown := sorted(set(document) - {"row"}):
        raise SettingError(f"{origin} has the unknown key {unknown[0]!r}; it may only have [[row]]")
    found = document.get("row", [])
    if not isinstance(found, list):
        raise SettingError(f"{origin}: rows are written as [[row]]")
    return tuple(_row(row, f"{origin}, row {number}") for number, row in enumerate(found, 1))


def _rendered(row: Row) -> str:
    values = {field.name: getattr(row, field.name) for field in fields(Row)}
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
    lines = [
        f"{k} = {json.dumps(v, ensure_ascii=False).replace(chr(127), chr(92) + 'u007F')}"
        for k, v in values.items()
        if v is not None
    ]
    return "\n".join(["[[row]]", *lines, ""])


def _named(row: Row) -> str:
    above = "" if row.above_b is None else f" from {row.above_b:g}B"
    below = "" if row.below_b is None else f" under {row.below_b:g}B"
    return f"row {row.pattern}{above}{below}"


def _row(given: Any, where: str) -> Row:
    if not isinstance(given, dict):
        raise SettingError(f"{where} is not a table")
    known = {field.name for field in fields(Row)}
    if unknown := sorted(set(given) - known):
        raise SettingError(f"{where} has the unknown key {unknown[0]!r}. Known: {', '.join(sorted(known))}")
    if missing := sorted(known - {"above_b", "below_b"} - set(given)):
        raise SettingError(f"{where} lacks {', '.join(missing)}")
    for key, value in given.items():
        if wrong := _wrong(key, value):
            raise SettingError(f"{where}: {key} {wrong}, not {value!r}")
    row = Row(**given)
    if row.above_b is not None and row.below_b is not None and row.above_b >= row.below_b:
        raise SettingError(f"{where}: above_b must be less than below_b")
    return row


def _wrong(key: str, value: object) -> str:
    """What a value must be, if it is not that."""
    if key in ("pattern", "note"):
        return "" if isinstance(value, str) and value else "must be a text"
    if key == "lane":
        return "" if value in LANES else f"must be one of {', '.join(LANES)}"
    if key == "measured":
        return "" if isinstance(value, bool) else "must be true or false"
    if key in ("above_b", "below_b"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if number and 0 <= float(str(value)) < float("inf") else "must be a number of billions"
    whole = isinstance(value, int) and not isinstance(value, bool)
    return "" if whole and 0 <= int(str(value)) <= 10_000_000 else "must be a number of tokens, 0 or more"
