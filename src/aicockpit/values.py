"""Texts to values: how a setting's text is read. A wrong one raises ValueError with a sentence."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from aicockpit.types import Address, KvTier

_UNITS = {"": 1, "k": 1000, "ki": 1 << 10, "m": 10**6, "mi": 1 << 20, "g": 10**9, "gi": 1 << 30}
_UNITS |= {"t": 10**12, "ti": 1 << 40}
_TIERS = "must be none, cpu:SIZE, disk:SIZE, disk:SIZE:FOLDER or lmcache, with a SIZE such as 64GiB"


def port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError("a port is 0 to 65535")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("must not be negative")
    return value


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("must be 1 or more")
    return value


def seconds(text: str) -> float:
    value = float(text.removesuffix("s"))
    if not 0 <= value < 1e7:
        raise ValueError("must be a number of seconds, 0 or more")
    return value


def limit(text: str) -> float | None:
    """Seconds; 0 or `off` means no limit."""
    return None if text == "off" else seconds(text) or None


def switch(text: str) -> bool:
    if text.lower() in ("on", "true", "yes", "1"):
        return True
    if text.lower() in ("off", "false", "no", "0"):
        return False
    raise ValueError("must be on or off")


def gpu_count(text: str) -> int | None:
    return None if text == "auto" else count(text)


def size(text: str) -> int:
    """Bytes: `1048576`, `64MiB`, `10M`."""
    match = re.fullmatch(r"(\d+)\s*([kmgt]i?)?b?", text.strip().lower())
    if match is None:
        raise ValueError("must be a size such as 1048576, 64MiB or 10M")
    return int(match.group(1)) * _UNITS[match.group(2) or ""]


def kv_tier(text: str) -> KvTier:
    """`none`, `cpu:16GiB`, `disk:100GiB`, `disk:100GiB:/data/kv`, `lmcache`."""
    kind, *rest = text.strip().split(":", 2)
    if kind in ("none", "lmcache") and not rest:
        return KvTier("none" if kind == "none" else "lmcache")
    if kind not in ("cpu", "disk") or not rest or not all(rest) or (kind == "cpu" and len(rest) > 1):
        raise ValueError(_TIERS)
    try:
        room = size(rest[0])
    except ValueError as error:
        raise ValueError(f"{_TIERS}; {rest[0]!r} is no size") from error
    if not room:
        raise ValueError(f"{_TIERS}; for no tier say none")
    return KvTier("cpu", room) if kind == "cpu" else KvTier("disk", room, path(rest[1]) if len(rest) > 1 else None)


def optional_kv_tier(text: str) -> KvTier | None:
    """None when nothing is said: the recipe decides then."""
    return kv_tier(text) if text else None


def urls(text: str) -> tuple[Address, ...]:
    return tuple(Address.parse(part.strip()) for part in text.split(",") if part.strip())


def words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def aliases(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    if any(not (alias.strip() and model.strip()) for alias, _, model in pairs):
        raise ValueError("must look like alias=model,other=model")
    return tuple((alias.strip(), model.strip()) for alias, _, model in pairs)


def context(text: str) -> int | None:
    """Tokens; None leaves the amount to us."""
    if text == "auto":
        return None
    return 0 if text == "none" else count(text)


def optional(text: str) -> str | None:
    return text or None


def path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def optional_path(text: str) -> Path | None:
    return path(text) if text else None


def level(text: str) -> str:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("must be debug, info, warning or error")
    return text.upper()
