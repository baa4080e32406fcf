"""recipes/flags.py"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.errors import SettingError
from aicockpit.hardware import cards
from aicockpit.recipes import flags, known, load
from aicockpit.recipes.filters import Wish
from aicockpit.recipes.known import FILE, Known
from aicockpit.recipes.select import Chosen, select

ROOT = Path(__file__).resolve().parent.parent
TABLE: Known = known.known()


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("--max-model-len", "--max-model-len"),
        ("--max_model_len=5", "--max-model-len"),
        ("-tp", "--tensor-parallel-size"),
        ("-ep", "--enable-expert-parallel"),
        ("--device-memory-utilization=0.9", "--gpu-memory-utilization"),
        ("--max-model=5", "--max-model-len"),
        ("-O3", "--optimization-level"),
        ("-cc.mode", "--compilation-config"),
        ("--enable", "--enable"),
        ("--speculative-config.method", "--speculative-config"),
        ("-1", ""),
        ("{--x}", ""),
    ],
)
def test_spellings_of_one_flag(word: str, flag: str) -> None:
    assert flags.canonical(word) == flag


def test_a_given_flag_replaces_ours_in_any_spelling() -> None:
    ours = ("--enforce-eager", "--block-size", "32", "--scheduling-policy", "priority")
    theirs = ("--block_size=64", "--no-enforce-eager")
    assert flags.merge(ours, theirs) == ("--scheduling-policy", "priority", *theirs)


def test_repeated_dotted_flags_are_all_kept() -> None:
    theirs = ("--speculative-config.method", "ngram", "--speculative-config.num_speculative_tokens", "4")
    assert flags.merge((), theirs) == theirs


def test_the_last_value_counts() -> None:
    assert flags.value(["--a", "1", "--a=2"], "--a") == "2"
    assert flags.value(["--a"], "--a") == ""
    assert flags.value([], "--a") is None


def test_words_before_any_flag_are_refused() -> None:
    with pytest.raises(SettingError, match="must start with a flag, not with 'Qwen/x'"):
        flags.split(["Qwen/x", "--a"])


@pytest.mark.parametrize("flag", list(flags.REMOVED_FLAGS))
def test_removed_flags_are_refused_with_what_to_do_instead(flag: str) -> None:
    with pytest.raises(SettingError) as caught:
        flags.refuse([flag.replace("-", "_").replace("__", "--", 1), "4"], "AICOCKPIT_ENGINE_ARGS")
    message = str(caught.value)
    assert message.startswith(f"{flag} (in AICOCKPIT_ENGINE_ARGS) was removed from vLLM: ")
    assert message.endswith(".")
    assert " instead" in message or " leave it out" in message


@pytest.mark.parametrize("flag", list(flags.SUPERVISOR_OWNED))
def test_flags_of_the_supervisor_are_refused(flag: str) -> None:
    with pytest.raises(SettingError, match=f"^{flag} .*is set by AiCockpit: "):
        flags.refuse([f"{flag}=x"], "args of m")


def test_an_abbreviation_of_a_supervisors_flag_is_refused() -> None:
    with pytest.raises(SettingError, match="--served-model-name"):
        flags.refuse(["--served-model", "x"], "args of m")


@pytest.mark.parametrize("flag", ["--model-impl", "--config-format", "--api-server", "--max-model-len", "--seed"])
def test_flags_that_only_look_alike_pass(flag: str) -> None:
    if flag == "--api-server":
        with pytest.raises(SettingError, match="--api-server-count"):
            flags.refuse([flag, "2"], "x")
    else:
        flags.refuse([flag, "2"], "x")


@pytest.mark.parametrize("args", [["--quantization", "gguf"], ["--load_format=gguf"], ["-q", "gguf"]])
def test_gguf_is_refused(args: list[str]) -> None:
    with pytest.raises(SettingError, match="GGUF is no longer a vLLM format"):
        flags.refuse(args, "x")


@pytest.mark.parametrize("name", list(flags.REMOVED_VARIABLES))
def test_removed_variables_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match=f"^{name} .*not read by vLLM any more"):
        flags.refuse_variables(["OTHER", name], "env of m")


@pytest.mark.parametrize(
    ("text", "number"),
    [("32k", 32000), ("32K", 32768), ("300M", 300 << 20), ("1.5G", 3 << 29), ("7", 7), ("auto", None), (None, None)],
)
def test_numbers_as_vllm_spells_them(text: str | None, number: int | None) -> None:
    assert flags.number(text) == number


CHILD = """
import contextlib, io, json, sys
from aicockpit.recipes import generate
told = io.StringIO()
with contextlib.redirect_stdout(told):
    generate.main(["--print"])
