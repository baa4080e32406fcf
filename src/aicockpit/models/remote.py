"""The shape of a model on the Hub without its weights: `config.json`, and the safetensors index or one file's header.

`aicockpit fit` and `recipes explain` call it. What was read is kept by commit, so the second look needs no network.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # exported lazily

from aicockpit.errors import ModelError
from aicockpit.hardware import shape
from aicockpit.hardware.shape import INDEX, ModelShape, ShapeUnknown, Tensor
from aicockpit.models import fetch
from aicockpit.models.hub import FAILURES, Hub, Unreachable, explained, offline
from aicockpit.models.snapshots import MAIN, cached, newest_complete

ANSWER_WAIT_S = 10.0  # without a byte
_LARGEST_TEXT = 50_000_000  # bytes of a config.json or an index; the largest index of 2026 has 20 MB
_NEAR = 0.01  # an index may leave out this share of the files' bytes (their headers)


@dataclass(frozen=True, slots=True)
class Remote:
    """A model's shape at one commit, and where it was read: a complete download, the Hub, or an earlier look."""

    shape: ModelShape
    commit: str
    source: Literal["cache", "hub", "kept"]


@dataclass(frozen=True, slots=True)
class _Read:
    """What a look brought: all that `shape.read` takes."""

    config: Mapping[str, Any]
    weights: int | None = None
    tensors: Mapping[str, Tensor] | None = None


def look(hub: Hub, repo_id: str, revision: str = "", keep: Path | None = None) -> Remote:
    """The shape of `repo_id` at `revision` ("": `main`). `keep`: the folder where looks are kept.

    Raises ModelError (gated, no such model, no network and no earlier look) and ShapeUnknown.
    """
    have = cached(hub, repo_id, revision)
    if have is not None and not have.lack:
        return Remote(shape.local(have.folder), have.commit, "cache")
    kept = _Kept(keep / repo_id.replace("/", "--")) if keep else None
    if hub.offline:
        return _unasked(hub, repo_id, kept, revision, offline(hub, repo_id, have.lack if have else ""))
    try:
        found = fetch.look(hub, repo_id, revision)
    except Unreachable as error:
        return _unasked(hub, repo_id, kept, revision, error)
    if kept and (read := kept.read(found.commit)):
        kept.point(revision, found.commit)
        return Remote(shape.read(read.config, read.weights, read.tensors), found.commit, "kept")
    try:
        read = _read(hub, found)
    except FAILURES as error:
        return _earlier(kept, revision, explained(hub, repo_id, error, revision))
    if kept:
        kept.write(found.commit, read)
        kept.point(revision, found.commit)
    return Remote(shape.read(read.config, read.weights, read.tensors), found.commit, "hub")


def _unasked(hub: Hub, repo_id: str, kept: _Kept | None, revision: str, error: ModelError) -> Remote:
    """Without a network: of the download that `locate.py` would serve then, or the last look."""
    older = None if revision else newest_complete(hub, repo_id)
    return Remote(shape.local(older), older.name, "cache") if older else _earlier(kept, revision, error)


def _earlier(kept: _Kept | None, revision: str, error: ModelError) -> Remote:
    """The last look at that revision; without one, the error."""
    commit = kept.commit(revision) if kept else ""
    read = kept.read(commit) if kept and commit else None
    if read is None:
        raise error
    return Remote(shape.read(read.config, read.weights, read.tensors), commit, "kept")


def _read(hub: Hub, found: fetch.Found) -> _Read:
    sizes = {file.name: file.size for file in found.files}
    name = "config.json" if "config.json" in sizes else "params.json"
    config = _json(hub, found, name, sizes.get(name, 0))
    weights = {file: size for file, size in sizes.items() if file.endswith((".safetensors", ".bin"))}
    stored = sum(weights.values()) or None
    if len(weights) == 1 and (only := next(iter(weights))).endswith(".safetensors"):
        return _Read(config, stored, _header(hub, found, only))
    if INDEX in sizes:
        told = _json(hub, found, INDEX, sizes[INDEX]).get("metadata")
        total = told.get("total_size") if isinstance(told, Mapping) else None
        if isinstance(total, int | float) and stored and abs(total / stored - 1) <= _NEAR:
            return _Read(config, int(total))
    return _Read(config, stored)


def _json(hub: Hub, found: fetch.Found, name: str, size: int) -> dict[str, Any]:
    """A small file of the repository. Raises ShapeUnknown when it is not one JSON object."""
    if size > _LARGEST_TEXT:
        raise ShapeUnknown(name, f"{name} of {found.repo_id} has {size:,} bytes.")
    url = hf_hub_url(found.repo_id, name, revision=found.commit, endpoint=hub.endpoint)
    response = get_session().get(url, headers=hub.headers, timeout=ANSWER_WAIT_S)
    hf_raise_for_status(response)
    try:
        told = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise ShapeUnknown(name, f"{name} of {found.repo_id} is not JSON: {error}.") from error
    if not isinstance(told, dict):
        raise ShapeUnknown(name, f"{name} of {found.repo_id} is not a JSON object.")
    return told


def _header(hub: Hub, found: fetch.Found, name: str) -> dict[str, Tensor] | None:
    """The tensors of one file by a range request; None when its header cannot be read."""
    try:
        told = hub.api.parse_safetensors_file_metadata(
            found.repo_id, name, revision=found.commit, timeout=ANSWER_WAIT_S
        )
    except (NotASafetensorsRepoError, SafetensorsParsingError):
        return None
    return {
        tensor: Tensor(str(info.dtype), tuple(info.shape), info.data_offsets[1] - info.data_offsets[0])
        for tensor, info in told.tensors.items()
    }


class _Kept:
    """Earlier looks at one model: `<commit>.json`, and `revisions.json` with the commit of each branch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def commit(self, revision: str) -> str:
        known = self._load("revisions.json").get(revision or MAIN)
        if isinstance(known, str):
            return known
        return revision if (self._folder / f"{revision}.json").is_file() and revision != "revisions" else ""

    def point(self, revision: str, commit: str) -> None:
        self._save("revisions.json", {**self._load("revisions.json"), (revision or MAIN): commit})

    def read(self, commit: str) -> _Read | None:
        told = self._load(f"{commit}.json")
        config, weights, rows = told.get("config"), told.get("weights"), told.get("tensors")
        if not isinstance(config, dict) or not isinstance(weights, int | None):
            return None
        try:
            tensors = {name: Tensor(row[0], tuple(row[1]), int(row[2])) for name, row in rows.items()} if rows else None
        except (AttributeError, IndexError, TypeError, ValueError):
            return None
        return _Read(config, weights, tensors)

    def write(self, commit: str, read: _Read) -> None:
        rows = {name: (t.dtype, t.dims, t.bytes) for name, t in (read.tensors or {}).items()}
        self._save(f"{commit}.json", {"config": read.config, "weights": read.weights, "tensors": rows})

    def _load(self, name: str) -> dict[str, Any]:
        try:
            told = json.loads((self._folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return told if isinstance(told, dict) else {}

    def _save(self, name: str, value: object) -> None:
        """A look that cannot be kept is looked at again."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False, encoding="utf-8") as file:
                json.dump(value, file)
            os.replace(file.name, self._folder / name)
