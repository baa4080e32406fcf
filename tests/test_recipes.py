"""recipes/{schema,load}.py and the shipped files in recipes/data/"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.errors import SettingError
from aicockpit.hardware import shape, shape_weights
from aicockpit.prompts import fim
from aicockpit.recipes import flags, known, load
from aicockpit.recipes.load import Loaded, library, parse
from aicockpit.recipes.schema import PRECISIONS, Recipe, precision_rank
from aicockpit.recipes.spot import recipe_shape

SHIPPED = {one.recipe.id: one for one in load.shipped()}
VARIANTS = [(one.recipe, name) for one in SHIPPED.values() for name in one.recipe.variants]
SMALL = """
meta: {slug: mine, tasks: [text]}
model: {model_id: me/mine}
variants:
  default: {precision: bf16}
"""


def small(more: str = "") -> Loaded:
    return parse(SMALL + more, Path("mine.yaml"))


def test_what_is_shipped() -> None:
    sizes = [f"qwen2.5-coder-{size}" for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b")]
    others = [
        *("qwen3-coder-30b-a3b", "qwen3-coder-480b-a35b", "codestral-22b", "deepseek-coder-v2-lite"),
        *("gpt-oss-20b", "gpt-oss-120b", "llama-3.1-8b", "llama-3.3-70b"),
        *("qwen3-embedding-0.6b", "qwen3-reranker-0.6b", "qwen2.5-vl-7b", "smollm2-135m"),
    ]
    assert set(sizes + others) <= set(SHIPPED)
    for size in sizes:
        assert {"default", "gptq_int8", "gptq_int4", "awq"} <= set(SHIPPED[size].recipe.variants)


@pytest.mark.parametrize("one", SHIPPED.values(), ids=list(SHIPPED))
def test_a_shipped_recipe_is_whole(one: Loaded) -> None:
    recipe = one.recipe
    assert one.notes == ()
    assert one.path.stem == recipe.id
    assert recipe.roles
    assert recipe.meta.description
    assert recipe.model.context_length
    assert recipe.aicockpit.licence
    assert recipe.aicockpit.fim in ("", *fim.styles())
    assert bool(recipe.aicockpit.fim) <= ("completion" in recipe.roles)
    assert set(recipe.aicockpit.checkpoints) == set(recipe.variants)
    known_ids = {each.recipe.model.model_id for each in SHIPPED.values()}
    assert set(recipe.meta.related_recipes) <= known_ids


@pytest.mark.parametrize("one", SHIPPED.values(), ids=list(SHIPPED))
def test_its_flags_are_vllm_s(one: Loaded) -> None:
    found = list(load._flag_lists(one.recipe))
    for where, words in found:
        assert flags.refuse(words, str(where), known.known().version) == ()
        assert flags.spare(words)[1] == ()


@pytest.mark.parametrize(("recipe", "name"), VARIANTS, ids=[f"{recipe.id}-{name}" for recipe, name in VARIANTS])
def test_its_facts_agree_with_each_other(recipe: Recipe, name: str) -> None:
    checkpoint, dimensions = recipe.checkpoint(name), recipe_shape(recipe, name)
    assert dimensions is not None
    assert checkpoint.weights is not None
    assert dimensions.precision == recipe.variants[name].precision
    assert dimensions.precision in PRECISIONS
    assert dimensions.max_len is not None
    assert recipe.model.context_length is not None
    assert dimensions.max_len >= recipe.model.context_length
    # The reranker's head is counted as gone, so the largest one is lighter by its vocabulary.
    counted = shape_weights.parts(shape.read(recipe.config(name) or {})).total
    slack = 0.08 if recipe.id == "qwen3-reranker-8b" else 0.015
    assert abs(counted / checkpoint.weights - 1) < slack
    if yarn := recipe.aicockpit.window.yarn:
        assert yarn.original == dimensions.max_len


def test_checkpoints_are_named_once() -> None:
    seen: dict[str, str] = {}
    for recipe, name in VARIANTS:
        if recipe.variants[name].model_id or name == "default":
            assert seen.setdefault(recipe.model_id(name), recipe.id) == recipe.id
    assert seen["Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4"] == "qwen2.5-coder-32b"


def test_a_public_recipe_loads_and_says_what_has_no_effect(tmp_path: Path) -> None:
    text = """
meta: {title: T, slug: Big.Model-1, provider: P, date_added: 2026-01-01, difficulty: beginner, tasks: [text],
  hardware: {h100: verified, b200: unsupported}, default_hardware: h100}
model: {model_id: a/b, min_vllm_version: "0.10.0", architecture: moe, context_length: 0,
  base_args: [--max-num-seqs, 16, --trust-remote-code, --served-model-name, x], base_env: {VLLM_ROCM_USE_AITER: 1}}
