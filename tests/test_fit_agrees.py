"""`aicockpit fit`, `recipes explain` and `serve` say the same of every recipe on every kind of machine: they ask the
same selection; and what `fit` shows beside it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import test_commands_fit
import test_recipes_command
from aicockpit import settings
from aicockpit.cli import main
from aicockpit.commands import judging
from aicockpit.engines.orphans import StateLock
from aicockpit.hardware import detect, host
from aicockpit.hardware.detect import Snapshot
from aicockpit.hardware.device import GIB
from aicockpit.hardware.machine import Cpu
from aicockpit.recipes import load, spot
from aicockpit.settings import Settings
from hub_rig import environment, server
from real import ROOT

__all__ = ["environment", "server"]
RECIPES = load.library().recipes
NAMES = sorted({*(one.id for one in RECIPES), *(one.model_id(name) for one in RECIPES for name in one.variants)})
MACHINES = ("L4", "T4", "V100-32GB", "A6000", "RTX4090:2", "A100-80GB:4", "H200:8", "MI300X", "cpu")


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    return settings.load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state")})


def both(
    loaded: Settings, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[tuple[int, dict[str, Any]], tuple[int, dict[str, Any]]]:
    """(exit code, JSON) of `fit` and of `recipes explain`."""
    code = test_commands_fit.run(loaded, *words, "--json")
    told = json.loads(capsys.readouterr().out)
    other = test_recipes_command.run("explain", *words, "--json")
    return (code, told), (other, json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("machine", MACHINES)
def test_fit_and_explain_agree_on_every_recipe_and_checkpoint(
    loaded: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr(detect, "snapshot", lambda: Snapshot(memory_total=64 * GIB, memory_available=40 * GIB))
    monkeypatch.setattr(host, "cpu", lambda: Cpu("x86_64", features=("avx2", "avx512f")))
    for name in NAMES:
        (code, told), (other, explained) = both(loaded, capsys, name, "--gpu", machine)
        assert code == other, name
        assert told["fits"] == (code == 0)
        chosen = explained["chosen"]
        if chosen is None:
            assert told["command"] is None
            assert told["advice"] == explained["advice"]
            assert told["why"]
            continue
        for key in ("command", "model", "recipe", "variant", "layout", "kv_tokens", "max_model_len"):
            assert told[key] == chosen[key], (name, key)
        assert told["reasons"] == explained["reasons"]


@pytest.mark.parametrize(
    "words",
    [
        ("qwen2.5-coder-32b", "--gpu", "A6000", "--context", "65536"),
        ("qwen2.5-coder-32b", "--gpu", "A6000", "--context", "131072"),
        ("llama-3.3-70b", "--gpu", "A6000:3", "--gpus", "3"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct@main", "--gpu", "L4"),
    ],
)
def test_they_agree_on_what_is_asked_for(
    loaded: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    if "@" in words[0]:
        recipe = load.library().find(words[0].partition("@")[0]).recipe
        known = spot.recipe_shape(recipe, "default")
        monkeypatch.setattr(judging.Shapes, "_of_hub", lambda *_: known)  # what the Hub says of that revision
    (code, told), (other, explained) = both(loaded, capsys, *words)
    assert code == other
    if code == 0:
        assert told["command"] == explained["chosen"]["command"]
    else:
        assert told["advice"] == explained["advice"]


def on_the_cpu(loaded: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[int]:
    """Exit codes for a model of 2.57 GiB: of `fit`, `recipes explain`, `fleet explain` with `cpu` and without;
    the last asks as `serve` does."""
    state = {"AICOCKPIT_STATE_DIR": str(loaded.state_dir)}
    for name, value in {**state, "MODEL_NAME": "smollm2-135m", "AICOCKPIT_VLLM_COMMAND": "vllm serve"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AICOCKPIT_FLEET", raising=False)
    codes = [test_commands_fit.run(loaded, "smollm2-135m", "--gpu", "cpu")]
    codes.append(test_recipes_command.run("explain", "smollm2-135m", "--gpu", "cpu", **state))
    assert " ".join(capsys.readouterr().out.split()).count("; engines may take ") == 2
    return [*codes, main(["fleet", "explain", "--gpu", "cpu"]), main(["fleet", "explain"])]


def test_all_give_engines_the_same_share_of_the_memory_as_serve(
    loaded: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    def machine(whole: float, free: float) -> None:
        there = Snapshot(memory_total=int(whole * GIB), memory_available=int(free * GIB))
        monkeypatch.setattr(detect, "snapshot", lambda: there)
        monkeypatch.setattr(detect, "inspect", lambda: there)

    machine(8, 2.57 / 0.95)
    assert on_the_cpu(loaded, monkeypatch, capsys) == [1, 1, 1, 1]
    machine(8, 2.57 / 0.89)
    assert on_the_cpu(loaded, monkeypatch, capsys) == [0, 0, 0, 0]
    machine(8, 1)
    assert on_the_cpu(loaded, monkeypatch, capsys) == [1, 1, 1, 1]
    with StateLock(loaded.state_dir):  # a server runs: what it holds is not lost to its next start
        assert on_the_cpu(loaded, monkeypatch, capsys) == [0, 0, 0, 0]


def test_a_variant_of_the_same_repository_is_judged_for_itself(
    loaded: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = test_commands_fit.told(loaded, capsys, "codestral-22b", "--gpu", "A6000")
    assert (code, told["variant"], told["kv_tokens"]) == (0, "fp8_online", 94_752)
    assert told["command"][-2:] == ["--quantization", "fp8_per_tensor"]
    (other,) = told["others"]
    assert (other["model"], other["precision"], other["fits"]) == (told["model"], "bf16", False)


def test_a_named_model_lists_its_smaller_builds_and_serve_takes_one(
    loaded: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = test_commands_fit.told(loaded, capsys, "Qwen/Qwen2.5-Coder-7B-Instruct", "--gpu", "T4")
    assert (code, told["model"]) == (0, "Qwen/Qwen2.5-Coder-7B-Instruct-GPTQ-Int4")
    assert "taken is another precision" in told["reasons"][1]
    fits = {other["model"]: other["fits"] for other in told["others"]}
    assert fits["Qwen/Qwen2.5-Coder-7B-Instruct"] is False
    assert fits["Qwen/Qwen2.5-Coder-7B-Instruct-AWQ"] is True


def test_the_line_has_what_the_recipe_adds_and_the_window_that_is_served(
    loaded: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = test_commands_fit.told(loaded, capsys, "qwen3-coder-480b-a35b", "--gpu", "H200:8", "--gpus", "4")
    line = " ".join(told["command"])
    assert code == 0
    assert "--tool-call-parser qwen3_coder" in line
    assert f"--max-model-len {told['max_model_len']}" in line


def test_gpus_that_are_left_over_are_told_with_the_window_that_they_would_hold(
    loaded: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = test_commands_fit.told(loaded, capsys, "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "--gpu", "H200:8")
    assert (code, told["layout"]["tensor"], told["max_model_len"]) == (0, 4, 65_536)
    (spare,) = [text for text in told["reasons"] if "stay free" in text]
    assert "GPU_COUNT=8 with AICOCKPIT_REPLICAS=2 would run 2 engines" in spare
    assert "GPU_COUNT=8 would give one engine a window of 262,144 tokens instead of 65,536" in spare
    code, whole = test_commands_fit.told(
        loaded, capsys, "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "--gpu", "H200:8", "--gpus", "8"
    )
    assert (code, whole["max_model_len"]) == (0, 262_144)


def test_every_layout_that_was_not_taken_has_its_reason(
    loaded: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert test_commands_fit.run(loaded, "gpt-oss-120b", "--gpu", "L4:8", "--all") == 0
    out = capsys.readouterr().out
    assert "on 8 x NVIDIA L4 (22.0 GiB), TP=8" in out
    lines = out.partition("Layouts not taken:\n")[2].splitlines()
    for layout, why in (
        ("TP=3", "64 attention heads / 3 GPUs"),
        ("TP=4", "window 32,768; but it holds fewer than two of its longest requests at once"),
        ("TP=4 + EP", "but it is less simple"),
        ("DP=8 + EP", "the recipe's strategies are single_node_tp, single_node_tep"),
        ("TP=4 x PP=2", "a pipeline answers one request no faster"),
    ):
        assert any(re.match(rf"  {re.escape(layout)} +\S", line) and why in line for line in lines), layout


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`aicockpit fit ... --json | head -1`."""
    argv = [sys.executable, "-m", "aicockpit", "fit", "qwen3-coder-480b-a35b", "--gpu", "H200:8", "--json"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()  # before a byte is written
    errors = child.stderr.read()
    child.stderr.close()
    assert (child.wait(), errors) == (0, b"")
