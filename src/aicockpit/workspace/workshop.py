"""The builder's heavy work: analyses, packs, journal entries, neighbourhoods. Runs in the child of `builder.py`.

`python -m aicockpit.workspace.workshop FOLDER` serves calls from its input until that ends: then the server is gone,
and so is this process. Long calls are generators, of which one portion is done at a time. Files come from the store's
blob folder by hash.
"""

from __future__ import annotations

import logging
import os
import pickle
import sqlite3
import struct
import sys
import time
from array import array
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from aicockpit.errors import AicockpitError
from aicockpit.prompts import fim, journal, pack, skeleton, tail, tokens
from aicockpit.prompts.languages import Grammars
from aicockpit.prompts.neighbours import around
from aicockpit.prompts.portions import Portions
from aicockpit.prompts.rank import Graph, linked
from aicockpit.prompts.skeleton import Analysis
from aicockpit.workspace import blobs
from aicockpit.workspace.analyses import Analyses, Key, key_of
from aicockpit.workspace.builds import MAX_FILE, Built, Described, Kind, Left, ModelSpec, NearBy, Said, Similar, Sought
from aicockpit.workspace.index import Index

FRAME = struct.Struct(">I")
NICE = 10
# A call that takes longer (seconds) answers that there is more, and goes on when it is asked to: others may come first.
PORTION_S = 0.05
# In place of a call's name: do the next portion of the call of that number; forget what was done of it, without answer.
GO_ON, LEAVE = "go on", "leave"
# Files looked up at once.
_LOOKED_UP = 200
# Snapshots whose analyses are at hand, models whose tokenizers are, tokens of items that are.
WORLDS, MODELS, ITEM_TOKENS = 4, 8, 2_000_000
NEIGHBOURS = 40
# Up to so many files the graph is made anew for an open file that differs from its snapshot.
REGRAPHED = 1000

PathAndHash = tuple[str, bytes]


class Refused(AicockpitError):
    """A call that cannot be done, told to the caller; the process goes on."""


@dataclass(slots=True)
class _World:
    repo: str
    sources: tuple[pack.Source, ...]
    analyses: dict[str, Analysis]
    gone: int
    known: Graph | None = None

    def graph(self) -> Portions[Graph]:
        if self.known is None:
            self.known = yield from linked(self.analyses)
        return self.known


@dataclass(frozen=True, slots=True)
class _Model:
    encoder: tokens.Encoder
    style: fim.Style
    reason: str


