"""One parse of a source: its API skeleton, and what it defines, refers to, imports. One walker, a table per language.

The skeleton is the source's own text minus bodies, comments and blank lines: an edit inside a body leaves it as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from aicockpit.prompts.imports import modules
from aicockpit.prompts.languages import TEXT, Cancelled, Grammars, language_of
from aicockpit.prompts.outline import Outline
from aicockpit.prompts.rows import Language

MAX_SOURCE = 1_000_000  # bytes; what is longer is generated, and shown by its head
MAX_LINE = 10_000  # bytes; a longer line means minified or generated
HEAD_CHARS = 1_600
MAX_REFERENCES = 2_000
MAX_IMPORTS = 500

_IDENTIFIER = re.compile(rb"\w+")
_NO_WORDS = re.compile(rb"[^\w\x80-\xff]{2000}")


@dataclass(frozen=True, slots=True)
class Analysis:
    """What one file says about itself. Lines count from 0, the last one is included."""

    language: str  # a name of the table, or "text"
    skeleton: str
    defines: tuple[str, ...] = ()  # symbols at the top and members, without qualifier, in order of appearance
    references: tuple[tuple[str, int], ...] = ()  # names that are not its own, most used first
    imports: tuple[str, ...] = ()  # as written, in order of appearance
    spans: tuple[tuple[str, int, int], ...] = ()  # qualified symbol, first line, last line


def head(text: str, limit: int = HEAD_CHARS) -> str:
    """The beginning of a text that has no skeleton: whole lines, at most `limit` characters."""
    if len(text) <= limit:
        return text.rstrip()
    cut = text.rfind("\n", 0, limit)
    return text[: cut if cut > 0 else limit].rstrip()


def analyse(path: str, text: str, grammars: Grammars) -> Analysis:
    """The analysis of one file. Never fails on its content: what cannot be parsed is shown by its head."""
    language = language_of(path)
    source = text.encode("utf-8", "replace")
    if language is None or len(source) > MAX_SOURCE or _longest_line(source) > MAX_LINE:
        return Analysis(TEXT, head(text))
    grammar = grammars.get(language)
    try:
        tree = grammar.parse(source)
    except Cancelled:
        return Analysis(language.name, head(text))
    if tree.root_node.has_error and _NO_WORDS.search(source):  # the query's time is quadratic in runs of punctuation
        return Analysis(language.name, head(text))
    outline = Outline(source, language)
    outline.walk(tree.root_node)
    captures = grammar.captures(tree)
    found = sorted((node.start_byte, node.end_byte) for node in captures.get("import", ()))
    statements = [source[start:end] for start, end in found]
    imported = {name for statement in statements for name in _IDENTIFIER.findall(statement)}
    counts = Counter([source[node.start_byte : node.end_byte] for node in captures.get("ref", ())])
    own = {source[node.start_byte : node.end_byte] for node in captures.get("local", ())} - imported
    own.update(name.encode() for name in outline.defines)
    references = [(name.decode(), count) for name, count in counts.items() if len(name) > 1 and name not in own]
    references.sort(key=lambda pair: (-pair[1], pair[0]))
    return Analysis(
        language.name,
        outline.text() or head(text),
        tuple(outline.defines),
        tuple(references[:MAX_REFERENCES]),
        _modules(language, statements),
        tuple(outline.spans),
    )


def _modules(language: Language, statements: list[bytes]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for statement in statements[:MAX_IMPORTS]:
        if len(statement) < 20_000:
            names.update(dict.fromkeys(modules(language.name, statement.decode())))
    return tuple(names)[:MAX_IMPORTS]


def _longest_line(source: bytes) -> int:
    if len(source) <= MAX_LINE:
        return 0
    return max(map(len, source.split(b"\n")))
