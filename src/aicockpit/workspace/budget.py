"""How many tokens of repository a lane gets: what it is worth to the model, cut to what model and engine can hold.

Pure: values in, a value with its reasons out. All figures are tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from aicockpit.engines.kv import KvInfo

# The head may take this part of the model's length; the open file, the chat and the answer need the rest.
HEAD_SHARE = 0.5
# All heads of all workspaces together may take this part of the KV cache; requests in work need the rest.
KV_SHARE = 0.5
# At a change of epoch the old and the next one are resident side by side.
EPOCHS_AT_ONCE = 2
# Open files whose neighbourhoods are counted against the KV cache (more may be kept while there is room).
FOCUSES_COUNTED = 2
# And their snippets: in one of them somebody moves on, and the next ones are warmed beside those that serve.
SNIPPETS_COUNTED = FOCUSES_COUNTED + 1
# How an explicit budget is divided where the table gives a lane no pack: who asks for context wants some.
SPLIT = (0.7, 0.1, 0.1, 0.1)


class Worth(Protocol):
    """What the table of `prompts/worth.py` says of a model and lane."""

    @property
    def pack(self) -> int: ...
    @property
    def journal(self) -> int: ...
    @property
    def neighbourhood(self) -> int: ...
    @property
    def similar(self) -> int: ...
    @property
    def reason(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of each segment, and why so many. `kv`: the engine's cache was known and counted.

    `neighbourhood`: of skeletons, `similar`: of snippets.
    """

    pack: int
    journal: int
    neighbourhood: int
    similar: int
    reasons: tuple[str, ...] = ()
    kv: bool = False

    @property
    def total(self) -> int:
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.pack, self.journal, self.neighbourhood, self.similar

    @property
    def cost(self) -> int:
        """What all of it takes of a KV cache."""
        files = FOCUSES_COUNTED * self.neighbourhood + SNIPPETS_COUNTED * self.similar
        return EPOCHS_AT_ONCE * (self.pack + self.journal) + files


def wanted(worth: Worth, max_model_len: int | None, asked: int | None) -> Budget:
    """The budget before any engine's cache is looked at: it changes only with table, model or setting."""
    if asked is not None and asked <= 0:
        return Budget(0, 0, 0, 0, (f"budget set to {asked} tokens: no context",))
    reasons = [worth.reason] if worth.reason else []
    sizes = (worth.pack, worth.journal, worth.neighbourhood, worth.similar)
    if asked is not None:
        total = sum(sizes)
        parts = tuple(size / total for size in sizes) if worth.pack else SPLIT
        sizes = (int(asked * parts[0]), int(asked * parts[1]), int(asked * parts[2]), int(asked * parts[3]))
        reasons.append(f"budget set to {asked} tokens")
    found = Budget(*sizes, tuple(reasons))
    if max_model_len is not None:
        limit = int(max_model_len * HEAD_SHARE)
        found = _scaled(found, found.total, limit, f"the model's length of {max_model_len} leaves {limit} for the head")
    return found


def budget(
    worth: Worth, max_model_len: int | None, kv: KvInfo | None, asked: int | None, workspaces: int, lanes: int = 1
) -> Budget:
    """The budget of one lane of one workspace.

    `asked` is an explicit budget in tokens (0: none), `workspaces` and `lanes` how many share the cache. The number
    of workspaces is rounded up to a power of two, so that one more of them rarely changes everybody's pack.
    """
    found = wanted(worth, max_model_len, asked)
    if not found.total:
        return found
    if kv is None:
        return replace(found, reasons=(*found.reasons, "no engine has told the size of its KV cache yet"))
    shares = (1 << max(0, workspaces - 1).bit_length()) * max(1, lanes)
    limit = int(kv.tokens * KV_SHARE) // shares
    why = f"the KV cache of {kv.tokens} tokens leaves {limit} of them to each of {shares} shares"
    return replace(_scaled(found, found.cost, limit, why), kv=True)


def _scaled(found: Budget, cost: int, limit: int, why: str) -> Budget:
    """All segments cut in proportion when `cost` is above `limit`."""
    if cost <= limit:
        return found
    part = limit / cost
    pack, journal, near, similar = (int(size * part) for size in found.sizes)
    return Budget(pack, journal, near, similar, (*found.reasons, f"cut to {part:.0%}: {why}"))
