"""Which GPUs reach which, and how well. Pure: pairs as the drivers tell them in, sentences and groups out.

`detect.devices`, the placement of a fleet and `aicockpit doctor` call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aicockpit.hardware.device import Peer
from aicockpit.hardware.machine import Gpu, Kind, Pair

FAST: tuple[Kind, ...] = ("nvlink", "xgmi")
_WORDS: dict[Kind, str] = {
    "nvlink": "NVLink",
    "xgmi": "xGMI",
    "board": "PCIe, one board",
    "switch": "PCIe, one switch",
    "switches": "PCIe, several switches",
    "bridge": "PCIe, one host bridge",
    "node": "PCIe, across host bridges of one NUMA node",
    "system": "PCIe, across CPU sockets",
    "pcie": "PCIe",
}


def peer(index: int, pairs: Sequence[Pair] | None) -> Peer | None:
    """How a GPU reaches the others: `nvlink` (or xGMI) when it reaches all of them so, `pcie` else. None: unknown,
    or there is no other."""
    kinds = [pair.kind for pair in pairs or () if index in (pair.a, pair.b)]
    if not kinds:
        return None
    if any(kind is not None and kind not in FAST for kind in kinds):
        return "pcie"
    return None if None in kinds else "nvlink"


def islands(indices: Iterable[int], pairs: Sequence[Pair] | None) -> tuple[tuple[int, ...], ...]:
    """Groups of GPUs in which every GPU reaches every other by NVLink or xGMI; largest first. A GPU is in one group.

    A tensor-parallel engine belongs into one of them: vLLM leaves its fast all-reduce when one pair is not so linked.
    """
    fast = {frozenset((pair.a, pair.b)) for pair in pairs or () if pair.kind in FAST}
    left, groups = sorted(set(indices)), []
    while left:
        best: tuple[int, ...] = ()
        for start in left:
            group = [start]
            for other in left:
                if other != start and all(frozenset((other, one)) in fast for one in group):
                    group.append(other)
            if len(group) > len(best):
                best = tuple(sorted(group))
        groups.append(best)
        left = [index for index in left if index not in best]
    return tuple(sorted(groups, key=lambda group: (-len(group), group)))


def summary(pairs: Sequence[Pair] | None) -> str:
    """One sentence: `every pair by NVLink (18 links)`, or the kinds with the pairs of each."""
    if not pairs:
        return "unknown" if pairs is None else "one GPU"
    kinds: dict[str, list[Pair]] = {}
    for pair in pairs:
        kinds.setdefault(_words(pair), []).append(pair)
    if len(kinds) == 1:
        return f"every pair by {next(iter(kinds))}" if len(pairs) > 1 else f"by {next(iter(kinds))}"
    return "; ".join(f"{words}: {_names(some)}" for words, some in kinds.items())


def _words(pair: Pair) -> str:
    words = _WORDS[pair.kind] if pair.kind else "an unknown way"
    if pair.links and pair.kind == "nvlink":
        words += f" ({pair.links} link{'s' * (pair.links > 1)})"
    return words


def _names(pairs: Sequence[Pair]) -> str:
    names = [f"{pair.a}-{pair.b}" for pair in pairs]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def mixed(gpus: Sequence[Gpu]) -> str:
    """In words, which different cards there are; empty when all that are known are of one kind (a card reports some MB
    more or less than its sister)."""
    kinds: dict[tuple[str, int | None], int] = {}
    for gpu in gpus:
        if gpu.name is None:
            continue
        kind = (gpu.name, None if gpu.total is None else round(gpu.total / 2**30))
        kinds[kind] = kinds.get(kind, 0) + 1
    if len(kinds) < 2:
        return ""
    return ", ".join(
        f"{count} x {name}" + (f" {size} GiB" if size is not None else "") for (name, size), count in kinds.items()
    )
