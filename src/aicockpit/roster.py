"""Which engines there should be, from settings and fleet file to commands, and what to change when the file changed.

`serve.py` owns one; the routes of `gateway/operate.py` reach it through `Controls`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from aicockpit.engines.engine import Engine
from aicockpit.engines.supervisor import Supervisor
from aicockpit.engines.swap import HOLDING, held
from aicockpit.engines.swapper import Swapper
from aicockpit.errors import AicockpitError
from aicockpit.hardware import detect
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.shape import ModelShape
from aicockpit.models import kv_files
from aicockpit.models.dimensions import shape_apart
from aicockpit.models.locate import check_apart, is_path, note_used, resolve_apart
from aicockpit.recipes import command, flags, fleet, load, lora, place, spot_ask, tier
from aicockpit.recipes.arrange import CPU, Plan, Sized, arrange
from aicockpit.recipes.fleet import Asked
from aicockpit.recipes.place import Slot
from aicockpit.settings import Settings
from aicockpit.sizing import HOST_SHARE, Sizer, predict
from aicockpit.types import EngineSpec, Residence

log = logging.getLogger(__name__)

_STAMP_S = 3600.0
_TRIM_S = 60.0
Show = Callable[[str, str, int, int], None]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new plan did: names of engines."""

    started: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(slots=True)
