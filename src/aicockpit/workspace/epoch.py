"""One epoch as a value: a pack in service, the journal behind it, and the token lists that follow from both.

Nothing here does I/O or knows the time; `track.py` owns the epochs of a lane, `head.py` cuts heads from their chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from aicockpit.prompts.pack import Pack

# Chat: rendered versions kept of one epoch. The first is the pack alone, the others the newest journals.
VERSIONS_KEPT = 4
# Beginnings of one chain that are remembered as objects.
PARTS_KEPT = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """The newer text of one saved file. `hash` is the content it tells of, None: the file is gone.

    `at` is when the save became known, on the owner's clock; 0.0 for an entry of an earlier run.
    """

    path: str
    hash: bytes | None
    text: str
    tokens: tuple[int, ...]
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Cut:
    """A place where a head may end. `entries`: journal entries in front of it; `text`: the chat lane's message.

    The others are tokens of each segment in front of it: `neighbourhood` of skeletons, `similar` of snippets.
    """

    end: int
    pack: int
    journal: int = 0
    neighbourhood: int = 0
    entries: int = 0
    text: str = ""
    similar: int = 0


@dataclass(slots=True, eq=False)
class Chain:
    """A token list and its legal cuts, shortest first. `inner`: ends of the pack's items, legal on demand only.

    What stands behind the last cut is the runway: kept warm, never part of a head. See `with_runway`.
    Compared by identity: whoever remembers something about a chain may do so by the object.
    """

    tokens: tuple[int, ...]
    cuts: tuple[Cut, ...]
    inner: tuple[int, ...] = ()
    _parts: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def runway(self) -> int:
        """Tokens behind the last legal cut."""
        return len(self.tokens) - self.cuts[-1].end

    @property
    def head(self) -> tuple[int, ...]:
        """The longest head there is."""
        return self.upto(self.cuts[-1].end)

    def upto(self, end: int) -> tuple[int, ...]:
        """The first `end` tokens; the last answers are remembered, since requests ask for the same ones again."""
        if end == len(self.tokens):
            return self.tokens
        part = self._parts.get(end)
        if part is None:
            while len(self._parts) >= PARTS_KEPT:
                del self._parts[next(iter(self._parts))]
            part = self._parts[end] = self.tokens[:end]
        return part


@dataclass(frozen=True, slots=True, eq=False)
class Epoch:
    """See the module. `base` is the snapshot the pack was built from (path -> content hash), `said` what the journal
    has told since; `chains` has one chain (completion) or one for each rendered version, newest last (chat).
    """

    serial: int
    pack: Pack
    base: Mapping[str, bytes]
    entries: tuple[Entry, ...] = ()
    said: Mapping[str, bytes | None] = field(default_factory=dict)
    chains: tuple[Chain, ...] = ()
    tag: bytes = b""

    @property
    def journal_tokens(self) -> int:
        return sum(len(entry.tokens) for entry in self.entries)

    @property
    def newest(self) -> Chain | None:
        return self.chains[-1] if self.chains else None

    def knows(self, path: str) -> bytes | None:
        """The content of `path` that this epoch tells of, None if it tells that there is no such file."""
        return self.said[path] if path in self.said else self.base.get(path)

    def with_entries(self, entries: Sequence[Entry], said: Mapping[str, bytes | None]) -> Epoch:
        """The journal grown by `entries`; `said` also holds the files with nothing worth saying."""
        return replace(self, entries=(*self.entries, *entries), said={**self.said, **said})


def completion_chain(pack: Pack, entries: Sequence[Entry]) -> Chain:
    """`pack | journal`, with a cut behind the pack and behind each entry."""
    end = size = len(pack.tokens)
    cuts = [Cut(end, size)]
    parts = [pack.tokens]
    for number, entry in enumerate(entries, start=1):
        if entry.tokens:
            end += len(entry.tokens)
            parts.append(entry.tokens)
            cuts.append(Cut(end, size, end - size, entries=number))
    tokens = pack.tokens if len(parts) == 1 else tuple(token for part in parts for token in part)
    return Chain(tokens, tuple(cuts), inner=pack.cuts)


def near_chain(chain: Chain, near: tuple[int, ...]) -> Chain:
    """`pack | journal | skeletons`: a chain of a completion with one more cut at its end; itself for none."""
    if not near:
        return chain
    last = chain.cuts[-1]
    cut = replace(last, end=last.end + len(near), neighbourhood=len(near))
    return Chain(chain.tokens + near, (*chain.cuts, cut), inner=chain.inner)


def similar_chain(chain: Chain, similar: tuple[int, ...]) -> Chain:
    """`... | skeletons | snippets`: one more cut; itself for none. The head without them stays the same object."""
    if not similar:
        return chain
    last = chain.cuts[-1]
    cut = replace(last, end=last.end + len(similar), similar=len(similar))
    return Chain(chain.tokens + similar, (*chain.cuts, cut), chain.inner, {last.end: chain.tokens})


def with_runway(chain: Chain, runway: tuple[int, ...]) -> Chain:
    """The same heads with another runway behind them: the own part of a request as it was last seen.

    While one types, all of it but what was typed since is found in the cache by the first request that this chain
    serves. The tuple of the head stays the same object, so nothing that is known of it is lost.
    """
    head = chain.head
    if not runway:
        return chain if not chain.runway else Chain(head, chain.cuts, chain.inner, dict(chain._parts))
    return Chain(head + runway, chain.cuts, chain.inner, {**chain._parts, len(head): head})


def chat_chain(tokens: tuple[int, ...], pack: Pack, entries: Sequence[Entry], text: str) -> Chain:
    """One rendered version of a chat's first message: it is warm as a whole or not used."""
    journal = min(sum(len(entry.tokens) for entry in entries), len(tokens))
    return Chain(tokens, (Cut(len(tokens), len(tokens) - journal, journal, entries=len(entries), text=text),))


def with_version(epoch: Epoch, chain: Chain) -> Epoch:
    """A chat epoch with a newer rendered version; the pack's own and the newest few are kept."""
    first, rest = epoch.chains[:1], epoch.chains[1:]
    return replace(epoch, chains=(*first, *rest[-(VERSIONS_KEPT - 2) :], chain) if first else (chain,))


def renumbered(chain: Chain, cut: Cut | None = None) -> Chain:
    """The same tokens for an epoch whose journal was folded: all it told is behind us, later entries count from one.

    `cut`: the one that is left of them, the last if none is named.
    """
    return Chain(chain.tokens, (replace(cut or chain.cuts[-1], entries=0),), (), dict(chain._parts))


def differing(epoch: Epoch, files: Mapping[str, bytes], among: set[str] | None = None) -> dict[str, bytes | None]:
    """Paths whose content is not what the epoch tells of, with their content now. `among` None: all of them."""
    if among is None:
        among = {path for path, content in files.items() if epoch.knows(path) != content}
        among |= {path for path in (*epoch.base, *epoch.said) if path not in files}
    return {path: files.get(path) for path in among if epoch.knows(path) != files.get(path)}
