"""One variant on one set of GPUs: its best layout and window, with the flags, or why not. Pure; `select.py` asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from aicockpit.errors import SettingError
from aicockpit.hardware import fit, shape
from aicockpit.hardware.device import Device
from aicockpit.hardware.shape import ModelShape
from aicockpit.recipes import flags
from aicockpit.recipes.assemble import Assembled, assemble, features, is_hardware, strategy
from aicockpit.recipes.command import CPU_BLOCK, CPU_KV_BYTES
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.schema import STRATEGIES, Recipe
from aicockpit.recipes.spot_ask import asked as asked
from aicockpit.recipes.spot_ask import drafted

WORKING = fit.WORKING
FLOOR = fit.SHORTEST  # less is not worth starting for a code assistant
ROOM = 2.0  # longest requests at once: one to answer, and as much again to keep warm
_CPU_MARGIN = 1.1  # the longest request takes no more than 95 % of the cache there, in whole blocks
SIZES = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")
_WINDOWS = tuple(1 << power for power in range(20, 10, -1))


@dataclass(frozen=True, slots=True)
class Placed:
    """`working`: the window is enough for the model's work. `roomy`: it holds `ROOM` of its longest requests.
    `order`: the layout's place in `fit.layouts`, the simplest first. `reasons`: sentences beside the verdict's.
    `passed`: the other layouts of these GPUs, and why not."""

    devices: tuple[Device, ...]
    verdict: fit.Verdict
    flags: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    precision: str
    working: bool
    roomy: bool
    order: int
    reasons: tuple[str, ...]
    passed: tuple[tuple[fit.Layout, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """Why it does not go there. `left`: bytes of the KV cache of the layout that came nearest; below 0: what lacks.
    `verdict`: its sum, where there is one. `passed`: every layout, and why not."""

    why: str
    left: int = -(1 << 62)
    verdict: fit.Verdict | None = None
    passed: tuple[tuple[fit.Layout, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Judged:
    verdict: fit.Verdict
    working: bool
    roomy: bool
    order: int

    @property
    def rank(self) -> tuple[int | bool, ...]:
        """No pipeline if it can be helped: it answers one request no faster. Then the longest window that leaves room;
        when none does, the shortest that is enough for the work."""
        length, piped = self.verdict.max_model_len, self.verdict.layout.pipeline > 1
        return (not self.working, piped, not self.roomy, self.order, -length if self.roomy else length)


def describe(devices: Sequence[Device]) -> str:
    """`2 x NVIDIA L4`, `the CPU`."""
    counts = Counter(device.name for device in devices)
    return " + ".join(f"{count} x {name}" for name, count in counts.items()) or "the CPU"


def groups(devices: Sequence[Device], count: int | None) -> Iterator[tuple[Device, ...]]:
    """Sets of like GPUs: as many as asked and fewer, or any number from one; of each kind those with most free first.
    One empty set for the CPU."""
    if not devices:
        yield ()
        return
    kinds = dict.fromkeys((device.name, device.memory) for device in devices)
    for kind in kinds:
        alike = [device for device in devices if (device.name, device.memory) == kind]
        alike.sort(key=lambda device: -(device.memory if device.free is None else device.free))
        most = len(alike) if count is None else min(count, len(alike))
        numbers = range(1, most + 1) if count is None else range(most, 0, -1)
        yield from (tuple(alike[:number]) for number in numbers)


def recipe_shape(recipe: Recipe, name: str) -> ModelShape | None:
    """From the recipe's own facts; None when it has none. Raises ShapeUnknown."""
    config = recipe.config(name)
    return None if config is None else shape.read(config, recipe.checkpoint(name).weights)


def draft(
    words: Sequence[str], recipes: Sequence[Recipe], shape_of: Callable[[str], ModelShape | None]
) -> ModelShape | None:
    """The dimensions of the draft model that these flags name: as `shape_of` has them, else from a recipe."""
    named = drafted(words)
    if named is None or not named.whole:
        return None
    if known := shape_of(named.model):
        return known
    try:
        return next(
            recipe_shape(recipe, name)
            for recipe in recipes
            for name in recipe.variants
            if recipe.model_id(name).lower() == named.model.lower()
        )
    except (StopIteration, shape.ShapeUnknown):
        return None


def place(wish: Wish, recipe: Recipe, name: str, dimensions: ModelShape, group: Sequence[Device]) -> Placed | Failed:
    """The variant on all GPUs of `group`, or why it does not go there."""
    device = group[0] if group else None
    try:
        asked = _ask(wish, recipe, name, device)
        stretched, how = stretch(wish, recipe, dimensions)
        if not group:
            return _on_cpu(wish, recipe, name, stretched, asked, how)
        return _on_gpus(wish, recipe, name, (stretched, how), group, asked)
    except SettingError as error:
        return Failed(str(error))


