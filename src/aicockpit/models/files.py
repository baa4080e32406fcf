"""Which files of a model matter: those worth downloading, and what a folder lacks to be served. No network, no cache.

Called by `fetch.py` and `locate.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from aicockpit.errors import ModelError

_CONFIGS = frozenset(("config.json", "params.json"))
_WEIGHTS = (".safetensors", ".bin", ".pt")
_TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken")
_OTHER_FORMATS = ("original/", "onnx/", "openvino/", "coreml/", "gguf/")
_TOKENIZERS = ("tokenizer*", "vocab.*", "tekken.json", "*.tiktoken")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.")
_GGUF = (
    "GGUF is no longer a vLLM format (removed upstream). Use the safetensors version of the model, "
    "for example its original repository or an AWQ, GPTQ or FP8 one."
)


class GgufRefused(ModelError):
    """The model comes as GGUF only."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} holds GGUF weights only. {_GGUF}")


def split(model: str) -> tuple[str, str]:
    """`owner/name@revision` as id and revision; the revision (branch, tag, commit) is "" when none is pinned."""
    repo_id, _, revision = model.partition("@")
    return repo_id, revision


def amount(count: float) -> str:
    """Bytes for people, decimal as disks are: `18.6 GB`, `3.1 MB`."""
    return f"{count / 1e9:.1f} GB" if abs(count) >= 1e8 else f"{count / 1e6:.1f} MB"


def wanted(names: Sequence[str]) -> list[str]:
    """The files of a repository that vLLM reads: configuration, tokenizer, code, and one format of weights."""
    ours = [name for name in names if not name.startswith(_OTHER_FORMATS)]
    root = [name for name in ours if "/" not in name]
    weights = [name for name in root if name.endswith(".safetensors")]
    merged = [name for name in weights if not name.startswith("consolidated")]
    weights = merged or weights or [name for name in root if name.endswith(".bin") and name != "training_args.bin"]
    return [name for name in ours if name.endswith(_TEXT_SUFFIXES)] + weights


def gguf_only(names: Sequence[str]) -> bool:
    """True for a repository or folder whose only weights are GGUF."""
    return any(n.endswith(".gguf") for n in names) and not any(n.endswith((".safetensors", ".bin")) for n in names)


def lacking(folder: Path) -> str:
    """What a model folder lacks to be served, in words; empty when nothing. Broken links count as absent."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    if not names & _CONFIGS:
        return "config.json"
    weights = sorted(name for name in names if name.endswith(_WEIGHTS))
    expected = _indexed(folder) or {shard for name in weights for shard in _siblings(name)}
    if absent := sorted(expected - names):
        return f"{len(absent)} of {len(expected)} weight files (such as {absent[0]})"
    return lacking_names(names)


def lacking_names(names: Collection[str]) -> str:
    """The same by names alone: no configuration, or no weights."""
    if not _CONFIGS & set(names):
        return "config.json"
    return "" if any(name.endswith(_WEIGHTS) for name in names) else "weight files (*.safetensors)"


def has_tokenizer(folder: Path) -> bool:
    """A folder of the user's may name its tokenizer elsewhere; a cached snapshot without one was cut short."""
    return any(path.exists() for glob in _TOKENIZERS for path in folder.glob(glob))


def _indexed(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read: {error}. Remove the folder and fetch the model again.") from error


def _siblings(name: str) -> Iterator[str]:
    """All shards of `model-00001-of-00003.safetensors`; the name itself when it is no shard."""
    if match := _SHARD.search(name):
        head, tail = name[: match.start()], name[match.end() :]
        yield from (f"{head}-{n:05}-of-{match[1]}.{tail}" for n in range(1, int(match[1]) + 1))
    else:
        yield name
