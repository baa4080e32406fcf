"""Flags of a user's that decide memory count in the choice, and those that do not are named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import shapes
from aicockpit.errors import SettingError
from aicockpit.hardware import cards
from aicockpit.hardware.device import GIB
from aicockpit.hardware.fit import Ask
from aicockpit.hardware.shape import read
from aicockpit.recipes import flags, fleet
from aicockpit.recipes.arrange import Sized
from aicockpit.recipes.load import library
from aicockpit.recipes.select import Chosen, Refused, Wish, select
from aicockpit.recipes.spot import SIZES, draft
from aicockpit.recipes.spot_ask import Draft, asked, drafted
from aicockpit.settings import load
from aicockpit.sizing import Sizer, predict
from test_sizing import flag, numbered, specs

DOCS = Path(__file__).parent.parent / "docs" / "recipes.md"
CODER = "Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4"


def chosen(line: str, gpu: str = "RTX4090", memory: int | None = None, context: int = 32_768) -> Chosen | Refused:
    wish = Wish(CODER, max_model_len=context, exact=True, args=tuple(shlex.split(line)), memory=memory, vllm="0.32.0")
    return select(wish, library().recipes, cards.parse(gpu), lambda _: None)


def bytes_of(found: Chosen, name: str) -> int:
    return next((one.bytes for one in found.verdict.terms if one.name == name), 0)


def test_weights_moved_to_the_host_make_room() -> None:
    assert isinstance(chosen(""), Refused)
    found = chosen("--cpu-offload-gb 8")
    assert isinstance(found, Chosen)
    assert found.verdict.host == 8 * GIB
    assert any("in the host's memory (--cpu-offload-gb), which is slow" in one for one in found.reasons)
    merged = flags.merge(found.flags, ("--cpu-offload-gb", "8"))
    assert [flag for flag, _ in flags.split(merged)].count("--cpu-offload-gb") == 1


def test_they_need_room_in_the_host() -> None:
    found = chosen("--cpu-offload-gb 8", memory=6 * GIB)
    assert isinstance(found, Refused)
    told = " ".join(found.reasons)
    assert "8.00 GiB of weights for the host's memory, where 6.00 GiB may be used" in told
    assert isinstance(chosen("--cpu-offload-gb 8", memory=9 * GIB), Chosen)


def test_room_for_adapters_counts() -> None:
    plain, one, many = (
        chosen(line, "A6000") for line in ("", "--enable-lora", "--enable-lora --max-lora-rank 64 --max-loras 4")
    )
    assert isinstance(plain, Chosen)
    assert isinstance(one, Chosen)
    assert isinstance(many, Chosen)
    assert bytes_of(plain, "LoRA") == 0
    assert bytes_of(many, "LoRA") == 16 * bytes_of(one, "LoRA") > 0
    assert plain.verdict.kv_tokens > one.verdict.kv_tokens > many.verdict.kv_tokens


def test_a_draft_model_that_is_not_known_is_told() -> None:
    found = chosen("""--speculative-config '{"model": "a/draft", "num_speculative_tokens": 3}'""", "A6000")
    assert isinstance(found, Chosen)
    assert any("The draft model a/draft (--speculative-config) is not counted" in one for one in found.reasons)
    free = chosen("""--speculative-config '{"method": "ngram", "num_speculative_tokens": 3}'""", "A6000")
    assert isinstance(free, Chosen)
    assert not any("speculative" in one for one in free.reasons)


def test_a_draft_model_that_is_known_counts() -> None:
    words = ("--speculative-config", '{"model": "a/small", "draft_tensor_parallel_size": 1}')
    small = read(shapes.SMOLLM2)
    told = asked(words, small)
    assert (told.draft, told.draft_tensor) == (small, 1)
    assert told.uncounted == ("the KV cache of the draft model a/small is not counted, its weights are",)
    head = asked(("--speculative-config", '{"method": "eagle3", "model": "a/small"}'), small)
    assert head.draft is None  # it is a head, not a model of its own
    assert "not counted" in head.uncounted[0]


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("", None),
        ("""--speculative-config '{"model": "a/x"}'""", Draft("", "a/x")),
        ("""-sc '{"method": "mtp"}'""", Draft("mtp")),
        ("--speculative-config.model a/x --speculative-config.method=eagle", Draft("eagle", "a/x")),
        ("--spec-model a/x --spec-method draft_model --spec-tokens 3", Draft("draft_model", "a/x")),
        ("--speculative_config '[]'", None),
        ("--speculative-config nonsense", None),
        ("--speculative-config '{}'", None),
    ],
)
def test_every_way_to_name_a_draft_is_read(line: str, want: Draft | None) -> None:
    assert drafted(shlex.split(line)) == want


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ("--cpu-offload-gb 1.5", {"offload": 3 * GIB // 2}),
        ("--cpu_offload_gb=2 --offload-backend uva", {"offload": 2 * GIB}),
        ("--cpu-offload-gb many", {}),
        ("--cpu-offload-gb -1", {}),
        ("--cpu-offload-gb inf", {}),
        ("--cpu-offload-gb 2 --offload-backend prefetch", {}),
        (
            "--cpu-offload-gb 2 --offload-group-size 8",
            {"uncounted": ("what --offload-group-size moves to the host's memory is not counted",)},
        ),
        (
            "--cpu-offload-gb 2 --cpu-offload-params experts",
            {"uncounted": ("--cpu-offload-gb is not counted: what --cpu-offload-params names may be less",)},
        ),
        ("--max-lora-rank 64", {}),
        ("--enable-lora --max-lora-rank=64", {"lora_rank": 64}),
        ("--enable-lora --max-loras 3", {"lora_rank": 16, "loras": 3}),
        (
            "--spec-method mtp",
            {"uncounted": ("what mtp (--speculative-config) keeps beside the checkpoint's weights is not counted",)},
        ),
    ],
)
def test_flags_are_a_question(line: str, want: Mapping[str, object]) -> None:
    assert asked(shlex.split(line)) == Ask(**want)  # type: ignore[arg-type]


def test_the_docs_list_the_flags_that_count() -> None:
    """Each of them changes the question, and each flag that changes it is named."""
    table = DOCS.read_text().partition("these count in the sum")[2].partition("\n\nWhat else")[0]
    told = set(re.findall(r"`(--[a-z-]+)", table))
    values = {
        "--max-model-len": "4096",
        "--gpu-memory-utilization": "0.5",
        "--kv-cache-dtype": "fp8",
        "--max-num-batched-tokens": "512",
        "--max-num-seqs": "3",
        "--enable-lora --max-lora-rank": "64",
        "--enable-lora --max-loras": "4",
        "--cpu-offload-gb": "2",
        "--speculative-config": '\'{"model": "a/x"}\'',
        "--spec-model": "a/x",
        "--spec-method": "mtp",
    }
    assert told == {word for line in values for word in line.split()} | {*SIZES}
    for name, value in values.items():
        assert asked(shlex.split(f"{name} {value}")) != Ask(), name


FLEET = "models: [{{model: {model}, gpus: 1{more}}}]"


def test_adapters_of_the_fleet_file_count(tmp_path: Path) -> None:
    card = numbered(cards.parse("A6000"))
    settings = load(environ={"AICOCKPIT_VLLM_COMMAND": "vllm serve", "AICOCKPIT_STATE_DIR": str(tmp_path)})

    def sized(more: str) -> Sized:
        (tmp_path / "fleet.yaml").write_text(FLEET.format(model=CODER, more=more))
        asked = fleet.ask(replace(settings, fleet=tmp_path / "fleet.yaml"))
        return Sizer(settings, library().recipes, card, lambda _: None).size(asked.models[0])

    assert sized(", lora: {}").least > sized("").least
    (spec,) = specs(tmp_path, card, FLEET.format(model=CODER, more=", lora: {}"))
    assert (flag(spec, "--enable-lora"), flag(spec, "--max-lora-rank")) == ("", "16")


def test_the_host_s_memory_holds_weights_and_models_together(tmp_path: Path) -> None:
    card = numbered(cards.parse("RTX4090"))
    line = "args: [--cpu-offload-gb, '12'], context: 32768"
    (spec,) = specs(tmp_path, card, FLEET.format(model=CODER, more=f", {line}"))
    assert ("cpu", 12 * GIB) in spec.residence.needs
    two = f"models: [{{model: {CODER}, gpus: 1, {line}}}, {{model: Qwen/Qwen2.5-Coder-3B-Instruct, gpus: 0}}]"
    with pytest.raises(SettingError, match=r"weights of GPUs on the CPU do not fit: 12\.0 GiB for weights of .*-0"):
        specs(tmp_path, card, two)


def test_a_draft_model_of_a_recipe_counts(tmp_path: Path) -> None:
    words = ("--speculative-config", '{"model": "Qwen/Qwen2.5-Coder-0.5B-Instruct", "num_speculative_tokens": 3}')
    known = draft(words, library().recipes, lambda _: None)
    assert known is not None
    assert draft(("--spec-model", "a/x"), library().recipes, lambda _: None) is None
    assert draft(("--spec-model", "a/x"), library().recipes, {"a/x": known}.get) == known
    found = chosen(shlex.join(words), "A6000")
    assert isinstance(found, Chosen)
    wish = Wish(CODER, exact=True, args=words, draft=known, max_model_len=32_768, vllm="0.32.0")
    counted = select(wish, library().recipes, cards.parse("A6000"), lambda _: None)
    assert isinstance(counted, Chosen)
    assert counted.verdict.kv_tokens < found.verdict.kv_tokens
    assert bytes_of(counted, "draft model") > 0
    (spec,) = specs(tmp_path, numbered(cards.parse("A6000")), MODEL_NAME=CODER, AICOCKPIT_ENGINE_ARGS=shlex.join(words))
    assert predict(read(shapes.DEV32), spec.argv, cards.parse("A6000")) is None  # nobody can tell
