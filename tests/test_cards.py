"""Known GPUs: what drivers call them, what people write, and figures that can be true."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicockpit.errors import SettingError
from aicockpit.hardware import cards
from aicockpit.hardware.device import GIB


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000-ADA"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("Tesla T4", "T4"),
        ("AMD Instinct MI300X", "MI300X"),
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("AMD Instinct MI250X / MI250", "MI250"),
        ("a6000", "A6000"),
        ("rtx 4090", "RTX4090"),
        ("mi300x", "MI300X"),
    ],
)
def test_names_as_drivers_and_people_tell_them(name: str, short: str) -> None:
    card = cards.known(name)
    assert card is not None
    assert card.short == short


@pytest.mark.parametrize("name", ["", "NVIDIA", "GeForce GTX 1080", "NVIDIA A100-SXM4-80GB MIG 3g.40gb", "H100:8"])
def test_what_is_not_in_the_catalogue_is_not_guessed(name: str) -> None:
    assert cards.known(name) is None


def test_every_card_s_figures_can_be_true_and_every_name_is_its_own() -> None:
    catalogue = cards.catalogue()
    names = [name for card in catalogue for name in (card.name, card.short, *card.also)]
    assert [card for card in catalogue if cards.known(card.name) != card or cards.known(card.short) != card] == []
    assert all(cards.known(name) for name in names)
    for card in catalogue:
        assert 14 * GIB < card.memory < 300 * GIB
        assert 200 < card.bandwidth < 9000
        assert 50 < card.tflops < 3000
        assert (card.capability is None) == (card.vendor == "amd") == bool(card.arch)
        assert card.source


def test_machines_are_imagined_by_name_and_number() -> None:
    found = cards.parse("A100-40GB:4, L4:1,H200")
    assert [device.name for device in found] == ["NVIDIA A100-SXM4-40GB"] * 4 + ["NVIDIA L4", "NVIDIA H200"]
    assert found[0].memory == int(39.4 * GIB)
    assert found[0].capability == (8, 0)
    assert found[0].free is None
    assert found[4].peer == "pcie"


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 * GIB), ("24 GB:1", 24 * 10**9), ("16g", 16 * 10**9)])
def test_a_size_does_for_a_card_that_is_not_known(text: str, size: int) -> None:
    (device,) = cards.parse(text)
    assert device.memory == size
    assert device.capability is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A600", "Did you mean A6000"),
        ("A100", "Did you mean A100-40GB or A100-80GB?"),
        ("RTX 4080 Super", "RTX4090"),
        ("abacus", "Known: A6000, A40"),
        ("A6000:0", "how many GPUs, 1 to 1024"),
        ("A6000:x", "how many GPUs"),
        ("A6000:²", "how many GPUs"),
        ("", "no GPU is named"),
        (" , ", "no GPU is named"),
        ("L4:1000,L4:1000", "2000 GPUs are named"),
        ("99999999GB", "is not known"),
    ],
)
def test_mistakes_are_told_with_what_is_near(text: str, told: str) -> None:
    with pytest.raises(SettingError) as caught:
        cards.parse(text)
    assert told in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_no_text_crashes_the_parsing(text: str) -> None:
    try:
        found = cards.parse(text)
    except SettingError:
        return
    assert found
