"""What the parts of `kv_tier.py` share: a model, a folder, engines, and what is told; and a prompt of any length."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.bars import Bar, all_pass
from benchmarks.kv_engine import GIGABYTE, Engine, engine, texts
from benchmarks.report import bars_markdown, markdown_table

LONG = 2_300
NEVER: dict[str, Any] = {"max_load_tokens": 0, "store": False}
ALWAYS: dict[str, Any] = {"load_always": True}


class Bench:
    """A model, a folder for everything, and where results are told. `pause` and `clock` are there to be replaced."""

    def __init__(
        self,
        model: Path,
        folder: Path,
        say: Console,
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.folder = folder
        self.say = say
        self.pause = pause
        self.clock = clock
        self.told: list[str] = []

    def tier(self, name: str, **options: Any) -> dict[str, Any]:
        return {"folder": str(self.folder / name), "bytes": 20 * GIGABYTE, **options}

    def engine(self, tier: dict[str, Any] | None, *flags: str, cores: str = "0-1") -> AbstractContextManager[Engine]:
        return engine(self.model, self.folder / "engine.log", tier, flags, cores)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.tell(markdown_table(list(head), [list(row) for row in rows]))

    def bars(self, bars: Sequence[Bar]) -> bool:
        """Tell each with its verdict; whether all are cleared."""
        self.tell(bars_markdown(bars))
        return all_pass(bars)

    def tell(self, text: str) -> None:
        """A result; `say` is for what happens on the way."""
        self.told.append(text)
        self.say.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """What happens on the way."""
        self.say.print(text, markup=False, soft_wrap=True)


def long_prompt(made: Engine, length: int = LONG) -> list[int]:
    """So many tokens of this repository's text."""
    found: list[int] = []
    for text in texts(40, 4_000):
        found += made.tokens(text)
        if len(found) >= length:
            return found[:length]
    raise SystemExit("this repository has too little text")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