class Workshop:
    """One thread uses it, `Calls` above all. `folder` is the store's; without `keep` no analyses are kept there."""

    def __init__(self, folder: Path, keep: bool = True) -> None:
        self._blobs = folder / "blobs"
        self._grammars = Grammars()
        self._analyses = Analyses(folder / "analyses.db" if keep else None)
        self._items = pack.ItemCache(ITEM_TOKENS)
        self._worlds: OrderedDict[str, _World] = OrderedDict()
        self._models: OrderedDict[tuple[Path, str], _Model] = OrderedDict()
        self._index = Index(self._source)

    def close(self) -> None:
        self._analyses.close()

    def describe(self, spec: ModelSpec) -> Described:
        model = self._model(spec)
        return Described(
            model.style.name, model.style.fim, model.reason, model.encoder.fingerprint, tuple(model.encoder.specials)
        )

    def analyse(self, files: Sequence[PathAndHash]) -> Portions[None]:
        """Make the analyses that are not known yet."""
        yield from self._find(files)

    def survey(self, tag: str, repo: str, files: Sequence[tuple[str, bytes, int]]) -> Portions[None]:
        """Keep a snapshot's analyses at hand under `tag`; `files` are (path, hash, mtime in ns)."""
        sources = []
        for start in range(0, len(files), _LOOKED_UP):
            part = files[start : start + _LOOKED_UP]
            found = yield from self._find([(path, content) for path, content, _ in part])
            for path, content, mtime_ns in part:
                analysis = found.get(key_of(path, content))
                if analysis is not None:
                    sources.append(pack.Source(path, content, mtime_ns, analysis))
            yield
        analyses = {source.path: source.analysis for source in sources}
        self._worlds[tag] = _World(repo, tuple(sources), analyses, len(files) - len(sources))
        self._worlds.move_to_end(tag)
        while len(self._worlds) > WORLDS:
            self._worlds.popitem(last=False)

    def assemble(self, tag: str, spec: ModelSpec, kind: Kind, budget: int) -> Portions[Built | None]:
        """The pack of a surveyed snapshot; None when the survey is not at hand (a new process)."""
        world, model = self._world(tag), self._model(spec)
        if world is None:
            return None
        encoder, style = model.encoder, model.style
        known = yield from world.graph()
        made = yield from pack.building(
            world.sources, self._text, style, encoder, world.repo, budget, self._items, known=known
        )
        if not made.tokens and kind == "completion":  # journal and neighbourhood stand behind a header too
            header = tuple(style.header(encoder, world.repo))
            made = replace(made, id=blobs.digest(array("I", header).tobytes()).hex(), tokens=header, header=len(header))
        if kind == "completion":  # the ids are all that it needs
            made = replace(made, items=tuple(replace(item, text="") for item in made.items))
        return Built(made, len(world.sources), Left(gone=world.gone))

    def journal(
        self, spec: ModelSpec, kind: Kind, changes: Sequence[tuple[str, bytes | None, bytes | None]], lines: int
    ) -> Portions[list[Said]]:
        """An entry for each (path, old hash, new hash)."""
        model, made = self._model(spec), []
        for path, old, new in changes:
            before, after = self._readable(old), self._readable(new)
            text = ""
            if after is not None or new is None:
                known = [None if text is None else self._one(path, text) for text in (before, after)]
                text = journal.entry(path, before, after, known[0], known[1], lines)
            ids: tuple[int, ...] = ()
            if text:
                ids = (
                    model.style.item(model.encoder, path, text) if kind == "completion" else model.encoder.encode(text)
                )
            made.append(Said(path, new, text if ids else "", ids))
            yield
        return made

    def near(
        self, tag: str, spec: ModelSpec, path: str, content: bytes | None, budget: int, without: frozenset[str]
    ) -> Portions[NearBy | None]:
        """What `path` needs and is not in `without`; None when the survey is not at hand."""
        world, model = self._world(tag), self._model(spec)
        if world is None:
            return None
        known = yield from world.graph()
        now = self._readable(content) if len(world.analyses) <= REGRAPHED else None
        if now is not None and (newer := self._one(path, now)) != world.analyses.get(path):
            known = yield from linked({**world.analyses, path: newer})
        ids: list[int] = []
        items = []
        for other in around(path, known, NEIGHBOURS):
            analysis = world.analyses.get(other)
            if other in without or other == path or analysis is None or not analysis.skeleton:
                continue
            item = model.style.item(model.encoder, other, analysis.skeleton)
            if len(ids) + len(item) <= budget:
                ids += item
                items.append((other, f"near {path}", len(item)))
        return NearBy(tuple(ids), tuple(items))

    def runway(self, spec: ModelSpec, path: str, content: bytes | None, line: int, begun: str) -> tuple[int, ...]:
        """See `approach`; empty where nothing can be told."""
        text = self._readable(content)
        if text is None or spec.max_model_len is None:
            return ()
        model = self._model(spec)
        return approach(model.style, model.encoder, spec.max_model_len, path, text, line, begun)

    def plant(self, workspace: str, rows: Sequence[PathAndHash]) -> list[PathAndHash]:
        """See `Index`, also for the next two."""
        return self._index.plant(workspace, rows)

    def grow(self, workspace: str, rows: Sequence[PathAndHash]) -> Portions[bool]:
        planted = True
        for row in rows:
            planted = self._index.grow(workspace, [row]) and planted
            yield
        return planted

    def ripen(self, workspace: str, tag: str) -> bool:
        return self._index.ripen(workspace, tag)

    def similar(self, workspace: str, tag: str, spec: ModelSpec, sought: Sought) -> Similar | None:
        """Snippets for a place; None when the index does not hold that snapshot."""
        model = self._model(spec)
        return self._index.search(workspace, tag, sought, model.style, model.encoder)

    def _world(self, tag: str) -> _World | None:
        world = self._worlds.get(tag)
        if world is not None:
            self._worlds.move_to_end(tag)
        return world

    def _model(self, spec: ModelSpec) -> _Model:
        if spec.folder is None:
            raise Refused(f"the tokenizer of {spec.name} is not known here: {spec.why_not}")
        key = (spec.folder, spec.fim)
        model = self._models.get(key)
        if model is None:
            encoder = tokens.load(spec.folder)
            model = self._models[key] = _Model(encoder, *fim.detect(encoder.specials, spec.fim))
        self._models.move_to_end(key)
        while len(self._models) > MODELS:
            self._models.popitem(last=False)
        return model

    def _find(self, files: Sequence[PathAndHash]) -> Portions[dict[Key, Analysis]]:
        """Analyses of those files whose content is at hand and is text."""
        wanted = {key_of(path, content): (path, content) for path, content in files}
        found = self._analyses.find(wanted)
        made = {}
        for key, (path, content) in wanted.items():
            if key not in found:
                text = self._readable(content)
                if text is not None:
                    made[key] = skeleton.analyse(path, text, self._grammars)
                    yield
        self._analyses.add(made)
        return found | made

    def _one(self, path: str, text: str) -> Analysis:
        return skeleton.analyse(path, text, self._grammars)

    def _text(self, content: bytes) -> str:
        return self._readable(content) or ""

    def _source(self, content: bytes) -> str | None:
        """A text, and not what only looks like one by its name."""
        text = self._readable(content)
        return None if text is None or "\0" in text else text

    def _readable(self, content: bytes | None) -> str | None:
        data = None if content is None else blobs.read(self._blobs, content)
        return None if data is None or len(data) > MAX_FILE else data.decode("utf-8", "replace")


