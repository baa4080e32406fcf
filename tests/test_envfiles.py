"""The profiles `.env.cpu`, `.env.dev32`, `.env.prod480`, and what the Makefile does with them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from aicockpit.recipes import flags, fleet
from aicockpit.recipes.command import build
from aicockpit.settings import load

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ["cpu", "dev32", "prod480"]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_loads_and_plans(profile: str, tmp_path: Path) -> None:
    settings = load(ROOT / f".env.{profile}", environ={"AICOCKPIT_VLLM_COMMAND": "vllm serve"})
    (model,) = fleet.plan(settings, [str(i) for i in range(settings.gpu_count)], [0, 1]).models
    spec = build(model.shapes[0], tmp_path, model.model, settings)
    assert spec.served_names == (model.model, model.model.partition("/")[2])
    assert len(spec.gpus) == settings.gpu_count


def test_the_profiles_have_the_same_keys() -> None:
    keys = [list(dotenv_values(ROOT / f".env.{profile}")) for profile in PROFILES]
    assert keys[0] == keys[1] == keys[2]


def test_what_the_profiles_promise() -> None:
    dev, prod = (load(ROOT / f".env.{profile}", environ={}) for profile in ("dev32", "prod480"))
    assert flags.value(dev.engine_args, "--max-model-len") == "32768"
    assert (dev.gpu_count, prod.gpu_count) == (1, 8)
    assert flags.value(prod.engine_args, "--enable-expert-parallel") == ""


def make(*args: str, **env: str) -> str:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *args]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_is_the_list_of_targets() -> None:
    listed = {line.split()[1] for line in make().splitlines()}
    wanted = "help start-dev start-prod stop status logs health test check bench format clean"
    assert listed == set(wanted.split())


@pytest.mark.parametrize(
    ("args", "extra", "env_file"),
    [
        (("start-dev",), "auto", ".env.$profile"),
        (("start-dev", "PROFILE=cpu"), "cpu", ".env.$profile"),
        (("start-dev", "PROFILE=dev32"), "gpu", ".env.$profile"),
        (("start-prod",), "gpu", ".env.prod480"),
        (("start-prod", "PROFILE=cpu"), "cpu", ".env.cpu"),
    ],
)
def test_the_profile_chooses_the_extra_and_the_file(args: tuple[str, ...], extra: str, env_file: str) -> None:
    shown = make("--dry-run", *args, PROFILE="")
    assert f"bootstrap.py --extra {extra}\n" in shown
    assert f'exec .venv/bin/aicockpit serve --env-file "${{AICOCKPIT_ENV_FILE:-{env_file}}}"' in shown


def test_the_profile_may_come_from_the_environment() -> None:
    assert "--extra gpu" in make("--dry-run", "start-dev", PROFILE="dev32")


def test_ci_runs_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"
