"""Who says which KV tier, what it takes of the machine, and what the doctor and the docs tell of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

import generated
from aicockpit.commands import fit, fit_tiers
from aicockpit.doctor import tiers
from aicockpit.doctor.finding import Finding
from aicockpit.errors import SettingError
from aicockpit.hardware import cards
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.machine import Cpu, Gpu, Host, Kernel, Memory, Snapshot
from aicockpit.kvdisk.config import options
from aicockpit.recipes import arrange, command, flags, fleet, lmcache, load, tier
from aicockpit.recipes.arrange import Plan, Sized
from aicockpit.recipes.place import Slot
from aicockpit.settings import Settings
from aicockpit.settings import load as read_settings
from aicockpit.sizing import Sizer
from aicockpit.types import KvTier

ROOT = Path(__file__).resolve().parent.parent
CARD = Device("NVIDIA RTX A6000", 48 * GIB)
CPU = Cpu("x86_64", "Some CPU", 8, 8, 1, 1, ("avx2", "avx512f"))
KERNEL = Kernel(1_048_576, 1024, True, 65_536, 65_536, 8 * GIB, 8 * GIB)
HOST = Host("Linux", CPU, Memory(64 * GIB, 60 * GIB, 0, 0), KERNEL)
GPU = Gpu(0, "GPU-0", "NVIDIA RTX A6000", 48 * GIB, 47 * GIB, GIB, 0, (8, 6), "nvidia", None)
RECIPE = """
meta: {slug: mine, title: Mine, provider: me, tasks: [text]}
model: {model_id: me/mine, parameter_count: 1.5B, context_length: 32768, architecture: dense}
variants: {default: {precision: bf16}}
aicockpit:
  kv_tier: TIER
  shape:
    source: made up
    verified: true
    config: {architectures: [LlamaForCausalLM], model_type: llama, num_hidden_layers: 16, hidden_size: 2048,
      num_attention_heads: 32, num_key_value_heads: 8, intermediate_size: 8192, vocab_size: 128256,
      max_position_embeddings: 32768, torch_dtype: bfloat16}
