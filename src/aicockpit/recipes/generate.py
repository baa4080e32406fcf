"""`python -m aicockpit.recipes.generate` writes the flags of the installed vLLM's own parser to `data/vllm-flags.json`.

Run after a change of vLLM; `known.py` reads the file. `--print` writes to standard output: a test compares the two.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from typing import Any

from aicockpit.recipes.known import FILE

_PARSER = "vllm.entrypoints.launchers.cli_args"
_TYPES = {"int": "int", "float": "float", "human_readable_int": "size", "human_readable_int_or_auto": "size or auto"}
_JSON = {"loads", "parse_dataclass"}
_COUNTS = {None: "one", 0: "none", "?": "maybe", "+": "many", "*": "many"}


def main(argv: list[str] | None = None) -> int:
    """Write the file, or print it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--print", action="store_true", help="to standard output instead of the file")
    text = render()
    if options.parse_args(argv).print:
        sys.stdout.write(text)
    else:
        FILE.write_text(text, encoding="utf-8")
        print(f"wrote {FILE}")
    return 0


def render() -> str:
    """The file's text: one flag a line, sorted, so that an upgrade is a readable diff."""
    entries = {name: entry for action in _actions() for name, entry in _entry(action)}
    lines = [f"  {json.dumps(name)}: {json.dumps(entries[name])}" for name in sorted(entries)]
    version = importlib.import_module("vllm.version").__version__
    return f'{{"vllm": {json.dumps(version.partition("+")[0])}, "flags": {{\n' + ",\n".join(lines) + "\n}}\n"


def parser() -> Any:
    """The installed vLLM's own, of `vllm serve`."""
    kind = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
    return importlib.import_module(_PARSER).make_arg_parser(kind(prog="vllm serve"))


def _actions() -> list[Any]:
    return [one for one in parser()._actions if one.option_strings and "--help" not in one.option_strings]


def _entry(action: Any) -> list[tuple[str, dict[str, Any]]]:
    """The first long spelling names the flag; the rest are `also`, a negation is `no`."""
    long = [name for name in action.option_strings if name.startswith("--")]
    negations = [name for name in long if name.startswith("--no-") and "--" + name.removeprefix("--no-") in long]
    name = next(each for each in long if each not in negations)
    entry: dict[str, Any] = {"takes": _COUNTS[action.nargs]}
    kind, folded = _type(action.type)
    if entry["takes"] != "none" and kind != "str":
        entry["type"] = kind
    if action.choices:
        entry["choices"] = [str(choice) for choice in action.choices]
    if folded:
        entry["folded"] = True
    if names := _registered(action):
        entry["names"] = names
    if also := [each for each in action.option_strings if each not in (name, *negations)]:
        entry["also"] = also
    if negations:
        entry["no"] = negations[0]
    return [(name, entry)]


def _type(convert: Any) -> tuple[str, bool]:
    """The kind of value, and whether its spelling is folded (case, dashes) before it is compared."""
    name = getattr(convert, "__name__", "str")
    if name in ("_optional_type", "_parse_type"):  # closures around the type that matters
        inner = [cell.cell_contents for cell in convert.__closure__]
        return _type(next(each for each in inner if callable(each)))
    if name in _JSON:
        return "json", False
    return _TYPES.get(name, "str"), name == "<lambda>"


def _registered(action: Any) -> list[str]:
    """Names that plugins may add to: vLLM shows them in the help, or keeps them in a registry."""
    if "--reasoning-parser" in action.option_strings:
        return sorted(importlib.import_module("vllm.reasoning").ReasoningParserManager.list_registered())
    shown = re.match(r"\{([^}]+)\} or name registered", str(action.metavar))
    return shown[1].split(",") if shown else []


if __name__ == "__main__":
    sys.exit(main())
