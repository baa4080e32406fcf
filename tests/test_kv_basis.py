"""recipes/kv_basis.py and the mark that `tier.py` makes: what tells vLLM's own KV files apart, and who may
hold them."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from aicockpit.errors import SettingError
from aicockpit.hardware import detect
from aicockpit.hardware.machine import Gpu, Snapshot
from aicockpit.recipes import command, kv_basis, tier
from aicockpit.recipes.command import EngineShape
from aicockpit.recipes.tier import NoTier, Place, Tier
from aicockpit.settings import Settings, load
from aicockpit.types import KvTier

GIB = 1 << 30
H100 = Gpu(0, "GPU-aa", "NVIDIA H100 80GB HBM3", capability=(9, 0))
B200 = Gpu(1, "GPU-bb", "NVIDIA B200", capability=(10, 0))
LLAMA = {"model_type": "llama", "rope_theta": 10000.0}
LONG = {"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0]}}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    machine(monkeypatch, H100)


def machine(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu) -> None:
    monkeypatch.setattr(detect, "snapshot", lambda _: Snapshot(gpus))


def model(tmp_path: Path, name: str = "model", config: Any = LLAMA) -> Path:
    folder = tmp_path / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    return folder


def mark(path: Path, *given: str, env: tuple[tuple[str, str], ...] = (), gpus: tuple[str, ...] = ("0",)) -> str:
    return tier.mark(path, "0.32.0", given, env, gpus)


def test_whatever_the_bytes_depend_on_is_another_folder(tmp_path: Path) -> None:
    one, other = model(tmp_path, "one"), model(tmp_path, "other")
    first = mark(one)
    assert first == mark(one, "--max-num-seqs", "8", env=(("HF_HOME", "/x"), ("VLLM_LOGGING_LEVEL", "DEBUG")))
    (other / "model.safetensors").write_bytes(b"WEIGHTS")  # as large, and as old
    os.utime(other / "model.safetensors", (1, 1))
    changed = [
        mark(other),
        tier.mark(one, "0.33.0", (), (), ("0",)),
        mark(one, "--hf-overrides", '{"rope_parameters": {"factor": 4}}'),
        mark(one, "--attention-backend", "FLASHINFER"),
        mark(one, "--kv-cache-dtype", "fp8"),
        mark(one, env=(("VLLM_KV_CACHE_LAYOUT", "HND"),)),
    ]
    assert len({first, *changed}) == 1 + len(changed)


def test_a_layout_that_the_whole_server_is_given_counts_and_the_engines_own_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(tmp_path)
    plain, own = mark(path), mark(path, env=(("VLLM_KV_CACHE_LAYOUT", "HND"),))
    monkeypatch.setenv("VLLM_KV_CACHE_LAYOUT", "NHD")
    assert len({plain, own, mark(path)}) == 3
    assert mark(path, env=(("VLLM_KV_CACHE_LAYOUT", "HND"),)) == own


def test_a_snapshot_is_known_by_its_commit_wherever_it_lies(tmp_path: Path) -> None:
    here, there = model(tmp_path / "a", "0" * 40), model(tmp_path / "b", "0" * 40)
    os.utime(there / "model.safetensors", (2, 2))
    assert mark(here) == mark(there)


def test_another_kind_of_card_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(tmp_path)
    hopper = mark(path)
    machine(monkeypatch, Gpu(0, "GPU-cc", "NVIDIA B200", capability=(10, 0)))
    blackwell = mark(path)
    assert hopper != blackwell, "FlashInfer has heads first there"
    machine(monkeypatch, H100, B200)
    assert [mark(path, gpus=gpus) for gpus in (("0",), ("1",), ("GPU-b",))] == [hopper, blackwell, blackwell]
    assert mark(path, env=(("CUDA_VISIBLE_DEVICES", "1"),)) == blackwell, "what the user says is what CUDA sees"
    machine(monkeypatch, H100, H100)
    assert mark(path, gpus=()) == mark(path, gpus=("0", "1")) == mark(path, gpus=("MIG-1",)) == hopper


def test_an_engine_s_command_names_the_folder_of_its_kind_of_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> str:
        shape = EngineShape("m-0", gpus=("0",), kv_tier=KvTier("disk", GIB, tmp_path / "kv"))
        argv = command.build(shape, model(tmp_path), "m", settings(tmp_path, "")).argv
        given = json.loads(argv[argv.index("--kv-transfer-config") + 1])
        return str(given["kv_connector_extra_config"]["secondary_tiers"][0]["root_dir"])

    hopper = files()
    assert files() == hopper
    machine(monkeypatch, Gpu(0, "GPU-cc", "NVIDIA B200", capability=(10, 0)))
    assert files() != hopper


def test_cards_of_several_kinds_are_not_guessed_among(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H100, B200)
    for gpus in ((), ("MIG-1",)):
        with pytest.raises(SettingError, match=r"cuda 9\.0, cuda 10\.0.*wrong answers\. Say cpu:SIZE"):
            mark(model(tmp_path), gpus=gpus)


def root(tmp_path: Path, name: str, boot: str, *versions: int) -> Path:
    made = tmp_path / name
    (made / "proc/sys/kernel/random").mkdir(parents=True)
    (made / "proc/sys/kernel/random/boot_id").write_text(boot)
    for number, version in enumerate(versions):
        node = made / "sys/class/kfd/kfd/topology/nodes" / str(number)
        node.mkdir(parents=True)
        (node / "properties").write_text(f"cpu_cores_count 0\ngfx_target_version {version}\n")
    return made


def test_unknown_cards_share_with_no_other_machine_and_no_other_card(tmp_path: Path) -> None:
    here, there = root(tmp_path, "a", "one"), root(tmp_path, "b", "two")
    lost = Snapshot((Gpu(0), Gpu(1)))
    told = [kv_basis.cards(ids, lost, where) for ids, where in ((("0",), here), (("1",), here), (("0",), there))]
    assert len(set(told)) == 3
    assert not any(known for _, known in told)
    assert kv_basis.cards(("0",), lost, here) == told[0], "a reload restarts nothing"
    assert kv_basis.cards(("0",), Snapshot(()), here) == told[0]
    assert not kv_basis.cards(("0", "1"), Snapshot((H100, Gpu(1))), here)[1]


def test_who_reads_the_log_learns_that_a_card_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = model(tmp_path)
    known = mark(path)
    assert not caplog.text
    machine(monkeypatch, Gpu(0))
    assert mark(path) != known
    assert "what its GPU is cannot be read, so the KV on disk is not found after the next boot" in caplog.text


def test_cards_of_amd_are_known_by_their_instruction_set(tmp_path: Path) -> None:
    unnamed, named = Gpu(0, vendor="amd"), Gpu(0, name="Instinct MI300X", vendor="amd")
    mi300, mixed = root(tmp_path, "a", "x", 0, 90402, 90402), root(tmp_path, "b", "x", 90402, 90500)
    assert kv_basis.cards(("0",), Snapshot((unnamed,)), mi300) == ("gfx 90402", True)
    assert kv_basis.cards(("0",), Snapshot((named,)), mixed) == ("amd Instinct MI300X", True)
    assert not kv_basis.cards(("0",), Snapshot((unnamed,)), mixed)[1]


@pytest.mark.parametrize(
    ("config", "given", "counts"),
    [
        (LLAMA, (), False),
        (LONG, (), True),
        (LLAMA, ("--hf-overrides", '{"rope_scaling": {"type": "longrope"}}'), True),
        (LLAMA, ("--config-format", "mistral"), True),
        (None, (), True),
    ],
)
def test_the_longest_context_counts_unless_positions_are_plain(
    tmp_path: Path, config: Any, given: tuple[str, ...], counts: bool
) -> None:
    path = model(tmp_path, config=config)
    if config is None:
        (path / "config.json").unlink()
    short, long = (mark(path, "--max-model-len", size, *given) for size in ("4096", "65536"))
    assert (short != long) is counts


def environment(tmp_path: Path, name: str, *versions: str) -> Path:
    """A virtual environment as far as files tell of it."""
    home = tmp_path / name
    (home / "bin").mkdir(parents=True)
    (home / "pyvenv.cfg").touch()
    (home / "bin/python3").symlink_to(sys.executable)
    script(home / "bin/vllm", f"#!{home}/bin/python3\nimport vllm\n")
    for number, version in enumerate(versions):
        about = home / f"lib/python3.{number + 10}/site-packages/vllm-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    return home


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_command_tells_its_vllm_by_the_packages_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = environment(tmp_path, "a", "0.32.0+rocm700")
    for words in (("bin/vllm", "serve"), ("bin/python3", "-m", "vllm.entrypoints")):
        assert kv_basis.version_of((str(home / words[0]), *words[1:])) == "0.32.0+rocm700"
    link, long = tmp_path / "vllm", script(tmp_path / "l", f'#!/bin/sh\n\'\'\'exec\' "{home}/bin/python3" "$0" "$@"\n')
    link.symlink_to(home / "bin/vllm")
    assert kv_basis.version_of((str(link),)) == kv_basis.version_of((long,)) == "0.32.0+rocm700"
    monkeypatch.setenv("PATH", f"{home}/bin", prepend=os.pathsep)
    by_name = script(tmp_path / "n", "#!/usr/bin/env python3\n")
    assert kv_basis.version_of(("vllm", "serve")) == kv_basis.version_of((by_name,)) == "0.32.0+rocm700"


def test_a_command_that_does_not_tell_is_not_guessed_at(tmp_path: Path) -> None:
    two, none = environment(tmp_path, "two", "0.32.0", "0.33.0"), environment(tmp_path, "none")
    shell = script(tmp_path / "run", "#!/bin/sh\nexec docker run vllm\n")
    for word in (str(two / "bin/vllm"), str(none / "bin/vllm"), shell, str(tmp_path / "gone")):
        assert kv_basis.version_of((word, "serve")) is None
    assert kv_basis.version_of(()) is None


def settings(tmp_path: Path, command: str) -> Settings:
    return load(environ={"AICOCKPIT_STATE_DIR": str(tmp_path / "state"), "AICOCKPIT_VLLM_COMMAND": command})


def test_a_disk_tier_on_gpus_needs_to_know_whose_files_it_reads(tmp_path: Path) -> None:
    wish = KvTier("disk", GIB)
    shell = tier.place(settings(tmp_path, script(tmp_path / "run", "#!/bin/sh\n")), True)
    refused = tier.decide(wish, shell, tmp_path)
    assert isinstance(refused, NoTier)
    assert "AICOCKPIT_VLLM_COMMAND" in refused.why
    assert "by its path" in refused.instead
    assert isinstance(tier.decide(KvTier("cpu", GIB), shell, tmp_path), Tier)
    on_cpu = tier.decide(wish, Place("cpu", None, beside=False), tmp_path)
    assert isinstance(on_cpu, Tier), "our own connector asks vLLM itself"
    known = tier.place(settings(tmp_path, f"{environment(tmp_path, 'a', '0.32.1+rocm700')}/bin/vllm serve"), True)
    assert (known.platform, known.vllm, known.beside) == ("rocm", "0.32.1+rocm700", False)
    assert isinstance(tier.decide(wish, known, tmp_path), Tier)
    old = tier.place(settings(tmp_path, f"{environment(tmp_path, 'old', '0.19.1')}/bin/vllm serve"), True)
    assert isinstance(tier.decide(wish, old, tmp_path), NoTier)


def prepare(tmp_path: Path, folder: Path) -> None:
    tier.prepare(Tier("", files=folder), settings(tmp_path, ""))


def test_files_are_kept_in_a_folder_of_this_user_alone(tmp_path: Path) -> None:
    made = tmp_path / "kv" / "mark"
    made.mkdir(parents=True, mode=0o755)
    prepare(tmp_path, made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_link_is_neither_followed_nor_changed(tmp_path: Path) -> None:
    theirs, folder = tmp_path / "theirs", tmp_path / "kv"
    for made in (theirs, folder):
        made.mkdir(mode=0o755)
    (folder / "mark").symlink_to(theirs)
    with pytest.raises(
        SettingError, match=r"mark cannot be .* it is a symbolic link\. Remove it or name another folder"
    ):
        prepare(tmp_path, folder / "mark")
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o755


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "mark"
    made.mkdir(mode=0o755)
    monkeypatch.setattr(os, "geteuid", lambda: made.stat().st_uid + 1)
    with pytest.raises(SettingError, match=r"it is a folder of another user \(uid \d+\)\. Remove it or name"):
        prepare(tmp_path, made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o755


def test_a_place_where_everyone_may_exchange_it_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(
        SettingError, match=r"everyone may write in .*shared\. Take that right away \(chmod o-w\) or name"
    ):
        prepare(tmp_path, shared / "mark")
    shared.chmod(0o1777)
    prepare(tmp_path, shared / "mark")
