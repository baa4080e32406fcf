"""Who refers to whom in a tree, and which files the rest of it leans on: a PageRank over symbol references.

Everything runs in sorted order with plain floats, so the same analyses give the same ranks on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from aicockpit.prompts.languages import TEXT, family
from aicockpit.prompts.portions import Portions, whole
from aicockpit.prompts.resolve import Resolver
from aicockpit.prompts.skeleton import Analysis

DAMPING = 0.85
ROUNDS = 40
ENOUGH = 1e-5  # the sum of all changes of a round, of ranks that sum to 1
MANY_DEFINERS = 16  # a name defined in more files says nothing, but for those that the referring file imports
MAX_EDGES = 48  # per file, the heaviest
DOUBT = 0.1  # of its weight is left to a reference that no import explains
STRONG = 0.5  # an edge as heavy as this counts as a reference when files are counted
AT_ONCE = 1000  # files between two pauses, where one file is little work
LOOSE = ("go", "java", "csharp", "ruby", "php")  # see names of other files without an import


@dataclass(frozen=True, slots=True)
class Graph:
    """Files as nodes, in order of their paths; an edge leads to a file whose symbols are used."""

    paths: tuple[str, ...]
    edges: tuple[tuple[tuple[int, float], ...], ...]  # per file: (file, weight), heaviest first
    referrers: tuple[int, ...]  # per file: how many files surely refer to it

    def index(self) -> dict[str, int]:
        """Path -> place in `paths`."""
        return {path: place for place, path in enumerate(self.paths)}


def graph(analyses: Mapping[str, Analysis]) -> Graph:
    """The references between the files of a tree.

    A reference weighs the square root of its count, divided over the files that define the name. A file that is
    imported is surely meant. Without an import the doubt is squared, so that names defined everywhere carry little, and
    the rest counts little too (`parts.append` means no `append` of ours), unless the language needs no import for it:
    a file of the same folder, or a type, outside of Python, JavaScript, TypeScript, Rust, C and C++.
    """
    return whole(linked(analyses))


def linked(analyses: Mapping[str, Analysis]) -> Portions[Graph]:
    """`graph`, in portions."""
    linker = _Linker(analyses)
    yield
    yield from linker.define()
    edges = []
    referrers = [0] * len(linker.paths)
    for number in range(len(linker.paths)):
        out = linker.edges(number)
        edges.append(out)
        for target, weight in out:
            if weight >= STRONG:
                referrers[target] += 1
        yield
    return Graph(linker.paths, tuple(edges), tuple(referrers))


class _Linker:
    """Indexes of one tree, while its graph is made."""

    def __init__(self, analyses: Mapping[str, Analysis]) -> None:
        self.paths = tuple(sorted(analyses))
        self._analyses = [analyses[path] for path in self.paths]
        self._places = {path: place for place, path in enumerate(self.paths)}
        code = ((path, one.language) for path, one in zip(self.paths, self._analyses, strict=True))
        self._resolver = Resolver((path, language) for path, language in code if language != TEXT)
        self._sets: dict[int, frozenset[str]] = {}
        self._definers: dict[str, dict[str, list[int]]] = {}  # family -> name -> files

    def define(self) -> Portions[None]:
        """Learn which names are defined where, which `edges` needs."""
        for place, analysis in enumerate(self._analyses):
            names = self._definers.setdefault(family(analysis.language), {})
            for name in analysis.defines:
                names.setdefault(name, []).append(place)
            yield

    def edges(self, place: int) -> tuple[tuple[int, float], ...]:
        """The files that one file refers to, with weights, heaviest first."""
        analysis, path = self._analyses[place], self.paths[place]
        weights: dict[int, float] = {}
        for module in analysis.imports:
            for found in self._resolver.resolve(path, module):
                weights[self._places[found]] = 1.0
        imported = tuple(weights)
        kind = family(analysis.language)
        folder = path.rpartition("/")[0] if kind in LOOSE else None
        known = self._definers.get(kind, {})
        doubts: dict[int, float] = {}
        for name, count in analysis.references:
            targets = known.get(name)
            if targets is None:
                continue
            if surely := self._imported(name, targets, imported):
                for target in surely:
                    weights[target] = weights.get(target, 0.0) + sqrt(count) / len(surely)
            elif len(targets) <= MANY_DEFINERS:
                for target in targets:
                    weight = sqrt(count) / len(targets) ** 2
                    if folder is not None and (name[0].isupper() or self.paths[target].rpartition("/")[0] == folder):
                        weights[target] = weights.get(target, 0.0) + weight
                    else:
                        doubts[target] = doubts.get(target, 0.0) + weight * DOUBT
        for target, weight in doubts.items():
            weights[target] = weights[target] + weight if target in weights else min(weight, STRONG * 0.9)
        weights.pop(place, None)
        return tuple(sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_EDGES])

    def _imported(self, name: str, targets: list[int], imported: tuple[int, ...]) -> list[int]:
        if len(targets) <= MANY_DEFINERS:
            return [target for target in targets if target in imported]
        found = []
        for target in imported:
            if target not in self._sets:
                self._sets[target] = frozenset(self._analyses[target].defines)
            if name in self._sets[target]:
                found.append(target)
        return found


def rank_of(graph: Graph) -> dict[str, float]:
    """PageRank of each file; sums to 1. A file that refers to nothing, or only by doubt, gives its share to all."""
    return whole(ranked(graph))


def ranked(graph: Graph) -> Portions[dict[str, float]]:
    """`rank_of`, in portions."""
    size = len(graph.paths)
    if not size:
        return {}
    shares = []
    for place, out in enumerate(graph.edges):
        total = max(1.0, sum(weight for _, weight in out))
        shares.append(tuple((target, weight / total) for target, weight in out))
        if place % AT_ONCE == 0:
            yield
    leaks = [1.0 - sum(share for _, share in out) for out in shares]
    ranks = [1.0 / size] * size
    for _ in range(ROUNDS):
        yield
        idle = sum(rank * leak for rank, leak in zip(ranks, leaks, strict=True))
        after = [(1.0 - DAMPING + DAMPING * idle) / size] * size
        for place, (rank, out) in enumerate(zip(ranks, shares, strict=True)):
            rank *= DAMPING
            for target, share in out:
                after[target] += rank * share
            if place % AT_ONCE == 0:
                yield
        change = sum(abs(new - old) for new, old in zip(after, ranks, strict=True))
        ranks = after
        if change < ENOUGH:
            break
    yield
    total = sum(ranks)
    return {path: rank / total for path, rank in zip(graph.paths, ranks, strict=True)}


def rank(analyses: Mapping[str, Analysis]) -> dict[str, float]:
    """PageRank of each file over symbol references; sums to 1."""
    return rank_of(graph(analyses))
