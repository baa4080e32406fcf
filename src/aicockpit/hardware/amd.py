"""AMD GPUs: `gpus` reads the kernel's files (cheap), `inspect` asks `amd-smi`, then `rocm-smi` (thorough).

`detect` calls both. The tools print warnings before their JSON, end with 0 when the driver is absent, and changed
their form between releases: everything is read as "maybe there". Written from the tools' sources, not run on a card.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aicockpit.hardware import bounded
from aicockpit.hardware.machine import Detail, Driver, Gpu, Kind, Note, Pair, Pcie, Process

_VENDOR = "0x1002"
_FOLDER = "/opt/rocm/bin"  # not always on PATH
_GENERATION_GT = ((64.0, 6), (32.0, 5), (16.0, 4), (8.0, 3), (5.0, 2), (2.5, 1))  # GT/s of a PCIe lane
# amd-smi counts in powers of two whatever it writes (it divides by 1024 * 1024 for "MB").
_UNITS = {"B": 1, "KB": 1 << 10, "KIB": 1 << 10, "MB": 1 << 20, "MIB": 1 << 20, "GB": 1 << 30, "GIB": 1 << 30}
_LINKS: dict[str, Kind] = {"XGMI": "xgmi", "PCIE": "pcie", "PCIX": "pcie"}
_ROCM_SMI = (
    *("--showproductname", "--showuniqueid", "--showbus", "--showmeminfo", "vram", "--showuse"),
    *("--showdriverversion", "--showcomputepartition", "--showtopotype", "--json"),
)
_TOPOLOGY = re.compile(r"link type between DRM devices (\d+) and (\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and what could not be read."""

    gpus: tuple[Gpu, ...] = ()
    driver: Driver | None = None
    pairs: tuple[Pair, ...] | None = None
    notes: tuple[Note, ...] = ()


def gpus(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """The cards that the kernel's amdgpu driver runs, in the order of their PCI addresses, as ROCm counts them."""
    found = []
    for card in (root / "sys/class/drm").glob("card*"):
        folder = card / "device"
        if re.fullmatch(r"card\d+", card.name) and _line(folder / "vendor") == _VENDOR:
            found.append((folder.resolve().name, folder))
    return tuple(_of_kernel(index, folder) for index, (_, folder) in enumerate(sorted(found)))


def _of_kernel(index: int, folder: Path) -> Gpu:
    total, used = _number(_line(folder / "mem_info_vram_total")), _number(_line(folder / "mem_info_vram_used"))
    return Gpu(
        index,
        uuid=_uuid(_line(folder / "unique_id")),
        name=_line(folder / "product_name"),
        total=total,
        free=None if total is None or used is None else total - used,
        used=used,
        utilisation=_number(_line(folder / "gpu_busy_percent")),
        vendor="amd",
        detail=None,
    )


def inspect(limit: float, root: Path = Path("/")) -> Report:
    """Everything, within about `limit` seconds. Never raises; what is unknown is told in `notes`."""
    end = time.monotonic() + limit
    known = gpus(root)
    version = _line(root / "sys/module/amdgpu/version")
    whys = []
    for name, ask in (("amd-smi", _amd_smi), ("rocm-smi", _rocm_smi)):
        tool = _tool(name)
        if tool is None:
            whys.append(f"{name} is not installed")
            continue
        report = ask(tool, max(end - time.monotonic(), 1.0))
        if isinstance(report, Report):
            return _merged(report, known)
        whys.append(f"{name}: {report}")
    note = Note("the AMD tools", "; ".join(whys), "links, power and processes of the GPUs are unknown")
    return Report(known, Driver("amd", version, source="sysfs") if known or version else None, None, (note,))


def _merged(report: Report, known: tuple[Gpu, ...]) -> Report:
    """The tool's cards with what only the kernel told, by UUID, else by index."""
    by_uuid = {gpu.uuid: gpu for gpu in known if gpu.uuid}
    made = []
    for gpu in report.gpus:
        other = by_uuid.get(gpu.uuid or "") or (known[gpu.index] if gpu.index < len(known) else None)
        fields = ("uuid", "name", "total", "free", "used", "utilisation")
        lacking = {name: getattr(other, name) for name in fields if getattr(gpu, name) is None} if other else {}
        made.append(replace(gpu, **lacking))
    return replace(report, gpus=tuple(made))


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_FOLDER)


