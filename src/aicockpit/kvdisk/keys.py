"""Which folder a block belongs to: everything that its bytes depend on besides the tokens; the connector asks once at
start, and `recipes/kv_basis.py` for vLLM's own files on GPUs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .files import KEY_BYTES

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".py")  # the last: a model's own code
_NO_WEIGHTS = ("tokenizer", "vocab", "merges", "special_tokens", "generation_config", "aicockpit")
_SAMPLES, _SAMPLE = 5, 1 << 16  # of a file, the first at its head, the last at its end; and the bytes of each


@dataclass(frozen=True, slots=True)
class Identity:
    """What two engines must have in common to use each other's blocks.

    `weights`: a stamp of the files, see `weights_stamp`. `settings`: a digest of the model's configuration after
    overrides. `layers`: per layer its name, the shape of one block and its type, in the order in which a file holds
    them.
    """

    model: str
    revision: str | None
    weights: str
    load_format: str
    settings: str
    dtype: str
    kv_dtype: str
    quantization: str | None
    block_tokens: int
    hash_algorithm: str
    layers: tuple[tuple[str, tuple[int, ...], str], ...]
    backend: str
    engine: str
    ranks: int

    @property
    def digest(self) -> bytes:
        """The folder's key, as each file's header repeats it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()[:KEY_BYTES]

    @property
    def folder(self) -> str:
        """A name that a person recognises, made unique by the digest."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(self.model.rstrip("/"))).strip(".-")[:60]
        return f"{plain or 'model'}-{self.digest.hex()}"

    @property
    def about(self) -> str:
        """The same for a reader, as JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def weights_stamp(model: str, commit: str | None) -> str | None:
    """What changes whenever the weights do: the hub's commit, or names, sizes, times and samples of the files in a
    local folder.

    Samples, since images and archives may give all files one time; a 140 GB checkpoint has 10 MB of them. A file of the
    hub's cache is a link to a blob named by its content; that name stands for its time and samples then. None: neither
    is known, so blocks could outlive the weights that made them, and nothing may be kept.
    """
    folder = Path(model)
    if not folder.exists():
        return f"commit {commit}" if commit else None
    try:
        parts = [_stamp(path) for path in _files(folder)]
    except OSError:
        return None
    return f"files {hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}" if parts else None


def written_since(model: str, since: float) -> bool:
    """Was one of the files that `weights_stamp` knows by its time written at `since` (Unix seconds) or later, or a
    link turned? Then the engine may have loaded what stood there before."""
    folder = Path(model)
    try:
        return folder.exists() and any(_written(path) >= since for path in _files(folder))
    except OSError:
        return True


def adapter_stamp(path: str, since: float) -> bytes | None:
    """The same for an adapter's folder, as bytes; None when it is not a local folder with files, or one of them was
    written at `since` (Unix seconds) or later: the engine may compute with what stood there before."""
    try:
        files = [file for file in sorted(Path(path).iterdir()) if file.is_file()]
        if any(file.stat().st_ctime >= since for file in files):
            return None
        parts = [_stamp(file) for file in files]
    except OSError:
        return None
    return hashlib.sha256(repr(parts).encode()).digest() if parts else None


def block_name(block_hash: bytes, adapter: bytes | None) -> bytes:
    """A block's name on disk: vLLM's chained hash, which knows an adapter by name and path only, so its stamp is
    added."""
    return block_hash if adapter is None else hashlib.sha256(adapter + block_hash).digest()


def length_counts(config: Any) -> bool:
    """May the longest context that was asked for change what a model computes? `config`: its `config.json`.

    vLLM's long RoPE picks its factors by it (`rotary_embedding/phi3_long_rope_scaled_rope.py`), and Llama 4 its
    attention's temperature (`models/llama4.py`). False only for a configuration that has positions without scaling and
    no code of its own.
    """
    if not isinstance(config, Mapping) or not config:
        return True
    return any(_scaled(key, value) for key, value in _walk(config))


def _walk(value: Any) -> Sequence[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in ((str(key), inner), *_walk(inner))]
    if isinstance(value, list | tuple):
        return [pair for inner in value for pair in _walk(inner)]
    return []


def _scaled(key: str, value: Any) -> bool:
    if key == "model_type":
        return "llama4" in str(value)
    if key == "auto_map":
        return bool(value)
    if key not in ("rope_scaling", "rope_parameters") or not value:
        return False
    if not isinstance(value, Mapping):
        return True
    # One for all layers, or one for each kind of layer.
    kinds = [found for name, found in (*value.items(), *_walk(list(value.values()))) if name in ("rope_type", "type")]
    return any(kind not in ("default", None) for kind in kinds)


def _files(model: Path) -> list[Path]:
    files = [model] if model.is_file() else sorted(model.iterdir())
    return [path for path in files if path.suffix in _WEIGHTS and not path.name.startswith(_NO_WEIGHTS)]


def _written(path: Path) -> float:
    link = path.lstat().st_ctime
    return link if _is_blob(path.resolve()) else max(link, path.stat().st_ctime)


def _is_blob(target: Path) -> bool:
    """A file of the hub's cache, named by its content."""
    return target.parent.name == "blobs"


def _stamp(path: Path) -> tuple[str, int, str]:
    found = path.stat()
    target = path.resolve()
    if _is_blob(target):
        return path.name, found.st_size, target.name
    samples = _samples(str(target), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return path.name, found.st_size, f"{found.st_mtime_ns} {samples}"


@lru_cache(maxsize=4096)
def _samples(path: str, inode: int, size: int, mtime_ns: int, ctime_ns: int) -> str:
    """A digest of some of a file's bytes. It is read again when any of what `stat` tells of it is another: an adapter's
    is asked for with each request. Raises OSError."""
    del inode, mtime_ns, ctime_ns
    digest = hashlib.sha256()
    room = max(size - _SAMPLE, 0)
    with open(path, "rb", buffering=0) as file:
        for start in sorted({room * number // (_SAMPLES - 1) for number in range(_SAMPLES)}):
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]
