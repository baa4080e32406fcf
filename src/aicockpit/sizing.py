"""What each model asked for needs on this machine, before anything is downloaded: recipe, layout, memory, or a refusal.

Called by `roster.py`; `recipes/select.py` and `hardware/fit.py` decide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aicockpit.errors import AicockpitError, SettingError
from aicockpit.hardware import fit
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.shape import ModelShape
from aicockpit.recipes import flags
from aicockpit.recipes.arrange import Sized
from aicockpit.recipes.command import CPU_KV_BYTES
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.fleet import FleetModel
from aicockpit.recipes.place import Slot
from aicockpit.recipes.schema import Recipe
from aicockpit.recipes.select import Chosen, Refused, select
from aicockpit.recipes.spot import WORKING
from aicockpit.settings import Settings

log = logging.getLogger(__name__)

# What an engine on the CPU takes whose dimensions are unknown, beside its KV cache: measured with a small model.
_CPU_UNKNOWN = int(2.1 * GIB)
# A KV cache for one longest request is a little more than its tokens: blocks are not shared between requests.
_MARGIN = 1.05

Shapes = Callable[[str], ModelShape | None]


@dataclass(frozen=True, slots=True)
class Sizer:
    """`slots` are the GPUs that may be used; `shape_of` tells the dimensions of a folder or Hub id, None if unknown.

    `memory`: bytes of the host.
    """

    settings: Settings
    recipes: Sequence[Recipe]
    slots: Sequence[Slot]
    shape_of: Shapes
    memory: int | None = None

    def size(self, m: FleetModel) -> Sized:
        """Raises SettingError when the model does not fit, with the arithmetic and what would."""
        theirs = flags.merge(self.settings.engine_args, m.args)
        devices, count = self._devices(m)
        wish = Wish(
            m.model.partition("@")[0],
            m.precision,
            count,
            m.context or flags.number(flags.value(theirs, "--max-model-len")),
            m.role or "",
            exact="@" in m.model,
            utilisation=_share(theirs),
            vllm=flags.reader(self.settings),
            memory=self.memory,
        )
        found = select(wish, self.recipes, devices, self.shape_of)
        if isinstance(found, Chosen):
            return self._chosen(m, found)
        if not devices and (count in (None, 0)):
            return self._on_cpu(m, found)
        if not self.settings.fit:
            log.warning("%s is started although it may not fit: %s", m.model, " ".join(found.reasons))
            return Sized(count or 1, role=m.role or "chat")
        raise SettingError(
            "\n  ".join(
                [
                    *found.reasons,
                    *found.advice,
                    "AICOCKPIT_FIT=off starts it all the same; `aicockpit recipes explain` shows every candidate.",
                ]
            )
        )

    def _devices(self, m: FleetModel) -> tuple[tuple[Device, ...], int | None]:
        """The GPUs that one engine may use, and how many it is to have."""
        if isinstance(m.gpus, tuple):
            by_name = {slot.id: slot.device for slot in self.slots} | {
                slot.device.uuid: slot.device for slot in self.slots if slot.device.uuid
            }
            count = len(m.gpus) // m.replicas
            return tuple(by_name[name] for name in m.gpus[:count] if name in by_name), count
        if m.gpus == "auto":
            return tuple(slot.device for slot in self.slots), None
        count = m.gpus // m.replicas
        return (tuple(slot.device for slot in self.slots), count) if count else ((), 0)

    def _chosen(self, m: FleetModel, found: Chosen) -> Sized:
        verdict, role = found.verdict, m.role or _role(self.recipes, found)
        same = found.model_id.lower() == m.model.partition("@")[0].lower()
        keeps = "@" in m.model or (same and not found.revision)
        model = "" if keeps else f"{found.model_id}@{found.revision}".rstrip("@")
        if not found.devices:
            return Sized(0, verdict.budget.bytes, found.flags, found.env, role, model, found.reasons)
        window = min(verdict.max_model_len, WORKING)
        fixed = sum(term.bytes for term in verdict.terms[:-1])
        each = verdict.terms[-1].bytes / verdict.kv_tokens if verdict.kv_tokens else 0.0
        least = fixed + int(_MARGIN * window * each)
        return Sized(found.layout.gpus, least, found.flags, found.env, role, model, found.reasons, window)

    def _on_cpu(self, m: FleetModel, refused: Refused) -> Sized:
        """A demo is better than nothing: vLLM will say what is wrong, if anything is."""
        known = self.shape_of(m.model)
        weights = 0 if known is None else known.weights or 0
        return Sized(0, _CPU_UNKNOWN + weights + CPU_KV_BYTES, role=m.role or "chat", reasons=refused.reasons)


def predict(shape: ModelShape, argv: Sequence[str], devices: Sequence[Device]) -> int | None:
    """Tokens of KV cache that an engine with this command should report; None where it cannot be told."""
    words = argv[next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv)) :]
    asked = fit.Ask(
        flags.number(flags.value(words, "--max-model-len")),
        _share(words),
        flags.number(flags.value(words, "--max-num-batched-tokens")),
        flags.number(flags.value(words, "--max-num-seqs")),
        flags.value(words, "--kv-cache-dtype") or "auto",
        flags.value(words, "--enforce-eager") is not None,
    )
    kv, block = (flags.number(flags.value(words, name)) for name in ("--kv-cache-memory-bytes", "--block-size"))
    try:
        if not devices:
            return fit.cpu(shape, kv, block, asked).kv_tokens if kv and block else None
        sizes = [flags.number(flags.value(words, name)) or 1 for name in _SIZES]
        expert = flags.value(words, "--enable-expert-parallel") is not None
        layout = fit.Layout(sizes[0], sizes[1], sizes[2], expert)
        return fit.judge(shape, devices, layout, asked).kv_tokens or None
    except AicockpitError:
        return None


_SIZES = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")


def _share(args: Sequence[str]) -> float:
    """`--gpu-memory-utilization`, or vLLM's default."""
    try:
        return float(flags.value(args, "--gpu-memory-utilization") or fit.UTILISATION)
    except ValueError:
        return fit.UTILISATION


def _role(recipes: Sequence[Recipe], found: Chosen) -> str:
    roles: Mapping[str, Sequence[str]] = {recipe.id: recipe.roles for recipe in recipes}
    return next(iter(roles.get(found.recipe, ())), "chat")
