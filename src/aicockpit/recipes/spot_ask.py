"""What vLLM's flags say of memory, as a question to `hardware.fit`. Pure; `spot.py` exports `asked` for its callers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aicockpit.hardware import fit
from aicockpit.hardware.device import GIB
from aicockpit.hardware.shape import ModelShape
from aicockpit.recipes import flags

_RANK = 16  # vLLM's max_lora_rank when none is given
# Methods of `--speculative-config` that need no weights of their own, and the one whose model is a whole one.
_FREE = ("ngram", "[ngram]", "ngram_gpu", "suffix", "extract_hidden_states")
_WHOLE = ("draft_model", "")


@dataclass(frozen=True, slots=True)
class Draft:
    """What `--speculative-config` names. `model` "" where the method takes none; `tensor` 0: as the model's."""

    method: str = ""
    model: str = ""
    tensor: int = 0

    @property
    def whole(self) -> bool:
        """It is a model of its own, not a head beside the layers of the other."""
        return bool(self.model) and self.model not in _FREE and self.method in _WHOLE


def asked(words: Sequence[str], draft: ModelShape | None = None) -> fit.Ask:
    """What vLLM's flags say of memory. A value that is none is vLLM's to refuse. `draft`: the dimensions of the draft
    model that they name, None when these are not known."""
    try:
        share = float(flags.value(words, "--gpu-memory-utilization") or fit.UTILISATION)
    except ValueError:
        share = fit.UTILISATION
    offload, unmoved = _offload(words)
    named = drafted(words)
    known = draft if named and named.whole else None
    return fit.Ask(
        flags.number(flags.value(words, "--max-model-len")),
        share,
        flags.number(flags.value(words, "--max-num-batched-tokens")),
        flags.number(flags.value(words, "--max-num-seqs")),
        flags.value(words, "--kv-cache-dtype") or "auto",
        flags.value(words, "--enforce-eager") is not None,
        _lora_rank(words),
        flags.number(flags.value(words, "--max-loras")) or 1,
        offload,
        known,
        named.tensor if named else 0,
        (*unmoved, *_uncounted(named, known)),
    )


def drafted(words: Sequence[str]) -> Draft | None:
    """What proposes tokens, or None: `--speculative-config` whole or in parts (`--speculative-config.model x`), or its
    short forms. A value that is no JSON is vLLM's to refuse."""
    found: dict[str, object] = {}
    for flag, group in flags.split(words):
        text = flags.value(group, flag) or ""
        if flag in ("--spec-model", "--spec-method"):
            found[flag.removeprefix("--spec-")] = text
        elif flag == "--speculative-config":
            key = group[0].partition("=")[0].partition(".")[2]
            found.update({key: text} if key else _object(text))
    method, model, tensor = (found.get(key) for key in ("method", "model", "draft_tensor_parallel_size"))
    if not method and not model:
        return None
    return Draft(str(method or ""), str(model or ""), flags.number(str(tensor)) or 0)


def _object(text: str) -> Mapping[str, object]:
    try:
        made = json.loads(text)
    except ValueError:
        return {}
    return made if isinstance(made, dict) else {}


def _lora_rank(words: Sequence[str]) -> int:
    if flags.value(words, "--enable-lora") is None:
        return 0
    return flags.number(flags.value(words, "--max-lora-rank")) or _RANK


def _offload(words: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """(bytes of weights a GPU for the host's memory, what of such flags is not counted)."""
    backend = flags.value(words, "--offload-backend") or "auto"
    layers = flags.number(flags.value(words, "--offload-group-size")) or 0
    if backend == "prefetch" or (backend == "auto" and layers):
        return 0, ("what --offload-group-size moves to the host's memory is not counted",) if layers else ()
    try:
        size = float(flags.value(words, "--cpu-offload-gb") or 0)
    except ValueError:
        size = 0.0
    if not math.isfinite(size) or size <= 0:
        return 0, ()
    if flags.value(words, "--cpu-offload-params") is not None:
        return 0, ("--cpu-offload-gb is not counted: what --cpu-offload-params names may be less",)
    return int(size * GIB), ()


def _uncounted(draft: Draft | None, known: ModelShape | None) -> tuple[str, ...]:
    if draft is None or (not draft.model and draft.method in _FREE) or draft.model in _FREE:
        return ()
    if known is not None:
        return (f"the KV cache of the draft model {draft.model} is not counted, its weights are",)
    if draft.model:
        return (f"the draft model {draft.model} (--speculative-config) is not counted: leave room for it",)
    return (f"what {draft.method} (--speculative-config) keeps beside the checkpoint's weights is not counted",)