class Roster:
    """`show(step, text, done, total)` hears how far looking for files is; bytes, 0 where there are none."""

    settings: Settings
    show: Show
    aliases: dict[str, str] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    specs: dict[str, EngineSpec] = field(default_factory=dict)
    devices: dict[str, Device] = field(default_factory=dict)
    # Added and taken away (None) at run time: folders by adapter, by the first name of the model.
    adapters: dict[str, dict[str, str | None]] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _work: set[asyncio.Task[None]] = field(default_factory=set)

    async def decide(self, engines: Sequence[Engine] = ()) -> Plan:
        """Read what is asked for and make a plan; `engines` run already and may make way for it.

        Raises AicockpitError; nothing is fetched, nothing changed.
        """
        machine = await asyncio.to_thread(detect.inspect)
        found = detect.devices(machine, self.settings.cuda_visible)
        taken = _taken(engines)
        slots = place.slots(found, machine.pairs, taken)
        self.devices = {slot.id: slot.device for slot in slots}
        asked = fleet.ask(self.settings)
        if asked.models:
            command.command(self.settings)  # is there a vLLM at all?
        memory = machine.memory_available
        host = None if memory is None else int((memory + taken.get(CPU, 0)) * HOST_SHARE)
        sized = await self._size(asked, slots, host, machine.host.cpu.features if machine.host else None)
        plan = arrange(asked, sized, slots, sorted(os.sched_getaffinity(0)), host)
        for m, size in zip(asked.models, sized, strict=True):
            for reason in size.reasons:
                log.info("%s: %s", m.served, reason)
        for reason in plan.reasons:
            log.info("%s", reason)
        return plan

    async def build(self, plan: Plan) -> AsyncIterator[EngineSpec]:
        """Find or fetch each model's files, and the command of each of its engines. Raises AicockpitError."""
        if len(plan.models) > 1:  # a model that cannot be had is told before another takes an hour to come
            await check_apart([planned.model for planned in plan.models], self.settings)
        for planned in plan.models:
            step = f"model {planned.model}"
            self.show(step, "looking for its files", 0, 0)
            files = await resolve_apart(planned.model, self.settings, partial(self.show, step))
            self.show(step, f"{files.source}: {files.path}", -1, -1)
            if files.note:
                self.show(f"note on {planned.model}", files.note, -1, -1)
            known = await shape_apart(str(files.path), self.settings)
            for wanted in planned.shapes:
                spec = command.build(wanted, files.path, planned.name or files.served_name, self.settings)
                devices = [self.devices[gpu] for gpu in spec.gpus if gpu in self.devices]
                kv = None if isinstance(known, str) else predict(known, spec.argv, devices)
                spec = replace(spec, predicted_kv_tokens=kv)
                yield lora.changed(spec, self._adapters_of(spec))

    def _adapters_of(self, spec: EngineSpec) -> Mapping[str, str | None]:
        """Those of run time, while it is the same model and may have any."""
        same = all(one.model == spec.model for one in self.specs.values() if one.name == spec.name)
        changes = self.adapters.get(spec.served_names[0], {})
        return changes if same and lora.ENABLE in spec.argv else {}

    def adopt(self, plan: Plan, specs: Sequence[EngineSpec]) -> None:
        """This is what runs from now on."""
        self.plan, self.specs = plan, {spec.name: spec for spec in specs}
        self.aliases.clear()
        self.aliases.update(plan.aliases)

    async def stamp(self) -> None:
        """Note that these models are in use, now and every hour: what was used long ago is pruned first."""
        while True:
            for path in {spec.model for spec in self.specs.values()}:
                await asyncio.to_thread(note_used, Path(path), self.settings)
            await asyncio.sleep(_STAMP_S)

    async def trim(self) -> None:
        """Keep vLLM's own KV files within what `kv_tier` allows, now and every minute."""
        while True:
            wishes = [shape.kv_tier for shape in self.plan.shapes if shape.gpus and shape.kv_tier.kind == "disk"]
            for folder, size in tier.folders(wishes, self.settings).items():
                done = await asyncio.to_thread(kv_files.trim, folder, size)
                if done.removed:
                    log.info("%s: %d KV files removed, %.1f GiB stay", folder, done.removed, done.held / GIB)
            await asyncio.sleep(_TRIM_S)

    @property
    def resting(self) -> frozenset[str]:
        """Engines that a request starts."""
        return frozenset(self.specs) - self.plan.first

    async def reload(self, supervisor: Supervisor, swapper: Swapper) -> Changes:
        """Read the fleet file again and change what differs. Raises AicockpitError, and then nothing has changed.

        Returns once the new fleet counts; engines that go, or are restarted, finish their last answers first.
        """
        async with self.turn:
            plan = await self.decide([*supervisor.engines, *supervisor.leaving])
            specs = {spec.name: spec async for spec in self.build(plan)}
            await supervisor.gone(specs)  # one of these names may still be leaving since an earlier reload
            return self._apply(supervisor, swapper, plan, specs)

    def _apply(self, supervisor: Supervisor, swapper: Swapper, plan: Plan, specs: Mapping[str, EngineSpec]) -> Changes:
        """Without a pause, so that nobody sees, and nothing leaves behind, a fleet that is half changed."""
        old, before = self.specs, self.plan
        engines = {engine.name: engine for engine in supervisor.engines}
        stopped = tuple(name for name in old if name not in specs)
        restarted = tuple(name for name in old if name in specs and _differs(old[name], specs[name]))
        started = tuple(name for name in specs if name not in old)
        kept = tuple(name for name in old if name in specs and name not in restarted)
        pinned_anew = [name for name in kept if engines[name].wakeable and specs[name].residence.pinned]
        for name in stopped:
            supervisor.let_go(name)
        for name in (*kept, *restarted):
            supervisor.respec(specs[name])
        for name in started:
            supervisor.add(specs[name])
        self.adopt(plan, list(specs.values()))
        swapper.capacity = plan.capacity
        _reach(supervisor, before, plan)
        there = {name for name, engine in engines.items() if engine.state in HOLDING}
        for engine in [engine for engine in supervisor.engines if engine.name in {*started, *restarted, *pinned_anew}]:
            due = engine.name in plan.first or engine.name in there
            self._begin(_bring(supervisor, swapper, engine, stop=engine.name in restarted, due=due), engine.name)
        return Changes(started, restarted, stopped, kept)

    def _begin(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=f"bring {name}")
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def close(self) -> None:
        """What reloads have begun and the supervisor has not ended."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    async def _size(
        self, asked: Asked, slots: Sequence[Slot], memory: int | None, cpu: tuple[str, ...] | None
    ) -> list[Sized]:
        library = load.library(self.settings.recipes)
        known: dict[str, ModelShape] = {}
        unknown: dict[str, str] = {}
        drafts = (spot_ask.drafted(flags.merge(self.settings.engine_args, m.args)) for m in asked.models)
        wanted = [m.model for m in asked.models] + [one.model for one in drafts if one and one.whole]
        # Without GPUs only files that are here are asked.
        names = list(dict.fromkeys(name for name in wanted if slots or is_path(name)))
        for name, told in zip(names, await asyncio.gather(*map(self._shape_of, names)), strict=True):
            if isinstance(told, str):
                unknown[name] = told
            else:
                known[name] = known[name.partition("@")[0]] = told
        sizer = Sizer(self.settings, library.recipes, slots, known.get, memory, unknown, cpu)
        return [sizer.size(m) for m in asked.models]

    async def _shape_of(self, model: str) -> ModelShape | str:
        self.show(f"model {model}", "reading its dimensions", 0, 0)
        return await shape_apart(model, self.settings)


async def _bring(supervisor: Supervisor, swapper: Swapper, engine: Engine, *, stop: bool, due: bool) -> None:
    """A new or changed engine into memory: a pinned one in any case, one that is `due` if there is room."""
    try:
        if stop:
            await supervisor.stop(engine.name, patient=True)
        if engine.residence.pinned:
            await swapper.bring(engine)
        elif due:
            swapper.offer([engine.name])
    except (AicockpitError, KeyError) as error:  # a later reload may have taken it out
        log.warning("engine %s is not brought into memory: %s", engine.name, error)


def _reach(supervisor: Supervisor, before: Plan, plan: Plan) -> None:
    """External engines that came or went."""
    gone = set(before.external) - set(plan.external)
    for name in [one.name for one in supervisor.engines if not one.supervised and one.address in gone]:
        supervisor.let_go(name)
    for address in plan.external:
        if address not in before.external:
            supervisor.reach(address)


def _taken(engines: Sequence[Engine]) -> Mapping[str, int]:
    """Bytes by device that our own engines hold, awake or asleep: a new plan may use them."""
    taken: Counter[str] = Counter()
    for engine in engines:
        taken.update(held(engine.state, engine.residence))
    return taken


def _differs(one: EngineSpec, other: EngineSpec) -> bool:
    """Would the process be another one? How long it stays in memory, its role and its cores are no part of it."""
    return _process_of(one) != _process_of(other)


def _process_of(spec: EngineSpec) -> EngineSpec:
    env = tuple(pair for pair in spec.env if pair[0] != command.CORES)
    return replace(spec, residence=Residence(), predicted_kv_tokens=None, env=env, role="")


def told(changes: Changes) -> Mapping[str, list[str]]:
    """For the API."""
    return {
        "started": list(changes.started),
        "restarted": list(changes.restarted),
        "stopped": list(changes.stopped),
        "kept": list(changes.kept),
    }
