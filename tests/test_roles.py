"""A model's role, from the fleet file to the record of its engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aicockpit.hardware.device import GIB, Device
from aicockpit.recipes import arrange, command, fleet
from aicockpit.recipes.arrange import Sized
from aicockpit.recipes.place import Slot
from aicockpit.roster import _differs
from engine_rig import make_process, process_of, spec_of
from test_fleet import settings

FILE = """
models:
  - {name: complete, model: a/coder, role: completion, gpus: 1}
  - {name: plain, model: a/coder, gpus: 1}
  - {name: embed, model: a/embed, gpus: 1}
  - {name: rank, model: a/coder, role: rerank, gpus: 1}
"""


def test_the_file_says_it_and_of_a_recipe_only_that_it_generates_nothing(tmp_path: Path) -> None:
    wanted = settings(tmp_path, FILE, AICOCKPIT_VLLM_COMMAND="vllm serve")
    asked = fleet.ask(wanted)
    sized = [Sized(1, GIB, role="embedding" if m.served == "embed" else "chat") for m in asked.models]
    slots = [Slot(gpu, Device("NVIDIA RTX A6000", 48 * GIB)) for gpu in "0123"]
    shapes = [shape for model in arrange.arrange(asked, sized, slots, [0], None).models for shape in model.shapes]
    assert [shape.role for shape in shapes] == ["completion", "", "embedding", "rerank"]
    specs = [command.build(shape, tmp_path, shape.name, wanted) for shape in shapes]
    assert [spec.role for spec in specs] == ["completion", "", "embedding", "rerank"]


async def test_another_role_counts_at_once_and_restarts_nothing(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, role="completion")
    assert not _differs(spec, replace(spec, role="chat"))
    made = make_process(tmp_path, spec)
    made.respec(replace(spec, role="chat"), {})
    assert made.engine.role == "chat"
    await made.close()


async def test_an_engine_of_ours_tells_by_what_it_answers_whether_it_generates(tmp_path: Path) -> None:
    for flags, answers in (((), "/v1/completions"), (("--fake-embedding-model",), "/v1/embeddings")):
        async with process_of(tmp_path, *flags) as made:
            await made.start()
            assert made.engine.answers == answers