def _on_gpus(
    wish: Wish,
    recipe: Recipe,
    name: str,
    stretched: tuple[ModelShape, tuple[str, ...]],
    group: Sequence[Device],
    asked: fit.Ask,
) -> Placed | Failed:
    dimensions, how = stretched
    judged: list[_Judged] = []
    nearest: Failed | None = None
    passed: list[tuple[fit.Layout, str]] = []
    for order, (layout, why) in enumerate(fit.layouts(dimensions, group)):
        if why := why or _barred(recipe, name, layout, group[0]) or _against(wish.args, layout):
            nearest = nearest or Failed(f"{layout}: {why}")
            passed.append((layout, why))
            continue
        found, failed = _windows(recipe, dimensions, group, layout, asked, order)
        if found and (why := _host(wish, found[0].verdict)):
            nearest = nearest or Failed(f"{layout}: {why}")
            passed.append((layout, why))
            continue
        judged += found
        if not found:
            passed.append((layout, failed.why))
            if nearest is None or failed.terms[-1].bytes > nearest.left:
                nearest = Failed(failed.why, failed.terms[-1].bytes, failed)
    if not judged:
        return replace(nearest or Failed("no layout is possible"), passed=tuple(passed))
    best = min(judged, key=lambda one: one.rank)
    passed += _beaten(judged, best)
    kind = strategy(best.verdict.layout.tensor, best.verdict.layout.data, best.verdict.layout.expert)
    made = _assembled(wish, recipe, name, group[0], kind, best.verdict, how)
    reasons = (*_of_window(wish, dimensions, best), *_of_stretch(how, dimensions), *best.verdict.notes, *made.notes)
    verdict = best.verdict
    return Placed(
        tuple(group),
        verdict,
        made.flags,
        made.env,
        dimensions.precision,
        best.working,
        best.roomy,
        best.order,
        reasons,
        tuple(passed),
    )


def _beaten(judged: Sequence[_Judged], best: _Judged) -> Iterator[tuple[fit.Layout, str]]:
    """The layouts that fit too, each at its best window, and where they first fall behind."""
    lost = (
        "its window is shorter than the work needs",
        "a pipeline answers one request no faster",
        "it holds fewer than two of its longest requests at once",
        "it is less simple",
        "its window is another",
    )
    for layout in dict.fromkeys(one.verdict.layout for one in judged if one.verdict.layout != best.verdict.layout):
        one = min((each for each in judged if each.verdict.layout == layout), key=lambda each: each.rank)
        why = next(told for told, mine, theirs in zip(lost, one.rank, best.rank, strict=True) if mine != theirs)
        yield layout, f"fits too, {one.verdict.kv_tokens:,} tokens, window {one.verdict.max_model_len:,}; but {why}"


def _host(wish: Wish, verdict: fit.Verdict) -> str:
    """Why the weights that leave the GPUs have no room in the host's memory, or ""."""
    if wish.memory is None or verdict.host <= wish.memory:
        return ""
    return f"{fit.gib(verdict.host)} of weights for the host's memory, where {fit.gib(wish.memory)} may be used"


def _on_cpu(
    wish: Wish, recipe: Recipe, name: str, dimensions: ModelShape, asked: fit.Ask, how: tuple[str, ...]
) -> Placed | Failed:
    verdict = _cpu_verdict(wish, recipe, dimensions, asked)
    if not verdict.fits:
        return Failed(verdict.why, verdict=verdict)
    if wish.memory is not None and verdict.budget.bytes > wish.memory:
        terms = " + ".join(f"{term.name} {fit.gib(term.bytes)}" for term in verdict.terms)
        needs = f"{terms} = {fit.gib(verdict.budget.bytes)} of memory"
        why = f"{needs}, and there are {fit.gib(wish.memory)}"
        return Failed(why, wish.memory - verdict.budget.bytes, replace(verdict, fits=False, why=why))
    made = _assembled(wish, recipe, name, None, "single_node_tp", verdict, how)
    working = verdict.max_model_len >= _needed(recipe, dimensions)[0]
    reasons = (*_of_stretch(how, dimensions), *verdict.notes, *made.notes)
    roomy = verdict.concurrency >= ROOM
    return Placed((), verdict, made.flags, made.env, dimensions.precision, working, roomy, 0, reasons)


def _cpu_verdict(wish: Wish, recipe: Recipe, dimensions: ModelShape, asked: fit.Ask) -> fit.Verdict:
    """With the cache that a small engine gets, or a larger one that holds the least window worth starting."""
    verdict = fit.cpu(dimensions, CPU_KV_BYTES, CPU_BLOCK, asked, wish.cpu)
    if fit.cpu_refused(dimensions, wish.cpu):
        return verdict
    wanted = asked.max_model_len or _needed(recipe, dimensions)[1]
    if (verdict.fits and verdict.max_model_len >= wanted) or not verdict.kv_tokens:
        return verdict
    per_token = CPU_KV_BYTES / verdict.kv_tokens
    return fit.cpu(dimensions, math.ceil(_CPU_MARGIN * per_token * wanted), CPU_BLOCK, asked, wish.cpu)


def _assembled(
    wish: Wish, recipe: Recipe, name: str, device: Device | None, kind: str, verdict: fit.Verdict, how: tuple[str, ...]
) -> Assembled:
    on = features(recipe, wish.features, wish.without, kind).values()
    length = ("--max-model-len", str(verdict.max_model_len)) if how or wish.max_model_len else ()
    return assemble(recipe, name, device, kind, on, verdict.flags, (*how, *length), verdict.env)


