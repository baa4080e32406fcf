"""`aicockpit fit` as a person and a program see it, and the table of docs/hardware.md."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import fake_hub
import generated
import shapes
from aicockpit import settings
from aicockpit.commands import Run, fit, fit_table
from aicockpit.errors import SettingError
from aicockpit.hardware import cards, detect
from aicockpit.hardware.detect import Snapshot
from aicockpit.settings import Settings
from hub_rig import environment, server
from real import ROOT
from test_shape import TINY, folder

__all__ = ["environment", "server"]
DEV32 = "Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4"


@pytest.fixture
def loaded(tmp_path: Path) -> Settings:
    return settings.load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state")})


def run(loaded: Settings, *words: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()

    def add(name: str, action: Run, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text)
        made.set_defaults(run=action)
        return made

    fit.add(add)
    arguments = parser.parse_args(["fit", *words])
    return int(arguments.run(loaded, arguments))


def told(loaded: Settings, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = run(loaded, *words, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_what_fits_is_shown_with_its_sum_and_its_command(
    loaded: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run(loaded, DEV32, "--gpu", "A6000:2") == 0
    out = capsys.readouterr().out
    assert "on 1 x NVIDIA RTX A6000 (47.4 GiB), TP=1 (1 more is free for another model or copy)" in out
    assert "31.2 B x 0.5195 + 1.56 B x 2" in out
    assert "47.4 GiB of NVIDIA RTX A6000 x 0.92" in out
    assert "fits: 94,496 tokens of KV cache, so 2.9 requests run at once at 32,768 tokens each" in out
    assert f"vllm serve {DEV32}" in out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_cut_off_at_any_width(
    loaded: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(loaded, "qwen3-coder-480b-a35b", "--gpu", "A100-80GB:8", "--context", "131072") == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    assert "…" not in out
    assert "is not a multiple of the FP8 block of 128 (with + EP they stay whole)" in words
    assert "--enable-expert-parallel" in out
    assert "--moe-backend marlin" in out
    lines = [line for line in out.splitlines() if "vllm serve" not in line]
    assert max(len(line.rstrip()) for line in lines) <= width


def test_what_does_not_fit_says_what_would(loaded: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(loaded, DEV32, "--gpu", "RTX4090", "--context", "32768") == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "does not fit: one request of 32,768 tokens needs 8.00 GiB of KV cache" in out
    assert "What would fit:" in out
    assert "A window of 4,096 tokens fits" in out
    assert "vllm serve" not in out


def test_a_recipe_is_judged_in_each_of_its_checkpoints_and_the_one_that_serve_takes_comes_first(
    loaded: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = told(loaded, capsys, "qwen2.5-coder-32b", "--gpu", "A6000")
    assert code == 0
    assert document["shape"]["precision"] == "int4"  # int8 fits too, and leaves nothing to keep warm
    assert {other["precision"] for other in document["others"]} == {"bf16", "int8", "int4"}
    code, document = told(loaded, capsys, "qwen3-coder-480b-a35b", "--gpu", "A100-80GB:4")
    assert code == 1  # a checkpoint of the community would fit; it is taken only when it is asked for
    assert any(other["fits"] and other["precision"] == "int4" for other in document["others"])
    assert document["advice"][0].startswith("QuantTrio/Qwen3-Coder-480B-A35B-Instruct-AWQ fits 4 x")
    assert not any("A build of it" in sentence for sentence in document["advice"])


def test_the_document_adds_up(loaded: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = told(loaded, capsys, DEV32, "--gpu", "A6000:3", "--gpus", "3")
    assert code == 0
    assert document["version"] == 1
    assert document["layout"] == {"tensor": 1, "pipeline": 3, "data": 1, "expert": False}
    assert sum(term["bytes"] for term in document["terms"]) == document["budget"]["bytes"]
    three = {"tensor": 3, "pipeline": 1, "data": 1, "expert": False}
    (why,) = [one["why"] for one in document["rejected"] if one["layout"] == three]
    assert why.startswith("40 attention heads / 3 GPUs")
    assert document["flags"] == ["--pipeline-parallel-size", "3"]


def test_every_option_reaches_the_verdict(loaded: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--gpu", "A100-40GB", "--context", "16384", "--kv-dtype", "fp8", "--utilisation", "0.9", "--eager")
    code, document = told(loaded, capsys, DEV32, *words)
    assert code == 0
    flags = " ".join(document["flags"])
    assert flags == "--gpu-memory-utilization 0.9 --kv-cache-dtype fp8 --enforce-eager --max-model-len 16384"


@pytest.mark.parametrize(
    "words",
    [("--context", "0"), ("--context", "x"), ("--utilisation", "1.5"), ("--kv-dtype", "fp3"), ("--gpus", "-1")],
)
def test_wrong_options_are_refused(loaded: Settings, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(loaded, DEV32, "--gpu", "A6000", *words)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((DEV32, "--gpu", "A600"), "Did you mean A6000"),
        ((DEV32, "--gpu", "A6000", "--gpus", "2"), "--gpus 2: there is 1."),
        (("qwen2.5-coder-32", "--gpu", "A6000"), "qwen2.5-coder-32b"),
    ],
)
def test_mistakes_are_told(loaded: Settings, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        run(loaded, *words)
    assert message in str(caught.value)


def test_a_folder_is_read_and_one_without_a_config_cannot_be_known(
    loaded: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**shapes.SMOLLM2, "num_hidden_layers": 1}
    (tmp_path / "model").mkdir()
    place = folder(tmp_path / "model", config, model=TINY)
    code, document = told(loaded, capsys, str(place), "--gpu", "L4")
    assert (code, document["shape"]["weights"]) == (0, 4864)
    (tmp_path / "empty").mkdir()
    code, document = told(loaded, capsys, str(tmp_path / "empty"), "--gpu", "L4")
    assert (code, document["fits"]) == (2, None)
    assert run(loaded, str(place / "config.json"), "--gpu", "L4") == 2
    assert "name the folder" in capsys.readouterr().err


def test_a_folder_needs_no_slash_and_a_recipe_s_id_wins_over_one_of_that_name(
    loaded: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**shapes.SMOLLM2, "num_hidden_layers": 1}
    for name in ("mine", "smollm2-135m"):
        (tmp_path / name).mkdir()
        folder(tmp_path / name, config, model=TINY)
    monkeypatch.chdir(tmp_path)
    code, document = told(loaded, capsys, "mine", "--gpu", "L4")
    assert (code, document["shape"]["weights"], document["model"]) == (0, 4864, str(tmp_path / "mine"))
    code, document = told(loaded, capsys, "smollm2-135m", "--gpu", "L4")
    assert (code, document["recipe"], document["shape"]["layers"]) == (0, "smollm2-135m", 30)
    monkeypatch.chdir(tmp_path / "mine")
    code, document = told(loaded, capsys, ".", "--gpu", "L4")
    assert (code, document["command"][2]) == (0, str(tmp_path / "mine"))
    assert run(loaded, "config.json", "--gpu", "L4") == 2
    assert "name the folder" in capsys.readouterr().err


def test_a_revision_that_nobody_found_is_not_said_to_fit(
    loaded: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe has the model's dimensions, and knows nothing of its revisions."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = "Qwen/Qwen2.5-Coder-7B-Instruct"
    assert told(loaded, capsys, model, "--gpu", "A6000")[0] == 0
    for name in (model, model.lower()):
        code, document = told(loaded, capsys, f"{name}@nosuchrev", "--gpu", "A6000")
        assert (code, document["fits"], "command" in document) == (2, None, False)
        assert "HF_HUB_OFFLINE" in document["why"]


def test_the_machine_here_is_the_cpu_when_it_has_no_gpu(
    loaded: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "snapshot", lambda: Snapshot(memory_available=8 << 30))
    code, document = told(loaded, capsys, "smollm2-135m")
    assert (code, document["kv_tokens"]) == (0, 21_696)
    assert run(loaded, "smollm2-135m") == 0
    assert "no GPU (name one with --gpu)" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(detect, "snapshot", lambda: Snapshot(memory_available=2 << 30))
    code, document = told(loaded, capsys, "smollm2-135m", "--gpu", "cpu")
    assert code == 1
    assert document["why"].endswith("= 2.57 GiB of memory, and there are 1.80 GiB")
    assert run(loaded, "smollm2-135m", "--gpu", "cpu") == 1
    told_share = "engines may take 1.80 GiB, 90 % of the 2.00 GiB of memory that are free"
    assert told_share in " ".join(capsys.readouterr().out.split())


def test_the_gpus_of_this_machine_are_used_when_it_has_some(
    loaded: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "devices", lambda *_: cards.parse("A6000"))
    assert run(loaded, DEV32) == 0
    assert "TP=1 of this machine" in capsys.readouterr().out


def test_a_hub_id_is_looked_at_without_its_weights(environment: fake_hub.Hub, tmp_path: Path) -> None:
    """In a child, as the library reads its settings when it is imported."""
    config = json.dumps(shapes.SMOLLM2).encode()
    files = {"config.json": config, "tokenizer.json": b"{}", "model.safetensors": bytes(9_000)}
    environment.publish("ok/m", files)
    script = (
        "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; import test_commands_fit as t;"
        "from aicockpit import settings;"
        "loaded = settings.load(environ={'AICOCKPIT_STATE_DIR': sys.argv[1]});"
        "sys.exit(t.run(loaded, *sys.argv[2:]))"
    )

    def child(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", script, str(tmp_path / "state"), *words]
        return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env={**os.environ}, check=False)

    done = child("ok/m", "--gpu", "L4", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["shape"]["layers"] == 30
    assert environment.url in document["source"]
    done = child("gated/m", "--gpu", "L4")
    assert done.returncode == 2
    assert "cannot be known: gated/m is gated" in done.stderr


def test_the_docs_have_the_table_that_the_code_makes() -> None:
    generated.holds(ROOT / "docs" / "hardware.md", fit.table(), "tests/test_commands_fit.py -k docs")


def test_the_docs_name_every_card_and_option() -> None:
    text = (ROOT / "docs" / "hardware.md").read_text()
    assert [card.short for card in cards.catalogue() if f"`{card.short}`" not in text] == []
    for option in ("--gpu", "--gpus", "--context", "--kv-dtype", "--utilisation", "--eager", "--all", "--json"):
        assert f"`{option}" in text


def test_the_table_is_printed_by_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit.main(["--table"]) == 0
    assert capsys.readouterr().out.startswith(fit_table.BEGIN)
    assert fit.main([]) == 2
