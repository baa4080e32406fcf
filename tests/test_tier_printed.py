"""The commands that `recipes explain` and `fit` print: what they have of a KV tier, and what they say in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aicockpit.hardware import shape
from aicockpit.hardware.device import GIB
from aicockpit.recipes import flags, fleet, lmcache, load, tier
from aicockpit.sizing import Sizer
from aicockpit.types import KvTier
from test_commands_fit import told as fit_told
from test_doctor_tiers import qwen_next
from test_recipes_command import run
from test_tier_places import RECIPE, of_recipe, settings

CODER = "qwen2.5-coder-32b"
CONFIG = "--kv-transfer-config"


def explained(capsys: pytest.CaptureFixture[str], *words: str, **environ: str) -> tuple[dict[str, Any], str]:
    """What is chosen, and its reasons."""
    assert run("explain", *words, "--json", **environ) == 0
    told = json.loads(capsys.readouterr().out)
    chosen: dict[str, Any] = told["chosen"]
    return chosen, "\n".join(told["reasons"])


@pytest.mark.parametrize("named", [True, False])
def test_files_on_gpus_are_left_to_a_start_whose_folder_knows_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    state = {"AICOCKPIT_STATE_DIR": str(tmp_path / "state")}
    wish = f"disk:1TiB:{tmp_path}/kv" if named else "disk:1TiB"
    folder = tmp_path / "kv" if named else tmp_path / "state" / "kv"
    plain, _ = explained(capsys, CODER, "--gpu", "A6000", **state)
    chosen, reasons = explained(capsys, CODER, "--gpu", "A6000", **state, AICOCKPIT_KV_TIER=wish)
    for key in ("command", "flags", "env"):
        assert chosen[key] == plain[key], "a bare folder would mix up revisions"
    assert f"kv_tier {wish}: vLLM's own file tier in {folder}, behind 8.0 GiB" in reasons
    assert "Each engine takes 8.00 GiB" in reasons
    assert "The command here leaves it out: a start adds it" in reasons
    assert "named by the weights, vLLM's version and the cards" in reasons
    code, document = fit_told(settings(tmp_path, AICOCKPIT_KV_TIER=wish), capsys, CODER, "--gpu", "A6000")
    assert code == 0
    assert CONFIG not in document["command"]
    assert CONFIG not in document["flags"]
    assert "The command here leaves it out: a start adds it" in "\n".join(document["reasons"])


def test_files_on_the_cpu_are_printed_with_the_variable_that_a_start_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"AICOCKPIT_STATE_DIR": str(tmp_path), "AICOCKPIT_KV_TIER": "disk:1GiB"}
    found = tier.decide(KvTier("disk", 1 << 30), tier.Place("cpu"), tmp_path / "kv")
    assert isinstance(found, tier.Tier)
    ((name, value),) = found.env
    monkeypatch.delenv(name, raising=False)
    chosen, reasons = explained(capsys, "smollm2-135m", "--gpu", "cpu", **asked)
    assert chosen["env"][name] == value
    assert json.loads(flags.value(chosen["flags"], CONFIG) or "{}") == json.loads(found.flags[1])
    assert "leaves it out" not in reasons
    code, document = fit_told(settings(tmp_path, AICOCKPIT_KV_TIER="disk:1GiB"), capsys, "smollm2-135m", "--gpu", "cpu")
    assert (code, dict(document["env"])[name]) == (0, value)
    assert run("explain", "smollm2-135m", "--gpu", "cpu", **asked) == 0
    assert f"{name}={value} vllm serve" in capsys.readouterr().out
    two, _ = explained(
        capsys, "smollm2-135m", "--gpu", "cpu", **asked, AICOCKPIT_ENGINE_ARGS="--tensor-parallel-size 2"
    )
    assert name not in two["env"], "there it is two"
    monkeypatch.setenv(name, "2")
    theirs, _ = explained(capsys, "smollm2-135m", "--gpu", "cpu", **asked)
    assert name not in theirs["env"], "the user's own stays"


def test_what_a_start_warns_of_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {"AICOCKPIT_STATE_DIR": str(tmp_path / "state"), "AICOCKPIT_VLLM_COMMAND": "vllm serve"}
    chosen, reasons = explained(capsys, CODER, "--gpu", "A6000", **asked, AICOCKPIT_KV_TIER="lmcache")
    assert CONFIG in chosen["command"]
    server = lmcache.server(tmp_path / "state" / "lmcache", None, None, 0).command
    assert reasons.endswith(f"an engine does not start without it (`aicockpit doctor` puts sizes for GIB): {server}")
    asked["AICOCKPIT_VLLM_COMMAND"] = "/nowhere/vllm serve"
    _, reasons = explained(capsys, CODER, "--gpu", "A6000", **asked, AICOCKPIT_KV_TIER="cpu:1GiB")
    assert "which vLLM this is cannot be told: it must be 0.32 or newer" in reasons
    _, reasons = explained(capsys, "smollm2-135m", "--gpu", "cpu", **asked, AICOCKPIT_KV_TIER="disk:1GiB")
    assert "a start gives its Python our package by PYTHONPATH" in reasons


def test_linear_attention_is_refused_as_a_start_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(qwen_next(tmp_path / "model"))
    chosen, reasons = explained(capsys, model, "--gpu", "cpu", AICOCKPIT_KV_TIER="disk:1GiB")
    assert CONFIG not in chosen["command"]
    assert "There is no kv_tier disk:1GiB here: vLLM does not start a model with linear attention" in reasons
    assert "Instead, say kv_tier: none for this model." in reasons


def test_the_recipes_tier_is_for_the_role_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE.replace("TIER", "cpu:4GiB").replace("aicockpit:\n", "aicockpit:\n  roles: [chat, embedding]\n")
    (tmp_path / "mine.yaml").write_text(text)
    asked = ("me/mine", "--gpu", "A6000")
    chosen, _ = explained(capsys, *asked, AICOCKPIT_RECIPES=str(tmp_path))
    assert flags.value(chosen["flags"], "--kv-offloading-size") == "4"
    chosen, reasons = explained(capsys, *asked, "--role", "embedding", AICOCKPIT_RECIPES=str(tmp_path))
    assert flags.value(chosen["flags"], "--kv-offloading-size") is None
    assert "kv_tier" not in reasons


def test_a_recipes_tier_is_left_out_of_a_model_with_linear_attention_at_a_start_too(tmp_path: Path) -> None:
    known = shape.local(qwen_next(tmp_path / "model"))
    asked = of_recipe(tmp_path, "disk:1GiB")
    found = Sizer(asked, load.library(asked.recipes).recipes, [], lambda _: known, 64 * GIB)
    kept = found.size(fleet.ask(asked).models[0])
    assert kept.kv_tier is None
    assert any("disk:1GiB is left out: vLLM does not start a model with linear" in reason for reason in kept.reasons)
