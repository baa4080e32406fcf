"""The chunks of whole workspaces, kept up with their trees by content hash. Lives in the builder's process.

A tree is planted (which files should there be?), grown in portions (their words), and ripe once all are there; only
then it is searched. The next tree of the same workspace takes over what has the same content.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import xxhash

from aicockpit.prompts.pack import E, Style
from aicockpit.prompts.similar import Chunks, Found, segment
from aicockpit.workspace.builds import Similar, Snippet, Sought

# Chunks of one workspace, and of all: the workspace searched longest ago makes way. A chunk is some 500 bytes.
CHUNKS, CHUNKS_HELD = 200_000, 400_000
# Places looked at for one segment.
FOUND = 20
# The journal tells of a place when so much of its lines stands there.
TOLD_SHARE = 0.8


@dataclass(slots=True)
class _Tree:
    """One workspace. `contents`: path -> hash of what is in `chunks`; `tag`: the snapshot that it is, once it is."""

    chunks: Chunks = field(default_factory=lambda: Chunks(CHUNKS))
    contents: dict[str, bytes] = field(default_factory=dict)
    planted: bool = False
    tag: str = ""


class Index:
    """`read` gives a text by its hash, None for one that is gone, too large or no text."""

    def __init__(self, read: Callable[[bytes], str | None], held: int = CHUNKS_HELD) -> None:
        self._read, self._held = read, held
        self._trees: OrderedDict[str, _Tree] = OrderedDict()

    def __len__(self) -> int:
        """Workspaces at hand."""
        return len(self._trees)

    def plant(self, workspace: str, rows: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Forget what is not in the tree of `rows` (path, hash); the rows that are to be grown."""
        tree = self._tree(workspace)
        wanted = dict(rows)
        for path in [path for path, content in tree.contents.items() if wanted.get(path) != content]:
            tree.chunks.drop(path)
            del tree.contents[path]
        tree.planted, tree.tag = True, ""
        return [row for row in rows if row[0] not in tree.contents]

    def grow(self, workspace: str, rows: Sequence[tuple[str, bytes]]) -> bool:
        """Take files in. False when the tree was not planted here: in another life of this process, that is."""
        tree = self._tree(workspace)
        for path, content in rows:
            tree.chunks.add(path, self._read(content) or "")
            tree.contents[path] = content
        while len(self._trees) > 1 and sum(len(one.chunks) for one in self._trees.values()) > self._held:
            self._trees.popitem(last=False)
        return tree.planted

    def ripen(self, workspace: str, tag: str) -> bool:
        """All of the tree is there, and it is the snapshot `tag`. False as `grow` says it."""
        tree = self._tree(workspace)
        if tree.planted:
            tree.tag = tag
        return tree.planted

    def search(self, workspace: str, tag: str, sought: Sought, style: Style[E], encoder: E) -> Similar | None:
        """What is most like the place, within its budget; None when that snapshot is not at hand."""
        tree = self._trees.get(workspace)
        if tree is None or tree.tag != tag:
            return None
        self._trees.move_to_end(workspace)
        hidden = {path for path, content in tree.contents.items() if content in sought.without}
        found = tree.chunks.search(sought.query, hidden | {sought.path}, FOUND)

        @lru_cache(maxsize=FOUND)
        def text_of(path: str) -> str | None:
            return self._read(tree.contents[path])

        tokens, parts = segment(_untold(found, text_of, sought), text_of, style, encoder, sought.budget)
        snippets = tuple(
            Snippet(
                part.path,
                tree.contents[part.path],
                part.first,
                part.first + part.text.count("\n"),
                part.score,
                xxhash.xxh3_128_digest(f"{part.path}\0{part.text}".encode("utf-8", "surrogatepass")),
            )
            for part in parts
        )
        return Similar(tokens, snippets, len(tree.chunks), tree.chunks.left_out)

    def _tree(self, workspace: str) -> _Tree:
        tree = self._trees.setdefault(workspace, _Tree())
        self._trees.move_to_end(workspace)
        return tree


def _untold(found: Sequence[Found], text_of: Callable[[str], str | None], sought: Sought) -> Iterator[Found]:
    """The places that the journal does not tell of anyway."""
    told: dict[str, set[str]] = {}
    for path, text in sought.told:
        told.setdefault(path, set()).update(map(str.strip, text.split("\n")))
    for place in found:
        known = told.get(place.path)
        if known:
            lines = (text_of(place.path) or "").split("\n")[place.first - 1 : place.last]
            written = [line.strip() for line in lines if line.strip()]
            if sum(line in known for line in written) >= TOLD_SHARE * len(written):
                continue
        yield place
