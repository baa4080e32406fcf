"""What every layout of the replay works with: sizes, a tokenizer in a style, and what all compute alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aicockpit.prompts.fim import Style, detect, styles
from aicockpit.prompts.languages import Grammars
from aicockpit.prompts.pack import ItemCache
from aicockpit.prompts.skeleton import Analysis, analyse
from aicockpit.prompts.tail import TailLimits
from aicockpit.prompts.tokens import Encoder
from benchmarks.edits import Event
from benchmarks.kvsim import Background

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens of repository context, in ours by segment, and lines of the file before and behind the cursor."""

    pack: int = 8_000
    journal: int = 2_000
    neighbourhood: int = 3_000
    similar: int = 1_024
    before: int = TailLimits().prefix_lines
    after: int = TailLimits().suffix_lines

    @property
    def context(self) -> int:
        """What every layout may fill."""
        return self.pack + self.journal + self.neighbourhood + self.similar


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: its tokens, how many of them are of the repository, and how many of those the shared pack."""

    tokens: tuple[int, ...]
    head: int = 0
    pack: int = 0


class Layout(Protocol):
    """A way to lay out prompts. An `event`, the `pause` that follows it, then the request."""

    name: str

    def event(self, event: Event) -> None: ...

    def pause(self, seconds: float) -> None: ...

    def prompt(self, event: Event) -> Prompt: ...


class Memo:
    """What layouts of one history compute alike, at any budget: of the event at hand, items, chunks, analyses."""

    def __init__(self) -> None:
        self._event: Event | None = None
        self._once: dict[object, Any] = {}
        self._tokens: dict[tuple[str, str, str], tuple[int, ...]] = {}
        self._chunks: dict[str, list[str]] = {}
        self._analyses: dict[tuple[str, str], Analysis] = {}
        self._grammars = Grammars()
        self.items = ItemCache(8_000_000)

    def once(self, event: Event, key: object, make: Callable[[], T]) -> T:
        """What the first layout that asks finds for an event is what all get."""
        if event is not self._event:
            self._event, self._once = event, {}
        found: T = self._once[key] if key in self._once else self._once.setdefault(key, make())
        return found

    def tokens(self, kind: str, path: str, text: str, make: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        key = kind, path, text
        if key not in self._tokens:
            self._tokens[key] = make()
        return self._tokens[key]

    def chunks(self, text: str) -> list[str]:
        if text not in self._chunks:
            self._chunks[text] = chunks_of(text, 64)
        return self._chunks[text]

    def analysis(self, path: str, text: str) -> Analysis:
        if (path, text) not in self._analyses:
            self._analyses[path, text] = analyse(path, text, self._grammars)
        return self._analyses[path, text]


@dataclass(frozen=True, slots=True)
class Kit:
    """What every layout works with."""

    encoder: Encoder
    style: Style
    whole: Style
    sizes: Sizes
    background: Background
    seed: int
    name: str
    memo: Memo = field(default_factory=Memo)

    def item(self, path: str, text: str) -> tuple[int, ...]:
        return self.memo.tokens("item", path, text, lambda: self.style.item(self.encoder, path, text))

    def clipped(self, event: Event) -> tuple[str, str]:
        """As many whole lines around the cursor as everybody gets: a window that slides."""

        def make() -> tuple[str, str]:
            before = event.prefix.splitlines(keepends=True)[-self.sizes.before :]
            after = event.suffix.splitlines(keepends=True)[: self.sizes.after]
            return "".join(before), "".join(after)

        return self.memo.once(event, ("clipped", self.sizes.before, self.sizes.after), make)

    def tail(self, event: Event, window: tuple[str, str], repo_level: bool, whole: bool = False) -> tuple[int, ...]:
        """`whole`: all that stands before the cursor is in the prefix, as Tabby and Continue have it."""
        style = self.whole if whole else self.style

        def make() -> tuple[int, ...]:
            return style.tail(self.encoder, event.path, *window, repo_level=repo_level)

        return self.memo.once(event, ("tail", window, repo_level, whole), make)


def whole(style: Style, encoder: Encoder) -> Style:
    """The same layout with all that stands before the cursor in the prefix."""
    name = f"{style.name}-whole"
    return detect(encoder.specials, name)[0] if name in styles() else style


def chunks_of(text: str, lines: int) -> list[str]:
    rows = text.splitlines(keepends=True)
    return ["".join(rows[start : start + lines]) for start in range(0, len(rows), lines)]