"""


def settings(tmp_path: Path, text: str = "", **values: str) -> Settings:
    values["AICOCKPIT_STATE_DIR"] = str(tmp_path / "state")
    if text:
        (tmp_path / "fleet.yaml").write_text(text)
        values["AICOCKPIT_FLEET"] = str(tmp_path / "fleet.yaml")
    return read_settings(environ=values)


def plan(asked: Settings, memory: int | None = None, recipes: str = "", role: str = "chat") -> Plan:
    """Each engine has 20 GiB of each of its GPUs, or 3 GiB of the host."""
    wanted = fleet.ask(asked)
    told = KvTier("cpu", GIB) if recipes else None
    sized = []
    for m in wanted.models:
        gpus = 0 if m.gpus == "auto" or isinstance(m.gpus, tuple) else m.gpus // m.replicas
        sized.append(Sized(gpus, 20 * GIB if gpus else 3 * GIB, role=role, kv_tier=told))
    return arrange.arrange(wanted, sized, [Slot(str(n), CARD) for n in range(4)], [0, 1], memory)


def wishes(made: Plan) -> list[str]:
    return [str(shape.kv_tier) for shape in made.shapes]


@pytest.mark.parametrize(
    ("key", "setting", "recipes", "wish"),
    [
        ("", "", "", "none"),
        ("", "", "cpu:1GiB", "cpu:1GiB"),
        ("", "disk:2GiB", "cpu:1GiB", "disk:2GiB"),
        ("", "none", "cpu:1GiB", "none"),
        (", kv_tier: cpu:3GiB", "disk:2GiB", "cpu:1GiB", "cpu:3GiB"),
        (", kv_tier: none", "disk:2GiB", "cpu:1GiB", "none"),
    ],
)
def test_the_models_own_key_wins_then_the_setting_then_the_recipe(
    tmp_path: Path, key: str, setting: str, recipes: str, wish: str
) -> None:
    asked = settings(tmp_path, f"models: [{{model: a, gpus: 1{key}}}]", AICOCKPIT_KV_TIER=setting)
    assert wishes(plan(asked, recipes=recipes)) == [wish]


def test_embeddings_keep_nothing_between_requests(tmp_path: Path) -> None:
    asked = settings(tmp_path, "models: [{model: a, gpus: 1}]", AICOCKPIT_KV_TIER="disk:2GiB")
    assert wishes(plan(asked, role="embedding")) == ["none"]
    with pytest.raises(SettingError, match="a: `kv_tier` has no meaning for rerank"):
        fleet.ask(settings(tmp_path, "models: [{model: a, role: rerank, kv_tier: cpu:1GiB}]"))


@pytest.mark.parametrize("wish", ["cpu:16GiB", "cpu:4 GB", "disk:1TiB", "disk:5g:/data/kv", "none", "lmcache"])
def test_schema_and_code_take_the_same_wishes(tmp_path: Path, wish: str) -> None:
    text = f"models: [{{model: a, kv_tier: '{wish}'}}]"
    jsonschema.validate(yaml.safe_load(text), fleet.schema())
    assert fleet.ask(settings(tmp_path, text)).models[0].kv_tier is not None


@pytest.mark.parametrize("wish", ["cpu", "'disk:'", "swap:1GiB", "cpu:1GiB:/x", "5", "[cpu]"])
def test_and_refuse_the_same(tmp_path: Path, wish: str) -> None:
    text = f"models:\n- model: a\n  kv_tier: {wish}"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), fleet.schema())
    with pytest.raises(SettingError, match=r"line 3: models\[0\]\.kv_tier: .*must be"):
        fleet.ask(settings(tmp_path, text))


def test_memory_of_the_host_is_counted(tmp_path: Path) -> None:
    text = "models: [{model: a, gpus: 2, replicas: 2, kv_tier: cpu:10GiB}, {model: b, gpus: 0}]"
    made = plan(settings(tmp_path, text), 24 * GIB)
    held = [dict(shape.residence.needs) for shape in made.shapes]
    assert [one["cpu"] for one in held] == [10 * GIB, 10 * GIB, 3 * GIB]
    assert held[0]["0"] >= 20 * GIB
    told = r"10.0 GiB for the kv_tier of a-0 \+ .* \+ 3.0 GiB for b-0 = 23.0 GiB, and 22.0 GiB may be used.*`kv_tier`"
    with pytest.raises(SettingError, match=told):
        plan(settings(tmp_path, text), 22 * GIB)
    disk = plan(settings(tmp_path, "models: [{model: a, gpus: 1, kv_tier: disk:1TiB}]"), 24 * GIB)
    assert dict(disk.shapes[0].residence.needs)["cpu"] == tier.BUFFER


def test_tiers_of_models_that_take_turns_take_turns(tmp_path: Path) -> None:
    text = (
        "models: [{model: a, gpus: 1, ttl: 60, kv_tier: cpu:10GiB}, {model: b, gpus: 1, ttl: 60, kv_tier: cpu:10GiB}]"
    )
    assert plan(settings(tmp_path, text), 12 * GIB).first == {"a-0"}


def sized(tmp_path: Path, wish: str, machine: str, **values: str) -> Sized:
    asked = of_recipe(tmp_path, wish, **values)
    library = load.library(asked.recipes)
    slots = [Slot(str(n), replace(card, index=n)) for n, card in enumerate(cards.parse(machine))] if machine else []
    return Sizer(asked, library.recipes, slots, lambda _: None, 64 * GIB).size(fleet.ask(asked).models[0])


def test_a_recipe_s_tier_is_left_out_where_it_cannot_be(tmp_path: Path) -> None:
    assert sized(tmp_path, "cpu:4GiB", "A6000").kv_tier == KvTier("cpu", 4 * GIB)
    on_cpu = sized(tmp_path, "cpu:4GiB", "")
    assert on_cpu.kv_tier is None
    assert any("The recipe's kv_tier cpu:4GiB is left out: vLLM offloads" in reason for reason in on_cpu.reasons)
    theirs = sized(tmp_path, "cpu:4GiB", "A6000", AICOCKPIT_ENGINE_ARGS="--kv-transfer-config {}")
    assert theirs.kv_tier is None
    with pytest.raises(SettingError, match="must be none, cpu:SIZE"):
        sized(tmp_path, "much", "A6000")


def test_our_connector_takes_what_it_is_given(tmp_path: Path) -> None:
    asked = settings(tmp_path, "models: [{model: a, gpus: 0, kv_tier: disk:3GiB}]")
    (shape,) = plan(asked).shapes
    argv = command.build(shape, tmp_path, "a", asked).argv
    given = json.loads(flags.value(argv[argv.index("--served-model-name") :], "--kv-transfer-config") or "")
    found = options(given["kv_connector_extra_config"])
    assert (found.folder, found.cap) == (str(tmp_path / "state" / "kv"), 3 * GIB)


def look(asked: Settings, gpus: Sequence[Gpu] = (), host: Host = HOST) -> Mapping[str, Finding]:
    rows = {one.id: one for one in tiers.findings(asked, fleet.ask(asked).models, Snapshot(tuple(gpus), host=host))}
    assert all(row.fix for row in rows.values() if row.mark != "ok"), "what is wrong comes with what to do"
    return rows


def test_the_doctor_tells_what_is_possible_and_why_not(tmp_path: Path) -> None:
    asked, hidden = settings(tmp_path), settings(tmp_path, CUDA_VISIBLE_DEVICES="-1")
    vllm = tier.place(asked, False).vllm
    told = f"with vLLM {vllm}" if vllm else "if vLLM is 0.32 or newer"
    ours = "disk (AiCockpit's own connector, as vLLM's file tier refuses the CPU); not cpu (vLLM offloads to memory"
    for one, gpus in ((asked, ()), (hidden, (GPU,))):
        (row,) = look(one, gpus).values()
        assert (row.id, row.mark) == ("kv-tier", "ok")
        assert row.found.startswith(f"none asked for; possible on the CPU {told}: {ours}")
    theirs = "cpu (vLLM's own tier, gone when the engine ends), disk (vLLM's own file tier, which outlives the engine)"
    amd = replace(GPU, vendor="amd")
    for gpu, where, why in ((GPU, "CUDA", " is not installed"), (amd, "ROCm", "'s packages are for CUDA")):
        (row,) = look(asked, [gpu]).values()
        said = f"none asked for; possible on {where} {told}: {theirs}; not lmcache (LMCache{why}"
        assert row.found.startswith(said)
        assert "GiB" not in row.found, "nobody asked for a size"
    (row,) = look(settings(tmp_path, AICOCKPIT_VLLM_COMMAND="/nowhere/vllm serve"), [GPU]).values()
    said = "possible on CUDA if vLLM is 0.32 or newer: cpu (vLLM's own tier, gone when the engine ends), lmcache (by"
    assert row.found.startswith(f"none asked for; {said}")


def of_recipe(tmp_path: Path, wish: str, **values: str) -> Settings:
    folder = tmp_path / "recipes"
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(RECIPE.replace("TIER", wish))
    return settings(tmp_path, AICOCKPIT_RECIPES=str(folder), MODEL_NAME="me/mine", **values)


@pytest.mark.parametrize("machine", ["", "A6000"])
@pytest.mark.parametrize("wish", ["cpu:4GiB", "disk:1000TiB", "none"])
def test_the_doctor_asks_for_a_recipes_tier_as_a_start_does(tmp_path: Path, wish: str, machine: str) -> None:
    kept = sized(tmp_path, wish, machine).kv_tier
    rows = look(of_recipe(tmp_path, wish), [GPU] if machine else ())
    found = rows["kv-tier"].found
    assert rows["kv-tier"].mark == "ok"
    if kept is None:
        assert found.startswith(f"its recipe's {wish} is left out for me/mine: vLLM offloads to memory from GPUs only")
        assert "; possible on the CPU" in found
    elif kept.kind == "none":
        assert found.startswith("none asked for")
    else:
        assert found.startswith(f"{kept.kind} for me/mine: ")
    assert ("kv-tier.room" in rows) == (wish == "disk:1000TiB"), "its folder is looked at"
    for general, told in (("none", "none asked for"), ("disk:1MiB", "disk for me/mine: ")):
        row = look(of_recipe(tmp_path, wish, AICOCKPIT_KV_TIER=general), [GPU] if machine else ())["kv-tier"]
        assert row.found.startswith(told), "the setting wins over the recipe"


def test_the_doctor_asks_nothing_for_what_keeps_nothing(tmp_path: Path) -> None:
    embedding = settings(tmp_path, MODEL_NAME="Qwen/Qwen3-Embedding-0.6B", AICOCKPIT_KV_TIER="disk:1MiB")
    assert look(embedding)["kv-tier"].found.startswith("none asked for")
    named = settings(tmp_path, "models: [{model: a/m, role: rerank}]", AICOCKPIT_KV_TIER="disk:1MiB")
    assert look(named)["kv-tier"].found.startswith("none asked for")
    broken = settings(tmp_path, MODEL_NAME="a/m", AICOCKPIT_KV_TIER="disk:1MiB", AICOCKPIT_RECIPES=str(tmp_path / "no"))
    assert look(broken)["kv-tier"].found.startswith("disk for a/m"), "wrong recipes are another row's to tell"


def test_the_doctor_says_bad_where_a_start_would_refuse(tmp_path: Path) -> None:
    asked = settings(tmp_path, MODEL_NAME="a/m", AICOCKPIT_KV_TIER="cpu:1GiB")
    row = look(asked)["kv-tier"]
    assert (row.mark, row.found) == ("bad", f"cpu:1GiB for a/m: {tier.decide(KvTier('cpu', GIB), tier.Place('cpu'), tmp_path).why}")  # type: ignore[union-attr]  # fmt: skip # noqa: E501
    assert look(asked, [GPU])["kv-tier"].mark == "ok"
    both = settings(
        tmp_path, MODEL_NAME="a/m", AICOCKPIT_KV_TIER="disk:1M", AICOCKPIT_ENGINE_ARGS="--kv-offloading-size 1"
    )
    assert "leave out one of the two" in look(both, [GPU])["kv-tier"].found


def test_the_doctor_measures_the_room(tmp_path: Path) -> None:
    memory = settings(tmp_path, MODEL_NAME="a/m", GPU_COUNT="1", AICOCKPIT_KV_TIER="cpu:61GiB")
    found = look(memory, [GPU])["kv-tier.room"].found
    assert (
        found
        == "61.0 GiB of memory are asked for, 60.0 GiB are free; vLLM keeps 61.0 GiB in /dev/shm, which has 8.0 GiB"
    )
    disk = settings(tmp_path, MODEL_NAME="a/m", GPU_COUNT="0", AICOCKPIT_KV_TIER="disk:1000TiB")
    assert f"{tmp_path}/state/kv may grow to" in look(disk)["kv-tier.room"].found
    folder = tmp_path / "kv"
    block = folder / f"m-{'ab' * 16}" / "r0" / "cd" / f"{'cd' * 32}.kv"
    block.parent.mkdir(parents=True)
    block.write_bytes(os.urandom(3 << 20))
    small = settings(tmp_path, MODEL_NAME="a/m", GPU_COUNT="0", AICOCKPIT_KV_TIER=f"disk:1MiB:{folder}")
    assert look(small)["kv-tier.room"].found == f"{folder} holds 3.0 MiB of 1.0 MiB"
    fine = settings(tmp_path, MODEL_NAME="a/m", GPU_COUNT="0", AICOCKPIT_KV_TIER=f"disk:4MiB:{folder}")
    assert "kv-tier.room" not in look(fine)


def test_predictions_follow_the_arithmetic() -> None:
    made = {case.model.rpartition("/")[2]: case for case in fit_tiers.cases()}
    coder = made["Qwen2.5-Coder-32B-Instruct-GPTQ-Int4"]
    assert coder.token == 2 * 64 * 8 * 128 * 2
    assert coder.load(1000, fit_tiers.NVME) == pytest.approx(1000 * coder.token / 3e9)
    assert coder.load(1000, fit_tiers.HOST) == pytest.approx(1000 * coder.token / 25e9)  # the link is the narrower
    assert coder.load(1000, coder.even) == pytest.approx(coder.compute(1000))
    assert made["Qwen3-Coder-480B-A35B-Instruct-FP8"].link == fit_tiers.HOST


def test_the_page_has_the_table_that_the_code_makes(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "docs" / "kv-tiers.md"
    generated.holds(path, fit_tiers.markdown(), "tests/test_tier_places.py -k page")
    assert fit.main(["--tiers"]) == 0
    assert capsys.readouterr().out.startswith(fit_tiers.BEGIN)
    assert lmcache.Server(64, 256, Path("FOLDER")).command in path.read_text()
    assert tier.LMCACHE in path.read_text()
