"""Which profile a machine gets, and that it is never refused there: planned as `serve` plans, by fit's own sums."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

import generated
from aicockpit.hardware import cards, detect, fit
from aicockpit.hardware.detect import pick_profile
from aicockpit.hardware.device import GIB, Device
from aicockpit.hardware.fit_kernels import _VLLM_LEAST
from aicockpit.hardware.machine import Gpu, Snapshot
from aicockpit.recipes import flags, fleet
from aicockpit.recipes.arrange import Plan, arrange
from aicockpit.recipes.load import library
from aicockpit.recipes.place import Slot
from aicockpit.recipes.spot import asked, recipe_shape
from aicockpit.settings import load
from aicockpit.sizing import Sizer

ROOT = Path(__file__).resolve().parent.parent
RECIPES = library().recipes
LEAST = dict(detect._PROFILES)
WINDOW = 32_768
# What `nvidia-smi` calls a card, its memory in MiB there, and its compute capability.
MORE_CARDS = (
    ("NVIDIA GeForce RTX 4060", 8188, (8, 9)),
    ("NVIDIA GeForce RTX 2070", 8192, (7, 5)),
    ("NVIDIA GeForce RTX 3080", 10240, (8, 6)),
    ("NVIDIA GeForce RTX 2080 Ti", 11264, (7, 5)),
    ("NVIDIA GeForce RTX 3060", 12288, (8, 6)),
    ("NVIDIA GeForce RTX 4080", 16376, (8, 9)),
    ("NVIDIA RTX 4000 Ada Generation", 20475, (8, 9)),
)


def plan(profile: str, devices: list[Device], **environ: str) -> Plan:
    """As `serve` plans; raises SettingError where it refuses."""
    settings = load(ROOT / f".env.{profile}", environ={"AICOCKPIT_VLLM_COMMAND": "vllm serve", **environ})
    slots = [Slot(str(number), device) for number, device in enumerate(devices)]
    wanted = fleet.ask(settings)
    sizer = Sizer(settings, RECIPES, slots, lambda _: None)
    return arrange(wanted, [sizer.size(model) for model in wanted.models], slots, [0, 1], None)


def seen(*devices: Device) -> Snapshot:
    """What the drivers tell of them."""
    gpus = [
        Gpu(i, name=d.name, total=d.memory, capability=d.capability, vendor=d.vendor) for i, d in enumerate(devices)
    ]
    return Snapshot(tuple(gpus))


def card(name: str, mib: int, capability: tuple[int, int]) -> Device:
    return Device(name, mib << 20, capability=capability)


def window(profile: str, *devices: Device, **environ: str) -> int | None:
    """Of the plan, which has all the copies that were asked for."""
    found = plan(profile, list(devices), **environ)
    (model,) = found.models
    assert len(model.shapes) == int(environ.get("AICOCKPIT_REPLICAS", "1"))
    return flags.number(flags.value(model.shapes[0].flags, "--max-model-len")) or WINDOW


EVERY_CARD = [one.device() for one in cards.catalogue()] + [card(*one) for one in MORE_CARDS]


@pytest.mark.parametrize("device", EVERY_CARD, ids=[one.name for one in EVERY_CARD])
def test_every_card_gets_a_profile_that_starts_on_it(device: Device) -> None:
    profile, reason = pick_profile(seen(device), own_vllm=True)
    if device.capability and device.capability < _VLLM_LEAST:
        assert (profile, "compute capability 7.5" in reason) == ("cpu", True)
        return
    assert profile in LEAST
    assert (window(profile, device) or 0) >= WINDOW


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA GeForce RTX 4060", "dev1.5"),
        ("NVIDIA GeForce RTX 3060", "dev7"),
        ("Tesla T4", "dev7"),
        ("NVIDIA GeForce RTX 4080", "dev7"),
        ("NVIDIA L4", "dev14"),
        ("NVIDIA A10", "dev14"),
        ("NVIDIA GeForce RTX 4090", "dev14"),
        ("NVIDIA GeForce RTX 5090", "dev14"),
        ("NVIDIA A100-SXM4-40GB", "dev32"),
        ("NVIDIA RTX A6000", "dev32"),
        ("NVIDIA H200", "dev32"),
    ],
)
def test_the_profile_of_well_known_cards(name: str, profile: str) -> None:
    device = next(one for one in EVERY_CARD if one.name == name)
    assert pick_profile(seen(device))[0] == profile


@given(st.integers(min(LEAST.values()), 300 * GIB), st.integers(1, 4))
def test_any_size_of_card_starts_its_profile_alone_and_on_several(size: int, count: int) -> None:
    devices = [Device("a GPU", size)] * count
    profile, reason = pick_profile(seen(*devices))
    told = {name: str(count) for name in ("GPU_COUNT", "AICOCKPIT_REPLICAS")} if count > 1 else {}
    assert " ".join(f"{name}={text}" for name, text in told.items()) in reason
    assert "=1" not in reason
    assert (window(profile, *devices, **told) or 0) >= WINDOW


@given(st.integers(1, min(LEAST.values()) - 1))
def test_a_card_that_is_too_small_means_cpu_with_the_reason(size: int) -> None:
    profile, reason = pick_profile(seen(Device("a GPU", size)))
    assert (profile, "needs one of 8 GB" in reason) == ("cpu", True)


def test_the_largest_card_that_can_be_used_decides() -> None:
    small, large, old = card("A", 12288, (8, 6)), card("B", 24576, (8, 9)), card("P40", 24576, (6, 1))
    profile, reason = pick_profile(seen(small, large, old))
    assert profile == "dev14"
    assert "REPLICAS" not in reason
    assert window(profile, small, large) == WINDOW
    assert pick_profile(seen(small, large), cuda_visible="0")[0] == "dev7"
    assert pick_profile(seen(small, large), cuda_visible="7") == (
        "cpu",
        "found 2 GPUs (A 12 GiB, B 24 GiB); CUDA_VISIBLE_DEVICES=7 leaves none of them whole "
        "(PROFILE=NAME chooses a profile)",
    )


@pytest.mark.parametrize(
    ("profile", "name", "count"),
    [
        ("dev32", "NVIDIA GeForce RTX 4090", 2),  # one does not hold it
        ("dev32", "NVIDIA RTX A6000", 2),
        ("dev32", "NVIDIA RTX A6000", 4),
        ("dev7", "Tesla T4", 4),
    ],
)
def test_gpu_count_alone_spreads_one_copy(profile: str, name: str, count: int) -> None:
    device = next(one for one in EVERY_CARD if one.name == name)
    (model,) = plan(profile, [device] * count, GPU_COUNT=str(count)).models
    assert flags.value(model.shapes[0].flags, "--tensor-parallel-size") == str(count)
    assert len(model.shapes[0].gpus) == count


def test_32_gb_hold_dev32_with_half_the_window_as_its_comment_says() -> None:
    device = next(one for one in EVERY_CARD if "5090" in one.name)
    assert window("dev32", device, AICOCKPIT_ENGINE_ARGS=told_args(".env.dev32")) == WINDOW // 2


def test_a_10_gb_card_takes_the_7b_model_as_its_profile_s_comment_says() -> None:
    device = next(one for one in EVERY_CARD if one.name == "NVIDIA GeForce RTX 3080")
    assert "PROFILE=dev7" in (ROOT / ".env.dev1.5").read_text()
    assert window("dev7", device, AICOCKPIT_ENGINE_ARGS=told_args(".env.dev1.5")) == WINDOW // 2


def told_args(file: str) -> str:
    """What the comment of a profile says to set."""
    found = re.search(r'AICOCKPIT_ENGINE_ARGS="(.*?)"', " ".join((ROOT / file).read_text().split()))
    assert found
    return found[1]


def test_the_memory_of_the_cpu_profile_is_the_sum() -> None:
    settings = load(ROOT / ".env.cpu", environ={"AICOCKPIT_VLLM_COMMAND": "vllm serve"})
    (model,) = fleet.ask(settings).models
    sized = Sizer(settings, RECIPES, (), lambda _: None).size(model)
    told = f"{sized.least / GIB:.2f} GiB"
    for place in (".env.cpu", "docs/hardware.md"):
        assert told in (ROOT / place).read_text(), told
    assert sized.least < 2.75 * GIB, "3 GiB of free memory is what README and .env.cpu ask for"
    assert [place for place in (".env.cpu", "README.md") if "3 GiB of free" not in (ROOT / place).read_text()] == []


def test_the_readme_s_profiles_are_the_files() -> None:
    rows = dict(re.findall(r"^\| `\.env\.(\S+)` \| (\S+) \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    models = {name: dotenv_values(ROOT / f".env.{name}")["MODEL_NAME"] or "" for name in (*LEAST, "cpu", "prod480")}
    assert rows == {name: model.partition("/")[2] for name, model in models.items()}


def table() -> str:
    """Of docs/hardware.md: each profile on the smallest card of its class."""
    lines = [
        "| profile | its largest GPU has, GB | model | weights | KV tokens, at least |",
        "|---|---:|---|---:|---:|",
    ]
    for profile, least in sorted(LEAST.items(), key=lambda one: one[1]):
        settings = load(ROOT / f".env.{profile}", environ={})
        recipe, name = next(
            (one, name) for one in RECIPES for name in one.variants if one.model_id(name) == settings.model_name
        )
        dimensions = recipe_shape(recipe, name)
        assert dimensions
        verdict = fit.best(dimensions, [Device("a GPU", least)], asked(settings.engine_args), 1).verdict
        assert verdict.fits
        weights, model = fit.gib(verdict.terms[0].bytes), settings.model_name.partition("/")[2]
        lines.append(f"| `{profile}` | {least / 1e9:g} | {model} | {weights} | {verdict.kv_tokens:,} |")
    return "\n".join(lines)


def test_the_docs_have_the_table_of_profiles() -> None:
    made = f"<!-- profiles:begin -->\n{table()}\n<!-- profiles:end -->"
    generated.holds(ROOT / "docs" / "hardware.md", made, "tests/test_profiles.py -k docs")
