"""recipes/fleet.py and recipes/arrange.py"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from aicockpit.errors import SettingError
from aicockpit.hardware.device import GIB, Device
from aicockpit.recipes import arrange, command, fleet, lora
from aicockpit.recipes.arrange import Plan, Sized
from aicockpit.recipes.place import Slot
from aicockpit.settings import Settings, load

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "deploy" / "aicockpit.example.yaml"
SCHEMA = ROOT / "deploy" / "aicockpit.schema.json"
CARD = Device("NVIDIA RTX A6000", 48 * GIB)


def settings(tmp_path: Path, text: str = "", **values: str) -> Settings:
    if text:
        (tmp_path / "fleet.yaml").write_text(text)
        values["AICOCKPIT_FLEET"] = str(tmp_path / "fleet.yaml")
    return load(environ=values)


def plan(asked: Settings, gpus: Sequence[str], cores: Sequence[int], memory: int | None = None, gib: int = 20) -> Plan:
    """Each engine needs `gib` on each of its GPUs, or 3 GiB of the host."""
    wanted = fleet.ask(asked)
    sized = []
    for m in wanted.models:
        count = len(m.gpus) if isinstance(m.gpus, tuple) else 0 if m.gpus == "auto" else m.gpus
        sized.append(Sized(count // m.replicas, gib * GIB if count else 3 * GIB))
    return arrange.arrange(wanted, sized, [Slot(gpu, CARD) for gpu in gpus], cores, memory)


def test_nothing_asked_is_an_empty_plan(tmp_path: Path) -> None:
    assert plan(settings(tmp_path), [], [0, 1]) == Plan()


def test_one_model_from_the_settings(tmp_path: Path) -> None:
    made = plan(settings(tmp_path, MODEL_NAME="Org/Smol-1.5B"), [], [0, 1])
    (model,) = made.models
    (shape,) = model.shapes
    assert (model.model, model.name) == ("Org/Smol-1.5B", "")
    assert (shape.name, shape.aliases, shape.gpus, shape.cpus) == ("smol-1-5b-0", ("Smol-1.5B",), (), "")


def test_gpus_are_divided_over_replicas_without_overlap(tmp_path: Path) -> None:
    asked = settings(tmp_path, MODEL_NAME="a/m", GPU_COUNT="4", AICOCKPIT_REPLICAS="2")
    (model,) = plan(asked, list("01234567"), [0]).models
    assert [(s.name, s.gpus) for s in model.shapes] == [("m-0", ("0", "1")), ("m-1", ("2", "3"))]


def test_replicas_on_the_cpu_get_cores_of_their_own(tmp_path: Path) -> None:
    (model,) = plan(settings(tmp_path, MODEL_NAME="a/m", AICOCKPIT_REPLICAS="2"), [], [0, 1, 4, 5, 6]).models
    assert [shape.cpus for shape in model.shapes] == ["0,1", "4,5,6"]


@pytest.mark.parametrize(
    ("cores", "parts", "shares"),
    [([0, 1], 2, ["0", "1"]), ([0, 1], 3, ["0", "1", "0"]), ([], 2, ["", ""]), ([3], 1, ["3"])],
)
def test_sharing_cores(cores: list[int], parts: int, shares: list[str]) -> None:
    assert arrange.share(cores, parts) == shares


def test_a_file_with_several_models_and_engines(tmp_path: Path) -> None:
    text = """
models:
  - {name: big, model: a/x, gpus: 2, aliases: [gpt-4o], args: [--seed, 1], env: {A: b}}
  - {model: ./folder/small, replicas: 2}
engines:
  - {url: "http://h:1/v1", aliases: {embed: bge}}