parser, refused = generate.parser(), []
for name, words in json.load(sys.stdin):
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        try:
            parser.parse_args(["a/model", *words])
        except SystemExit:
            refused.append((name, error.getvalue()[-300:]))
json.dump({"table": told.getvalue(), "refused": refused}, sys.stdout)
"""
MACHINES = ("A6000:2", "A100-80GB:8", "H200:8", "L4", "MI300X:8", "T4:4", "")


@functools.cache
def chosen_flags() -> list[tuple[str, tuple[str, ...]]]:
    """What every shipped recipe gets on several machines, its opt-in features and a long window too."""
    library, found = load.library(), []
    for recipe in library.recipes:
        wishes = (Wish(recipe.id), Wish(recipe.id, max_model_len=65536), Wish(recipe.id, features=(*recipe.features,)))
        for machine, wish in itertools.product(MACHINES, wishes):
            devices = cards.parse(machine) if machine else ()
            outcome = select(wish, library.recipes, devices, lambda _: None)
            if isinstance(outcome, Chosen):
                found.append((f"{recipe.id} on {machine or 'the CPU'}", outcome.flags))
    return found


@pytest.fixture(scope="session")
def installed() -> dict[str, Any]:
    """What the installed vLLM says: importing it takes ten seconds, so it is asked once."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("no vLLM is installed beside us")
    sets = json.dumps([*chosen_flags(), ("a mistake", ("--max-model-length", "5"))])
    told = subprocess.run([sys.executable, "-c", CHILD], input=sets, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told[told.index('{"table"') :])
    return found


@pytest.mark.timeout(300)
def test_the_table_is_the_installed_vllm_s_own_parser(installed: dict[str, Any]) -> None:
    assert installed["table"] == FILE.read_text(), "run: .venv/bin/python -m aicockpit.recipes.generate"


@pytest.mark.timeout(300)
def test_vllm_s_own_parser_takes_what_is_chosen_for_every_recipe(installed: dict[str, Any]) -> None:
    assert [name for name, _ in installed["refused"]] == ["a mistake"], installed["refused"]


def test_and_so_does_the_table() -> None:
    sets = chosen_flags()
    assert len(sets) > 200
    assert [name for name, words in sets if flags.refuse(words, name, TABLE.version)] == []


def test_the_table_is_of_the_vllm_that_we_install() -> None:
    assert known.installed() in (None, TABLE.version)
    assert len(TABLE.flags) > 250


def test_our_own_tables_agree_with_it() -> None:
    assert [flag for flag in flags.SUPERVISOR_OWNED if flag not in TABLE.flags] == []
    assert [flag for flag in flags.REMOVED_FLAGS if TABLE.find(flag)] == []


