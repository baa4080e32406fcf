"""The modules that a source names in its imports, read from the text of the import statements."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"""["'`]([^"'`\n]{1,300})["'`]""")
_WORDS = re.compile(r"\s+")
_CALLS = ("require", "import", "require_relative", "load", "autoload")


def modules(language: str, statement: str) -> list[str]:
    """Module strings of one import statement, as written; an imported name stands behind its module.

    `from a.b import c, d` gives a.b.c and a.b.d, `use a::{b, c::d};` gives a::b and a::c::d.
    """
    text = _WORDS.sub(" ", statement).strip()
    if language == "python":
        return _python(text)
    if language in {"javascript", "typescript", "tsx", "ruby"}:
        return _called(text)
    if language == "go":
        return _QUOTED.findall(text)
    if language in {"c", "cpp"}:
        return re.findall(r"""#\s*include\s*["<]([^">]+)[">]""", text)
    if language == "rust":
        return _rust(text)
    if language == "php":
        return _php(text)
    found = re.search(r"(?:import|using)\s+(?:static\s+)?(?:\w+\s*=\s*)?(?:global::)?([\w.]+)", text)
    return [found[1].strip(".")] if found else []


def _python(text: str) -> list[str]:
    if text.startswith("from"):
        found = re.match(r"from\s*([.\w\s]+?)\s*import\b(.*)", text)
        if not found:
            return []
        module = found[1].replace(" ", "")
        names = [part.split()[0] for part in found[2].strip(" ()").split(",") if part.split()]
        glue = "" if module.endswith(".") else "."
        return [module if name == "*" else module + glue + name for name in names] or [module]
    return [part.split()[0] for part in text.removeprefix("import").split(",") if part.split()]


def _called(text: str) -> list[str]:
    if text.startswith(("import ", "import{", "import*", "import'", 'import"', "export ")):
        return _QUOTED.findall(text)[-1:]
    word = re.match(r"\w+", text)
    if word is None or word[0] not in _CALLS:
        return []
    found = _QUOTED.findall(text)
    if word[0] == "require_relative":  # says nothing of it in its string, so that resolving needs the dot
        return ["./" + name for name in found[:1]]
    return found[:1]


def _rust(text: str) -> list[str]:
    found = re.search(r"\b(mod|use)\s+(.*?)\s*;?$", text)
    if not found:
        return []
    return ["self::" + found[2]] if found[1] == "mod" else _braces(found[2], "::")


def _php(text: str) -> list[str]:
    if not text.startswith("use"):
        return _QUOTED.findall(text)[:1]
    body = re.sub(r"^use\s+(?:function\s+|const\s+)?", "", text).rstrip("; ")
    return [name.lstrip("\\") for name in _braces(body, "\\")]


def _braces(text: str, glue: str, depth: int = 0) -> list[str]:
    """a::{b, c::{d, e}} -> a::b, a::c::d, a::c::e; names after `as` and `*` are left out."""
    out: list[str] = []
    for part in _split(text):
        head, brace, rest = part.partition("{")
        if brace and depth < 8:
            inner = _braces(rest.rpartition("}")[0] or rest, glue, depth + 1)
            out += [(head.strip() + name).removesuffix(glue + "self") for name in inner]
        elif name := part.split(" as ")[0].strip().removesuffix("*").removesuffix(glue):
            out.append(name.replace(" ", ""))
    return out


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]