"""
    asked = settings(tmp_path, text, AICOCKPIT_ENGINE_URLS="unix:/e.sock", AICOCKPIT_ALIASES="x=big")
    made = plan(asked, ["GPU-a", "GPU-b", "GPU-c"], [0, 1])
    big, small = made.models
    assert (big.name, big.shapes[0].gpus, big.shapes[0].args) == ("big", ("GPU-a", "GPU-b"), ("--seed", "1"))
    assert (big.shapes[0].aliases, big.shapes[0].env) == (("big", "gpt-4o"), (("A", "b"),))
    assert [(s.name, s.cpus, s.aliases) for s in small.shapes] == [
        ("small-0", "0", ("small",)),
        ("small-1", "1", ("small",)),
    ]
    assert [address.url for address in made.external] == ["unix:/e.sock", "http://h:1"]
    assert made.aliases == (("x", "big"), ("embed", "bge"))


def test_the_model_of_the_settings_is_served_beside_the_files(tmp_path: Path) -> None:
    made = plan(settings(tmp_path, "models: [{model: a/m}]", MODEL_NAME="b/m"), [], [0])
    assert [(m.model, m.shapes[0].name, m.shapes[0].aliases) for m in made.models] == [
        ("b/m", "m-0", ()),  # both would be called `m`, so neither is
        ("a/m", "m-1", ()),
    ]


def test_too_many_gpus_are_refused_with_the_arithmetic(tmp_path: Path) -> None:
    text = "models: [{model: a/x, gpus: 4}, {model: a/y, gpus: 2}]"
    with pytest.raises(
        SettingError, match=r"(?s)do not fit on the GPUs here:\n  y-0: .*on each of 2 GPUs; GPU 0 .*44.2 GiB"
    ):
        plan(settings(tmp_path, text), list("01234"), [0], gib=30)


def test_two_models_on_one_gpu_get_shares_and_one_alone_gets_none(tmp_path: Path) -> None:
    text = "models: [{model: a/x, gpus: 1}, {model: a/y, gpus: 1, memory: 4GiB}]"
    x, y = plan(settings(tmp_path, text), ["0"], [0]).shapes
    assert (x.part, y.part) == (("--gpu-memory-utilization", "0.836"), ("--gpu-memory-utilization", "0.083"))
    assert plan(settings(tmp_path, text), ["0", "1"], [0]).shapes[0].part == ()


def test_a_share_of_a_gpu_is_not_lost_to_flags_that_know_nothing_of_it(tmp_path: Path) -> None:
    text = "models: [{model: a/x, gpus: 1%s}, {model: a/y, gpus: 1, memory: 4GiB}]"
    general = settings(tmp_path, text % "", AICOCKPIT_ENGINE_ARGS="--gpu-memory-utilization 0.9")
    x, _ = plan(general, ["0"], [0]).shapes
    spec = command.build(x, tmp_path, "x", general)
    assert spec.argv[spec.argv.index("--gpu-memory-utilization") + 1] == "0.836"
    own = settings(tmp_path, text % ", args: [--gpu-memory-utilization, 0.5]")
    with pytest.raises(SettingError, match=r"a/x: on a GPU that engines share.* Say with `memory`"):
        plan(own, ["0"], [0])
    assert plan(own, ["0", "1"], [0]).shapes[0].args == ("--gpu-memory-utilization", "0.5")


def test_adapters_are_names_of_their_model_from_the_start(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "models: [{model: a/x, gpus: 0, lora: {mine: /m}}, {model: a/y, aliases: [mine]}]")
    with pytest.raises(SettingError, match="'mine' is given 2 times"):
        plan(loaded, [], [0])
    loaded = settings(tmp_path, "models: [{model: a/x, gpus: 0, lora: {mine: /m}}]")
    spec = command.build(plan(loaded, [], [0]).shapes[0], tmp_path, "a/x", loaded)
    assert spec.served_names == ("a/x", "x", "mine")
    assert lora.changed(spec, {}) is spec
    other = lora.changed(spec, {"mine": None, "late": "/l"})
    assert (other.served_names, lora.modules(other.argv)) == (("a/x", "x", "late"), {"late": "/l"})
    assert lora.changed(other, {"late": None}).served_names == ("a/x", "x")


def test_models_that_take_turns_are_started_as_far_as_memory_goes(tmp_path: Path) -> None:
    text = """
memory: 7GiB
models:
  - {model: a/x, pin: false, gpus: 0}
  - {model: a/y, ttl: 10m, gpus: 0}
  - {model: a/z, gpus: 0}