def _ask(wish: Wish, recipe: Recipe, name: str, device: Device | None) -> fit.Ask:
    """What the recipe's flags say of memory, under what the wish says. Raises SettingError."""
    on = features(recipe, wish.features, wish.without, "single_node_tp").values()
    made = assemble(recipe, name, device, "single_node_tp", on, (), ()).flags
    told = asked(flags.merge(made, wish.args), wish.draft)
    return replace(told, max_model_len=wish.max_model_len or told.max_model_len)


def _against(args: Sequence[str], layout: fit.Layout) -> str:
    """Which size that the user gave is another one, or ""."""
    for flag, size in zip(SIZES, (layout.tensor, layout.pipeline, layout.data), strict=True):
        told = flags.number(flags.value(args, flag))
        if told and told != size:
            return f"{flag} {told} is asked for"
    return ""


def stretch(wish: Wish, recipe: Recipe, dimensions: ModelShape) -> tuple[ModelShape, tuple[str, ...]]:
    """A window past the model's own by YaRN, when one is asked for and the recipe tells how.

    vLLM reads the stretched length from the config and replaces RoPE's parameters whole, so both are spelled out.
    """
    yarn, own = recipe.aicockpit.window.yarn, dimensions.max_len
    if yarn is None or not own or not wish.max_model_len or wish.max_model_len <= own:
        return dimensions, ()
    longest = int(yarn.factor * yarn.original)
    rope = (
        f'{{"rope_type": "yarn", "factor": {yarn.factor}, "original_max_position_embeddings": {yarn.original}, '
        f'"rope_theta": {yarn.theta}}}'
    )
    overrides = f'{{"max_position_embeddings": {longest}, "rope_parameters": {rope}}}'
    return replace(dimensions, max_len=longest), ("--hf-overrides", overrides)


def _barred(recipe: Recipe, name: str, layout: fit.Layout, device: Device) -> str:
    """Why the recipe does not allow a layout, or "". A pipeline is ours to take: the public strategies have none."""
    kinds = [STRATEGIES[kind] for kind in recipe.compatible_strategies if kind in STRATEGIES] or [(False, False)]
    if (layout.data > 1 or layout.expert) and (layout.data > 1, layout.expert) not in kinds:
        return f"the recipe's strategies are {', '.join(recipe.compatible_strategies)}"
    over = recipe.strategy_overrides.get(strategy(layout.tensor, layout.data, layout.expert))
    for told in (recipe.variants[name].tp, over.tp if over else None):
        most = _for_device(told, device)
        if most and layout.tensor > most and not layout.expert:
            return f"the recipe divides its layers over {most} GPUs at most"
    return ""


def _for_device(told: int | dict[str, int] | None, device: Device) -> int | None:
    if not isinstance(told, dict):
        return told
    return next((n for key, n in told.items() if key in (device.vendor, "default") or is_hardware(key, device)), None)


def _needed(recipe: Recipe, dimensions: ModelShape) -> tuple[int, int]:
    """(a window that is enough for the work, the least worth starting)."""
    own, window = dimensions.max_len or WORKING, recipe.aicockpit.window
    return min(own, window.working or WORKING), min(own, window.floor or FLOOR)


def _windows(
    recipe: Recipe,
    dimensions: ModelShape,
    group: Sequence[Device],
    layout: fit.Layout,
    asked: fit.Ask,
    order: int,
) -> tuple[list[_Judged], fit.Verdict]:
    """The layout at each window worth trying, and the verdict that speaks for it when none fits."""
    working, floor = _needed(recipe, dimensions)
    own = asked.max_model_len or dimensions.max_len or WORKING
    lengths = [own] if asked.max_model_len else sorted({own, *(n for n in _WINDOWS if floor <= n < own)}, reverse=True)
    found = []
    for length in lengths:
        verdict = fit.judge(dimensions, group, layout, replace(asked, max_model_len=length))
        if verdict.fits:
            enough = bool(asked.max_model_len) or length >= working
            found.append(_Judged(verdict, enough, verdict.concurrency >= ROOM, order))
            if enough and found[-1].roomy:
                break  # shorter ones rank lower
    speaks = own if asked.max_model_len else min(own, working)
    return found, fit.judge(dimensions, group, layout, replace(asked, max_model_len=speaks))


def _of_window(wish: Wish, dimensions: ModelShape, best: _Judged) -> tuple[str, ...]:
    """Why the window is not the model's own, when nobody asked for that."""
    length, own = best.verdict.max_model_len, dimensions.max_len
    if wish.max_model_len or own is None or length >= own:
        return ()
    why = "so that two such requests fit at once" if best.roomy else "which is enough for the work"
    return (f"The model's own window is {own:,} tokens; {length:,} is taken, {why}.",)


def _of_stretch(how: tuple[str, ...], dimensions: ModelShape) -> tuple[str, ...]:
    if not how:
        return ()
    longest = f"{dimensions.max_len:,}"
    return (
        f"The window is stretched by YaRN, to {longest} at most, for every request: short ones lose a little by it.",
    )
