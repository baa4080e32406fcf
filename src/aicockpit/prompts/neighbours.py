"""The files around an open one: what it imports and calls, best first, then who calls it."""

from __future__ import annotations

from collections.abc import Mapping

from aicockpit.prompts.rank import STRONG, Graph, graph
from aicockpit.prompts.skeleton import Analysis


def neighbours(path: str, analyses: Mapping[str, Analysis], limit: int) -> tuple[str, ...]:
    """At most `limit` files; () for a path that is not among the analyses. Builds the graph: keep one, use `around`."""
    return around(path, graph(analyses), limit) if path in analyses else ()


def around(path: str, known: Graph, limit: int) -> tuple[str, ...]:
    """The same from a graph that is at hand. What it uses by little doubt comes before those who use it."""
    try:
        place = known.paths.index(path)
    except ValueError:
        return ()
    uses = [target for target, weight in known.edges[place] if weight >= STRONG]
    users = []
    for number, out in enumerate(known.edges):
        weight = next((weight for target, weight in out if target == place), 0.0)
        if weight >= STRONG:
            users.append((-weight, number))
    doubtful = [target for target, weight in known.edges[place] if weight < STRONG]
    order = dict.fromkeys([*uses, *(number for _, number in sorted(users)), *doubtful])
    return tuple(known.paths[number] for number in list(order)[: max(limit, 0)])
