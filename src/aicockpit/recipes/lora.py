"""LoRA adapters in the command of an engine, pure: for `command.py` and, at run time, `adapters.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aicockpit.recipes import flags
from aicockpit.types import EngineSpec

ENABLE = "--enable-lora"
_MODULES = "--lora-modules"


def modules(argv: Sequence[str]) -> dict[str, str]:
    """Folders by name, of the `name=path` pairs after `--lora-modules`."""
    told = flags.value(argv[_first_flag(argv) :], _MODULES) or ""
    return dict(pair.split("=", 1) for pair in told.split() if "=" in pair)


def changed(spec: EngineSpec, changes: Mapping[str, str | None]) -> EngineSpec:
    """The same engine with adapters added, by folder, and taken away (None)."""
    if not changes:
        return spec
    before = modules(spec.argv)
    after = {name: path for name, path in {**before, **changes}.items() if path is not None}
    start = _first_flag(spec.argv)
    kept = [word for flag, words in flags.split(spec.argv[start:]) if flag != _MODULES for word in words]
    added = (_MODULES, *(f"{name}={path}" for name, path in after.items())) if after else ()
    names = [name for name in spec.served_names if name not in before]
    return replace(spec, argv=(*spec.argv[:start], *kept, *added), served_names=(*names, *after))


def _first_flag(argv: Sequence[str]) -> int:
    return next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv))
