"""From a path to its language, and the tree-sitter grammars, loaded when first needed and held by whoever analyses."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import tree_sitter

from aicockpit.prompts.rows import Language
from aicockpit.prompts.tables import LANGUAGES, RUBY

TEXT = "text"
# A parse is given up after this many progress reports of the parser (one per 100 of its steps): a bound that is the
# same on every machine, where a bound in seconds would not be. Ordinary source needs 3 to 15 per kB.
PARSE_STEPS_FIXED = 500
PARSE_STEPS_PER_KB = 30
PARSE_STEPS_MOST = 9000


def language_of(path: str) -> Language | None:
    """The language whose skeleton we can make, from the file's name; None for all other text."""
    name = path.rpartition("/")[2].lower()
    if name in {"rakefile", "gemfile"}:
        return RUBY
    for language in LANGUAGES:
        if name.endswith(language.suffixes):
            return language
    return None


def language_named(name: str) -> Language | None:
    """The table row of a name that an analysis carries; None for "text"."""
    return next((language for language in LANGUAGES if language.name == name), None)


def family(name: str) -> str:
    """Languages of one family refer to each other's symbols: C and C++, TypeScript and JavaScript."""
    language = language_named(name)
    return name if language is None else language.family or name


def line_comment(path: str) -> str:
    """What begins a comment line in this file: `#` where nothing better is known."""
    language = language_of(path)
    return "#" if language is None else language.line_comment


def is_noise(path: str) -> bool:
    """Whether the file says nothing to a reader of the code (locks, data, minified), or changes with every commit."""
    name = path.rpartition("/")[2].lower()
    ends = (".lock", ".csv", ".tsv", ".svg", ".min.js", ".min.css", ".map", ".snap", ".po", ".ipynb", ".jsonl", ".log")
    names = ("package-lock.json", "pnpm-lock.yaml", "npm-shrinkwrap.json", "go.sum", "license", "copying", "notice")
    return name.endswith(ends) or (
        language_of(path) is None and name.startswith((*names, "changelog", "changes.", "history."))
    )


class Cancelled(Exception):
    """The parser needed more steps than a source of this size may need."""


@dataclass(slots=True)
class Grammar:
    """One language's parser and query, ready for use by one thread."""

    language: Language
    parser: tree_sitter.Parser
    query: tree_sitter.Query

    def parse(self, source: bytes) -> tree_sitter.Tree:
        """The tree of a source, however broken. Raises Cancelled when parsing passes its bound of steps."""
        most = min(PARSE_STEPS_FIXED + len(source) * PARSE_STEPS_PER_KB // 1000, PARSE_STEPS_MOST)
        steps = 0

        def read(offset: int, _point: object) -> bytes:
            return source[offset : offset + 65536]

        def too_long(_offset: int, _error: bool) -> bool:
            nonlocal steps
            steps += 1
            return steps > most

        try:
            return self.parser.parse(read, encoding="utf8", progress_callback=too_long)
        except ValueError as error:
            self.parser.reset()  # else the next parse would go on with this one
            raise Cancelled(f"more than {most} parser steps for {len(source)} bytes") from error

    def captures(self, tree: tree_sitter.Tree) -> dict[str, list[tree_sitter.Node]]:
        """The query's captures over the whole tree: `ref`, `local`, `import`."""
        return tree_sitter.QueryCursor(self.query).captures(tree.root_node)


class Grammars:
    """Loads each grammar once. Not for several threads at a time: a parser has state."""

    def __init__(self) -> None:
        self._ready: dict[str, Grammar] = {}

    def get(self, language: Language) -> Grammar:
        """The grammar of a language of the table."""
        grammar = self._ready.get(language.name)
        if grammar is None:
            module, function = language.grammar
            binding = tree_sitter.Language(getattr(importlib.import_module(module), function)())
            grammar = Grammar(language, tree_sitter.Parser(binding), tree_sitter.Query(binding, language.query))
            self._ready[language.name] = grammar
        return grammar