def _amd_smi(tool: str, limit: float) -> Report | str:
    """A report, or why there is none. One command after the other: releases of ROCm deadlocked when two ran at once."""
    end = time.monotonic() + limit
    answers: dict[str, dict[int, Mapping[str, Any]]] = {}
    notes = []
    for what in ("static", "metric", "process", "topology"):
        done = bounded.run((tool, what, "--json"), max(end - time.monotonic(), 0.5))
        entries = list(_entries(_document(done.out)))
        if what == "static" and not entries:
            return done.why or _said(done) or "it lists no GPU"
        if not entries:
            why = done.why or _said(done) or "no JSON in its answer"
            notes.append(Note(f"amd-smi {what}", why, "what it tells of the GPUs is unknown"))
        answers[what] = {index: entry for entry in entries if (index := _index(entry)) is not None}
    static = answers["static"]
    found = tuple(
        _of_amd_smi(index, static[index], answers["metric"].get(index, {}), answers["process"].get(index, {}))
        for index in sorted(static)
    )
    version = next((told for one in static.values() if (told := _driver_version(one))), None)
    links = _pairs(tuple(static), _amd_links(answers["topology"]))
    return Report(found, Driver("amd", version, source="amd-smi"), links, tuple(notes))


def _of_amd_smi(index: int, static: Mapping[str, Any], metric: Mapping[str, Any], process: Mapping[str, Any]) -> Gpu:
    total = _bytes(_at(metric, "mem_usage", "total_vram")) or _bytes(_at(static, "vram", "size"))
    used, free = _bytes(_at(metric, "mem_usage", "used_vram")), _bytes(_at(metric, "mem_usage", "free_vram"))
    if free is None and total is not None and used is not None:
        free = total - used
    name = _known(_at(static, "asic", "market_name")) or _known(_at(static, "board", "product_name"))
    return Gpu(
        index,
        uuid=_uuid(_known(_at(static, "asic", "asic_serial"))),
        name=name,
        total=total,
        free=free,
        used=used,
        utilisation=_number(_at(metric, "usage", "gfx_activity")),
        vendor="amd",
        detail=Detail(
            pci=_known(_at(static, "bus", "bdf")),
            numa=_node(_number(_at(static, "numa", "node"))),
            pcie=Pcie(
                _generation(_at(metric, "pcie", "speed")),
                _number(_at(metric, "pcie", "width")),
                _generation(_at(static, "bus", "max_pcie_speed")),
                _number(_at(static, "bus", "max_pcie_width")),
            ),
            ecc_errors=_number(_at(metric, "ecc", "total_uncorrectable_count")),
            power_limit=_real(_at(static, "limit", "socket_power")),
            power_default=_real(_at(static, "limit", "max_power")),
            temperature=_number(_at(metric, "temperature", "hotspot")),
            architecture=_known(_at(static, "asic", "target_graphics_version")),
            partition=_known(_at(static, "partition", "compute_partition"))
            or _known(_at(static, "partition", "accelerator_partition")),
            processes=_processes(process),
        ),
    )


def _driver_version(static: Mapping[str, Any]) -> str | None:
    return _known(_at(static, "driver", "version")) or _known(_at(static, "driver", "driver_version"))


def _processes(entry: Mapping[str, Any]) -> tuple[Process, ...] | None:
    """None when the tool did not tell; a sentence in the place of a process means that there is none."""
    listed = entry.get("process_list")
    if not isinstance(listed, list):
        return None
    found = []
    for one in listed:
        told = one.get("process_info", one) if isinstance(one, dict) else one
        pid = _number(told.get("pid")) if isinstance(told, dict) else None
        if isinstance(told, dict) and pid is not None:
            used = _bytes(_at(told, "memory_usage", "vram_mem")) or _bytes(told.get("mem_usage"))
            found.append(Process(pid, _known(told.get("name")), used))
    return tuple(found)


def _amd_links(entries: Mapping[int, Mapping[str, Any]]) -> dict[tuple[int, int], tuple[str, bool | None]]:
    """Link type and direct access of each pair, in the form since ROCm 6.1.1 (`links`) or the one before."""
    found: dict[tuple[int, int], tuple[str, bool | None]] = {}
    for index, entry in entries.items():
        listed = entry.get("links")
        for link in listed if isinstance(listed, list) else ():
            other = _index(link) if isinstance(link, dict) else None
            if other is not None:
                found[index, other] = (str(link.get("link_type")), _enabled(link.get("link_status")))
        older = entry.get("link_type")
        for key, kind in older.items() if isinstance(older, dict) else ():
            if (other := _number(str(key).removeprefix("gpu_"))) is not None:
                found[index, other] = (str(kind), _enabled(_at(entry, "link_accessibility", key)))
    return found


