"""Known GPUs (`data/cards.toml`): machines that are only imagined for `fit`, and what a driver's name of one means."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from importlib import resources

from aicockpit.errors import SettingError
from aicockpit.hardware.device import GIB, Device, Peer, Vendor

_MAKERS = {"nvidia", "amd", "instinct", "geforce", "radeon", "tesla", "gpu"}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(gib|gb|g)", re.IGNORECASE)
_MOST = 1024  # GPUs of one machine that somebody may imagine


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of GPU. `memory` in bytes, as CUDA or HIP reports it; `arch` is AMD's ("gfx942"), "" on NVIDIA."""

    name: str
    short: str
    memory: int
    vendor: Vendor
    capability: tuple[int, int] | None
    arch: str
    bandwidth: float
    tflops: float
    peer: Peer
    also: tuple[str, ...]
    source: str

    def device(self) -> Device:
        """This card, nothing running on it."""
        return Device(
            self.name,
            self.memory,
            capability=self.capability,
            vendor=self.vendor,
            peer=self.peer,
            bandwidth=self.bandwidth,
            tflops=self.tflops,
        )


def catalogue() -> tuple[Card, ...]:
    """All known cards, in the order of the file."""
    text = resources.files("aicockpit.hardware").joinpath("data/cards.toml").read_text(encoding="utf-8")
    return tuple(_card(entry) for entry in tomllib.loads(text)["card"])


def _card(entry: dict[str, object]) -> Card:
    arch, capability = str(entry.get("arch", "")), str(entry.get("capability", ""))
    major, _, minor = capability.partition(".")
    also = entry.get("also", [])
    assert isinstance(also, list)
    return Card(
        str(entry["name"]),
        str(entry["short"]),
        int(float(str(entry["memory"])) * GIB),
        "amd" if arch else "nvidia",
        (int(major), int(minor)) if capability else None,
        arch,
        float(str(entry["bandwidth"])),
        float(str(entry["tflops"])),
        "nvlink" if entry["peer"] == "nvlink" else "pcie",
        tuple(str(name) for name in also),
        str(entry["from"]),
    )


def known(name: str) -> Card | None:
    """The card that a driver or a person calls so; None when it is not in the catalogue."""
    return _names().get(_plain(name))


def _names() -> dict[str, Card]:
    return {_plain(name): card for card in catalogue() for name in (card.name, card.short, *card.also)}


def _plain(name: str) -> str:
    return "".join(word for word in re.findall(r"[a-z0-9]+", name.lower()) if word not in _MAKERS)


def parse(text: str) -> tuple[Device, ...]:
    """`A6000`, `H100:8`, `A100-40GB:4,L4:1`, or a size for a card that is not known: `24GiB:2`. Raises SettingError."""
    found: list[Device] = []
    for part in text.split(","):
        name, _, count = (piece.strip() for piece in part.partition(":"))
        if not name and not count:
            continue
        if count and not (count.isascii() and count.isdigit() and 1 <= int(count) <= _MOST):
            raise SettingError(f"{part.strip()!r}: after the colon comes how many GPUs, 1 to {_MOST}.")
        found += [_one(name)] * int(count or 1)
    if not found:
        raise SettingError('no GPU is named. Write one like "A6000:1" or "H100:8".')
    if len(found) > _MOST:
        raise SettingError(f"{len(found)} GPUs are named; at most {_MOST}.")
    return tuple(found)


def _one(name: str) -> Device:
    if card := known(name):
        return card.device()
    if (size := _SIZE.fullmatch(name)) and 1 <= float(size[1]) <= 4096:
        unit = GIB if size[2].lower() == "gib" else 10**9
        return Device(f"a GPU of {float(size[1]):g} {'GiB' if unit == GIB else 'GB'}", int(float(size[1]) * unit))
    raise SettingError(f"the GPU {name!r} is not known. {_nearest(name)} A size does too: 24GiB:2.")


def _nearest(name: str) -> str:
    names = [card.short for card in catalogue()]
    plain = {_plain(short): short for short in names}
    typed = _plain(name)
    longer = [short for key, short in plain.items() if typed and key.startswith(typed)]
    near = longer or [plain[key] for key in difflib.get_close_matches(typed, plain, n=4, cutoff=0.5)]
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(names)}."
