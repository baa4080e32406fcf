"""The Hugging Face cache and the Hub: is a model complete on disk, and if not, bring it. Called by `locate.py`.

The library keeps the cache, resumes cut downloads and reads `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE`; what is
decided here is which files of a repository are worth having, and what each failure means to a person.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is re-exported: httpx's or httpx2's
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils.tqdm import tqdm

from aicockpit.errors import ModelError
from aicockpit.models.smollm2 import Progress, silent

LIST_WAIT_S = 10.0
_POLL_S = 0.5
_RESERVE_BYTES = 200_000_000  # left free on the disk after a download
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


def lacking(folder: Path) -> str:
    """What a model folder lacks to be served, in words; empty when nothing. Broken links count as absent."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    if not names & {"config.json", "params.json"}:
        return "config.json"
    weights = sorted(name for name in names if name.endswith((".safetensors", ".bin", ".pt")))
    expected = _indexed(folder) or {shard for name in weights for shard in _siblings(name)}
    if absent := sorted(expected - names):
        return f"{len(absent)} of {len(expected)} weight files (such as {absent[0]})"
    return "" if weights else "weight files (*.safetensors)"


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


def cached(repo_id: str) -> Path | None:
    """The newest cached snapshot, if it is complete. Never asks the network."""
    for name in ("config.json", "params.json"):
        try:
            found = try_to_load_from_cache(repo_id, name)
        except HFValidationError as error:
            raise _no_id(repo_id) from error
        if isinstance(found, str):
            folder = Path(found).parent
            has_tokenizer = any(path.exists() for glob in _TOKENIZERS for path in folder.glob(glob))
            return folder if has_tokenizer and not lacking(folder) else None
    return None


def wanted(names: list[str]) -> list[str]:
    """The files of a repository that vLLM reads: configuration, tokenizer, code, and one format of weights."""
    ours = [name for name in names if not name.startswith(_OTHER_FORMATS)]
    root = [name for name in ours if "/" not in name]
    weights = [name for name in root if name.endswith(".safetensors")]
    merged = [name for name in weights if not name.startswith("consolidated")]
    weights = merged or weights or [name for name in root if name.endswith(".bin") and name != "training_args.bin"]
    return [name for name in ours if name.endswith(_TEXT_SUFFIXES)] + weights


def download(repo_id: str, token: str = "", progress: Progress = silent) -> Path:
    """Bring a model into the cache and return its folder. Raises ModelError.

    `progress` gets bytes, also of an earlier, cut download, and is called from another thread.
    """
    try:
        progress(f"asking {constants.ENDPOINT} for {repo_id}", 0, 0)
        info = HfApi(token=token or None).model_info(repo_id, files_metadata=True, timeout=LIST_WAIT_S)
        files = _choose(repo_id, info)
        blobs = _blobs_folder(repo_id)
        total = sum(file.size or 0 for file in files)
        _check_space(repo_id, total - _on_disk(blobs, files))
        with _watched(blobs, files, total, progress):
            folder = snapshot_download(
                repo_id,
                token=token or None,
                allow_patterns=[file.rfilename for file in files],
                tqdm_class=_Silent,
            )
    except (HTTPError, OSError, HFValidationError) as error:
        raise _explained(repo_id, error, has_token=bool(token)) from error
    if lack := lacking(Path(folder)):
        raise ModelError(f"{repo_id} on {constants.ENDPOINT} lacks {lack}: vLLM cannot serve it.")
    return Path(folder)


