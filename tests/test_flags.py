"""recipes/flags.py"""

from __future__ import annotations

import pytest

from aicockpit.errors import SettingError
from aicockpit.recipes import flags


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("--max-model-len", "--max-model-len"),
        ("--max_model_len=5", "--max-model-len"),
        ("-tp", "--tensor-parallel-size"),
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
