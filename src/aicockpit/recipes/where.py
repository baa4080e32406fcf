"""Where in a YAML file a mistake is: the dotted name of a key, and its line. Pure; `fleet.py` and `load.py` ask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml


def dotted(where: Iterable[int | str]) -> str:
    """`("models", 0, "gpus")` is `models[0].gpus`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")


def line(root: Any, where: Iterable[int | str]) -> int:
    """The line, from 1, of the deepest node on the way to `where`. `root` is what `yaml.compose` made of the file."""
    node, found = root, 0
    for part in where:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if part not in pairs:
                break
            key, node = pairs[part]
            found = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            found = node.start_mark.line
    return found + 1
