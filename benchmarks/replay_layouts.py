"""Our layout in a replay: the package's own pack, journal, neighbourhood, tail and rule of serving, without an engine.

What the server does in the background (build, prefetch, take over) happens here in the idle time that the trace
leaves, at a given prefill speed; building itself is taken to be instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import xxhash

from aicockpit.prompts import journal, neighbours, pack, tail
from aicockpit.prompts.languages import Grammars
from aicockpit.prompts.skeleton import Analysis, analyse
from aicockpit.workspace.builds import NearBy
from aicockpit.workspace.epoch import Entry, Epoch, completion_chain
from aicockpit.workspace.head import Choice, Hold, choose, head_of, no_near, steady
from aicockpit.workspace.opened import Near, Opened
from aicockpit.workspace.track import EpochLimits
from benchmarks.edits import Change, Event
from benchmarks.kvsim import BLOCK, Cache, chain
from benchmarks.replay_peers import Kit, Prompt

JOURNAL_SHARE, NEAR_SHARE = 0.125, 0.09375  # of the tokens of context; the pack gets the rest
ENTRY_LINES = 60
NEAR_FILES = 40


class Ours:
    """`header | pack | journal | neighbourhood | tail`, and only what is resident is served."""

    name = "ours"

    def __init__(self, kit: Kit, tree: Mapping[str, str], cache: Cache) -> None:
        self._kit, self._cache = kit, cache
        context = kit.sizes.context
        self._journal, self._near_budget = int(context * JOURNAL_SHARE), int(context * NEAR_SHARE)
        self._pack = context - self._journal - self._near_budget
        self._grammars = Grammars()
        self._tree = dict(tree)
        self._times = dict.fromkeys(tree, 0)
        self._analyses: dict[str, Analysis] = {path: analyse(path, text, self._grammars) for path, text in tree.items()}
        self._items = pack.ItemCache(4_000_000)
        self._serial = 0
        self._clock = 0
        self._epochs: list[Epoch] = []
        self._adopted: int | None = None
        self._waits = EpochLimits()
        self._time = 0.0
        self._opened, self._hold = Opened(), Hold()
        self._near_tokens: tuple[int, ...] = ()
        self._limits = tail.TailLimits(prefix_lines=kit.sizes.before, suffix_lines=kit.sizes.after)
        self._path = ""
        self._suffix = ""
        self._line: int | None = None
        self._shown: tuple[int, int] = (0, 0)
        self._hashed: dict[int, tuple[tuple[int, ...], list[int]]] = {}
        self.epochs = 0
        self._freeze()
        self._wish()

    def event(self, event: Event) -> None:
        self._clock += 1
        self._time += event.pause_s
        if event.changes:
            self._save(event.changes)
        moved = event.path != self._path
        if moved:
            self._path, self._suffix, self._line = event.path, "", None
            self._focus()
        if moved or event.changes:
            self._wish()

    def _choose(self) -> Choice | None:
        """As a track does it; first the rule without a path, which decides what becomes of the epochs."""
        epochs, resident, opened, hold = self._epochs, self._resident, self._opened, self._hold
        adopted = choose(epochs, self._adopted, no_near, resident, BLOCK)
        if adopted is not None:
            self._adopted = adopted.epoch.serial
        best = choose(epochs, self._adopted, lambda serial: opened.chains(serial, hold), resident, BLOCK)
        newest = opened.newest(best.epoch.serial) if best else None
        patience = self._waits.patience_s
        choice = steady(hold, best, newest, resident, BLOCK, self._time, patience, lambda _: False)
        if choice is not None and choice.whole and choice.epoch is epochs[0]:
            self._epochs = epochs[:1]
        return choice

    def prompt(self, event: Event) -> Prompt:
        choice = self._choose()
        head = head_of(choice, None) if choice else None
        fresh = False
        if choice:
            shown = (choice.epoch.serial, choice.cut.entries)
            fresh, self._shown = shown != self._shown, shown
        prefix, suffix = tail.window(event.prefix, event.suffix, self._limits, self._line)
        self._line = tail.first_line(event.prefix, self._limits, self._line)
        self._suffix = tail.hold(self._suffix, suffix)
        own = self._kit.style.tail(self._kit.encoder, event.path, prefix, self._suffix, repo_level=True)
        self._opened.seen(own[: self._waits.runway])
        tokens = head.tokens if head else ()
        return Prompt(tokens + own, choice.cut.pack if choice else 0, fresh)

    def _resident(self, tokens: tuple[int, ...]) -> int:
        """Leading tokens in the cache; the hashes of the few lists in use are remembered."""
        if id(tokens) not in self._hashed:
            if len(self._hashed) > 32:
                self._hashed.clear()
            self._hashed[id(tokens)] = (tokens, chain(tokens))
        return self._cache.resident(self._hashed[id(tokens)][1]) * BLOCK

    def _save(self, changes: Sequence[Change]) -> None:
        """The journal takes the changes; when it is full, the next epoch is frozen."""
        entries, said = [], {}
        for change in changes:
            old = self._analyses.pop(change.path, None)
            if change.new is None:
                self._tree.pop(change.path, None)
            else:
                self._tree[change.path] = change.new
                self._times[change.path] = self._clock
                self._analyses[change.path] = analyse(change.path, change.new, self._grammars)
            new = self._analyses.get(change.path)
            text = journal.entry(change.path, change.old, change.new, old, new, ENTRY_LINES)
            content = _hash(change.new) if change.new is not None else None
            said[change.path] = content
            if text:
                entries.append(Entry(change.path, content, text, self._kit.item(change.path, text)))
        grown = self._epochs[0].with_entries(entries, said)
        if grown.journal_tokens > self._journal:
            self._freeze()
        else:
            self._epochs[0] = replace(grown, chains=(completion_chain(grown.pack, grown.entries),))

    def _freeze(self) -> None:
        texts = {_hash(text): text for text in self._tree.values()}
        sources = [
            pack.Source(path, _hash(text), self._times[path], self._analyses[path])
            for path, text in sorted(self._tree.items())
        ]
        kit = self._kit
        built = pack.build(sources, texts.__getitem__, kit.style, kit.encoder, kit.name, self._pack, self._items)
        self._serial += 1
        self.epochs += 1
        base = {source.path: source.hash for source in sources}
        epoch = Epoch(self._serial, built, base, chains=(completion_chain(built, ()),))
        serving = [old for old in self._epochs if old.serial == self._adopted]
        self._epochs = [epoch, *serving]

    def _focus(self) -> None:
        """The neighbourhood of the file that is open now."""
        kit, left = self._kit, self._near_budget
        parts: list[int] = []
        packed = {item.path for epoch in self._epochs[:1] for item in epoch.pack.items}
        for path in neighbours.neighbours(self._path, self._analyses, NEAR_FILES):
            if path in packed:
                continue
            tokens = kit.item(path, self._analyses[path].skeleton)
            if len(tokens) <= left:
                left -= len(tokens)
                parts += tokens
        self._near_tokens = tuple(parts)
        self._hold = Hold()
        self._opened = Opened(holds={"engine": self._hold})

    def _wish(self) -> None:
        """Have the newest epoch warmed with its journal, neighbourhood and runway; what is served meanwhile stays."""
        newest = self._epochs[0]
        under = newest.chains[-1]
        self._opened.nears.setdefault(newest.serial, Near(None, NearBy(self._near_tokens, ())))
        self._opened.renew(newest.serial, under, given_up=False)
        wanted = self._opened.newest(newest.serial) or under
        self._kit.background.want(wanted.tokens)


def _hash(text: str) -> bytes:
    return xxhash.xxh3_128(text.encode("utf-8", "surrogatepass")).digest()
