"""recipes/fleet.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from aicockpit.errors import SettingError
from aicockpit.recipes import fleet
from aicockpit.settings import Settings, load

ROOT = Path(__file__).resolve().parent.parent


def settings(tmp_path: Path, text: str = "", **values: str) -> Settings:
    if text:
        (tmp_path / "fleet.yaml").write_text(text)
        values["AICOCKPIT_FLEET"] = str(tmp_path / "fleet.yaml")
    return load(environ=values)


def test_nothing_asked_is_an_empty_plan(tmp_path: Path) -> None:
    assert fleet.plan(settings(tmp_path), [], [0, 1]) == fleet.Plan((), (), ())


def test_one_model_from_the_settings(tmp_path: Path) -> None:
    plan = fleet.plan(settings(tmp_path, MODEL_NAME="Org/Smol-1.5B"), [], [0, 1])
    (model,) = plan.models
    (shape,) = model.shapes
    assert (model.model, model.name) == ("Org/Smol-1.5B", "")
    assert (shape.name, shape.aliases, shape.gpus, shape.cpus) == ("smol-1-5b-0", ("Smol-1.5B",), (), "")


def test_gpus_are_divided_over_replicas_without_overlap(tmp_path: Path) -> None:
    asked = settings(tmp_path, MODEL_NAME="a/m", GPU_COUNT="4", AICOCKPIT_REPLICAS="2")
    (model,) = fleet.plan(asked, list("01234567"), [0]).models
    assert [(s.name, s.gpus) for s in model.shapes] == [("m-0", ("0", "1")), ("m-1", ("2", "3"))]


def test_replicas_on_the_cpu_get_cores_of_their_own(tmp_path: Path) -> None:
    (model,) = fleet.plan(settings(tmp_path, MODEL_NAME="a/m", AICOCKPIT_REPLICAS="2"), [], [0, 1, 4, 5, 6]).models
    assert [shape.cpus for shape in model.shapes] == ["0,1", "4,5,6"]


@pytest.mark.parametrize(
    ("cores", "parts", "shares"),
    [([0, 1], 2, ["0", "1"]), ([0, 1], 3, ["0", "1", "0"]), ([], 2, ["", ""]), ([3], 1, ["3"])],
)
def test_sharing_cores(cores: list[int], parts: int, shares: list[str]) -> None:
    assert fleet.share(cores, parts) == shares


def test_a_file_with_several_models_and_engines(tmp_path: Path) -> None:
    text = """
models:
  - {name: big, model: a/x, gpus: 2, aliases: [gpt-4o], args: [--seed, 1], env: {A: b}}
  - {model: ./folder/small, replicas: 2}
engines:
  - {url: "http://h:1/v1", aliases: {embed: bge}}
"""
    asked = settings(tmp_path, text, AICOCKPIT_ENGINE_URLS="unix:/e.sock", AICOCKPIT_ALIASES="x=big")
    plan = fleet.plan(asked, ["GPU-a", "GPU-b", "GPU-c"], [0, 1])
    big, small = plan.models
    assert (big.name, big.shapes[0].gpus, big.shapes[0].args) == ("big", ("GPU-a", "GPU-b"), ("--seed", "1"))
    assert (big.shapes[0].aliases, big.shapes[0].env) == (("big", "gpt-4o"), (("A", "b"),))
    assert [(s.name, s.cpus, s.aliases) for s in small.shapes] == [
        ("small-0", "0", ("small",)),
        ("small-1", "1", ("small",)),
    ]
    assert [address.url for address in plan.external] == ["unix:/e.sock", "http://h:1"]
    assert plan.aliases == (("x", "big"), ("embed", "bge"))


def test_the_model_of_the_settings_is_served_beside_the_files(tmp_path: Path) -> None:
    plan = fleet.plan(settings(tmp_path, "models: [{model: a/m}]", MODEL_NAME="b/m"), [], [0])
    assert [(m.model, m.shapes[0].name, m.shapes[0].aliases) for m in plan.models] == [
        ("b/m", "m-0", ()),  # both would be called `m`, so neither is
        ("a/m", "m-1", ()),
    ]


def test_too_many_gpus_are_refused_with_the_sum(tmp_path: Path) -> None:
    text = "models: [{model: a/x, gpus: 4}, {model: a/y, gpus: 2}]"
    with pytest.raises(SettingError, match=r"^6 GPUs are asked for \(4 for a/x \+ 2 for a/y\), and 5 can be used"):
        fleet.plan(settings(tmp_path, text), list("01234"), [0])


def test_the_example_is_valid_and_can_be_planned(tmp_path: Path) -> None:
    file = fleet.read(ROOT / "deploy" / "aicockpit.example.yaml")
    assert len(file.models) == 2
    asked = load(environ={"AICOCKPIT_FLEET": str(ROOT / "deploy" / "aicockpit.example.yaml")})
    plan = fleet.plan(asked, ["0", "1"], [0, 1])
    assert [len(model.shapes) for model in plan.models] == [2, 1]
    assert plan.external[0].host == "10.0.0.5"


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
        ("models:\n  - model: a\n    gpus: -1\n", r"line 3: models\[0\].gpus: .*greater than or equal to 0"),
        ("models:\n  - model: a\n    args: [--x, {a: 1}]\n", r"line 3: models\[0\].args\[1\]: "),
        ("models: [\n", "line 2: not valid YAML"),
        ("- a\n", "line 1: the file: "),
        ("models: [{model: a}, {model: a}]", "'a' is given to 2 models"),
        ("models: [{model: a, gpus: 3, replicas: 2}]", "a: 3 GPUs cannot be divided over 2 replicas"),
        ("models: [{model: a, args: [--swap-space, 4]}]", r"--swap-space \(in args of a\) was removed"),
        ("models: [{model: a, env: {VLLM_USE_V1: '1'}}]", r"VLLM_USE_V1 \(in env of a\)"),
        ("engines: [{url: 'ftp://x'}]", "fleet.yaml: engine URL 'ftp://x' must look like"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        fleet.plan(settings(tmp_path, text), ["0", "1", "2"], [0])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"gone.yaml cannot be read: No such file"):
        fleet.plan(settings(tmp_path, AICOCKPIT_FLEET=str(tmp_path / "gone.yaml")), [], [0])