def approach(
    style: fim.Style, encoder: tokens.Encoder, max_len: int, path: str, text: str, line: int, begun: str = ""
) -> tuple[int, ...]:
    """The tail of a request at `line` (from 1) of a saved file up to that line's end, cut as requests are.

    `max_len`: the model's length in tokens. `begun`: how the window of the file's last request began, "" for none.
    """
    limits = tail.limits_of(max_len)
    before, behind = tail.at_line(text, line)
    before, behind = tail.window(before, behind, limits, tail.found(before, begun, limits))
    return style.lead(encoder, path, before, behind)


class Calls:
    """Does the calls to a workshop, a portion at a time; those that have begun are kept by their numbers."""

    def __init__(self, workshop: Workshop, portion_s: float = PORTION_S) -> None:
        self._workshop, self._portion_s = workshop, portion_s
        self._begun: dict[int, Portions[object]] = {}

    def answer(self, number: int, call: str, values: tuple[object, ...]) -> tuple[bool | None, object]:
        """(True, result), (False, why not), or (None, None): a portion is done, GO_ON does the next.

        What is not expected ends the process: the server sees it and says so.
        """
        end = time.monotonic() + self._portion_s
        try:
            made = self._begun.pop(number) if call == GO_ON else getattr(self._workshop, call)(*values)
            if not isinstance(made, Generator):
                return True, made
            next(made)
            while time.monotonic() < end:
                next(made)
        except StopIteration as done:
            return True, done.value
        except (AicockpitError, OSError, sqlite3.Error) as error:
            return False, str(error)
        self._begun[number] = made
        return None, None

    def leave(self, number: int) -> None:
        """Throw away what has begun under that number, if anything."""
        self._begun.pop(number, None)


def _serve(calls: Calls, source: BinaryIO, sink: BinaryIO) -> None:
    while head := source.read(FRAME.size):
        body = source.read(FRAME.unpack(head)[0])
        number, call, values = pickle.loads(body)
        if call == LEAVE:
            calls.leave(number)
            continue
        result = pickle.dumps((number, *calls.answer(number, call, values)), pickle.HIGHEST_PROTOCOL)
        sink.write(FRAME.pack(len(result)) + result)
        sink.flush()


def main(argv: Sequence[str]) -> None:
    """The child. Whatever a library prints goes to stderr: the output carries answers only."""
    os.nice(NICE)
    logging.basicConfig(level="WARNING", format="%(levelname)s %(name)s %(message)s")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with sink:
        _serve(Calls(Workshop(Path(argv[0]))), sys.stdin.buffer, sink)


if __name__ == "__main__":
    main(sys.argv[1:])
