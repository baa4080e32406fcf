"""Who uses a model of the cache now: the running server, another one, a download. Called by `commands/models.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from aicockpit.control import Control, NotRunning
from aicockpit.models import files as model_files
from aicockpit.recipes import fleet
from aicockpit.settings import Settings

if TYPE_CHECKING:
    from aicockpit.models.cache import Entry

_PROGRAMS = ("vllm", "aicockpit")


def users(loaded: Settings) -> Callable[[Entry], str]:
    """A function that says in words who uses a revision, "" for nobody.

    Command lines of engines name the folder that they serve. A model that a running server has unloaded shows in the
    server's own list alone, without its revision: then all revisions count as used.
    """
    running = list(_commands())
    served = _served(loaded)

    def user_of(entry: Entry) -> str:
        if entry.busy:
            return "a download"
        storage = f"/models--{entry.model.replace('/', '--')}/snapshots/"  # a cache may be reached by several paths
        for pid, words in running:
            for word in words:
                if _names(word, entry) or word == str(entry.path) or f"{storage}{entry.revision}" in word:
                    return f"process {pid}"
        known = any(storage in word for _, words in running for word in words)
        return f"the running server ({served[entry.model]})" if entry.model in served and not known else ""

    return user_of


def _names(word: str, entry: Entry) -> bool:
    """`vllm serve owner/name`, or a download of ours."""
    repo_id, revision = model_files.split(word)
    fits = not revision or revision in entry.refs or entry.revision.startswith(revision)
    return repo_id == entry.model and fits


def _commands() -> Iterator[tuple[int, list[str]]]:
    """The words of each process of another vLLM or AiCockpit that this user may see; not ours, nor our parents'."""
    own = {psutil.Process().pid, *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if process.pid not in own and any(name in word.lower() for name in _PROGRAMS for word in words):
            yield process.pid, words


def _served(loaded: Settings) -> dict[str, str]:
    """Models of the server with our state folder, by id: which engine, or which setting, names it."""
    if not (loaded.run_dir / "gateway.sock").exists():
        return {}
    try:
        engines = Control(loaded).engines()
    except NotRunning:
        return {}
    found = {model: f"engine {engine['name']}" for engine in engines for model in engine["models"]}
    asked = [loaded.model_name] if loaded.model_name else []
    if loaded.fleet is not None and Path(loaded.fleet).is_file():
        asked += [one.model for one in fleet.read(loaded.fleet).models]
    return {**{model_files.split(model)[0]: "its settings" for model in asked}, **found}
