"""The profiles `.env.cpu`, `.env.dev32`, `.env.prod480`, and what the Makefile does with them."""

from __future__ import annotations

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
PROFILES = ["cpu", "dev32", "prod480"]


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
    keys = [list(dotenv_values(ROOT / f".env.{profile}")) for profile in PROFILES]
    assert keys[0] == keys[1] == keys[2]


def test_what_the_profiles_promise() -> None:
    dev, prod = (load(ROOT / f".env.{profile}", environ={}) for profile in ("dev32", "prod480"))
    assert flags.value(dev.engine_args, "--max-model-len") == "32768"
    assert (dev.gpu_count, prod.gpu_count) == (1, 8)
    assert flags.value(prod.engine_args, "--max-model-len") == "131072"


def make(*args: str, **env: str) -> str:
    command = ["make", "--no-print-directory", "-C", str(ROOT), *args]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_is_the_list_of_targets() -> None:
    listed = {line.split()[1] for line in make().splitlines()}
    wanted = "help start-dev start-prod stop status logs health test check bench extension format clean"
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
