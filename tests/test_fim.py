"""The layout of each model family, as one can read it, and as ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.errors import SettingError
from aicockpit.prompts.fim import Style, detect, styles
from aicockpit.prompts.tokens import Encoder
from tiny_tokenizers import FAMILIES, of_family

ENCODERS = {name: of_family(name) for name in FAMILIES}

# One repository of two files, the cursor in a third: what follows a pack, and what is sent without one. As the
# families' own texts have it: what stands before the cursor in its line is in the prefix.
GOLDEN = {
    "qwen": (
        "<|repo_name|>acme/shop\n<|file_sep|>src/a.py\nimport os\n<|file_sep|>src/b.py\nx = 1\n"
        "<|file_sep|>src/main.py\n<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>",
        "<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>",
    ),
    "codegemma": (
        "<bos>src/a.py\nimport os\n<|file_separator|>src/b.py\nx = 1\n<|file_separator|>"
        "src/main.py\n<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>",
        "<bos><|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>",
    ),
    "granite": (
        "<|fim_prefix|># src/a.py\nimport os\n# src/b.py\nx = 1\n# src/main.py\ndef f(<|fim_suffix|>):\n<|fim_middle|>",
        "<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>",
    ),
    "fim-pipes": (
        "<|fim_prefix|># src/a.py\nimport os\n# src/b.py\nx = 1\n# src/main.py\ndef f(<|fim_suffix|>):\n<|fim_middle|>",
        "<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>",
    ),
    "starcoder2": (
        "<repo_name>acme/shop<file_sep>src/a.py\nimport os\n<file_sep>src/b.py\nx = 1\n"
        "<file_sep><fim_prefix>src/main.py\ndef f(<fim_suffix>):\n<fim_middle>",
        "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
    ),
    "codeqwen": (
        "<reponame>acme/shop\n<file_sep>src/a.py\nimport os\n<file_sep>src/b.py\nx = 1\n"
        "<file_sep>src/main.py\n<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
        "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
    ),
    "granite3": (
        "<fim_prefix># src/a.py\nimport os\n# src/b.py\nx = 1\n# src/main.py\ndef f(<fim_suffix>):\n<fim_middle>",
        "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
    ),
    "mellum": (
        "<filename>src/a.py\nimport os\n<filename>src/b.py\nx = 1\n"
        "<filename>src/main.py\n<fim_suffix>):\n<fim_prefix>def f(<fim_middle>",
        "<fim_suffix>):\n<fim_prefix>def f(<fim_middle>",
    ),
    "starcoder": (
        "<reponame>acme/shop<filename>src/a.py\nimport os\n<filename>src/b.py\nx = 1\n"
        "<fim_prefix><filename>src/main.py\ndef f(<fim_suffix>):\n<fim_middle>",
        "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
    ),
    "fim": (
        "<fim_prefix># src/a.py\nimport os\n# src/b.py\nx = 1\n# src/main.py\ndef f(<fim_suffix>):\n<fim_middle>",
        "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
    ),
    "deepseek": (
        "<｜begin▁of▁sentence｜><｜fim▁begin｜>#src/a.py\nimport os\n#src/b.py\nx = 1\n"
        "#src/main.py\ndef f(<｜fim▁hole｜>):\n<｜fim▁end｜>",
        "<｜begin▁of▁sentence｜><｜fim▁begin｜>def f(<｜fim▁hole｜>):\n<｜fim▁end｜>",
    ),
    "seedcoder": (
        "<[begin▁of▁sentence]># src/a.py\nimport os\n# src/b.py\nx = 1\n"
        "<[fim-suffix]>):\n<[fim-prefix]># src/main.py\ndef f(<[fim-middle]>",
        "<[begin▁of▁sentence]><[fim-suffix]>):\n<[fim-prefix]>def f(<[fim-middle]>",
    ),
    "codellama": (
        "<s> <PRE># src/a.py\nimport os\n# src/b.py\nx = 1\n# src/main.py\ndef f( <SUF>):\n <MID>",
        "<s> <PRE> def f( <SUF>):\n <MID>",
    ),
    "codestral": (
        "<s>+++++ src/a.py\nimport os\n+++++ src/b.py\nx = 1\n[SUFFIX]):\n[PREFIX] +++++ src/main.py\ndef f(",
        "<s>[SUFFIX]):\n[PREFIX] def f(",
    ),
    "plain-files": (
        "<repo_name>acme/shop<file_sep>src/a.py\nimport os\n<file_sep>src/b.py\nx = 1\n<file_sep>src/main.py\ndef f(",
        "def f(",
    ),
    "plain": ("# src/a.py\nimport os\n# src/b.py\nx = 1\n# src/main.py\ndef f(", "def f("),
}


def style_of(name: str) -> Style:
    return detect(ENCODERS[name].specials)[0]


def whole_of(name: str) -> Style:
    return detect(ENCODERS[name].specials, f"{name}-whole")[0] if f"{name}-whole" in styles() else style_of(name)


def prompt(style: Style, encoder: Encoder, prefix: str = "def f(", suffix: str = "):\n") -> tuple[int, ...]:
    return (
        *style.header(encoder, "acme/shop"),
        *style.item(encoder, "src/a.py", "import os\n"),
        *style.item(encoder, "src/b.py", "x = 1"),
        *style.tail(encoder, "src/main.py", prefix, suffix),
    )


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_prompt_reads_as_the_family_wants_it(name: str) -> None:
    style, encoder = whole_of(name), ENCODERS[name]
    assert style_of(name).name == name
    with_pack, alone = GOLDEN[name]
    assert encoder.decode(prompt(style, encoder)) == with_pack
    assert encoder.decode(style.tail(encoder, "src/main.py", "def f(", "):\n", repo_level=False)) == alone


SUFFIX_FIRST = {"mellum", "seedcoder", "codestral"}


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("repo_level", [True, False])
def test_the_cursors_line_stands_behind_the_suffix(name: str, repo_level: bool) -> None:
    style, encoder = style_of(name), ENCODERS[name]

    def text(style: Style, line: str) -> str:
        ids = style.tail(encoder, "a.py", f"x = 1\n{line}", ") -> 2:\n", repo_level=repo_level)
        return encoder.decode(ids)

    assert text(style, "") == text(whole_of(name), "")
    if name in SUFFIX_FIRST or not style.fim:
        assert f"{name}-whole" not in styles()
        assert text(style, "def f(").count("x = 1\ndef f(") == 1
    else:
        assert text(style, "def f(") == text(style, "") + "def f("
        assert text(whole_of(name), "def f(").count("x = 1\ndef f(") == 1


@pytest.mark.parametrize("name", sorted(FAMILIES))
@given(begun=st.text(alphabet="ab \n\r", max_size=40), line=st.text(alphabet="ab \r", max_size=9))
def test_a_key_changes_nothing_in_front_of_its_line(name: str, begun: str, line: str) -> None:
    style, encoder = style_of(name), ENCODERS[name]
    if name in SUFFIX_FIRST or not style.fim:
        return
    prefix = f"{begun}\n" if begun else ""
    still = style.tail(encoder, "a.py", prefix, "b\n")
    assert style.tail(encoder, "a.py", prefix + line, "b\n") == (*still, *encoder.encode(line))
    assert style.lead(encoder, "a.py", prefix + line, "b\n") == (*still, *encoder.encode(line))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_control_tokens_of_a_layout_are_ids_and_those_of_the_user_are_text(name: str) -> None:
    style, encoder = style_of(name), ENCODERS[name]
    hostile = "".join(FAMILIES[name])
    control = set(encoder.specials.values())
    honest = [token for token in prompt(style, encoder) if token in control]
    attacked = (
        *style.header(encoder, hostile),
        *style.item(encoder, hostile, hostile),
        *style.item(encoder, hostile, hostile),
        *style.tail(encoder, hostile, hostile, hostile),
    )
    assert [token for token in attacked if token in control] == honest


def test_the_ids_of_qwens_repository_form() -> None:
    encoder = ENCODERS["qwen"]
    ids, text = encoder.specials, encoder.encode
    assert prompt(style_of("qwen"), encoder, "import re\ndef f(") == (
        *(ids["<|repo_name|>"], *text("acme/shop\n")),
        *(ids["<|file_sep|>"], *text("src/a.py\nimport os\n")),
        *(ids["<|file_sep|>"], *text("src/b.py\nx = 1\n")),
        *(ids["<|file_sep|>"], *text("src/main.py\n")),
        *(ids["<|fim_prefix|>"], *text("import re\n"), ids["<|fim_suffix|>"], *text("):\n"), ids["<|fim_middle|>"]),
        *text("def f("),
    )


def test_the_spaces_of_codellama_and_codestral_are_where_their_tokenizers_put_them() -> None:
    for name, mark in (("codellama", "▁<PRE>"), ("codestral", "[PREFIX]")):
        encoder = ENCODERS[name]
        ids = whole_of(name).tail(encoder, "", "def", "x", repo_level=False)
        begin = ids.index(encoder.specials[mark]) + 1
        assert ids[begin : begin + len(encoder.encode(" def"))] == encoder.encode(" def")
        suffix = {"codellama": "▁<SUF>", "codestral": "[SUFFIX]"}[name]
        begin = ids.index(encoder.specials[suffix]) + 1
        assert ids[begin : begin + 1] == encoder.encode("x")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_families_own_tokens_and_the_end_of_text_stop_a_completion(name: str) -> None:
    style, encoder = style_of(name), ENCODERS[name]
    ends = {"<|endoftext|>", "<|im_end|>", "</s>", "<eos>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<|EOT|>"}
    ends |= {"▁<EOT>", "<[end▁of▁sentence]>"}
    for token in ends & set(FAMILIES[name]):
        assert encoder.specials[token] in style.stops
    assert set(style.stops) <= set(encoder.specials.values())
    assert list(style.stops) == sorted(set(style.stops))


def test_qwens_stops_are_those_of_its_documentation() -> None:
    ids = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|fim_prefix|>": 151659}
    ids |= {"<|fim_middle|>": 151660, "<|fim_suffix|>": 151661, "<|fim_pad|>": 151662, "<|repo_name|>": 151663}
    style, reason = detect({**ids, "<|file_sep|>": 151664, "<tool_call>": 151657})
    assert style.stops == (151643, 151644, 151645, *range(151659, 151665))
    assert style.fim
    assert style.verified
    assert reason.startswith("has <|fim_prefix|>, <|fim_suffix|>, <|fim_middle|>, <|repo_name|>, <|file_sep|>")


def test_a_model_without_infilling_is_reported_as_such() -> None:
    style, reason = detect({"<s>": 1, "</s>": 2})
    assert not style.fim
    assert "no fill-in-the-middle tokens" in reason
    encoder = ENCODERS["plain"]
    assert style.tail(encoder, "a.py", "x", "y") == style.tail(encoder, "a.py", "x", "other")


def test_an_override_decides_when_the_tokenizer_can_do_it() -> None:
    specials = ENCODERS["qwen"].specials
    style, reason = detect(specials, "plain")
    assert (style.name, style.fim) == ("plain", False)
    assert reason.startswith("chosen by the operator")
    assert detect(specials, "fim-pipes")[0].name == "fim-pipes"
    with pytest.raises(SettingError, match=r"needs <fim_prefix>.*It can use: qwen, fim-pipes, plain$"):
        detect(specials, "starcoder2")
    with pytest.raises(
        SettingError, match=r"no fill-in-the-middle style 'best'. There are: deepseek, deepseek-whole, seedcoder, "
    ):
        detect(specials, "best")


def test_every_style_has_a_tokenizer_here() -> None:
    assert {name.removesuffix("-whole") for name in styles()} == set(FAMILIES) == set(GOLDEN)


@pytest.mark.parametrize("name", sorted(FAMILIES))
@given(text=st.text(alphabet="ab\n ", max_size=30))
def test_items_are_closed_lists(name: str, text: str) -> None:
    """An item's ids do not depend on its neighbours, and its text ends with one line break."""
    style, encoder = style_of(name), ENCODERS[name]
    read = encoder.decode(style.item(encoder, "p", text))
    assert text.rstrip("\n") in read
    assert read.removesuffix("<|file_separator|>").endswith("\n")
    assert not text.strip("\n") or not read.removesuffix("<|file_separator|>").endswith("\n\n")


def test_a_name_with_line_breaks_is_one_line() -> None:
    style, encoder = style_of("plain"), ENCODERS["plain"]
    assert encoder.decode(style.item(encoder, "a\nb\r\n.py", "x")) == "# a b .py\nx\n"


def test_bos_of_the_tokenizer_comes_before_the_familys() -> None:
    encoder = ENCODERS["deepseek"]
    style = style_of("deepseek")
    assert encoder.bos is None
    assert style.header(encoder, "r")[0] == encoder.specials["<｜begin▁of▁sentence｜>"]
    assert ENCODERS["qwen"].bos is None
    assert style_of("qwen").header(ENCODERS["qwen"], "r")[0] == ENCODERS["qwen"].specials["<|repo_name|>"]
