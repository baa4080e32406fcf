"""Our layout in a replay: the package's own track of epochs, open files and wishes, without an engine or a server.

What the server does in the background (build, search, prefetch, take over) happens here in the idle time that the
trace leaves, at a given prefill speed; builds and searches themselves are taken to be instant.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace

import xxhash

from aicockpit.gateway.windows import Window
from aicockpit.prompts import journal, pack, similar
from aicockpit.prompts.neighbours import around
from aicockpit.prompts.rank import graph
from aicockpit.prompts.skeleton import Analysis
from aicockpit.prompts.tail import TailLimits
from aicockpit.workspace import blobs
from aicockpit.workspace.budget import Budget
from aicockpit.workspace.builds import Built, Described, Left, ModelSpec, NearBy, Said, Snapshot, Sought
from aicockpit.workspace.epoch import Epoch
from aicockpit.workspace.head import Resident, covered, head_of
from aicockpit.workspace.index import Index
from aicockpit.workspace.sight import Sight
from aicockpit.workspace.steps import Key, Progress, Target, WarmState
from aicockpit.workspace.track import Building, EpochLimits, Track
from aicockpit.workspace.wishes import wishes
from aicockpit.workspace.workshop import approach
from benchmarks.edits import JUMP, Change, Event
from benchmarks.kvsim import BLOCK, Cache, chain
from benchmarks.replay_kit import Kit, Prompt

ENGINE, MODEL, SPACE = "engine", "model", "replay"
NEAR_FILES = 40
MODEL_LEN = 32_768  # long enough for the windows that every layout gets
TURN_S = 0.5  # a room looks after its track at least as often while something is being warmed
HASHED = 64  # token lists whose block hashes are remembered


def leading(cache: Cache, hashes: Sequence[int]) -> int:
    """Leading blocks in the cache. Who uses a block uses all before it, later: where one is, these are too."""
    return bisect_left(range(len(hashes)), True, key=lambda at: not cache.resident(hashes[at : at + 1]))


class Eyes(Sight):
    """What a track sees: one engine that serves the model, and the simulated cache as what is resident there."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._hashed: dict[int, tuple[tuple[int, ...], list[int]]] = {}
        self.time = 0.0
        self.track: Track | None = None

    def serving(self, model: str) -> list[str]:
        return [ENGINE]

    def ready(self, engine: str) -> bool:
        return True

    def now(self) -> float:
        return self.time

    def block(self, engine: str) -> int:
        return BLOCK

    def on(self, engine: str) -> Resident:
        return self.resident

    def resident(self, tokens: tuple[int, ...]) -> int:
        """Leading tokens in the cache; the hashes of the lists in use are remembered."""
        found = self._hashed.get(id(tokens))
        if found is None or found[0] is not tokens:
            while len(self._hashed) >= HASHED:
                del self._hashed[next(iter(self._hashed))]
            found = self._hashed[id(tokens)] = (tokens, chain(tokens))
        return leading(self._cache, found[1]) * BLOCK

    def warm(self, tokens: tuple[int, ...]) -> bool:
        return covered(len(tokens), self.resident(tokens), BLOCK)

    def progress(self, engine: str, key: Key) -> Progress:
        track = self.track
        epochs = [one for one in track.epochs if track.key(one) == key] if track else []
        newest = epochs[0].newest if epochs else None
        warm = newest is None or self.warm(newest.tokens)
        return Progress(WarmState.WARM if warm else WarmState.WARMING)