def _rocm_smi(tool: str, limit: float) -> Report | str:
    done = bounded.run((tool, *_ROCM_SMI), limit)
    document = _document(done.out)
    if not isinstance(document, dict):
        return done.why or _said(done) or "no JSON in its answer"
    cards = {
        int(name.removeprefix("card")): {str(key).lower(): value for key, value in told.items()}
        for name, told in document.items()
        if re.fullmatch(r"card\d+", str(name)) and isinstance(told, dict)
    }
    if not cards:
        return done.why or "it lists no GPU"
    system = document.get("system")
    told = {str(key).lower(): value for key, value in system.items()} if isinstance(system, dict) else {}
    version = _known(told.get("driver version"))
    links: dict[tuple[int, int], tuple[str, bool | None]] = {}
    for key, kind in [*told.items(), *(item for card in cards.values() for item in card.items())]:
        if match := _TOPOLOGY.search(key):
            links[int(match[1]), int(match[2])] = (str(kind), None)
    found = tuple(_of_rocm_smi(index, cards[index]) for index in sorted(cards))
    note = Note("amd-smi", "rocm-smi answered in its place", "PCIe, power and processes of the GPUs are unknown")
    return Report(found, Driver("amd", version, source="rocm-smi"), _pairs(tuple(cards), links), (note,))


def _of_rocm_smi(index: int, card: Mapping[str, Any]) -> Gpu:
    total, used = _number(card.get("vram total memory (b)")), _number(card.get("vram total used memory (b)"))
    names = (_known(card.get(key)) for key in ("card series", "marketing name", "card model"))
    return Gpu(
        index,
        uuid=_uuid(_known(card.get("unique id"))),
        name=next((name for name in names if name and not name.startswith("0x")), None),
        total=total,
        free=None if total is None or used is None else total - used,
        used=used,
        utilisation=_number(card.get("gpu use (%)")),
        vendor="amd",
        detail=Detail(
            pci=(_known(card.get("pci bus")) or "").lower() or None,
            architecture=_known(card.get("gfx version")),
            partition=_known(card.get("compute partition")),
        ),
    )


def _pairs(
    indices: tuple[int, ...], links: Mapping[tuple[int, int], tuple[str, bool | None]]
) -> tuple[Pair, ...] | None:
    """None when nothing was told of any pair."""
    if len(indices) > 1 and not links:
        return None
    made = []
    for a in sorted(indices):
        for b in sorted(index for index in indices if index > a):
            kind, p2p = links.get((a, b)) or links.get((b, a)) or ("", None)
            made.append(Pair(a, b, _LINKS.get(kind.upper()), None, p2p))
    return tuple(made)


def _document(text: str) -> Any:
    """The first JSON value that begins a line of the text, or None."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"^\s*(?=[\[{])", text, re.MULTILINE):
        try:
            return decoder.raw_decode(text, match.end())[0]
        except (ValueError, RecursionError):
            continue
    return None


def _entries(document: Any) -> Iterator[Mapping[str, Any]]:
    """The GPUs of an answer of amd-smi: a list, a list under `gpu_data` (ROCm 7), or one GPU alone."""
    if isinstance(document, dict):
        inner = document.get("gpu_data")
        document = inner if isinstance(inner, list) else [document]
    for entry in document if isinstance(document, list) else ():
        if isinstance(entry, dict) and _index(entry) is not None:
            yield entry


def _index(entry: Mapping[str, Any]) -> int | None:
    index = _number(entry.get("gpu"))
    return index if index is not None and index >= 0 else None


def _said(done: bounded.Ran) -> str:
    """The first line of a tool that spoke in words instead of JSON."""
    lines = (done.err + "\n" + done.out).strip().splitlines()
    return lines[0].strip()[:200] if lines else ""


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _known(value: Any) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    return None if text.upper() in ("", "N/A", "NONE", "UNKNOWN", "NOT SUPPORTED") else text


def _real(value: Any) -> float | None:
    """A number alone, in a string, or with its unit: `{"value": 750, "unit": "W"}`."""
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 1e18 else None  # also drops inf and nan


def _number(value: Any) -> int | None:
    number = _real(value)
    return None if number is None else int(number)


def _bytes(value: Any) -> int | None:
    number = _real(value)
    unit = str(value.get("unit", "MB")) if isinstance(value, dict) else "MB"
    scale = _UNITS.get(unit.strip().upper())
    return None if number is None or scale is None or number < 0 else int(number * scale)


def _generation(speed: Any) -> int | None:
    number = _real(speed)
    return next((made for rate, made in _GENERATION_GT if number is not None and number >= rate), None)


def _node(number: int | None) -> int | None:
    return number if number is not None and number >= 0 else None


def _enabled(value: Any) -> bool | None:
    return {"ENABLED": True, "DISABLED": False}.get(str(value).upper())


def _uuid(serial: str | None) -> str | None:
    """`GPU-` and sixteen hex digits: the form that HIP_VISIBLE_DEVICES and rocminfo have."""
    digits = (serial or "").lower().removeprefix("0x")
    return f"GPU-{digits.rjust(16, '0')}" if re.fullmatch(r"[0-9a-f]{1,16}", digits) and digits.strip("0") else None


def _line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