dependencies: [{command: pip install x}]
features: {spec: {args: [], modes: {mtp: {args: [--seed, 1]}}}}
opt_in_features: [spec]
variants: {default: {precision: fp8, vram_minimum_gb: 10, tp: {h200: 4}}, nvfp4: {model_id: a/c, precision: nvfp4}}
compatible_strategies: [single_node_tp, pd_cluster]
strategy_overrides: {single_node_tp: {tp: 4}}
hardware_overrides: {hopper: {extra_args: [], extra_env: {A: 1}}}
guide: "# Words"
"""
    one = parse(text, tmp_path / "b.yaml")
    assert one.recipe.id == "big.model-1"
    assert one.recipe.model.context_length is None
    assert one.recipe.model.base_args[:2] == ("--max-num-seqs", "16")
    assert one.recipe.roles == ("chat",)
    notes = "\n".join(one.notes)
    assert re.search(r"b\.yaml, line 6: dependencies: kept, but it has no effect here", notes)
    assert "--trust-remote-code is not a recipe's to set: set AICOCKPIT_TRUST_REMOTE_CODE=on" in notes
    assert "--served-model-name is not a recipe's to set" in notes
    assert "guide" not in notes
    assert "date_added" not in notes


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("meta: {slug: x}\nmodel: {model_id: a}\n", r"line 1: variants: is needed"),
        ("[1]", r"mine\.yaml, line 1: the file: Input should be a valid dictionary"),
        ("a: [", "not valid YAML"),
        (SMALL.replace("slug: mine", "slug: 'no spaces'"), "meta.slug must be letters"),
        (SMALL.replace("slug: mine", "slug: generic"), "line 2: meta.slug: 'generic' is what a model without a recipe"),
        (SMALL.replace("default:", "fp8:"), "variants has no `default`; it has: fp8"),
        (
            SMALL.replace("model_id: me/mine", "model_id: me/mine, base_arg: [--seed]"),
            r"line 3: model.base_arg: unknown",
        ),
        (SMALL + "opt_in_features: [x]\n", "opt_in_features names 'x'; features has: none"),
        (SMALL + "aicockpit: {fims: qwen}\n", r"line 6: aicockpit.fims: unknown key; known: engine, roles, fim"),
        (
            SMALL + "aicockpit: {window: {yarns: 1}}\n",
            "aicockpit.window.yarns: unknown key; known: working, floor, yarn",
        ),
        (SMALL + "aicockpit: {roles: [cook]}\n", r"aicockpit.roles\[0\]: Input should be 'completion', 'chat'"),
        (SMALL + "aicockpit: {checkpoints: {fp8: {}}}\n", "names 'fp8', which is no variant; they are: default"),
        (SMALL + "features:\n  a:\n    args: [--max-model-length, 5]\n", r"line 8: features.a.args.*max-model-len\?"),
        (SMALL + "features: {a: {args: [--swap-space, 4]}}\n", "--swap-space .* was removed from vLLM"),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key(text: str, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        parse(text, Path("mine.yaml"))


def test_a_recipe_for_another_server_is_read_without_its_flags() -> None:
    one = small("omni: {tasks: [t2i]}\nfeatures: {a: {args: [--omni]}}\n")
    assert "vLLM-Omni" in one.notes[-1]


def test_a_folder_s_recipes_override_the_shipped_ones(tmp_path: Path) -> None:
    mine = SMALL.replace("mine", "gpt-oss-20b", 1)
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "a.yml").write_text(mine)
    (tmp_path / "b.yaml").write_text(SMALL)
    (tmp_path / "notes.txt").write_text("not a recipe")
    found = library(tmp_path)
    assert not found.by_id["gpt-oss-20b"].shipped
    assert found.find("me/mine").recipe.id == "gpt-oss-20b"
    assert len(found.by_id) == len(SHIPPED) + 1
    assert [recipe.id for recipe in found.recipes][:2] == ["gpt-oss-20b", "mine"]
    (tmp_path / "c.yaml").write_text(SMALL)
    with pytest.raises(SettingError, match=r"c\.yaml: the id 'mine' is that of .*b\.yaml too"):
        library(tmp_path)


def test_a_folder_that_is_none_and_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"AICOCKPIT_RECIPES=.* is not a folder"):
        library(tmp_path / "none")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match=r"a\.yaml cannot be read"):
        library(tmp_path)


def test_a_recipe_is_found_by_id_and_by_any_checkpoint() -> None:
    found = library()
    assert found.find("qwen2.5-coder-7b").recipe.id == "qwen2.5-coder-7b"
    assert found.find("qwen/qwen2.5-coder-7b-instruct-awq").recipe.id == "qwen2.5-coder-7b"
    with pytest.raises(SettingError, match=r"no recipe has the id 'gpt-oss'.* Did you mean gpt-oss-20b"):
        found.find("gpt-oss")


def test_rerankers_of_public_recipes_are_told_from_embedders() -> None:
    text = "meta: {slug: x, tasks: [embedding]}\nmodel: {model_id: %s}\nvariants: {default: {}}\n"
    assert parse(text % "jinaai/jina-reranker-m0", Path("x")).recipe.roles == ("rerank",)
    assert parse(text % "jinaai/jina-embeddings", Path("x")).recipe.roles == ("embedding",)


def test_an_unknown_precision_comes_last() -> None:
    assert sorted(["strange", "int4", "bf16", "fp8"], key=precision_rank) == ["bf16", "fp8", "int4", "strange"]


def test_the_reranker_s_template_gives_the_form_of_its_card() -> None:
    jinja2 = pytest.importorskip("jinja2")
    args = SHIPPED["qwen3-reranker-0.6b"].recipe.model.base_args
    template = args[args.index("--chat-template") + 1]
    messages = [{"role": "query", "content": "Q"}, {"role": "document", "content": "D"}]
    shown = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template).render(messages=messages)
    assert shown.endswith("<Query>: Q\n<Document>: D<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "<Instruct>: Given a web search query" in shown


_TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "more"]), _TREES))
def test_no_yaml_breaks_the_reader(tree: dict[str, object]) -> None:
    try:
        parse(yaml.safe_dump(tree), Path("x.yaml"))
    except SettingError as error:
        told = str(error)
    else:
        told = "x.yaml"
    assert "x.yaml" in told
