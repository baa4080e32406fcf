"""A choice, a refusal or a recipe as text and as JSON. Pure; `commands/recipes.py` prints what comes out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from aicockpit.hardware import fit
from aicockpit.recipes import flags
from aicockpit.recipes.load import Loaded
from aicockpit.recipes.schema import Recipe, precision_rank
from aicockpit.recipes.search import Refused, Rejected
from aicockpit.recipes.select import Chosen
from aicockpit.recipes.spot import WORKING

VERSION = 1  # of the JSON
_COUNTED = re.compile(r"(?P<what>.*) on (?P<count>\d+) x (?P<card>[^+]+)")
_CHECKED = {"index": "read from its index", "parameters": "its published parameters x bytes", "card": "its card"}


def serve_line(chosen: Chosen) -> list[str]:
    """The command by hand, a flag a line: `VAR=1 vllm serve MODEL \\`, `  --flag value \\` ..."""
    env = [f"{name}={shlex.quote(value)}" for name, value in chosen.env]
    head = " ".join([*env, "vllm serve", shlex.quote(chosen.model_id)])
    groups = [shlex.join(group) for _, group in flags.split(words(chosen)[1:])]
    lines = [head, *(f"  {group}" for group in groups)]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def words(chosen: Chosen) -> list[str]:
    """What follows `vllm serve`."""
    revision = ("--revision", chosen.revision) if chosen.revision else ()
    return [chosen.model_id, *revision, *chosen.flags]


def memory(verdict: fit.Verdict) -> str:
    """The sum on the tightest GPU: `weights 18.0 GiB + activation 2.25 GiB + ... = budget 43.6 GiB (...)`."""
    terms = " + ".join(f"{term.name} {fit.gib(term.bytes)}" for term in verdict.terms if term.bytes)
    return f"{terms} = {verdict.budget.name} {fit.gib(verdict.budget.bytes)} ({verdict.budget.how})"


def collapse(rejected: Sequence[Rejected]) -> list[Rejected]:
    """One line for the same reason: `default, awq` and `default, awq on 2, 4 to 8 x NVIDIA L4`."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    counts: dict[tuple[str, str, str], list[int]] = {}
    for one in rejected:
        match = _COUNTED.fullmatch(one.candidate)
        if match is None:
            groups.setdefault((one.reason, "", ()), []).append(one.candidate)
        else:
            counts.setdefault((one.reason, match["card"], match["what"]), []).append(int(match["count"]))
            groups.setdefault((one.reason, match["card"], ()), [])
    for (reason, card, what), numbers in counts.items():
        groups.setdefault((reason, card, tuple(sorted(numbers))), []).append(what)
    order = list(dict.fromkeys((reason, card) for reason, card, _ in groups))
    listed = sorted((key for key, names in groups.items() if names), key=lambda key: order.index(key[:2]))
    return [Rejected(_called(groups[key], key[1], key[2]), key[0]) for key in listed]


def _called(names: Sequence[str], card: str, counts: Sequence[int]) -> str:
    joined = ", ".join(names)
    return f"{joined} on {_runs(counts)} x {card}" if counts else joined


def _runs(counts: Sequence[int]) -> str:
    """`1, 2, 4 to 8`."""
    runs: list[list[int]] = []
    for count in counts:
        if runs and count == runs[-1][-1] + 1:
            runs[-1].append(count)
        else:
            runs.append([count])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def document(outcome: Chosen | Refused) -> dict[str, Any]:
    """As JSON. `command` is a list of words; null fields are unknown."""
    rejected = [asdict(one) for one in outcome.rejected]
    common: dict[str, Any] = {"version": VERSION, "reasons": list(outcome.reasons), "rejected": rejected}
    if isinstance(outcome, Refused):
        return {**common, "chosen": None, "advice": list(outcome.advice)}
    verdict = outcome.verdict
    chosen = {
        "recipe": outcome.recipe or None,
        "variant": outcome.variant,
        "model": outcome.model_id,
        "revision": outcome.revision or None,
        "precision": outcome.precision,
        "layout": asdict(outcome.layout),
        "gpus": [{"name": one.name, "index": one.index, "uuid": one.uuid} for one in outcome.devices],
        "flags": list(outcome.flags),
        "env": dict(outcome.env),
        "command": ["vllm", "serve", *words(outcome)],
        "max_model_len": verdict.max_model_len,
        "kv_tokens": verdict.kv_tokens,
        "concurrency": round(verdict.concurrency, 2),
        "memory": [{"name": term.name, "bytes": term.bytes, "how": term.how} for term in verdict.terms],
        "budget": verdict.budget.bytes,
    }
    return {**common, "chosen": chosen, "advice": []}