class Ours:
    """`header | pack | journal | neighbourhood | snippets | tail`, and only what is resident is served."""

    name = "ours"

    def __init__(self, kit: Kit, tree: Mapping[str, str], cache: Cache) -> None:
        self._kit, self._limits = kit, EpochLimits()
        sizes = kit.sizes
        budget = Budget(sizes.pack, sizes.journal, sizes.neighbourhood, sizes.similar)
        described = Described(kit.style.name, kit.style.fim, "", kit.encoder.fingerprint)
        self._track = Track(1, ModelSpec(MODEL, None), "completion", described, budget, self._limits)
        self._eyes = Eyes(cache)
        self._eyes.track = self._track
        self._tail_limits = TailLimits(prefix_lines=sizes.before, suffix_lines=sizes.after)
        self._windows: dict[str, Window] = {}
        self._texts: dict[bytes, str] = {}
        self._files: dict[str, bytes] = {}
        self._times = dict.fromkeys(tree, 0)
        self._last_save = 0.0
        self._surveyed: dict[str, Analysis] = {}
        self._index = Index(self._texts.get)
        self._searches = 0
        self._asked: list[int] = []
        self._path = ""
        self.packs: set[str] = set()
        for path, text in tree.items():
            self._put(path, text)
        self._turn()

    @property
    def epochs(self) -> int:
        """Packs built so far that were not the same again."""
        return len(self.packs)

    def event(self, event: Event) -> None:
        if event.changes:
            self._save(event.changes)
        if event.path != self._path or event.kind == JUMP:
            self._path = event.path
            self._track.open.focus(event.path, event.prefix.count("\n") + 1)

    def pause(self, seconds: float) -> None:
        """The room's task, then the prefetcher, by turns, until the time is over."""
        eyes, ends = self._eyes, self._eyes.time + seconds
        self._turn()
        while eyes.time < ends:
            due = [at for at in (self._track.look_at(), self._track.idle_at(self._last_save)) if at and at > eyes.time]
            if self._asked:
                due.append(eyes.time + TURN_S)
            step = min([*due, ends]) - eyes.time
            self._kit.background.advance(step)
            eyes.time = ends if eyes.time + step >= ends else eyes.time + step
            self._turn()

    def prompt(self, event: Event) -> Prompt:
        choice = self._track.choose(ENGINE, self._eyes, event.path)
        head = head_of(choice, None).tokens if choice else ()
        window = self._windows.setdefault(event.path, Window())
        shown = window.move(event.prefix, event.suffix, self._tail_limits)
        own = self._kit.tail(event, shown, repo_level=True)
        self._track.open.seen(event.path, own, shown[0], self._eyes.time)
        return Prompt(head + own, len(head), choice.cut.pack if choice else 0)

    # The room's work, without its task.

    def _turn(self) -> None:
        track, eyes = self._track, self._eyes
        if found := track.look_back(self._files):
            track.recall(found, eyes)
        for epoch in list(track.epochs):
            self._tell(epoch)
        if why := track.why_build(eyes.time, self._last_save, eyes):
            self._build(why)
        kit = self._kit
        for path, saved, line, begun in track.landings(self._files):
            runway = approach(kit.style, kit.encoder, MODEL_LEN, path, self._texts[saved], line, begun)
            track.open.land(path, saved, line, runway)
        for path, epoch in track.near_due(self._files, eyes):
            content = self._files.get(path)
            track.near_made(path, epoch.serial, content, self._near(path, epoch))
        self._look()
        track.renew_near(eyes)
        track.prune(eyes)
        track.measure(eyes, eyes.time)
        self._wish(wishes([track], ENGINE, eyes))

    def _wish(self, targets: Sequence[Target]) -> None:
        cold = [target.tokens for target in targets if not self._eyes.warm(target.tokens)]
        asked = [id(tokens) for tokens in cold]
        if asked != self._asked:
            self._asked = asked
            self._kit.background.want(*cold)

    def _put(self, path: str, text: str | None) -> None:
        if text is None:
            self._files.pop(path, None)
            return
        content = xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass"))
        self._files[path], self._texts[content] = content, text

    def _save(self, changes: Sequence[Change]) -> None:
        self._last_save = self._eyes.time
        for change in changes:
            self._put(change.path, change.new)
            self._times[change.path] = int(self._eyes.time)
        self._track.saved([change.path for change in changes], self._files, self._last_save)

    def _analysis(self, path: str, content: bytes | None) -> Analysis | None:
        return None if content is None else self._kit.memo.analysis(path, self._texts[content])

    def _tell(self, epoch: Epoch) -> None:
        said = []
        for path, old, new in self._track.to_say(epoch, self._files):
            before, after = (None if content is None else self._texts[content] for content in (old, new))
            known, now = self._analysis(path, old), self._analysis(path, new)
            text = journal.entry(path, before, after, known, now, self._limits.lines)
            said.append(Said(path, new, text, self._kit.item(path, text) if text else ()))
        self._track.say(epoch.serial, said, self._last_save)

    def _build(self, why: str) -> None:
        kit, track = self._kit, self._track
        analyses = {path: kit.memo.analysis(path, self._texts[content]) for path, content in self._files.items()}
        sources = [
            pack.Source(path, self._files[path], self._times[path], analyses[path]) for path in sorted(self._files)
        ]
        size, items = track.budget.pack, kit.memo.items
        made = pack.build(sources, self._texts.__getitem__, kit.style, kit.encoder, kit.name, size, items)
        if not made.tokens:  # journal and neighbourhood stand behind a header too
            header = kit.style.header(kit.encoder, kit.name)
            made = replace(made, id=blobs.digest(array("I", header).tobytes()).hex(), tokens=header, header=len(header))
        self._surveyed = analyses
        self.packs.add(made.id)
        building = Building(Snapshot(SPACE, kit.name, {}), dict(self._files), track.budget, why)
        track.take(Built(made, len(sources), Left()), building)

    def _near(self, path: str, epoch: Epoch) -> NearBy:
        now = self._analysis(path, self._files.get(path))
        known = graph(self._surveyed if now is None else {**self._surveyed, path: now})
        packed = {item.path for item in epoch.pack.items}
        ids: list[int] = []
        items = []
        for other in around(path, known, NEAR_FILES):
            analysis = self._surveyed.get(other)
            if other in packed or other == path or analysis is None or not analysis.skeleton:
                continue
            tokens = self._kit.item(other, analysis.skeleton)
            if len(ids) + len(tokens) <= self._track.budget.neighbourhood:
                ids += tokens
                items.append((other, f"near {path}", len(tokens)))
        return NearBy(tuple(ids), tuple(items))

    def _look(self) -> None:
        """Search for similar snippets where somebody has moved on."""
        track, now = self._track, self._eyes.time
        if not track.searches:
            return
        packed = track.packed(self._files)
        for path in track.open.look_due(self._files, packed, track.budget.similar, now):
            opened = track.open.get(path)
            if opened is None:
                continue
            lookout, own = opened.lookout, self._files.get(path)
            if lookout.line is not None:
                lines = self._texts[own].split("\n")[: lookout.line] if own else []
                lookout.place = "\n".join(lines[-similar.CHUNK_LINES :])
            words = lookout.look(now, self._limits.search_s)
            if not words:
                continue
            lookout.begin(now, self._limits.search_s, self._limits.search_most_s)
            told = tuple((entry.path, entry.text) for entry in track.epochs[0].entries)
            without = packed if own is None else packed | {own}
            sought = Sought(path, words, track.budget.similar, without, told)
            self._searches += 1
            tag = f"{SPACE}/{self._searches}"
            self._index.grow(SPACE, self._index.plant(SPACE, sorted(self._files.items())))
            self._index.ripen(SPACE, tag)
            if (found := self._index.search(SPACE, tag, sought, self._kit.style, self._kit.encoder)) is not None:
                lookout.take(now, words, found)
