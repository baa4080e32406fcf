"""From GPU facts and a user's flags to the command of an engine: what is decided, refused, kept. No network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aicockpit.errors import SettingError
from aicockpit.hardware import cards
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.shape import read
from aicockpit.recipes import arrange, command, flags, fleet
from aicockpit.recipes.load import library
from aicockpit.recipes.place import Slot
from aicockpit.settings import load
from aicockpit.sizing import Sizer, predict
from aicockpit.types import EngineSpec
from nvml_rig import A6000, HEAD, Rig, gpu
from serving import serving, supervised

CODER = "Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4"
LLAMA = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256},
    **{"max_position_embeddings": 131072, "torch_dtype": "bfloat16"},
}


def numbered(devices: Sequence[Device]) -> list[Slot]:
    return [Slot(str(n), replace(device, index=n, uuid=f"GPU-{n}")) for n, device in enumerate(devices)]


def specs(folder: Path, slots: Sequence[Slot], text: str = "", **values: str) -> list[EngineSpec]:
    """What `serve` would start, files aside. A model without a recipe is a Llama of 8 billion parameters."""
    if text:
        (folder / "fleet.yaml").write_text(text)
        values["AICOCKPIT_FLEET"] = str(folder / "fleet.yaml")
    settings = load(environ={"AICOCKPIT_VLLM_COMMAND": "vllm serve", "AICOCKPIT_STATE_DIR": str(folder), **values})
    asked = fleet.ask(settings)
    sizer = Sizer(
        settings, library().recipes, slots, lambda name: read(LLAMA) if name.startswith("llama/") else None, 17 * GIB
    )
    plan = arrange.arrange(asked, [sizer.size(m) for m in asked.models], slots, [0, 1], 17 * GIB)
    return [command.build(shape, folder, model.model, settings) for model in plan.models for shape in model.shapes]


def flag(spec: EngineSpec, name: str) -> str | None:
    words = spec.argv[spec.argv.index("--served-model-name") :]
    assert sum(1 for one, _ in flags.split(words) if one == name) <= 1, f"{name} twice in {words}"
    return flags.value(words, name)


def test_what_a_refusal_advises_is_taken_when_it_is_done(tmp_path: Path) -> None:
    card = numbered(cards.parse("RTX4090"))
    few = "--max-model-len 8192"
    with pytest.raises(SettingError, match="--kv-cache-dtype fp8 halves the KV cache"):
        specs(tmp_path, card, MODEL_NAME=CODER, AICOCKPIT_ENGINE_ARGS=few)
    (spec,) = specs(tmp_path, card, MODEL_NAME=CODER, AICOCKPIT_ENGINE_ARGS=f"{few} --kv-cache-dtype fp8")
    assert (flag(spec, "--kv-cache-dtype"), flag(spec, "--max-model-len")) == ("fp8", "8192")


def test_sizes_of_a_layout_that_the_user_gives_are_kept(tmp_path: Path) -> None:
    four = numbered(cards.parse("A6000:4"))
    args = "--pipeline-parallel-size 2"
    (spec,) = specs(tmp_path, four, MODEL_NAME=CODER, GPU_COUNT="4", AICOCKPIT_ENGINE_ARGS=args)
    assert (flag(spec, "--pipeline-parallel-size"), flag(spec, "--tensor-parallel-size")) == ("2", "2")
    (spec,) = specs(tmp_path, four, MODEL_NAME=CODER, AICOCKPIT_ENGINE_ARGS="--tensor-parallel-size 2")
    assert (flag(spec, "--tensor-parallel-size"), len(spec.gpus)) == ("2", 2)


def test_flags_and_place_are_for_the_same_card(tmp_path: Path) -> None:
    mixed = numbered(cards.parse("L4,H100"))
    (spec,) = specs(tmp_path, mixed, MODEL_NAME="Qwen/Qwen2.5-Coder-14B-Instruct-GPTQ-Int4")
    assert spec.gpus == ("1",)  # more stays warm there, though the first would hold it


def test_a_gpu_that_another_program_uses_is_left_to_it(tmp_path: Path) -> None:
    one, other = cards.parse("A6000:2")
    busy = replace(one, free=30 * GIB)
    (spec,) = specs(tmp_path, numbered([busy, other]), MODEL_NAME="Qwen/Qwen2.5-Coder-7B-Instruct")
    assert spec.gpus == ("1",)
    two = "models: [{model: Qwen/Qwen2.5-Coder-7B-Instruct}, {model: Qwen/Qwen2.5-Coder-3B-Instruct}]"
    first, second = specs(tmp_path, numbered([busy, other]), two)
    assert (first.gpus, second.gpus) == (("1",), ("0",))
    share = float(flag(second, "--gpu-memory-utilization") or 0)
    assert 0 < share * one.memory <= 30 * GIB


def test_a_context_that_is_asked_for_is_there_on_a_shared_gpu(tmp_path: Path) -> None:
    one = numbered(cards.parse("A100-80GB"))
    llama, _ = specs(tmp_path, one, "models: [{model: llama/x, context: 131072}, {model: qwen2.5-coder-14b}]")
    assert flag(llama, "--max-model-len") == "131072"
    assert (predict(read(LLAMA), llama.argv, [one[0].device]) or 0) >= 131_072


def test_a_share_is_never_rounded_below_what_is_needed(tmp_path: Path) -> None:
    total, least = 80 * GIB, 10 * GIB + 1
    (tmp_path / "fleet.yaml").write_text("models: [{model: a/x}, {model: a/y}]")
    asked = fleet.ask(load(environ={"AICOCKPIT_FLEET": str(tmp_path / "fleet.yaml")}))
    sized = [arrange.Sized(1, least, role="embedding"), arrange.Sized(1, 20 * GIB)]
    one, _ = arrange.arrange(asked, sized, [Slot("0", Device("card", total))], [0], None).shapes
    assert float(one.part[1]) * total >= least


def test_what_an_engine_keeps_asleep_is_all_but_its_kv_cache(tmp_path: Path) -> None:
    slots = numbered(cards.parse("A6000:2"))
    settings = load(environ={"AICOCKPIT_VLLM_COMMAND": "vllm serve", "MODEL_NAME": "llama/x", "GPU_COUNT": "2"})
    sizer = Sizer(settings, library().recipes, slots, lambda _: read(LLAMA))
    found = sizer.size(fleet.ask(settings).models[0])
    assert found.asleep_host / GIB == pytest.approx(8.03e9 * 2 / GIB, rel=0.01)  # both halves of 8.03 B parameters
    assert GIB < found.asleep < found.least - found.asleep_host // 2


def test_an_engine_is_not_spread_over_mig_instances(tmp_path: Path) -> None:
    parts = [Device("H100 MIG 2g.20gb", 19 * GIB, capability=(9, 0), uuid=f"MIG-{n}") for n in range(2)]
    slots = [Slot(part.uuid or "", part) for part in parts]
    with pytest.raises(SettingError, match="cannot be spread over MIG instances"):
        specs(tmp_path, slots, MODEL_NAME=CODER, GPU_COUNT="2")
    (spec,) = specs(tmp_path, slots, MODEL_NAME="Qwen/Qwen2.5-Coder-7B-Instruct")
    assert dict(spec.env)["CUDA_VISIBLE_DEVICES"] == "MIG-0"


def test_a_gpu_that_is_named_and_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="there is no GPU '9' that can be used; there are: 0, 1"):
        specs(tmp_path, numbered(cards.parse("A6000:2")), f"models: [{{model: {CODER}, gpus: ['0', '9']}}]")


def test_a_start_against_the_arithmetic_keeps_what_the_recipe_says(tmp_path: Path) -> None:
    name = "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"
    (spec,) = specs(tmp_path, numbered(cards.parse("A100-80GB:4")), MODEL_NAME=name, AICOCKPIT_FIT="off")
    assert (flag(spec, "--tensor-parallel-size"), flag(spec, "--moe-backend")) == ("4", "marlin")
    assert flag(spec, "--tool-call-parser") == "qwen3_coder"


def test_a_model_that_is_known_not_to_fit_the_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"weights 18.0 GiB .* of memory, and there are 17.0 GiB"):
        specs(tmp_path, numbered(cards.parse("A6000")), MODEL_NAME=CODER, GPU_COUNT="0")


def test_an_unknown_model_is_refused_with_the_reason_why_it_is_unknown() -> None:
    settings = load(environ={"MODEL_NAME": "a/gated", "AICOCKPIT_VLLM_COMMAND": "vllm serve"})
    slots = numbered(cards.parse("A6000"))
    sizer = Sizer(settings, (), slots, lambda _: None, unknown={"a/gated": "a/gated needs a licence to be accepted."})
    with pytest.raises(SettingError, match="needs a licence to be accepted"):
        sizer.size(fleet.ask(settings).models[0])


@pytest.mark.timeout(120)
def test_a_reload_counts_the_memory_of_our_own_engines_as_theirs(tmp_path: Path) -> None:
    rig, model, file = Rig(tmp_path), tmp_path / "llama", tmp_path / "fleet.yaml"
    environ = supervised(tmp_path) | {"AICOCKPIT_FLEET": str(file)}
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "tiny").rename(model)
    file.write_text(json.dumps({"models": [{"model": str(model), "name": "a"}]}))
    lines = (*HEAD, *gpu("NVIDIA RTX A6000", A6000))
    environ |= {key: rig.environ(lines)[key] for key in ("LD_LIBRARY_PATH", "FAKE_NVML")}
    del environ["MODEL_NAME"]
    with serving(tmp_path, **environ) as server:
        server.until_ready()
        rig.environ((*HEAD, *gpu("NVIDIA RTX A6000", A6000, free=2000, used=47140)))
        answer = server.post("/api/reload")
        assert answer.json() == {"started": [], "restarted": [], "stopped": [], "kept": ["a-0"]}, answer.text
