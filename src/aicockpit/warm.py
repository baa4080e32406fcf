"""The warm side of a server, put together: store, contexts, a prefetcher for each engine, the indexer of its tree."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aicockpit.engines.engine import Engine
from aicockpit.engines.kv_events import KvIndex
from aicockpit.errors import AicockpitError, NotReady, SettingError
from aicockpit.gateway.folders import Folders
from aicockpit.gateway.forward import Forwarder
from aicockpit.gateway.layouts import Unrendered, tokenize
from aicockpit.gateway.server import Workspaces
from aicockpit.gateway.voices import Voice, Voices
from aicockpit.gateway.warm_metrics import Figure
from aicockpit.gateway.workspaces import tidy
from aicockpit.indexer.agent import Options
from aicockpit.prompts import worth
from aicockpit.prompts.chat import stable_head, with_context
from aicockpit.prompts.fim import detect
from aicockpit.prompts.tokens import load
from aicockpit.settings import Settings
from aicockpit.types import KvEventsAddress
from aicockpit.workspace.builder import Builder
from aicockpit.workspace.builds import KINDS, ModelSpec
from aicockpit.workspace.desk import RenderRefused
from aicockpit.workspace.eligible import Eligible
from aicockpit.workspace.epochs import Contexts
from aicockpit.workspace.prefetch import EventSource, Prefetcher, PrefetchLimits
from aicockpit.workspace.store import Store, StoreLimits
from aicockpit.workspace.track import EpochLimits
from aicockpit.workspace.warmth import Warmth

logger = logging.getLogger(__name__)

_RENDER_WAIT_S = 30.0
_TOPIC = "kv"
# Tokens per second, until a step was timed.
_SPEED_GUESS = 1000.0
_BYTES_PER_TOKEN = 3


class WarmSide:
    """Owns all that keeps repositories warm. `engines` is the supervisor's live list."""

    def __init__(self, settings: Settings, engines: Sequence[Engine]) -> None:
        self._settings, self._engines = settings, engines
        limits = StoreLimits(
            workspaces=settings.workspaces, files=settings.workspace_files, bytes=settings.workspace_size
        )
        self.store = Store(settings.state_dir / "workspaces", limits)
        self.folders = Folders(settings.state_dir)
        self.warmth = Warmth()
        self.prefetchers: dict[str, Prefetcher] = {}
        # Where each of them listens: a reload may have changed it.
        self._heard: dict[str, KvEventsAddress | None] = {}
        self._eligible = Eligible(self.wake)
        self._builder = Builder(self.store.folder)
        self.contexts = Contexts(
            self.store,
            self._builder,
            self.warmth,
            lambda: self.prefetchers,
            self._models,
            self._render,
            worth=worth.with_own(settings.worth).lookup,
            limits=EpochLimits(idle_s=settings.context_idle),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._restored: frozenset[str] = frozenset()
        self._forwarder: Forwarder | None = None

    def parts(self) -> Workspaces:
        """What the gateway needs of it."""
        voices = Voices(self._voice, self._mark)
        return Workspaces(self.store, self.contexts, self, voices, self.figures, self.folders)

    async def begin(self, forwarder: Forwarder) -> None:
        """Once the engines are known: warm what was warm before, and index the server's own tree."""
        self._forwarder = forwarder
        self._follow_fleet(forwarder)
        self._restore()
        self._launch(tidy(self.store), "tidy workspaces")
        if self._settings.workspace is not None:
            await self._keep_own(self._settings.workspace)

    async def _keep_own(self, path: Path) -> None:
        """The server's own tree. Where the folder is not there yet its indexer finds it, and its name, later."""
        name = self._settings.workspace_name
        with contextlib.suppress(SettingError):
            name = Options(path, self._settings.state_dir, name=name).workspace
        await self.folders.end(name)  # whoever was quicker while the engines were looked for
        self.folders.begin(await asyncio.to_thread(path.resolve), name, fixed=True)

    def _follow_fleet(self, forwarder: Forwarder) -> None:
        """A prefetcher for each engine that can be kept warm; those of engines that are gone end."""
        limits = PrefetchLimits(step_s=self._settings.prefetch_step)
        self._eligible.look(self._engines)
        kept = [engine for engine in self._engines if self._eligible.warmed(engine)]
        for name, one in list(self.prefetchers.items()):
            if one.engine not in kept or self._heard[name] != one.engine.kv_events:
                del self.prefetchers[name]
                self.warmth.forget(name)
                self._launch(one.close(), f"close prefetcher of {name}")
        for engine in kept:
            if engine.name in self.prefetchers:
                continue
            events = self._heard[engine.name] = engine.kv_events
            source = EventSource(events.publish, events.replay, _TOPIC) if events is not None else None
            made = Prefetcher(engine, self.warmth, forwarder, self.contexts.report, events=source, limits=limits)
            self.prefetchers[engine.name] = made
            made.launch()

    def _launch(self, work: Coroutine[None, None, None], name: str) -> None:
        """Until it is done, or we close."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def wake(self) -> None:
        """An engine came, went, or changed its state."""
        if self._forwarder is not None:
            self._follow_fleet(self._forwarder)
        for prefetcher in self.prefetchers.values():
            prefetcher.wake()
        self.contexts.engines_changed()
        self._restore()

    def _restore(self) -> None:
        """Go on with the epochs of an earlier run, once it is known which models there are."""
        known = frozenset(spec.name for spec in self._models())
        if known != self._restored:
            self._restored = known
            self._launch(self.contexts.restore(), "restore epochs")

    def speed(self, engines: Sequence[Engine]) -> float:
        """Tokens of prefill per second, of the fastest of these; a guess until one was measured."""
        made = [self.prefetchers[engine.name] for engine in engines if engine.name in self.prefetchers]
        return max((speed for one in made if (speed := one.speed.tokens_s)), default=_SPEED_GUESS)

    def learn(self, engine: str, tokens: tuple[int, ...], prompt: int, cached: int | None) -> None:
        if tokens:
            self.warmth.learn(engine, tokens, cached)
        else:
            self.warmth.used(engine, prompt - (cached or 0))

    def used(self, engine: str, size: int) -> None:
        """Its tokens are estimated: only where no KV events tell what came and went."""
        if not self.contexts.idle and not self.warmth.exact(engine):
            self.warmth.used(engine, size // _BYTES_PER_TOKEN)

    def figures(self) -> list[Figure]:
        """For /metrics."""
        found = [figure for name, one in self.prefetchers.items() for figure in _prefetch_figures(name, one)]
        return found + _context_figures(self.contexts.status(info.id) for info in self.store.list())

    async def close(self) -> None:
        await self.folders.close()
        await self._eligible.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.contexts.close()
        await asyncio.gather(*(prefetcher.close() for prefetcher in self.prefetchers.values()))
        await self._builder.close()
        self.store.close()

    # Models.

    def _models(self) -> list[ModelSpec]:
        """Every served model that prompts are made for, by the first of its names."""
        names = dict.fromkeys(engine.served_names[0] for engine in self._engines if engine.served_names)
        return [spec for name in names if (spec := self._wanted(name)) is not None]

    def _wanted(self, name: str) -> ModelSpec | None:
        """None: it has no lane. Without a folder, and with the reason, while none of its engines can be kept warm."""
        engines = [engine for engine in self._engines if engine.served_names[:1] == (name,)]
        lanes = {kind for engine in engines for kind in self._eligible.lanes(engine)}
        if not lanes:
            return None
        kinds = tuple(kind for kind in KINDS if kind in lanes)
        spec = replace(self._spec(name, engines[0]), kinds=kinds)
        reasons = [self._eligible.why_not(engine) for engine in engines]
        return replace(spec, folder=None, why_not=reasons[0]) if all(reasons) else spec

    def _serving(self, model: str) -> Engine | None:
        """The first engine whose first name this is: what it says of the model counts for all."""
        return next((engine for engine in self._engines if engine.served_names[:1] == (model,)), None)

    def _spec(self, name: str, engine: Engine) -> ModelSpec:
        card = engine.cards.get(name, {})
        length = card.get("max_model_len")
        folder, why_not = self._folder(name, engine, str(card.get("root") or ""))
        return ModelSpec(
            name,
            folder,
            why_not,
            length if isinstance(length, int) else None,
            self._settings.fim,
            self._settings.context,
        )

    def _folder(self, name: str, engine: Engine, root: str) -> tuple[Path | None, str]:
        """Where its tokenizer lies: a setting, the files we started it with, or what an external engine names."""
        for model, folder in self._settings.tokenizers:
            if model in engine.served_names:
                return Path(folder).expanduser(), ""
        if engine.files:
            return Path(engine.files), ""
        if root and (Path(root) / "tokenizer.json").is_file():
            return Path(root), ""
        return None, (
            f"the tokenizer of {name} is not on this machine; name its folder with AICOCKPIT_TOKENIZERS={name}=FOLDER"
        )

    def _mark(self, model: str) -> Hashable:
        """What an engine says of a model: asked at every request, so it only looks into memory."""
        engine = self._serving(model)
        card = engine.cards.get(model, {}) if engine is not None else {}
        return engine is not None, card.get("max_model_len"), card.get("root")

    def _voice(self, model: str) -> Voice | str:
        engine = self._serving(model)
        spec = self._spec(model, engine) if engine is not None else None
        if spec is None or spec.max_model_len is None:
            return "its engine has not said how long its context is"
        if spec.folder is None:
            return spec.why_not
        try:
            encoder = load(spec.folder)
            style, reason = detect(encoder.specials, spec.fim)
        except AicockpitError as error:
            return str(error)
        return Voice(encoder, style, reason, spec.max_model_len)

    async def _render(self, engine_name: str, model: str, text: str) -> tuple[int, ...]:
        """The token ids that every conversation with this system text begins with, by the engine's own template.

        Rendered once without and once with a system message of the client's. RenderRefused is a final answer of it.
        """
        engine = next((engine for engine in self._engines if engine.name == engine_name), None)
        if engine is None:  # a reload took it out, and nobody has followed yet
            raise NotReady(f"there is no engine {engine_name} any more")
        conversations: tuple[list[dict[str, str]], ...] = (
            [{"role": "user", "content": "a"}],
            [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}],
        )
        fields = [{"messages": with_context(one, text)} for one in conversations]
        try:
            rendered = [await tokenize(engine, model, one, _RENDER_WAIT_S) for one in fields]
        except Unrendered as error:
            raise RenderRefused(str(error)) from error
        return stable_head(*rendered)


def _prefetch_figures(engine: str, prefetcher: Prefetcher) -> list[Figure]:
    counters = prefetcher.counters
    found = [
        Figure("aicockpit_prefetch_steps", (engine,), counters.steps),
        Figure("aicockpit_prefetch_verifications", (engine,), counters.verifications),
        Figure("aicockpit_prefetch_tokens", (engine,), counters.tokens_prefilled),
        Figure("aicockpit_prefetch_tokens_resident", (engine,), counters.tokens_resident),
        Figure("aicockpit_prefetch_tokens_found", (engine,), counters.tokens_found),
        Figure("aicockpit_prefetch_evictions", (engine,), counters.evictions),
        Figure("aicockpit_prefetch_superseded", (engine,), counters.superseded),
        Figure("aicockpit_prefetch_errors", (engine,), counters.errors),
    ]
    for kind, count in counters.mismatches.items():
        found.append(Figure("aicockpit_prefetch_mismatches", (engine, kind.value), count))
    if speed := prefetcher.speed.tokens_s:
        found.append(Figure("aicockpit_prefill_speed_tokens_per_second", (engine,), speed))
    return found + (_event_figures(engine, prefetcher.index) if prefetcher.index is not None else [])


def _event_figures(engine: str, index: KvIndex) -> list[Figure]:
    """Of an engine that sends KV events, over all its lives."""
    counts = index.counts
    ignored = {"unknown": counts.unknown, "broken": counts.broken, "elsewhere": counts.elsewhere}
    return [
        Figure("aicockpit_kv_events_exact", (engine,), float(index.exact)),
        Figure("aicockpit_kv_events_batches", (engine,), counts.batches),
        Figure("aicockpit_kv_events_duplicates", (engine,), counts.duplicates),
        Figure("aicockpit_kv_events_gaps", (engine,), counts.gaps),
        Figure("aicockpit_kv_events_replays", (engine,), counts.replays),
        Figure("aicockpit_kv_events_overflows", (engine,), counts.overflows),
        *(Figure("aicockpit_kv_events_ignored", (engine, kind), count) for kind, count in ignored.items()),
    ]


def _context_figures(statuses: Iterable[Mapping[str, Any]]) -> list[Figure]:
    """Over all workspaces: whose they are and what they are called is their owners' business."""
    ratios: dict[tuple[str, ...], float] = {}
    times: dict[tuple[str, ...], float] = {}
    for status in statuses:
        for model, told in status["models"].items():
            for lane, one in told["lanes"].items():
                for engine, there in one.get("engines", {}).items():
                    key = (model, lane, engine)
                    ratios[key] = min(there["resident_fraction"], ratios.get(key, 1.0))
                if (seconds := one.get("last_save_to_warm_s")) is not None:
                    times[model, lane] = max(seconds, times.get((model, lane), 0.0))
    found = [Figure("aicockpit_context_resident_ratio", key, value) for key, value in ratios.items()]
    return found + [Figure("aicockpit_context_save_to_warm_seconds", key, value) for key, value in times.items()]