def row(one: Loaded) -> tuple[str, ...]:
    """For a list: id, parameters (of which active), roles, fill in the middle, precisions, window, licence."""
    recipe = one.recipe
    seen = dict.fromkeys(variant.precision for variant in recipe.variants.values())
    precisions = " ".join(sorted(seen, key=precision_rank))
    size, active = recipe.model.parameter_count or "-", recipe.model.active_parameters
    size += f" / {active}" if active not in ("", size) else ""
    length = f"{recipe.model.context_length:,}" if recipe.model.context_length else "-"
    fim = "FIM" if recipe.aicockpit.fim else ""
    roles = " ".join(recipe.roles) or "-"
    gate = " (gated)" if recipe.aicockpit.gated else ""
    licence = (recipe.aicockpit.licence or "-") + gate
    return (recipe.id + ("" if one.shipped else " (yours)"), size, roles, fim, precisions, length, licence)


def window(recipe: Recipe) -> str:
    """`32,768`, `32,768 (131,072 by YaRN)`, `-` when the recipe does not tell."""
    own, yarn = recipe.model.context_length, recipe.aicockpit.window.yarn
    if own is None:
        return "-"
    return f"{own:,}" + (f" ({int(yarn.factor * yarn.original):,} by YaRN)" if yarn else "")


def facts(one: Loaded) -> Iterator[tuple[str, str]]:
    """What `show` tells of a recipe, as (what, text)."""
    recipe, ours = one.recipe, one.recipe.aicockpit
    yield "what", recipe.meta.description
    yield "from", f"{recipe.meta.provider or 'unknown'}; recipe {'shipped' if one.shipped else one.path}"
    yield "roles", ", ".join(recipe.roles) or "-"
    yield "fill in the middle", f"yes, as {ours.fim}" if ours.fim else "no"
    floor = ours.window.working or min(WORKING, recipe.model.context_length or WORKING)
    yield "window", f"{window(recipe)} tokens; {floor:,} are enough for its work"
    gate = "; gated: accept it on the Hub and set HF_TOKEN" if ours.gated else ""
    yield "licence", (ours.licence or "not told") + gate
    for name, feature in recipe.features.items():
        state = "on when asked for" if name in recipe.opt_in_features else "on"
        args = feature.args or tuple(word for mode in feature.modes.values() for word in mode.args)
        told = f". {feature.description}" if feature.description else ""
        yield f"feature {name}", f"{state}: {shlex.join(args)}{told}"
    if ours.shape:
        checked = "" if ours.shape.verified else "not verified: "
        yield "dimensions", checked + ours.shape.source
    for note in (*ours.notes, *one.notes):
        yield "note", note


def checkpoints(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    """Rows of `show`: variant, Hub id, precision, size of the weights, how that is known, what to know of it."""
    for name, variant in recipe.variants.items():
        known = recipe.checkpoint(name)
        size = "-" if known.weights is None else f"{known.weights / 1e9:.1f} GB"
        how = "-" if known.weights is None else _CHECKED.get(known.source, "computed from its dimensions")
        if known.weights is not None and not known.verified and known.source != "arithmetic":
            how += ", not verified"
        roles = f"; for {', '.join(known.roles)} alone" if known.roles else ""
        manual = f"; only when asked for: {known.manual}" if known.manual else ""
        yield (name, recipe.model_id(name), variant.precision, size, how, f"{variant.description}{roles}{manual}")
