"""What each model asked for needs on this machine, before anything is downloaded: recipe, layout, memory, or a refusal.

Called by `roster.py`; `recipes/select.py` and `hardware/fit.py` decide.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aicockpit.errors import AicockpitError, SettingError
from aicockpit.hardware import fit
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.shape import ModelShape
from aicockpit.recipes import flags, lora, spot, tier
from aicockpit.recipes.arrange import Sized
from aicockpit.recipes.command import CPU_KV_BYTES
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.fleet import FleetModel
from aicockpit.recipes.place import Slot
from aicockpit.recipes.schema import Recipe
from aicockpit.recipes.select import Chosen, Refused, select
from aicockpit.settings import Settings
from aicockpit.types import KvTier

log = logging.getLogger(__name__)

# What an engine on the CPU takes whose dimensions are unknown, beside its KV cache: measured with a small model.
_CPU_UNKNOWN = int(2.1 * GIB)
# A KV cache for one longest request is a little more than its tokens: blocks are not shared between requests.
_MARGIN = 1.05
_NO_LIMIT = 1 << 50  # bytes
# Of the memory that is free, what engines on the CPU may take: the machine has other things to do, too.
HOST_SHARE = 0.9
# Terms of a verdict that are no weights: what of them vLLM's sleep gives back is unknown, so all of it counts as kept.
_KEPT_ASLEEP = ("activation", "CUDA", "CUDA and NCCL", "CUDA graphs")

Shapes = Callable[[str], ModelShape | None]


@dataclass(frozen=True, slots=True)
class Sizer:
    """`slots` are the GPUs that may be used; `shape_of` tells the dimensions of a folder or Hub id, None if unknown.

    `memory`: bytes of the host. `unknown`: why, for models whose dimensions could not be read. `cpu`: what the CPU can
    do, by the kernel's names.
    """

    settings: Settings
    recipes: Sequence[Recipe]
    slots: Sequence[Slot]
    shape_of: Shapes
    memory: int | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
    cpu: tuple[str, ...] | None = None

    def size(self, m: FleetModel) -> Sized:
        """Raises SettingError when the model does not fit, with the arithmetic and what would."""
        adapters = (lora.ENABLE,) if m.lora is not None else ()
        theirs = flags.merge(adapters, flags.merge(self.settings.engine_args, m.args))
        devices, count = self._devices(m)
        wish = Wish(
            m.model.partition("@")[0],
            m.precision,
            count,
            m.context or flags.number(flags.value(theirs, "--max-model-len")),
            m.role or "",
            exact="@" in m.model,
            vllm=flags.reader(self.settings),
            memory=self.memory,
            args=theirs,
            draft=spot.draft(theirs, self.recipes, self.shape_of),
            cpu=self.cpu,
        )
        found = select(wish, self.recipes, devices, self.shape_of)
        if isinstance(found, Chosen):
            return self._chosen(m, wish, found)
        reasons = found.reasons
        if not found.rejected and (why := self.unknown.get(m.model)):
            reasons = (*reasons, why)
        on_cpu = not devices and count in (None, 0)
        if on_cpu and not found.rejected:
            return self._on_cpu(m, reasons)
        if not self.settings.fit:
            log.warning("%s is started although it may not fit: %s", m.model, " ".join(reasons))
            return self._on_cpu(m, reasons) if on_cpu else self._unfitted(m, wish, devices)
        last = "AICOCKPIT_FIT=off starts it all the same; `aicockpit recipes explain` shows every candidate."
        raise SettingError("\n  ".join([*reasons, *found.advice, last]))

    def _unfitted(self, m: FleetModel, wish: Wish, devices: Sequence[Device]) -> Sized:
        """As the recipe has it on all GPUs that it may use, were their memory no limit."""
        vast = [replace(device, memory=_NO_LIMIT, free=None) for device in devices]
        wish = replace(wish, gpu_count=wish.gpu_count or len(vast), memory=None)
        found = select(wish, self.recipes, vast, self.shape_of)
        if isinstance(found, Refused):
            return Sized(wish.gpu_count or 1, role=m.role or "chat")
        return replace(self._chosen(m, wish, found), least=0, reasons=(), window=None, host=0, asleep=0)

    def _devices(self, m: FleetModel) -> tuple[tuple[Device, ...], int | None]:
        """The GPUs that one engine may use, and how many it is to have."""
        if isinstance(m.gpus, tuple):
            by_name = {slot.id: slot.device for slot in self.slots} | {
                slot.device.uuid: slot.device for slot in self.slots if slot.device.uuid
            }
            if missing := [name for name in m.gpus if name not in by_name]:
                there = ", ".join(slot.id for slot in self.slots) or "none"
                raise SettingError(f"{m.model}: there is no GPU {missing[0]!r} that can be used; there are: {there}.")
            count = len(m.gpus) // m.replicas
            return tuple(by_name[name] for name in m.gpus[:count]), count
        if m.gpus == "auto":
            return tuple(slot.device for slot in self.slots), None
        count = m.gpus // m.replicas
        return (tuple(slot.device for slot in self.slots), count) if count else ((), 0)

    def _chosen(self, m: FleetModel, wish: Wish, found: Chosen) -> Sized:
        verdict, role = found.verdict, m.role or _role(self.recipes, found)
        same = found.model_id.lower() == m.model.partition("@")[0].lower()
        keeps = "@" in m.model or (same and not found.revision)
        model = "" if keeps else f"{found.model_id}@{found.revision}".rstrip("@")
        kept, reasons = self._tier(found, wish.args)
        if not found.devices:
            return Sized(0, verdict.budget.bytes, found.flags, found.env, role, model, reasons, kv_tier=kept)
        window = verdict.max_model_len if wish.max_model_len else min(verdict.max_model_len, spot.WORKING)
        fixed = sum(term.bytes for term in verdict.terms[:-1])
        each = verdict.terms[-1].bytes / verdict.kv_tokens if verdict.kv_tokens else 0.0
        # A window that just fits has no more than the verdict found for it.
        least = fixed + min(verdict.terms[-1].bytes, int(_MARGIN * window * each))
        kind = found.devices[0].name
        asleep = sum(term.bytes for term in verdict.terms[:-1] if term.name in _KEPT_ASLEEP)
        weights = (fixed - asleep) * found.layout.gpus
        rest = (found.flags, found.env, role, model, reasons, window, kind, kept, verdict.host, weights, asleep)
        return Sized(found.layout.gpus, least, *rest)

    def _tier(self, found: Chosen, given: Sequence[str]) -> tuple[KvTier | None, tuple[str, ...]]:
        """What the recipe says of KV tiers, left out where it is not possible: a recipe is for many machines."""
        if found.kv_tier is None:
            return None, found.reasons
        place = tier.place(self.settings, bool(found.devices))
        known, theirs = self.shape_of(found.model_id), flags.merge(found.flags, given)
        layers = known.layer_kinds if known else ()
        told = tier.judged(found.kv_tier, place, tier.folder(self.settings), theirs, layers=layers)
        if isinstance(told, tier.Tier):
            return found.kv_tier, found.reasons
        return None, (*found.reasons, f"The recipe's kv_tier {found.kv_tier} is left out: {told.why}.")

    def _on_cpu(self, m: FleetModel, reasons: tuple[str, ...]) -> Sized:
        """Nobody knows what it needs: vLLM will say what is wrong, if anything is."""
        known = self.shape_of(m.model)
        weights = 0 if known is None else known.weights or 0
        return Sized(0, _CPU_UNKNOWN + weights + CPU_KV_BYTES, role=m.role or "chat", reasons=reasons)


def predict(shape: ModelShape, argv: Sequence[str], devices: Sequence[Device]) -> int | None:
    """Tokens of KV cache that an engine with this command should report; None where it cannot be told."""
    words = argv[next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv)) :]
    asked = spot.asked(words)
    if asked.uncounted:
        return None
    kv, block = (flags.number(flags.value(words, name)) for name in ("--kv-cache-memory-bytes", "--block-size"))
    try:
        if not devices:
            return fit.cpu(shape, kv, block, asked).kv_tokens if kv and block else None
        sizes = [flags.number(flags.value(words, name)) or 1 for name in spot.SIZES]
        expert = flags.value(words, "--enable-expert-parallel") is not None
        layout = fit.Layout(sizes[0], sizes[1], sizes[2], expert)
        return fit.judge(shape, devices, layout, asked).kv_tokens or None
    except AicockpitError:
        return None


def _role(recipes: Sequence[Recipe], found: Chosen) -> str:
    roles: Mapping[str, Sequence[str]] = {recipe.id: recipe.roles for recipe in recipes}
    return next(iter(roles.get(found.recipe, ())), "chat")
