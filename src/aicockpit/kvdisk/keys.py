"""Which folder a block belongs to: everything that its bytes depend on besides the tokens; the connector asks once at
start."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from .files import KEY_BYTES

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json")
_NO_WEIGHTS = ("tokenizer", "vocab", "merges", "special_tokens", "generation_config", "aicockpit")


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
    """What changes whenever the weights do: the hub's commit, or names, sizes and times of the files in a local
    folder.

    A file of the hub's cache is a link to a blob named by its content; that name stands for its time then. None:
    neither is known, so blocks could outlive the weights that made them, and nothing may be kept.
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
    content = target.name if _is_blob(target) else str(found.st_mtime_ns)
    return path.name, found.st_size, content
