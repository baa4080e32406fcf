"""The shape of a table row: what the one walker (outline.py) must know about a programming language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

# import: kept, names modules.   function: head kept, body cut.   container: head kept, members entered.
# value: kept, bodies in it cut, shortened.   wide: a value that may be longer.   open: entered, prints nothing itself.
# prefix: its own words stand before the declaration in it.   note: kept if a declaration follows.
# statement: a value if it matches `statement`.   fallback of everything else: dropped.
Role = Literal["import", "function", "container", "value", "wide", "open", "prefix", "note", "statement", "comment"]


@dataclass(frozen=True, slots=True)
class Language:
    """What the one walker must know about one language. Node names are those of the tree-sitter grammar."""

    name: str
    grammar: tuple[str, str]  # module, function
    suffixes: tuple[str, ...]
    roles: Mapping[str, Role]
    query: str  # captures @ref, @local, @import over the whole tree
    bodies: frozenset[str]  # cut wherever they stand
    stops: frozenset[str]  # a function's head ends before such a child
    lambdas: frozenset[str]  # their field `body` is cut inside a value
    groups: frozenset[str]  # values of several names: look into these for more names
    members: frozenset[str]  # where a container's members stand, when it has no field `body`
    statement: re.Pattern[bytes]
    stub: str = ""  # what stands for a function's body
    opener: str = ""
    closer: str = ""
    indent: str = "    "
    line_comment: str = "//"
    joiner: str = " "  # between the lines of a value where a line's end ends a statement
    ends: Mapping[str, str] = field(default_factory=dict)  # punctuation that stands outside such a node
    forward: frozenset[str] = frozenset()  # says a name and defines nothing, when it has no body
    docstrings: bool = False
    family: str = ""  # languages of one family see each other's symbols


def roles(**kinds: str) -> Mapping[str, Role]:
    return MappingProxyType({node: kind for kind, nodes in kinds.items() for node in nodes.split()})  # type: ignore[misc]


def names(words: str = "") -> frozenset[str]:
    return frozenset(words.split())


def ends(end: str, nodes: str) -> Mapping[str, str]:
    return MappingProxyType(dict.fromkeys(nodes.split(), end))