class _Silent(tqdm):
    """The library's bars, kept quiet: progress goes to our callback."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]


def _choose(repo_id: str, info: ModelInfo) -> list[RepoSibling]:
    by_name = {file.rfilename: file for file in info.siblings or []}
    names = wanted(list(by_name))
    if any(name.endswith(".gguf") for name in by_name) and not any(n.endswith((".safetensors", ".bin")) for n in names):
        raise GgufRefused(f"{repo_id} on {constants.ENDPOINT}")
    return [by_name[name] for name in names]


def _blobs_folder(repo_id: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}" / "blobs"


def _on_disk(blobs: Path, files: list[RepoSibling]) -> int:
    """Bytes of these files that are in the cache, finished or not (a blob is named by its hash)."""
    hashes = {file.lfs.sha256 if file.lfs else file.blob_id or "" for file in files}
    size = 0
    for path in blobs.glob("*"):
        if path.name.partition(".")[0] in hashes:
            try:
                size += path.stat().st_blocks * 512
            except FileNotFoundError:  # renamed meanwhile: it was finished
                continue
    return size


def _check_space(repo_id: str, needed: int) -> None:
    place = Path(constants.HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed + _RESERVE_BYTES > free:
        raise _disk_full(f"{repo_id} needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free")


def _disk_full(what: str) -> ModelError:
    return ModelError(
        f"The disk is too full: {what} in {constants.HF_HUB_CACHE}. "
        "Free some space there, or set HF_HOME to a folder on a larger disk."
    )


@contextmanager
def _watched(blobs: Path, files: list[RepoSibling], total: int, progress: Progress) -> Iterator[None]:
    """Report bytes on disk until the block ends. Sizes are looked up rather than counted, as the library's
    own bars differ from release to release and leave out what an earlier download brought."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(_POLL_S):
            progress("downloading", min(_on_disk(blobs, files), total), total)

    thread = threading.Thread(target=poll, name="download-progress", daemon=True)
    progress("downloading", min(_on_disk(blobs, files), total), total)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    progress("downloading", total, total)


def _no_id(repo_id: str) -> ModelError:
    return ModelError(
        f"MODEL_NAME={repo_id!r} is neither a folder nor a Hugging Face id (owner/name). "
        "A folder may be written with ./, ../, ~ or / in front."
    )


def _explained(repo_id: str, error: Exception, has_token: bool) -> ModelError:
    """What a failure of the library means, where was looked, and what to do."""
    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    looked = f"Looked in the cache {cache} and on {hub}."
    if isinstance(error, HFValidationError):
        return _no_id(repo_id)
    if isinstance(error, GatedRepoError):
        return _gated(repo_id, has_token)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, RepositoryNotFoundError):
        hint = " If it is private, " + ("check that HF_TOKEN may read it." if has_token else "set HF_TOKEN.")
        return ModelError(f"There is no model {repo_id}. {looked} Check the spelling of MODEL_NAME.{hint}")
    if status == 401:
        return ModelError(f"{hub} refused the token in HF_TOKEN (401). Make a new one at {hub}/settings/tokens.")
    if status:
        return ModelError(f"{hub} answered {status} for {repo_id}. {looked} Try again later.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(f"writing {repo_id} failed")
    if isinstance(error, OfflineModeIsEnabled):
        return ModelError(
            f"{repo_id} is not in the cache {cache}, and HF_HUB_OFFLINE is set. "
            "Unset it, or set MODEL_NAME to a local folder."
        )
    if isinstance(error, HTTPError | LocalEntryNotFoundError | ConnectionError | TimeoutError):
        return ModelError(
            f"{repo_id} is not complete in the cache {cache}, and the download from {hub} failed: "
            f"{_first_line(error)}. Check the network or the proxy and start again (a cut download goes on where "
            "it ended), or set MODEL_NAME to a local folder."
        )
    return ModelError(f"Fetching {repo_id} into {cache} failed: {_first_line(error)}.")


def _gated(repo_id: str, has_token: bool) -> ModelError:
    page = f"{constants.ENDPOINT}/{repo_id}"
    if has_token:
        todo = f"The account of HF_TOKEN has no access: accept the licence at {page} with that account"
    else:
        tokens = f"{constants.ENDPOINT}/settings/tokens"
        todo = f"Accept its licence at {page}, make a token at {tokens}, and set HF_TOKEN to it"
    return ModelError(f"{repo_id} is gated. {todo}; then start again.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
