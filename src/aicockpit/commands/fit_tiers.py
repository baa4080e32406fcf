"""The table of docs/kv-tiers.md: what a pack's KV weighs, and how long it takes to compute or to load. Predictions.

`python -m aicockpit.commands.fit --tiers` prints it from the shipped recipes and the known cards. Pure but for reading
them. Computing is counted as 2 x active parameters a token (Kaplan et al., arXiv 2001.08361, section 2.1, without the
part of attention that grows with the length, so long packs take longer than this says).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aicockpit.hardware import cards, fit_kv
from aicockpit.recipes import load, spot
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.select import Chosen, select

BEGIN, END = "<!-- tiers:begin -->", "<!-- tiers:end -->"
PACKS = (2_000, 8_000, 32_000)  # tokens
USED = 0.4  # of the tensor cores' data sheet, assumed for a prefill
# Bytes a second, assumed: PCIe 4 x16 of one GPU and what a host's memory gives to all, one NVMe drive, one SATA drive.
LINK, HOST, NVME, SATA = 25e9, 100e9, 3e9, 0.5e9
MACHINES = (
    ("RTX4090", ("qwen2.5-coder-7b", "qwen2.5-coder-14b")),
    ("A6000", ("qwen2.5-coder-32b", "qwen3-coder-30b-a3b")),
    ("H100:8", ("llama-3.3-70b", "qwen3-coder-480b-a35b")),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One model where `recipes explain` puts it. `token`: bytes of KV, over all GPUs; `held`: tokens in the GPUs'
    cache; `speed`: tokens a second of a prefill, `link`: bytes a second from the host's memory."""

    machine: str
    model: str
    token: int
    held: int
    speed: float
    link: float

    def compute(self, tokens: int) -> float:
        """Seconds."""
        return tokens / self.speed

    def load(self, tokens: int, rate: float) -> float:
        """Seconds from a tier that reads `rate` bytes a second, and then goes over the link as well."""
        return tokens * self.token / min(rate, self.link)

    @property
    def even(self) -> float:
        """Bytes a second above which loading is faster than computing."""
        return self.token * self.speed


def cases() -> Iterator[Case]:
    """Every model of `MACHINES`, as selection runs it there."""
    library = load.library()
    for machine, ids in MACHINES:
        for name in ids:
            chosen = select(Wish(name), library.recipes, cards.parse(machine), lambda _: None)
            assert isinstance(chosen, Chosen)
            recipe = library.find(name).recipe
            dimensions = spot.recipe_shape(recipe, chosen.variant)
            assert dimensions is not None
            made = fit_kv.cache(dimensions, "auto", 1, range(dimensions.layers), 0)
            flops = sum((device.tflops or 0.0) * 1e12 for device in chosen.devices)
            speed = USED * flops / (2 * _active(recipe.model.active_parameters or recipe.model.parameter_count))
            link = min(HOST, LINK * len(chosen.devices))
            yield Case(machine, chosen.model_id, made.per_token, chosen.verdict.kv_tokens, speed, link)


def _active(text: str) -> float:
    """`3.3B`."""
    return float(text.removesuffix("B")) * 1e9


def markdown() -> str:
    """The table, between the markers' lines."""
    head = ["machine and model", "KV a token", "GPU holds", "pack", "its KV", "compute", "memory", "NVMe", "SATA"]
    head.append("even at")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for case in cases():
        for number, tokens in enumerate(PACKS):
            first = number == 0
            cells = [
                f"{_counted(case.machine)}: {case.model.rpartition('/')[2]}" if first else "",
                f"{case.token / 1024:.0f} KiB" if first else "",
                f"{case.held:,} tokens" if first else "",
                f"{tokens:,}",
                _bytes(tokens * case.token),
                *(_seconds(one) for one in (case.compute(tokens), case.load(tokens, HOST))),
                *(_seconds(case.load(tokens, rate)) for rate in (NVME, SATA)),
                f"{case.even / 1e9:.1f} GB/s" if first else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([BEGIN, *lines, END])


def _counted(machine: str) -> str:
    name, _, count = machine.partition(":")
    return f"{count} x {name}" if count else name


def _bytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"
