"""What goes to the builder's process and what comes back: values only, so that both sides can be tested alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from aicockpit.errors import AicockpitError
from aicockpit.prompts.pack import Pack
from aicockpit.workspace.manifest import File

Kind = Literal["completion", "chat"]
KINDS: tuple[Kind, ...] = ("completion", "chat")

# Files above this size (bytes) are not analysed, nor more than this many of a workspace (docs/indexing.md tells users).
MAX_FILE = 512 * 1024
MAX_FILES = 20_000


class BuildFailed(AicockpitError):
    """A pack, journal entry or neighbourhood cannot be made; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A served model as prompts are made for it.

    `folder` holds its tokenizer.json; None: it is not known here, and `why_not` says why. `fim` overrides the detected
    style, `budget` the table's tokens (0: no context). `max_model_len` in tokens, None: not known yet. `kinds`: the
    lanes that it is served for.
    """

    name: str
    folder: Path | None
    why_not: str = ""
    max_model_len: int | None = None
    fim: str = ""
    budget: int | None = None
    kinds: tuple[Kind, ...] = KINDS


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A workspace's files at one moment. `tag` (WORKSPACE/NUMBER) names it; `repo` is the name that prompts show."""

    tag: str
    repo: str
    files: Mapping[str, File]

    @property
    def workspace(self) -> str:
        """The part of the tag that all snapshots of a workspace share."""
        return self.tag.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Described:
    """What is detected from a model's tokenizer, and why."""

    style: str
    fim: bool
    reason: str
    fingerprint: str
    specials: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """Files of a snapshot that were not analysed, counted by reason; `crashed` names those that end the process."""

    large: int = 0
    beyond: int = 0
    gone: int = 0
    crashed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """A finished pack; only the chat lane's items keep their text. `seconds`: the time the build took."""

    pack: Pack
    files: int
    left: Left
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Said:
    """A journal entry for `path` up to content `hash`; an empty `text`: nothing worth saying."""

    path: str
    hash: bytes | None
    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NearBy:
    """The neighbourhood of one file: its tokens, and (path, why, tokens) of each item."""

    tokens: tuple[int, ...] = ()
    items: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Sought:
    """A search for the parts of other files that are most like a place of the open file `path`.

    `query`: the words of that place. `without`: contents that stand in the prompt as a whole. `told`: (path, text) of
    what the journal tells.
    """

    path: str
    query: frozenset[str]
    budget: int
    without: frozenset[bytes] = frozenset()
    told: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Snippet:
    """Lines `first` to `last`, from 1, of a file with that content. `score`: the share of words in common. `key`: tells
    path and text apart from others.
    """

    path: str
    content: bytes
    first: int
    last: int
    score: float
    key: bytes


@dataclass(frozen=True, slots=True)
class Similar:
    """What a search found: its tokens and what stands in them, the best last. `chunks` were compared; `left_out`: files
    that the index has no room for.
    """

    tokens: tuple[int, ...] = ()
    snippets: tuple[Snippet, ...] = ()
    chunks: int = 0
    left_out: int = 0


Change = tuple[str, bytes | None, bytes | None]
Progress = Callable[[int, int], None]


def silent(_done: int, _total: int) -> None:
    """A progress that nobody looks at."""


class Builds(Protocol):
    """What rooms use of `builder.Builder`; its docstrings say what each call means."""

    async def describe(self, spec: ModelSpec, /) -> Described: ...
    async def build(
        self, snapshot: Snapshot, spec: ModelSpec, kind: Kind, budget: int, report: Progress = silent, /
    ) -> Built: ...
    async def journal(self, spec: ModelSpec, kind: Kind, changes: Sequence[Change], lines: int, /) -> list[Said]: ...
    async def near(
        self,
        snapshot: Snapshot,
        spec: ModelSpec,
        path: str,
        content: bytes | None,
        budget: int,
        without: frozenset[str],
        /,
    ) -> NearBy: ...
    async def runway(
        self, spec: ModelSpec, path: str, content: bytes | None, line: int, begun: str, /
    ) -> tuple[int, ...]: ...
    async def similar(
        self, snapshot: Snapshot, spec: ModelSpec, sought: Sought, report: Progress = silent, /
    ) -> Similar: ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files of a snapshot that are analysed, and what is left out."""

    files: tuple[File, ...]
    left: Left = field(default_factory=Left)


def left_by_limits(files: Iterable[File], max_file: int = MAX_FILE, max_files: int = MAX_FILES) -> Left:
    """What `select` leaves out of these, without choosing; `large` and `beyond` alone."""
    sizes = [file.size <= max_file for file in files]
    fitting = sum(sizes)
    return Left(large=len(sizes) - fitting, beyond=max(0, fitting - max_files))


def why_left(left: Left, max_file: int = MAX_FILE, max_files: int = MAX_FILES) -> tuple[str, ...]:
    """For people: a sentence for each limit that leaves files out, and what to do; empty when none does."""
    told = []
    if left.beyond:
        told.append(
            f"{left.beyond:,} {_files(left.beyond)} beyond the {max_files:,} that pack, skeletons and snippets are "
            "made from (known languages first, of them the smallest): only what is saved in them is told. Exclude "
            "what nobody edits in .aicockpitignore, or watch a part of the repository"
        )
    if left.large:
        told.append(f"{left.large:,} {_files(left.large)} over {max_file // 1024:,} KiB: never read, nor when saved")
    return tuple(told)


def _files(count: int) -> str:
    return "file" if count == 1 else "files"


def select(
    files: Sequence[File], is_source: Callable[[str], bool], max_file: int = MAX_FILE, max_files: int = MAX_FILES
) -> Chosen:
    """The smallest `max_files`, those in a known language first. Decided by size and path alone."""
    fitting = [file for file in files if file.size <= max_file]
    if len(fitting) > max_files:
        fitting.sort(key=lambda file: (not is_source(file.path), file.size, file.path))
    return Chosen(tuple(fitting[:max_files]), left_by_limits(files, max_file, max_files))