@pytest.mark.parametrize("profile", ["cpu", "dev1.5", "dev7", "dev14", "dev32", "prod480"])
def test_every_preset_s_flags_are_in_it(profile: str) -> None:
    args = (dotenv_values(ROOT / f".env.{profile}")["AICOCKPIT_ENGINE_ARGS"] or "").split()
    assert flags.refuse(args, profile, TABLE.version) == ()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ("--max-model-length 5", r"--max-model-length is not a flag of vLLM \(in X\). Did you mean --max-model-len\?"),
        ("--swapspace 4", r"Did you mean --swap-space \(removed: use --kv-offloading-size"),
        ("--frobnicate", r"--frobnicate is not a flag of vLLM \(in X\)\.$"),
        ("--enable", "--enable is not a flag of vLLM"),
        ("--kv-cache-dtype fp9", r"--kv-cache-dtype cannot be 'fp9' \(in X\). Did you mean fp8\? It is one of auto, "),
        ("--tool-call-parser qwen_coder", "cannot be 'qwen_coder'.* Did you mean qwen3_coder"),
        ("--enforce-eager yes", "--enforce-eager takes no value, but 'yes' follows it"),
        ("--no-enable-prefix-caching yes", "takes no value"),
        ("--max-model-len", r"--max-model-len needs a value \(in X\)"),
        ("--max-model-len 32kb", "must be a number such as 32768"),
        ("--max-model-len 1.5K", "must be a number such as 32768"),
        ("--gpu-memory-utilization 90%", "must be a number, not '90%'"),
        ("--tensor-parallel-size two", "must be a whole number, not 'two'"),
        ("--dtype bf16", "Did you mean bfloat16"),
        ("--seed 1 2", "takes one value, not 2: 1 2"),
    ],
)
def test_what_vllm_would_refuse_is_refused_before_it_starts(args: str, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        flags.refuse(args.split(), "X", TABLE.version)


@pytest.mark.parametrize(
    "args",
    [
        "--max-model-len 32k --max-num-seqs 16 -tp 2",
        "--max-model-len -1",
        "--max-model-len auto",
        "--moe-backend Deep-Gemm",
        "--gpu-memory-util 0.9",
        "--tool-call-parser mine --tool-parser-plugin mine.py",
        "-O3 -cc.mode 3 --speculative-config.method ngram",
        "--cudagraph-capture-sizes 1 2 4",
        "--limit-mm-per-prompt.image 4",
        "--quantization None",
    ],
)
def test_what_vllm_takes_passes(args: str) -> None:
    assert flags.refuse(args.split(), "X", TABLE.version) == ()


@pytest.mark.parametrize(("version", "told"), [("9.9.9", "the vLLM here is 9.9.9"), (None, "version .* is not known")])
def test_of_another_vllm_an_unknown_flag_is_only_a_warning(version: str | None, told: str) -> None:
    (warning,) = flags.refuse(["--brand-new", "--seed", "1"], "X", version)
    assert warning.startswith("--brand-new is not a flag of vLLM (in X).")
    assert re.search(told, warning)
    with pytest.raises(SettingError, match="was removed"):
        flags.refuse(["--swap-space", "4"], "X", version)


def test_a_recipe_leaves_out_what_is_not_its_own_to_set() -> None:
    kept, left = flags.spare(["--port", "1", "--max-num-seqs", "4", "--trust-remote-code"])
    assert kept == ("--max-num-seqs", "4")
    assert [text.split()[0] for text in left] == ["--port", "--trust-remote-code"]
    assert "AICOCKPIT_TRUST_REMOTE_CODE" in left[1]


@given(st.lists(st.text(min_size=1), max_size=6))
def test_no_words_break_it(words: list[str]) -> None:
    with contextlib.suppress(SettingError):
        flags.refuse(["--seed", *words], "X", TABLE.version)


@given(st.sampled_from(sorted(TABLE.flags)), st.integers(min_value=0))
def test_any_spelling_finds_its_flag(name: str, cut: int) -> None:
    for spelling in (name, name.replace("-", "_").replace("__", "--", 1), f"{name}=1", *TABLE.flags[name].also):
        assert flags.canonical(spelling) == name
    short = name[: 3 + cut % max(1, len(name) - 3)]
    rivals = {one.name for one in TABLE.flags.values() if any(s.startswith(short) for s in (one.name, *one.also))}
    if rivals == {name} and not any(one.no.startswith(short) for one in TABLE.flags.values()):
        assert flags.canonical(short) == name


def test_the_file_has_one_flag_a_line() -> None:
    lines = FILE.read_text().splitlines()
    assert len(lines) == len(json.loads(FILE.read_text())["flags"]) + 2