"""
    made = plan(settings(tmp_path, text), [], [0, 1, 2])
    assert made.first == {"z-0", "x-0"}
    assert made.capacity == {"cpu": 7 * GIB}
    x, y, z = (shape.residence for shape in made.shapes)
    assert (x.pinned, y.pinned, z.pinned, y.ttl_s) == (False, False, True, 600)
    assert x.needs == (("cpu", 3 * GIB),)


def test_pinned_models_that_do_not_fit_on_the_host_are_refused_with_the_sum(tmp_path: Path) -> None:
    text = "models: [{model: a/x, gpus: 0}, {model: a/y, gpus: 0}]"
    with pytest.raises(SettingError, match=r"3.0 GiB for x-0 \+ 3.0 GiB for y-0 = 6.0 GiB, and 5.0 GiB may be used"):
        plan(settings(tmp_path, text), [], [0, 1], memory=5 * GIB)
    plan(settings(tmp_path, "models: [{model: a/x, gpus: 0}, {model: a/y, gpus: 0, pin: false}]"), [], [0], 6 * GIB)


def test_gpus_by_id_are_dealt_to_replicas(tmp_path: Path) -> None:
    text = "models: [{model: a/x, gpus: [2, 0], replicas: 2}]"
    assert [shape.gpus for shape in plan(settings(tmp_path, text), list("012"), [0]).shapes] == [("2",), ("0",)]


def test_a_pinned_revision_is_no_part_of_the_names(tmp_path: Path) -> None:
    (shape,) = plan(settings(tmp_path, "models: [{model: a/x@main}]"), [], [0]).shapes
    assert (shape.name, shape.aliases) == ("x-0", ("x",))


def test_the_example_is_valid_and_can_be_planned(tmp_path: Path) -> None:
    assert len(fleet.read(EXAMPLE).models) == 3
    asked = load(environ={"AICOCKPIT_FLEET": str(EXAMPLE)})
    made = plan(asked, ["0", "1"], [0, 1])
    assert [len(model.shapes) for model in made.models] == [2, 1, 1]
    assert made.external[0].host == "10.0.0.5"


def test_every_key_is_in_the_document() -> None:
    text = (ROOT / "docs" / "fleet.md").read_text()
    for key in (*fleet.FleetFile.model_fields, *fleet.FleetModel.model_fields, *fleet.FleetEngine.model_fields):
        assert f"`{key}`" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "models:\n  - model: a/b\n    replica: 2\n",
            r"fleet.yaml, line 3: models\[0\].replica: unknown key; known: model",
        ),
        (
            "engines:\n  - url: http://x:1\n    alias: 2\n",
            r"line 3: engines\[0\].alias: unknown key; known: url, aliases",
        ),
        ("model: x\n", "line 1: model: unknown key; known: models, engines"),
        ("models:\n  - name: x\n", r"line 2: models\[0\].model: Field required"),
        (
            "models:\n  - model: a\n    gpus: -1\n",
            r"line 3: models\[0\].gpus: .*a number of 0 or more, a list of ids or UUIDs, or `auto`$",
        ),
        ("models:\n  - model: a\n    args: [--x, {a: 1}]\n", r"line 3: models\[0\].args\[1\]: "),
        ("models: [\n", "line 2: not valid YAML"),
        ("- a\n", "line 1: the file: "),
        ("models: [{model: a}, {model: a}]", "'a' is given 2 times"),
        ("models: [{model: a, gpus: 3, replicas: 2}]", "a: 3 GPUs cannot be divided over 2 replicas"),
        ("models: [{model: a, sleep: true}]", "a: `sleep` has no meaning, since it is pinned"),
        ("models: [{model: a, sleep: true, ttl: 5, gpus: 0}]", "since engines on the CPU cannot sleep"),
        ("models: [{model: a, pin: true, ttl: 5}]", "a: `ttl` has no meaning, since it is pinned"),
        ("models: [{model: a, ttl: soon}]", r"line 1: models\[0\].ttl: .*valid number"),
        ("models: [{model: a, memory: much}]", r"line 1: models\[0\].memory: .*size such as"),
        ("models: [{model: a, role: cook}]", r"models\[0\].role: Input should be 'completion', 'chat'"),
        ("models: [{model: a, args: [--swap-space, 4]}]", r"--swap-space \(in args of a\) was removed"),
        ("models: [{model: a, env: {VLLM_USE_V1: '1'}}]", r"VLLM_USE_V1 \(in env of a\)"),
        ("engines: [{url: 'ftp://x'}]", "fleet.yaml: engine URL 'ftp://x' must look like"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        plan(settings(tmp_path, text), ["0", "1", "2"], [0])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"gone.yaml cannot be read: No such file"):
        plan(settings(tmp_path, AICOCKPIT_FLEET=str(tmp_path / "gone.yaml")), [], [0])


def test_the_shipped_schema_is_the_one_of_the_code_and_takes_the_example() -> None:
    shipped = json.loads(SCHEMA.read_text())
    assert shipped == fleet.schema(), "run: python -m aicockpit.recipes.fleet > deploy/aicockpit.schema.json"
    jsonschema.validate(yaml.safe_load(EXAMPLE.read_text()), shipped)


@pytest.mark.parametrize(
    "text", ["models: [{model: a, replica: 2}]", "models: [{name: x}]", "models: [{model: a, gpus: []}]"]
)
def test_the_schema_refuses_what_the_code_refuses(tmp_path: Path, text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), fleet.schema())
    with pytest.raises(SettingError):
        fleet.ask(settings(tmp_path, text))


def sleepers(tmp_path: Path, memory: int | None, args: str = "") -> Plan:
    """Two that take turns on one GPU, 20 GiB of weights each, and 3 GiB that stay on the GPU."""
    one = "{{name: {}, model: a/{}, gpus: 1, pin: false, sleep: true{}}}"
    asked = fleet.ask(settings(tmp_path, f"models: [{one.format('x', 'x', args)}, {one.format('y', 'y', args)}]"))
    sized = [Sized(1, 25 * GIB, asleep_host=20 * GIB, asleep=3 * GIB)] * 2
    return arrange.arrange(asked, sized, [Slot("0", CARD)], [0, 1], memory)


def test_a_sleeper_counts_on_the_host_and_on_its_gpu(tmp_path: Path) -> None:
    made = sleepers(tmp_path, 30 * GIB)
    for shape in made.shapes:
        assert shape.residence.asleep == (("cpu", 20 * GIB), ("0", 3 * GIB))
        assert dict(shape.residence.needs)["0"] + 3 * GIB <= made.capacity["0"]
    assert made.capacity["cpu"] == 30 * GIB
    assert sleepers(tmp_path, None).shapes[0].residence.sleeps
    tiered = sleepers(tmp_path, 30 * GIB, ", kv_tier: 'cpu:8GiB'").shapes[0].residence
    assert dict(tiered.asleep)["cpu"] == 28 * GIB, "the tier of a process stays with it"


def test_the_reasons_of_a_plan_have_the_bytes_of_each_engine(tmp_path: Path) -> None:
    made = plan(settings(tmp_path, "models: [{model: a/x, gpus: 1}, {model: a/y, gpus: 1, memory: 12GiB}]"), ["0"], [0])
    assert made.reasons == (
        "x-0: GPU 0; the first that are free: 32.2 of 44.2 GiB usable, 20.0 at least; there too: y-0 12.0",
        "y-0: GPU 0; it fits beside what is there: 12.0 of 44.2 GiB usable, as its user gave it; there too: x-0 32.2",
    )
    told = sleepers(tmp_path, 30 * GIB).reasons[0]
    assert told == "x-0: GPU 0; the first that are free: 41.2 of 44.2 GiB usable, 25.0 at least; there too: " + (
        "y-0 41.2 (makes way); asleep it keeps 3.0"
    )


def test_one_whose_weights_the_host_cannot_hold_ends_instead_of_sleeping(tmp_path: Path) -> None:
    made = sleepers(tmp_path, 16 * GIB)
    assert [(s.residence.sleeps, s.residence.asleep) for s in made.shapes] == [(False, ())] * 2
    assert all(shape.sleep for shape in made.shapes), "the process is the same one: less memory restarts nothing"
    assert (
        "x-0: it ends instead of sleeping, since asleep it would take 20.0 GiB of the host's memory, and 16.0 GiB "
        "may be used for that"
    ) in made.reasons
