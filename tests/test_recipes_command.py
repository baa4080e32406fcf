"""commands/recipes.py and recipes/explain.py: `aicockpit recipes list|show|explain|validate|import`."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from aicockpit import settings
from aicockpit.commands import Run, recipes
from aicockpit.errors import SettingError
from aicockpit.recipes import explain, load, schema, search, spot
from aicockpit.recipes.search import STAGES, Rejected
from test_aim import PROFILE

ROOT = Path(__file__).resolve().parent.parent
IDS = [one.recipe.id for one in load.shipped()]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def run(*words: str, **environ: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()

    def add(name: str, run: Run, text: str, /) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text)
        made.set_defaults(run=run)
        return made

    recipes.add(add)
    arguments = parser.parse_args(["recipes", *words])
    command: Run = arguments.run
    return command(settings.load(None, environ=environ), arguments)


def test_the_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == run("list") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in IDS)
    assert "MNPL-0.1 (gated)" in shown
    assert run("list", "--role", "embedding", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {entry["id"] for entry in told} == {"qwen3-embedding-0.6b", "qwen3-embedding-4b", "qwen3-embedding-8b"}
    assert told[0]["checkpoints"]["default"]["weights"] > 1e9


@pytest.mark.parametrize("columns", ["60", "80", "120"])
@pytest.mark.parametrize("words", [["list"], ["show", "llama-3.1-8b"], ["explain", "gpt-oss-120b", "--gpu", "L4:8"]])
def test_nothing_is_wider_than_the_screen_but_commands_to_copy(
    words: list[str], columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    run(*words)
    lines = capsys.readouterr().out.splitlines()
    assert lines
    wide = [line for line in lines if len(line.rstrip()) > int(columns)]
    assert not [line for line in wide if "vllm" not in line and not line.startswith("  --") and "/" not in line]
    assert not [line for line in lines if line.endswith("\\ ")]


def test_explain_prints_the_tier_that_is_asked_for_and_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("explain", "qwen2.5-coder-32b", "--gpu", "A6000")
    assert run(*asked, AICOCKPIT_KV_TIER="cpu:24GiB") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--kv-offloading-size 24 \\ --kv-offloading-backend native" in shown
    assert "Each engine takes 24.0 GiB of the host's memory for it." in shown
    assert run("explain", "smollm2-135m", "--gpu", "cpu", AICOCKPIT_KV_TIER="cpu:24GiB") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "There is no kv_tier cpu:24GiB here: vLLM offloads to memory from GPUs only" in shown
    assert "--kv-offloading" not in shown
    for more in ({}, {"AICOCKPIT_KV_TIER": "none"}):
        assert run(*asked, **more) == 0
        assert "kv_tier" not in capsys.readouterr().out
    assert run("explain", "qwen3-embedding-4b", "--gpu", "A6000", AICOCKPIT_KV_TIER="cpu:24GiB") == 0
    assert "kv_tier" not in capsys.readouterr().out


def test_show_tells_where_each_size_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "Qwen/Qwen2.5-Coder-32B-Instruct-AWQ") == 0
    shown = capsys.readouterr().out
    for text in (
        "32,768 (131,072 by YaRN)",
        "its published parameters x bytes",
        "computed from its dimensions",
        "qwen",
    ):
        assert text in shown
    assert run("show", "codestral-22b", "--yaml") == 0
    assert yaml.safe_load(capsys.readouterr().out)["meta"]["slug"] == "codestral-22b"
    with pytest.raises(SettingError, match="Did you mean codestral-22b"):
        run("show", "codestral")


def test_explain_prints_the_command_and_each_rejection(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "qwen3-coder-480b-a35b", "--precision", "fp8", "--gpu", "A100-80GB:8") == 0
    shown = capsys.readouterr().out
    command = shown[shown.index("VLLM_USE_DEEP_GEMM=0") :].split("\n\n")[0]
    words = shlex.split(command)
    assert words[:4] == ["VLLM_USE_DEEP_GEMM=0", "vllm", "serve", "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8"]
    assert {"--enable-expert-parallel", "--moe-backend", "--tensor-parallel-size", "8"} <= set(words)
    assert "= budget 72.9 GiB" in " ".join(shown.split())
    assert "fp8 on 7 x NVIDIA A100-SXM4-80GB" in shown
    assert "a pipeline" in shown


def test_explain_refuses_with_what_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4", "--gpu", "RTX4090") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "nothing will do on RTX4090" in shown
    assert "What would do: · Qwen/Qwen2.5-Coder-14B-Instruct-GPTQ-Int4 fits" in shown


def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("explain", "qwen2.5-coder-7b", "--gpu", "L40S:2", "--context", "65536", "--with", "tool_calling", "--json")
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    chosen = told["chosen"]
    assert (told["version"], chosen["recipe"], chosen["max_model_len"]) == (1, "qwen2.5-coder-7b", 65536)
    assert chosen["command"][:3] == ["vllm", "serve", "Qwen/Qwen2.5-Coder-7B-Instruct"]
    assert "--tool-call-parser" in chosen["flags"]
    assert sum(term["bytes"] for term in chosen["memory"]) == chosen["budget"]
    assert all(set(one) == {"candidate", "reason"} for one in told["rejected"])
    assert run("explain", "gpt-oss-120b", "--gpu", "T4", "--json") == 1
    refused = json.loads(capsys.readouterr().out)
    assert refused["chosen"] is None
    assert refused["advice"]


def test_explain_on_the_machine_here_and_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "smollm2-135m", "--gpu", "cpu") == 0
    assert "on the CPU: fits" in " ".join(capsys.readouterr().out.split())
    assert run("explain", "llama-3.3-70b", "--gpu", "cpu", "--context", "8192") == 1
    assert "of memory, and there are" in " ".join(capsys.readouterr().out.split())
    assert run("explain", "smollm2-135m", "--gpus", "0") == 0
    assert "this machine" in capsys.readouterr().out
    with pytest.raises(SettingError, match="A6001"):
        run("explain", "smollm2-135m", "--gpu", "A6001")


def test_explain_of_a_folder_without_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = next(one.recipe for one in load.shipped() if one.recipe.id == "qwen2.5-coder-7b").config("default")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run("explain", str(tmp_path), "--gpu", "L40S") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "✓ no recipe on L40S" in shown
    assert "No recipe names this model" in shown
    assert run("explain", str(tmp_path / "none"), "--gpu", "L40S") == 1
    assert "nobody can tell whether it fits" in " ".join(capsys.readouterr().out.split())


def test_the_user_s_own_recipes_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(one.path for one in load.shipped() if one.recipe.id == "gpt-oss-20b")
    text = path.read_text().replace("--reasoning-parser, openai_gptoss", "--max-num-seqs, 5")
    (tmp_path / "mine.yaml").write_text(text)
    assert run("explain", "gpt-oss-20b", "--gpu", "L40S", AICOCKPIT_RECIPES=str(tmp_path)) == 0
    assert "--max-num-seqs 5" in capsys.readouterr().out
    assert run("list", AICOCKPIT_RECIPES=str(tmp_path)) == 0
    assert "gpt-oss-20b (yours)" in capsys.readouterr().out


def test_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = next(one.path for one in load.shipped())
    bad, profile = tmp_path / "bad.yaml", tmp_path / "aim.yaml"
    bad.write_text("meta: {slug: x}\n")
    profile.write_text(yaml.safe_dump(PROFILE))
    assert run("validate", str(good), str(profile)) == 0
    shown = capsys.readouterr().out
    assert f"✓ {good}" in shown
    assert "an AMD AIM profile; `aicockpit recipes import` makes a recipe of it" in shown
    assert run("validate", str(good), str(bad)) == 2
    assert "bad.yaml, line 1: model: is needed" in capsys.readouterr().out
    assert run("validate", "--json", str(bad), str(tmp_path / "none")) == 2
    told = json.loads(capsys.readouterr().out)
    assert [bool(one["error"]) for one in told] == [True, True]


def test_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile, folder = tmp_path / "vllm-mi300x.yaml", tmp_path / "recipes"
    profile.write_text(yaml.safe_dump(PROFILE))
    assert run("import", str(profile)) == 0
    shown = capsys.readouterr()
    assert load.parse(shown.out, Path("x")).recipe.model.model_id == "Qwen/Qwen3-32B-FP8"
    assert "· --swap-space: vLLM has removed it" in shown.err
    with pytest.raises(SettingError, match="--save needs a folder: set AICOCKPIT_RECIPES"):
        run("import", str(profile), "--save")
    assert run("import", str(profile), "--save", AICOCKPIT_RECIPES=str(folder)) == 0
    (saved,) = folder.iterdir()
    assert saved.stem in load.library(folder).by_id
    with pytest.raises(SettingError, match="Move it away first"):
        run("import", str(profile), "--save", AICOCKPIT_RECIPES=str(folder))
    capsys.readouterr()
    assert run("import", str(profile), "--json") == 0
    assert json.loads(capsys.readouterr().out)["told"]


def test_rejections_with_one_reason_share_a_line() -> None:
    lost = [Rejected(f"{name} on {count} x L4", "why") for name in ("a", "b") for count in (1, 3, 4, 5)]
    told = explain.collapse([Rejected("c", "named"), *lost, Rejected("d", "named"), Rejected("a on 2 x L4", "other")])
    assert [(one.candidate, one.reason) for one in told] == [
        ("c, d", "named"),
        ("a, b on 1, 3 to 5 x L4", "why"),
        ("a on 2 x L4", "other"),
    ]


DOCS = (ROOT / "docs" / "recipes.md").read_text()


@pytest.mark.parametrize("part", [schema.AiCockpit, schema.Window, schema.Yarn, schema.Shape, schema.Checkpoint])
def test_the_docs_name_every_key_of_ours(part: type[BaseModel]) -> None:
    assert [name for name in part.model_fields if f"{name}" not in DOCS] == []


def test_the_docs_have_the_rank_the_limits_and_the_order_of_precisions() -> None:
    table = DOCS[DOCS.index("| place | better |") : DOCS.index("**Falling back**")]
    assert table.count("\n| ") == len(search.LOST)
    assert ", ".join(schema.PRECISIONS) in table
    assert f"({spot.WORKING:,})" in DOCS
    assert f"({spot.FLOOR:,})" in DOCS
    assert all(f"`{name}`" in DOCS for name in schema.STRATEGIES)
    assert f"always said: {'; '.join(STAGES)}." in " ".join(DOCS.split())


def test_the_docs_own_recipe_is_one() -> None:
    text = DOCS[DOCS.index("```yaml\n") + 8 :].partition("```")[0]
    assert load.parse(text, Path("docs.yaml")).notes == ()


def test_the_docs_show_what_the_command_prints() -> None:
    command = [sys.executable, "-c", "import sys; from test_recipes_command import run; sys.exit(run(*sys.argv[1:]))"]
    words = ["explain", "qwen2.5-coder-32b", "--gpu", "A6000"]
    env = {"PATH": "", "COLUMNS": "100", "PYTHONPATH": str(ROOT / "tests"), "HOME": "/nonexistent"}
    done = subprocess.run([*command, *words], capture_output=True, text=True, env=env, cwd=ROOT, check=True)
    shown = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip()
    assert shown in DOCS
