"""The tables of docs/kv-tiers.md (a pack's KV: its size, how long to compute, how long to load) and of
docs/workspaces.md (which packs are built on a machine). Predictions.

`python -m aicockpit.commands.fit --tiers` and `--packs` print them from the shipped recipes, the known cards and the
shipped table of budgets. Pure but for reading them. Computing is counted as 2 x active parameters a token (Kaplan et
al., arXiv 2001.08361, section 2.1, without the part of attention that grows with the length, so long packs take longer
than this says).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aicockpit.engines.kv import KvInfo
from aicockpit.hardware import cards, fit, fit_kv
from aicockpit.prompts import worth
from aicockpit.recipes import command, load, spot
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.select import Chosen, select
from aicockpit.workspace.budget import Budget, budget

BEGIN, END = "<!-- tiers:begin -->", "<!-- tiers:end -->"
PACKS_BEGIN, PACKS_END = "<!-- packs:begin -->", "<!-- packs:end -->"
WORKSPACES = (1, 2, 4, 8)  # that share an engine's cache
BLOCK = 16  # tokens, vLLM's on GPUs
DEMO = "smollm2-135m"
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
    cache; `window`: of the model; `speed`: tokens a second of a prefill, `link`: bytes a second from the host's
    memory."""

    machine: str
    model: str
    token: int
    held: int
    window: int
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
            held, window = chosen.verdict.kv_tokens, chosen.verdict.max_model_len
            yield Case(machine, chosen.model_id, made.per_token, held, window, speed, link)


def built(model: str, held: int, window: int, workspaces: int) -> dict[str, Budget]:
    """What the code builds for each lane where `workspaces` of them share a cache of `held` tokens, nothing set."""
    table, kv = worth.shipped(), KvInfo(BLOCK, held // BLOCK)
    lanes = len(worth.LANES)
    return {lane: budget(table.lookup(model, lane), window, kv, None, workspaces, lanes) for lane in worth.LANES}


def _active(text: str) -> float:
    """`3.3B`."""
    return float(text.removesuffix("B")) * 1e9


def markdown() -> str:
    """The table, between the markers' lines."""
    head = ["machine and model", "KV a token", "GPU holds", "pack", "its KV", "compute", "memory", "NVMe", "SATA"]
    head.append("even at")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for case in cases():
        for lane, size in built(case.model, case.held, case.window, 1).items():
            first, tokens = lane == worth.LANES[0], size.pack
            cells = [
                f"{_counted(case.machine)}: {case.model.rpartition('/')[2]}" if first else "",
                f"{case.token / 1024:.0f} KiB" if first else "",
                f"{case.held:,} tokens" if first else "",
                f"{lane}: {tokens:,}",
                _bytes(tokens * case.token),
                *(_seconds(one) for one in (case.compute(tokens), case.load(tokens, HOST))),
                *(_seconds(case.load(tokens, rate)) for rate in (NVME, SATA)),
                f"{case.even / 1e9:.1f} GB/s" if first else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([BEGIN, *lines, END])


def packs() -> str:
    """The table of docs/workspaces.md, between its markers' lines: tokens of a workspace's two packs."""
    head = ["machine and model", "KV cache", *(f"{count} at work" for count in WORKSPACES)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    places = [(_counted(one.machine), one.model, one.held, one.window) for one in cases()]
    for machine, model, held, window in (_demo(), *places):
        cells = [f"{machine}: {model.rpartition('/')[2]}", f"{held:,}"]
        for count in WORKSPACES:
            made = built(model, held, window, count)
            cells.append(" + ".join(f"{made[lane].pack:,}" for lane in worth.LANES))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([PACKS_BEGIN, *lines, PACKS_END])


def _demo() -> tuple[str, str, int, int]:
    """The model of the CPU profile, with the cache that an engine of ours gets on the CPU."""
    recipe = load.library().find(DEMO).recipe
    dimensions = spot.recipe_shape(recipe, next(iter(recipe.variants)))
    assert dimensions is not None
    verdict = fit.cpu(dimensions, command.CPU_KV_BYTES, command.CPU_BLOCK, fit.Ask())
    return "CPU", recipe.model.model_id, verdict.kv_tokens, verdict.max_model_len


def _counted(machine: str) -> str:
    name, _, count = machine.partition(":")
    return f"{count} x {name}" if count else name


def _bytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"
