"""The tier's options, as they stand in `kv_connector_extra_config`; the connector reads them once at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .writer import MIB


@dataclass(frozen=True, slots=True)
class Options:
    """`folder`, `cap`: where, and how many bytes of blocks of all models there. `buffer`: bytes waiting to be written,
    None: a step's worth. `reserve`: bytes left free on the disk. `stall_s`: how long a silent disk is waited for.
    `throttle`: bytes per second that a load may take, for demonstrations."""

    folder: str
    cap: int
    buffer: int | None = None
    reserve: int = 256 * MIB
    retry_s: float = 15.0
    stall_s: float = 5.0
    throttle: float | None = None


_NAMES = {
    "folder": ("folder", str),
    "bytes": ("cap", int),
    "buffer_bytes": ("buffer", int),
    "reserve_bytes": ("reserve", int),
    "retry_s": ("retry_s", float),
    "stall_s": ("stall_s", float),
    "throttle_bytes_per_s": ("throttle", float),
}


def options(extra: Mapping[str, Any]) -> Options:
    """Read them.

    Raises:
        ValueError: one is unknown, missing or not what it should be; the text says which and what it wants.
    """
    unknown = sorted(set(extra) - set(_NAMES))
    if unknown:
        raise ValueError(f"KV disk tier: unknown option {unknown[0]!r}; there are {', '.join(sorted(_NAMES))}")
    found: dict[str, Any] = {}
    for name, value in extra.items():
        field, kind = _NAMES[name]
        right = (
            isinstance(value, str) if kind is str else isinstance(value, int | float) and not isinstance(value, bool)
        )
        if not right or (not value and name != "reserve_bytes") or (kind is not str and value < 0):
            raise ValueError(
                f"KV disk tier: {name} is {value!r}; it wants a {'path' if kind is str else 'positive number'}"
            )
        found[field] = kind(value)
    for name in ("folder", "bytes"):
        if _NAMES[name][0] not in found:
            raise ValueError(f"KV disk tier: {name} is missing in kv_connector_extra_config")
    return Options(**found)
