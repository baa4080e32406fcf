"""Skeletons: what they keep per language, that body edits leave them as they are, that no input breaks them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicockpit.prompts.languages import Grammars, is_noise, language_of, line_comment
from aicockpit.prompts.skeleton import HEAD_CHARS, Analysis, analyse
from aicockpit.prompts.tables import LANGUAGES
from sample import Sample
from sources import PYTHON, SAMPLES

BY_PATH = [pytest.param(sample, id=sample.path) for sample in SAMPLES]
LARGE = 200_000
WORDS = (
    *("class", "def", "fn", "end", "<?php", "a", "B", "$x", "@", "{", "}", "(", ")", ":", ";", ",", "=", "=>"),
    *("#", "//", "/*", "*/", '"', "'", "`", "\n", "\t"),
)
JUNK = ("", "(", "}", '"', "\ud800", "/*")


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars()


def read(sample: Sample, grammars: Grammars, body: str = "") -> Analysis:
    return analyse(sample.path, sample.with_body(body), grammars)


@pytest.mark.parametrize("sample", BY_PATH)
def test_keeps_the_interface(sample: Sample, grammars: Grammars) -> None:
    lines = read(sample, grammars).skeleton.splitlines()
    trimmed = {line.strip() for line in lines}
    assert [kept for kept in sample.keeps if kept not in lines and kept.strip() not in trimmed] == []
    assert not [line for line in lines if not line.strip()]


@pytest.mark.parametrize("sample", BY_PATH)
def test_knows_symbols_references_and_imports(sample: Sample, grammars: Grammars) -> None:
    analysis = read(sample, grammars)
    assert set(sample.defines) <= set(analysis.defines)
    names = dict(analysis.references)
    assert set(sample.refers) <= set(names)
    assert not set(names) & set(analysis.defines)
    assert analysis.imports == sample.imports


@pytest.mark.parametrize("sample", BY_PATH)
def test_spans_hold_their_symbol(sample: Sample, grammars: Grammars) -> None:
    text = sample.with_body("")
    lines = text.splitlines()
    for symbol, first, last in analyse(sample.path, text, grammars).spans:
        assert 0 <= first <= last < len(lines)
        assert symbol.rpartition(".")[2] in "\n".join(lines[first : last + 1])


@pytest.mark.parametrize("sample", BY_PATH)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_body_edit_leaves_the_skeleton_byte_identical(
    sample: Sample, grammars: Grammars, data: st.DataObject
) -> None:
    statements = data.draw(st.lists(st.sampled_from(sample.statements), max_size=6))
    indent = "        " if sample is PYTHON else "  "
    before = read(sample, grammars, sample.statements[0]).skeleton
    if sample is PYTHON:  # both bodies of the sample have their own depth: one statement to a line would need two
        body = "; ".join(part.partition("  #")[0] for part in statements) or "pass"
    else:
        body = ("\n" + indent).join(statements)
    assert read(sample, grammars, body).skeleton == before


def test_a_comment_or_blank_line_anywhere_changes_nothing(grammars: Grammars) -> None:
    text = PYTHON.with_body("pass")
    more = text.replace("class Shelf", "# about shelves\n\n\n    class Shelf").replace("RATE: ", "\n\n# rate\nRATE: ")
    assert analyse("a.py", more, grammars).skeleton == analyse("a.py", text, grammars).skeleton


def test_locals_and_keyword_names_are_no_references(grammars: Grammars) -> None:
    text = "def f(path, *, size=1):\n    total = path + size\n    for row in path:\n        use(row, key=total)\n"
    assert dict(analyse("a.py", text, grammars).references) == {"use": 1}


def test_an_imported_name_stays_a_reference_beside_a_local_of_its_name(grammars: Grammars) -> None:
    text = "from shop import price\nprice(1)\ndef f():\n    other(price=2)\n"
    assert dict(analyse("a.py", text, grammars).references)["price"] == 3


@pytest.mark.parametrize(
    ("path", "text", "kept"),
    [
        (
            "a.py",
            "class A:\n    def f(self:\n        x = (\n\n    def g(self, b): return b\n\ndef h(a): pass\n",
            "def h(a)",
        ),
        (
            "a.ts",
            "export class A { f(a: number { return 1 }\n  g(): void {} }\nexport function h(a: string) { x( }",
            "h(",
        ),
        ("a.go", "package a\nfunc f(a int { x }\nfunc G(b int) int { return 1 }\n", "func G(b int) int"),
        ("a.rs", "fn f(a: u32 { }\npub fn g(b: u32) -> u32 { 1 }\n", "pub fn g(b: u32) -> u32"),
        ("A.java", "class A { void f( { }\n  int g(int b) { return 1; } }\n", "g(int b)"),
        ("a.c", "int f(int a { }\nint g(int b) { return 1; }\n", "g(int b)"),
        ("a.cs", "class A { void F( { }\n  int G(int b) { return 1; } }\n", "G(int b)"),
        ("a.rb", "class A\n  def f\n    x = )\n  end\n  def g(b)\n    1\n  end\nend\n", "def g(b)"),
        ("a.php", "<?php\nfunction f(int $a { }\nfunction g(int $b) { return 1; }\n", "g(int $b)"),
    ],
)
def test_broken_code_still_shows_what_is_whole(path: str, text: str, kept: str, grammars: Grammars) -> None:
    assert kept in analyse(path, text, grammars).skeleton


def test_other_text_gives_its_head_in_whole_lines(grammars: Grammars) -> None:
    text = "".join(f"line {number}\n" for number in range(2000))
    analysis = analyse("README.md", text, grammars)
    assert analysis.language == "text"
    assert text.startswith(analysis.skeleton + "\n")
    assert HEAD_CHARS - 20 < len(analysis.skeleton) <= HEAD_CHARS
    assert analyse("notes.txt", "short\n\n", grammars) == Analysis("text", "short")
    assert len(analyse("a.json", "x" * 10_000, grammars).skeleton) == HEAD_CHARS


def test_generated_and_minified_sources_are_shown_by_their_head(grammars: Grammars) -> None:
    assert analyse("a.js", "f();" * 5000, grammars).language == "text"
    assert analyse("a.py", "x = 1\n" * 200_000, grammars).language == "text"


def test_a_skeleton_is_bounded(grammars: Grammars) -> None:
    text = "".join(f"def function_{number}(a, b, c): return {number}\n" for number in range(8000))
    analysis = analyse("a.py", text, grammars)
    assert len(analysis.skeleton) <= 24_000
    assert len(analysis.spans) == 5000
    long = analyse("a.py", "TABLE = [\n" + "    'a long word',\n" * 1000 + "]\n", grammars).skeleton
    assert len(long) < 200


HOSTILE = {
    "parentheses": "(" * LARGE,
    "brackets": "([{<" * (LARGE // 4),
    "generics": "a<b," * (LARGE // 4),
    "quotes": "\"'`\n" * (LARGE // 4),
    "calls": "*a&b(" * (LARGE // 5),
    "ternaries": "a?b:" * (LARGE // 4),
    "arrows": "(a)=>(b,c<d>(\n" * (LARGE // 14),
    "classes": "".join(f"class A{i} {{ \n" for i in range(LARGE // 12)),
    "indented": "".join(" " * depth + "class A:\n" for depth in range(600)),
    "ifs": "if x:\n" * (LARGE // 6),
    "names": ("a" * 5000 + " ") * 30 + "= 1",
    "words": "a b, " * 1900 + "\n",
    "zeros": "\0" * 5000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sources_are_bounded_in_time(name: str, grammars: Grammars) -> None:
    text = "\n".join(HOSTILE[name][at : at + 8000] for at in range(0, len(HOSTILE[name]), 8000))
    for path in ("a.py", "a.tsx", "a.cpp", "a.rs", "a.rb", "a.cs", "a.php", "a.go", "a.java"):
        began = time.process_time()
        analysis = analyse(path, text, grammars)
        assert time.process_time() - began < 5, path
        assert len(analysis.skeleton) <= 24_000


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    language=st.sampled_from(LANGUAGES),
    text=st.one_of(
        st.text(max_size=400),
        st.binary(max_size=400).map(lambda data: data.decode("utf-8", "replace")),
        st.lists(st.sampled_from(WORDS)).map(" ".join),
    ),
)
def test_any_text_gives_an_analysis(language: object, text: str, grammars: Grammars) -> None:
    suffix = language.suffixes[0]  # type: ignore[attr-defined]
    analysis = analyse("a" + suffix, text, grammars)
    lines = max(1, text.count("\n") + 1)
    assert all(0 <= first <= last <= lines for _, first, last in analysis.spans)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sample=st.sampled_from(SAMPLES), cut=st.integers(0, 1500), junk=st.sampled_from(JUNK))
def test_a_source_cut_anywhere_gives_an_analysis(sample: Sample, cut: int, junk: str, grammars: Grammars) -> None:
    text = sample.with_body("x")
    analyse(sample.path, text[:cut] + junk + text[cut + 3 :], grammars)


def test_a_parse_given_up_leaves_the_next_one_alone(grammars: Grammars) -> None:
    analyse("a.py", ("a?b:" * 2000 + "\n") * 25, grammars)
    assert read(PYTHON, grammars, "pass").defines[0] == "RATE"


def test_languages_by_name() -> None:
    assert getattr(language_of("a/Rakefile"), "name", None) == "ruby"
    assert getattr(language_of("a/B.PY"), "name", None) == "python"
    assert getattr(language_of("a/types.d.ts"), "name", None) == "typescript"
    assert language_of("a/Makefile") is None
    assert (line_comment("a.py"), line_comment("a.go"), line_comment("a.md")) == ("#", "//", "#")
    assert is_noise("x/package-lock.json")
    assert is_noise("CHANGELOG.md")
    assert not is_noise("src/history.py")


def test_every_table_row_names_nodes_that_its_grammar_has(grammars: Grammars) -> None:
    for language in LANGUAGES:
        binding = grammars.get(language).parser.language
        assert binding is not None
        rows = (*language.roles, *language.bodies, *language.stops, *language.lambdas, *language.groups)
        for node in (*rows, *language.members, *language.ends, *language.forward):
            known = binding.id_for_node_kind(node, True) or binding.id_for_node_kind(node, False)
            assert known is not None, f"{language.name}: {node}"


def test_equal_sources_give_equal_analyses_in_another_process() -> None:
    code = (
        "from aicockpit.prompts.skeleton import analyse; from aicockpit.prompts.languages import Grammars\n"
        "from sources import SAMPLES; g = Grammars()\n"
        "for s in SAMPLES: print(analyse(s.path, s.with_body('x'), g))"
    )
    said = set()
    for seed in ("1", "2"):
        env = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=str(Path(__file__).parent))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
        said.add(done.stdout)
    assert len(said) == 1
