"""A model's dimensions before it is fetched: a folder's, or a Hub id's, read in a child process as `locate.py` does.

`roster.py` asks before it plans. Of what cannot be told it gets the reason: a recipe may know, and vLLM measures.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from pathlib import Path

from aicockpit.errors import AicockpitError
from aicockpit.hardware import shape
from aicockpit.hardware.shape import ModelShape
from aicockpit.models.files import split
from aicockpit.models.locate import is_path
from aicockpit.settings import Settings

# The Hub answers within seconds, or the dimensions stay unknown.
_WAIT_S = 60.0
_PASSED = "AICOCKPIT_DIMENSIONS"


async def shape_apart(model: str, settings: Settings) -> ModelShape | str:
    """The dimensions of a folder or a Hub id, or a sentence on why they cannot be told."""
    if is_path(model):
        return await asyncio.to_thread(_of_folder, model)
    environ = {**os.environ, "HF_HUB_VERBOSITY": "critical", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environ |= {_PASSED: str(settings.state_dir / "shapes")} | (
        {"HF_TOKEN": settings.hf_token} if settings.hf_token else {}
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aicockpit.models.dimensions", model),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env=environ,
        start_new_session=True,  # Ctrl-C comes through us
    )
    try:
        async with asyncio.timeout(_WAIT_S):
            answer, _ = await child.communicate()
    except TimeoutError:
        return f"No answer on {model} came within {_WAIT_S:g} s."
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if not answer:
        return f"Looking for the dimensions of {model} ended with exit code {child.returncode}."
    found: ModelShape | str = pickle.loads(answer)
    return found


def _of_folder(folder: str) -> ModelShape | str:
    try:
        return shape.local(Path(os.path.expanduser(folder)))
    except (AicockpitError, OSError) as error:
        return str(error)


def main(argv: list[str]) -> int:
    """The child: a ModelShape or a sentence, pickled, on stdout."""
    from aicockpit.models import remote
    from aicockpit.models.hub import Hub

    repo_id, revision = split(argv[0])
    found: ModelShape | str
    try:
        hub = Hub.of_environment(os.environ.get("HF_TOKEN", ""))
        found = remote.look(hub, repo_id, revision, Path(os.environ[_PASSED])).shape
    except (AicockpitError, OSError) as error:
        found = str(error)
    sys.stdout.buffer.write(pickle.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
