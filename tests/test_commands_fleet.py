"""`aicockpit fleet explain`: rows for a file on named GPUs, refusals, and the sample in docs/fleet.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from aicockpit.cli import main
from generated import holds

PAGE = Path(__file__).parent.parent / "docs/fleet.md"
SAMPLE = """\
models:
  - {name: complete, model: Qwen/Qwen2.5-Coder-7B-Instruct, role: completion}
  - {name: chat, model: Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4, pin: false, sleep: true}
  - {name: embed, model: Qwen/Qwen3-Embedding-0.6B}
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings and no models of this machine; vLLM is only named."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("MODEL_NAME", "GPU_COUNT", "AICOCKPIT_FLEET", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AICOCKPIT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("AICOCKPIT_VLLM_COMMAND", "vllm serve")


def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, *more: str) -> tuple[int, str]:
    (tmp_path / "fleet.yaml").write_text(text)
    code = main(["fleet", "explain", *more, "fleet.yaml"])
    return code, capsys.readouterr().out


def test_the_sample_in_the_docs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = explain(tmp_path, capsys, SAMPLE, "--gpu", "A6000:2")
    assert code == 0
    begin, end = "<!-- fleet-explain: made by tests/test_commands_fleet.py -->", "<!-- /fleet-explain -->"
    told = f"```yaml\n{SAMPLE}```\n\n```console\n$ aicockpit fleet explain --gpu A6000:2 fleet.yaml\n{out}```"
    holds(PAGE, f"{begin}\n{told}\n{end}", "tests/test_commands_fleet.py")


def test_a_refusal_has_the_arithmetic_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "models: [{name: large, model: Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8}]"
    code, out = explain(tmp_path, capsys, text, "--gpu", "A6000:4")
    assert code == 1
    assert out.startswith("bad  model large: ")
    assert "does not fit 4 x NVIDIA RTX A6000" in out


def test_dimensions_that_a_start_gets_from_the_hub_are_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe without dimensions names the model, and its files are not here."""
    (tmp_path / "own").mkdir()
    head = "meta: {slug: tiny, title: Tiny}\nmodel: {model_id: Owner/Tiny, context_length: 4096}\n"
    (tmp_path / "own/tiny.yaml").write_text(f"{head}variants: {{default: {{precision: bf16}}}}\n")
    monkeypatch.setenv("AICOCKPIT_RECIPES", str(tmp_path / "own"))
    asks = "ok   model Owner/Tiny: its dimensions are not here: a start asks the Hub for them\n"
    text = "models: [{model: Owner/Tiny, gpus: NUMBER}]"
    assert explain(tmp_path, capsys, text.replace("NUMBER", "1"), "--gpu", "L4") == (0, asks)
    # The recipe's facts are not understood.
    shape = "aicockpit: {shape: {config: {model_type: llama}, source: nowhere, verified: false}}\n"
    (tmp_path / "own/tiny.yaml").write_text(f"{head}variants: {{default: {{precision: bf16}}}}\n{shape}")
    assert explain(tmp_path, capsys, text.replace("NUMBER", "1"), "--gpu", "L4") == (0, asks)
    # Without GPUs, and of a recipe's id, a start does not ask: it refuses.
    code, out = explain(tmp_path, capsys, text.replace("NUMBER", "0"), "--gpu", "cpu")
    assert (code, out[:5]) == (1, "bad  ")
    code, out = explain(tmp_path, capsys, "models: [{model: tiny, gpus: 1}]", "--gpu", "L4")
    assert (code, out[:5]) == (1, "bad  ")


def test_nothing_asked_and_a_file_with_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "explain"]) != 0
    assert "No model is asked for" in capsys.readouterr().err
    (tmp_path / "fleet.yaml").write_text("models: [{mode: x}]")
    assert main(["fleet", "explain", "fleet.yaml"]) != 0
    assert "fleet.yaml, line 1" in capsys.readouterr().err
