"""The profiles `.env.*`, and what the Makefile does with them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from aicockpit.errors import SettingError
from aicockpit.hardware import cards
from aicockpit.recipes import flags, fleet
from aicockpit.recipes.arrange import Plan, arrange
from aicockpit.recipes.command import build
from aicockpit.recipes.load import library
from aicockpit.recipes.place import Slot
from aicockpit.settings import Settings, load
from aicockpit.sizing import Sizer

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ["cpu", "dev1.5", "dev7", "dev14", "dev32", "prod480"]


@pytest.mark.parametrize(
    ("profile", "gpus", "said", "not_said"),
    [
        ("cpu", "", "--enforce-eager --max-num-seqs --tool-call-parser", "--tensor-parallel-size"),
        ("dev32", "A6000:1", "--max-model-len", "--moe-backend --tool-call-parser"),
        ("prod480", "A100-80GB:8", "--enable-expert-parallel --moe-backend --tool-call-parser", "--data-parallel-size"),
        ("prod480", "H100:8", "--enable-expert-parallel --tool-call-parser", "--moe-backend"),
    ],
)
def test_a_profile_becomes_a_command(profile: str, gpus: str, said: str, not_said: str, tmp_path: Path) -> None:
    plan, settings = planned(profile, gpus)
    (model,) = plan.models
    spec = build(model.shapes[0], tmp_path, model.model, settings)
    assert spec.served_names == (model.model, model.model.partition("/")[2])
    assert len(spec.gpus) == settings.gpu_count
    words = spec.argv[3:]
    assert [flag for flag in said.split() if flags.value(words, flag) is None] == []
    assert [flag for flag in not_said.split() if flags.value(words, flag) is not None] == []
    assert flags.value(words, "--tensor-parallel-size") == (str(settings.gpu_count) if settings.gpu_count else None)
    assert ("VLLM_USE_DEEP_GEMM", "1") not in spec.env


@pytest.mark.parametrize(("profile", "gpus"), [("prod480", "A100-80GB:4"), ("dev32", "RTX 4090:1")])
def test_a_profile_on_a_machine_that_is_too_small_is_refused_with_the_arithmetic(profile: str, gpus: str) -> None:
    with pytest.raises(SettingError, match=r"(?s)does not fit.* GiB .*AICOCKPIT_FIT=off"):
        planned(profile, gpus)


def planned(profile: str, gpus: str) -> tuple[Plan, Settings]:
    """As `serve` plans on a machine with these GPUs, without a network."""
    settings = load(ROOT / f".env.{profile}", environ={"AICOCKPIT_VLLM_COMMAND": "vllm serve"})
    slots = [Slot(str(number), device) for number, device in enumerate(cards.parse(gpus) if gpus else ())]
    asked = fleet.ask(settings)
    sizer = Sizer(settings, library().recipes, slots, lambda _: None)
    return arrange(asked, [sizer.size(m) for m in asked.models], slots, [0, 1], None), settings


def test_the_profiles_have_the_same_keys() -> None:
    keys = {tuple(dotenv_values(ROOT / f".env.{profile}")) for profile in PROFILES}
    assert len(keys) == 1


def test_what_the_profiles_promise() -> None:
    dev, prod = (load(ROOT / f".env.{profile}", environ={}) for profile in ("dev32", "prod480"))
    assert flags.value(dev.engine_args, "--max-model-len") == "32768"
    assert (dev.gpu_count, prod.gpu_count) == (1, 8)
    assert flags.value(prod.engine_args, "--max-model-len") == "131072"


def make(*args: str, root: Path = ROOT, **env: str) -> str:
    command = ["make", "--no-print-directory", "-C", str(root), *args]
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AICOCKPIT_"))}
    done = subprocess.run(command, capture_output=True, text=True, env={**clean, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_is_the_list_of_targets() -> None:
    listed = {line.split()[1] for line in make().splitlines()}
    wanted = "help start-dev start-prod stop status logs health test check bench extension format clean"
    assert listed == set(wanted.split())


@pytest.mark.parametrize(
    ("args", "profile", "file", "installs", "serves"),
    [
        (("start-dev",), "", "", ["", "--env-file .env.dev7"], ".env.dev7"),
        (("start-dev", "PROFILE=cpu"), "", "", ["--env-file .env.cpu"], ".env.cpu"),
        (("start-dev",), "dev32", "", ["--env-file .env.dev32"], ".env.dev32"),
        (("start-dev",), "dev32", "my.env", ["--env-file my.env"], "my.env"),
        (("start-prod",), "", "", ["--env-file .env.prod480"], ".env.prod480"),
        (("start-prod", "PROFILE=cpu"), "", "", ["--env-file .env.cpu"], ".env.cpu"),
    ],
)
def test_the_profile_chooses_the_file_and_the_file_what_is_installed(
    args: tuple[str, ...], profile: str, file: str, installs: list[str], serves: str, tmp_path: Path
) -> None:
    place(tmp_path, "cpu")
    ran = make(*args, "PYTHON=echo python3", "ARGS=--port 9", root=tmp_path, PROFILE=profile, AICOCKPIT_ENV_FILE=file)
    expected = [f"python3 deploy/bootstrap.py {words}".rstrip() for words in installs]
    assert ran.splitlines() == [*expected, f"aicockpit serve --env-file {serves} --port 9"]


@pytest.mark.parametrize(
    ("engine", "into"), [("gpu", ".venv-test"), ("cpu", ".venv"), ("none", ".venv"), ("", ".venv")]
)
def test_the_tests_leave_an_installation_for_gpus_alone(engine: str, into: str, tmp_path: Path) -> None:
    place(tmp_path, engine)
    shown = make("--dry-run", "test", root=tmp_path)
    assert f"bootstrap.py --extra cpu --with test --venv {into}\n" in shown
    assert f"{into}/bin/ruff check .\n" in shown
    assert f"{into}/bin/mypy\n" in shown
    assert f"{into}/bin/python -m pytest" in shown
    assert f" {into} " in make("--dry-run", "clean", root=tmp_path)


def place(root: Path, engine: str) -> None:
    """A repository with our Makefile, and an installation whose programs only say what they were asked."""
    (root / "Makefile").write_text((ROOT / "Makefile").read_text())
    bin_folder = root / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name, text in (("aicockpit", 'echo aicockpit "$@"'), ("python", "echo dev7")):
        (bin_folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_folder / name).chmod(0o755)
    if engine:
        stamp = {"engine": engine, "others": [], "locked": False, "venv": ".venv", "of": "x", "python": "3"}
        (root / ".venv" / "aicockpit-stamp.json").write_text(json.dumps(stamp))


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"
