"""The epochs of one lane of one workspace and model, newest first: what they know, what is due, which one serves where.

No I/O and no tasks: `room.py` owns a track and does what it asks for. `head` runs on the path of a request.

    first build -> warming -> in service -> (journal full, idle, or many files at once) -> next build -> ...

The older epoch stays for as long as it is what serves on some engine. While a build runs, what is saved goes both to
the epochs in service (if their journal has room) and to the list of the coming one: no save is lost between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aicockpit.workspace.budget import Budget
from aicockpit.workspace.builds import Built, Described, Kind, ModelSpec, NearBy, Said, Snapshot
from aicockpit.workspace.epoch import Chain, Entry, Epoch, completion_chain, differing, renumbered
from aicockpit.workspace.head import Choice, Head, Hold, Lacks, choose, covered, head_of, no_near, steady
from aicockpit.workspace.openfiles import OpenFiles
from aicockpit.workspace.past import SEVERAL, Past, Pasts, Rendered
from aicockpit.workspace.saves import Saves
from aicockpit.workspace.sight import Sight
from aicockpit.workspace.steps import Key, WarmState


@dataclass(frozen=True, slots=True)
class EpochLimits:
    """Waits in seconds. `bulk`: files changed at once that are a branch switch, not saves. `soft`: share of the journal
    at which the next epoch is built; the rest takes the saves until it is warm. `lines`: of one entry. `patience_s`:
    how long an open file keeps a warm head while a newer one is warmed with its runway; `runway`: its tokens at most.
    `search_s`: between two searches for snippets for a file, more for one that moves faster than the engines warm, at
    most `search_most_s`. `rooms`: workspaces kept in work; those used within `shared_s` share the KV caches.
    """

    idle_s: float = 20.0
    bulk: int = 100
    soft: float = 0.75
    lines: int = 60
    epochs: int = 4
    focuses: int = 4
    patience_s: float = 60.0
    runway: int = 4096
    retry_s: float = 60.0
    render_retry_s: float = 5.0
    rooms: int = 64
    shared_s: float = 4 * 3600.0
    saves: int = 256
    search_s: float = 1.0
    search_most_s: float = 15.0


@dataclass(slots=True, eq=False)
class Building:
    """A build in work. `pending`: files saved since its snapshot was taken."""

    snapshot: Snapshot
    base: Mapping[str, bytes]
    budget: Budget
    why: str
    pending: set[str] = field(default_factory=set)
    done: int = 0
    total: int = 0
    task: asyncio.Task[Built] | None = None


class Track:
    """See the module. `wanted` is the budget before the engines' caches were looked at."""

    def __init__(
        self, id: int, spec: ModelSpec, kind: Kind, described: Described, wanted: Budget, limits: EpochLimits
    ) -> None:
        self.id, self.spec, self.kind, self.described, self.limits = id, spec, kind, described, limits
        self.wanted = self.budget = wanted
        self.built_for: tuple[int, ...] | None = None
        self.epochs: list[Epoch] = []
        self.pending: dict[int, set[str]] = {}
        self.adopted: dict[str, int] = {}
        self.open = OpenFiles(limits.focuses, limits.runway)
        self.building: Building | None = None
        self.last: Built | None = None
        self.problem, self.retry_at, self.render_at = "", 0.0, 0.0
        self.full = False
        self.saves = Saves(limits.saves)
        self.past = Pasts()
        self.uncached: float | None = None
        self.kept: Epoch | None = None
        self.rendered: dict[int, Rendered] = {}
        self._serials = 0

    @property
    def save_to_warm_s(self) -> float | None:
        """Seconds from the latest save that is told to a warm head that has it."""
        return self.saves.to_warm_s

    # What is known of the files.

    def saved(self, paths: Iterable[str], files: Mapping[str, bytes], now: float) -> None:
        """These files are other than they were."""
        paths = list(paths)
        newest = self.epochs[0] if self.epochs else None
        if newest is not None and len(paths) >= SEVERAL and not self.pending[newest.serial]:
            self.past.keep(Past(newest, self.open.views(newest.serial), self.rendered.get(newest.serial)))
        self.past.changed(paths)
        for pending in self.pending.values():
            pending.update(paths)
        if self.building is not None:
            self.building.pending.update(paths)
        if len(paths) <= self.limits.bulk:
            self.saves.add(paths, files, now)

    def look_back(self, files: Mapping[str, bytes]) -> tuple[Past, set[str]] | None:
        """The earlier head that tells of files that changed at once as they are again, and what it does not tell.

        It works through all that changed: of a large tree in a thread, while the owner waits.
        """
        newest = self.epochs[0] if self.epochs else None
        differ = differing(newest, files, self.pending[newest.serial]) if newest and self.past else {}
        return self.past.again(files, len(differ)) if len(differ) >= SEVERAL else None

    def recall(self, found: tuple[Past, set[str]], sight: Sight) -> None:
        """What `look_back` found is the newest again. See `past.py`."""
        past, others = found
        epoch = replace(past.epoch, serial=self._next())
        self._admit(epoch, others)
        self.open.recall(epoch.serial, past.views)
        if past.rendered is not None:
            self.rendered[epoch.serial] = past.rendered
        self.building, self.full = None, False
        for engine in sight.serving(self.spec.name):  # what is warm of it serves before anything newer is put behind it
            for path, _ in self.open.items():
                self.choose(engine, sight, path)
        self.prune(sight)

    def to_say(self, epoch: Epoch, files: Mapping[str, bytes]) -> list[tuple[str, bytes | None, bytes | None]]:
        """(path, old, new) of the files that the epoch's journal should tell of now."""
        pending = self.pending.get(epoch.serial)
        if not pending:
            return []
        differ = differing(epoch, files, pending)
        self.pending[epoch.serial] = set(differ)
        if len(differ) > self.limits.bulk or epoch.journal_tokens >= self.budget.journal:
            return []
        return [(path, epoch.knows(path), differ[path]) for path in sorted(differ)]

    def say(self, serial: int, made: Sequence[Said], now: float) -> None:
        """The journal grows by what fits; the others wait for the next epoch."""
        place = next((at for at, epoch in enumerate(self.epochs) if epoch.serial == serial), None)
        if place is None:
            return
        epoch, pending = self.epochs[place], self.pending[serial]
        room = self.budget.journal - epoch.journal_tokens
        entries: list[Entry] = []
        known: dict[str, bytes | None] = {}
        for said in made:
            if len(said.tokens) > room:
                self.full |= place == 0
                continue
            room -= len(said.tokens)
            known[said.path] = said.hash
            pending.discard(said.path)
            if said.text:
                entries.append(Entry(said.path, said.hash, said.text, said.tokens, now))
        if known:
            grown = epoch.with_entries(entries, known)
            if entries and self.kind == "completion":
                grown = replace(grown, chains=(completion_chain(grown.pack, grown.entries),))
            self.epochs[place] = grown

    # What is due.

    def why_build(self, now: float, last_save: float, sight: Sight) -> str:
        """The reason to build the next epoch now, or "" for none."""
        if now < self.retry_at or not self.wanted.total:
            return ""
        if not self.epochs:
            return "" if self.building else "the first"
        newest = self.epochs[0]
        waiting = len(self.pending[newest.serial])
        if waiting > self.limits.bulk:  # a build that runs is of a tree that is no more
            stale = self.building is None or len(self.building.pending) > self.limits.bulk
            return f"{waiting} files changed at once" if stale else ""
        if self.building or self._warming(newest, sight):
            return ""
        if self.budget.sizes != self.built_for and len(newest.pack.tokens) > 1.25 * max(1, self.budget.pack):
            return f"the budget is {self.budget.pack} tokens now"
        said, limit = newest.journal_tokens, self.budget.journal
        if limit and (self.full or said >= self.limits.soft * limit):
            return f"the journal has {said} of {limit} tokens"
        if (newest.said or waiting) and now >= last_save + self.limits.idle_s:
            return f"no save for {self.limits.idle_s:g} s"
        return ""

    def _warming(self, epoch: Epoch, sight: Sight) -> bool:
        key = self.key(epoch)
        return any(
            sight.ready(engine) and sight.progress(engine, key).state is WarmState.WARMING
            for engine in sight.serving(self.spec.name)
        )

    def idle_at(self, last_save: float) -> float | None:
        """When the next epoch is due if nothing is saved until then."""
        if not self.epochs:
            return self.retry_at or None
        newest = self.epochs[0]
        if newest.said or self.pending[newest.serial]:
            return max(last_save + self.limits.idle_s, self.retry_at)
        return None

    # Epochs come and go.

    def take(self, built: Built, building: Building) -> None:
        """A finished build is the newest epoch. A pack that is here already keeps its place in the engines."""
        same = next((epoch for epoch in self.epochs if epoch.pack.id == built.pack.id), None)
        pack, serial = (same.pack, same.serial) if same else (built.pack, self._next())
        chains: tuple[Chain, ...]
        if same is None:
            chains = (completion_chain(pack, ()),) if self.kind == "completion" else ()
        elif self.kind == "completion":
            chains = (same.chains[0] if not same.entries else completion_chain(pack, ()),)
        else:  # they serve on until the pack alone is rendered and warm
            chains = tuple(renumbered(chain) for chain in same.chains)
        epoch = Epoch(serial, pack, building.base, chains=chains)
        if same is not None:
            self.open.folded(epoch)
        self._admit(epoch, building.pending)
        self.last, self.built_for, self.problem, self.full = built, building.budget.sizes, "", False

    def restore(self, epoch: Epoch, files: Mapping[str, bytes]) -> None:
        """An epoch of an earlier run serves again, with the same ids."""
        serial = self._next()
        chains = (completion_chain(epoch.pack, epoch.entries),) if self.kind == "completion" else ()
        epoch = replace(epoch, serial=serial, chains=chains)
        self.kept = epoch
        self._admit(epoch, set(differing(epoch, files)))

    def _admit(self, epoch: Epoch, pending: set[str]) -> None:
        self.epochs = [epoch, *(one for one in self.epochs if one.serial != epoch.serial)]
        self.pending[epoch.serial] = set(pending)

    def _next(self) -> int:
        self._serials += 1
        return self._serials

    def prune(self, sight: Sight) -> None:
        """Drop the epochs that serve nowhere and are not the newest."""
        serving = [self.choose(engine, sight) for engine in sight.serving(self.spec.name)]
        needed = {choice.epoch.serial for choice in serving if choice} | {one.serial for one in self.epochs[:1]}
        self.epochs = [one for one in self.epochs if one.serial in needed][: self.limits.epochs]
        there = {one.serial for one in self.epochs}
        self.pending = {serial: paths for serial, paths in self.pending.items() if serial in there}
        self.adopted = {engine: serial for engine, serial in self.adopted.items() if serial in there}
        self.rendered = {serial: one for serial, one in self.rendered.items() if serial in there}
        self.open.forget(there, set(sight.serving(self.spec.name)))

    # Open files.

    @property
    def searches(self) -> bool:
        """Similar snippets belong to its heads."""
        return bool(self.budget.similar and self.kind == "completion" and self.epochs)

    def look_at(self) -> float | None:
        """When there is a place of an open file to look at."""
        return self.open.look_at() if self.searches else None

    def packed(self, files: Mapping[str, bytes]) -> frozenset[bytes]:
        """Contents of now that stand in the newest pack as a whole."""
        items = self.epochs[0].pack.items if self.epochs else ()
        return frozenset(item.hash for item in items if item.kind == "full" and files.get(item.path) == item.hash)

    def near_due(self, files: Mapping[str, bytes], sight: Sight) -> list[tuple[str, Epoch]]:
        """Open files whose skeletons have to be made, for the epochs that serve (or the newest)."""
        if not self.budget.neighbourhood or self.kind != "completion" or not self.epochs:
            return []
        return self.open.near_due(self.in_service(sight), files)

    def near_made(self, path: str, serial: int, content: bytes | None, near: NearBy) -> None:
        if any(one.serial == serial for one in self.epochs):
            self.open.near_made(path, serial, content, near)

    def landings(self, files: Mapping[str, bytes]) -> list[tuple[str, bytes, int, str]]:
        """Open files where an editor told of a place that no runway was cut for yet. See `OpenFiles`."""
        return self.open.landings(files) if self.kind == "completion" and self.epochs else []

    def renew_near(self, sight: Sight) -> None:
        """Set every neighbourhood behind its epoch's journal as it is now, and the runway behind it."""
        engines = sight.serving(self.spec.name)
        if self.kind == "completion":
            self.open.renew(
                self.epochs,
                self.budget,
                lambda epoch, path: any(self._given_up(epoch, path, engine, sight) for engine in engines),
            )

    def warm_on(self, path: str, sight: Sight) -> list[str]:
        """Engines where the newest chain of an open file is resident, runway included."""
        opened = self.open.get(path)
        chain = opened.newest(self.in_service(sight)[0].serial) if opened and self.epochs else None
        if chain is None:
            return []
        tokens, engines = chain.tokens, sight.serving(self.spec.name)
        return [name for name in engines if covered(len(tokens), sight.on(name)(tokens), sight.block(name))]

    def in_service(self, sight: Sight) -> list[Epoch]:
        """The epochs that serve on some engine, newest first; the newest while none does."""
        choices = [self.choose(engine, sight) for engine in sight.serving(self.spec.name)]
        serials = {choice.epoch.serial for choice in choices if choice}
        return [epoch for epoch in self.epochs if epoch.serial in serials] or self.epochs[:1]

    # What is served.

    def choose(self, engine: str, sight: Sight, path: str = "") -> Choice | None:
        """What serves on an engine now. Remembers an epoch that took over there."""
        adopted, resident, block = self.adopted.get(engine), sight.on(engine), sight.block(engine)
        opened = self.open.get(path) if self.kind == "completion" else None
        if opened is None:
            choice = choose(self.epochs, adopted, no_near, resident, block)
        else:
            hold = opened.holds.get(engine) or opened.holds.setdefault(engine, Hold())
            best = choose(self.epochs, adopted, lambda serial: opened.chains(serial, hold), resident, block)
            newest = opened.newest(best.epoch.serial) if best else None
            now, patience = sight.now(), self.limits.patience_s
            choice = steady(
                hold,
                best,
                newest,
                resident,
                block,
                now,
                patience,
                lambda one: self._given_up(one.epoch, path, engine, sight),
            )
        if choice is not None and not choice.late:
            self.adopted[engine] = choice.epoch.serial
        return choice

    def _given_up(self, epoch: Epoch, path: str, engine: str, sight: Sight) -> bool:
        """The newest chain of an open file will not be warm on an engine: there is no room for it, or it is stuck."""
        progress, opened = sight.progress(engine, self.key(epoch, path)), self.open.get(path)
        chain = opened.newest(epoch.serial) if opened else None
        if chain is None or not 0 <= len(chain.tokens) - progress.total < sight.block(engine):
            return False  # nothing is known of this one yet
        return progress.refused or progress.state is WarmState.STUCK

    def head(self, engine: str, sight: Sight, path: str, asked: int | None) -> Head:
        """See `head.py`. Never waits, never computes what is not at hand."""
        choice = self.choose(engine, sight, path)
        lacks = Lacks.WARMTH if self.epochs else Lacks.EPOCH
        return head_of(choice, asked) if choice else Head(reason=self.why_empty(engine, sight), lacks=lacks)

    def why_empty(self, engine: str, sight: Sight) -> str:
        if self.epochs and (chain := self.epochs[0].newest):
            size = max(1, self.epochs[0].chains[0].cuts[0].end)
            return f"warming {min(99, 100 * sight.on(engine)(chain.tokens) // size)} %"
        if self.problem:
            return self.problem
        if self.building is not None and self.building.total:
            return f"building {100 * self.building.done // self.building.total} %"
        return "building 0 %" if not self.epochs else "waiting for an engine to render it"

    def key(self, epoch: Epoch, path: str = "") -> Key:
        """The prefetcher's name for an epoch's head. The serial keeps epochs apart that are warm side by side."""
        return (self.id, self.spec.name, f"{self.kind}/{epoch.serial}", path)

    def measure(self, sight: Sight, now: float) -> None:
        """How long the latest saves took until a head on some engine had them, and the latest snippets to get warm."""
        for path, opened in self.open.items():
            if opened.lookout.fresh_at is not None and self.warm_on(path, sight):
                opened.lookout.warmed(now)
        if self.saves:
            self.saves.settle([one for name in sight.serving(self.spec.name) if (one := self.choose(name, sight))], now)

    def resident_share(self, epoch: Epoch, engine: str, sight: Sight) -> tuple[int, float]:
        """Resident tokens of an epoch's newest chain, and their share."""
        chain = epoch.newest
        if chain is None or not chain.tokens:
            return 0, 0.0
        found, size = sight.on(engine)(chain.tokens), len(chain.tokens)
        whole = covered(size, found, sight.block(engine))
        return (size, 1.0) if whole else (found, round(found / size, 4))
