"""recipes/tier.py: wishes for KV tiers, what becomes of them on each platform, and vLLM's own classes that take it."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit import values
from aicockpit.errors import SettingError
from aicockpit.models import kv_files
from aicockpit.recipes import flags, known, tier
from aicockpit.recipes.command import EngineShape, build
from aicockpit.recipes.tier import NoTier, Place, Tier
from aicockpit.settings import Settings, load
from aicockpit.types import EngineSpec, KvTier

GIB = 1 << 30
CPU, CUDA, ROCM = Place("cpu", "0.32.0", ""), Place("cuda", "0.32.0", tier.LMCACHE), Place("rocm", "0.33.0", "")
FOLDER = Path("/var/kv")
SMOL = {
    **{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576},
    **{"intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192},
}


def settings(tmp_path: Path, **more: str) -> Settings:
    environ = {"AICOCKPIT_STATE_DIR": str(tmp_path / "state"), "AICOCKPIT_KV_EVENTS": "off"}
    return load(environ={**environ, **more})


def model(tmp_path: Path, name: str = "model", config: dict[str, Any] = SMOL) -> Path:
    folder = tmp_path / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def built(tmp_path: Path, wish: str, *args: str, gpus: tuple[str, ...] = (), **more: str) -> EngineSpec:
    shape = EngineShape("m-0", gpus=gpus, args=args, kv_tier=values.kv_tier(wish))
    return build(shape, model(tmp_path), "m", settings(tmp_path, **more))


def words(spec: EngineSpec) -> tuple[str, ...]:
    return spec.argv[spec.argv.index("--served-model-name") :]


def transfer(spec: EngineSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(flags.value(words(spec), "--kv-transfer-config") or "{}")
    return found


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("none", KvTier()),
        ("lmcache", KvTier("lmcache")),
        ("cpu:16GiB", KvTier("cpu", 16 * GIB)),
        (" disk:2T ", KvTier("disk", 2 * 10**12)),
        ("disk:1TiB:/data/kv", KvTier("disk", 1 << 40, Path("/data/kv"))),
        ("disk:1G:/odd:name", KvTier("disk", 10**9, Path("/odd:name"))),
        ("disk:1G:~/kv", KvTier("disk", 10**9, Path.home() / "kv")),
    ],
)
def test_wishes_are_read_and_written(text: str, wish: KvTier) -> None:
    assert values.kv_tier(text) == wish
    assert values.kv_tier(str(wish)) == wish


@given(st.sampled_from(["cpu", "disk"]), st.integers(1, 1 << 50), st.sampled_from(["", ":/data/kv"]))
def test_every_wish_survives_its_own_text(kind: str, size: int, folder: str) -> None:
    wish = values.kv_tier(f"{kind}:{size}{folder if kind == 'disk' else ''}")
    assert values.kv_tier(str(wish)) == wish
    assert wish.bytes == size


@pytest.mark.parametrize(
    "text", ["", "disk", "cpu", "cpu:", "cpu:1G:/x", "disk:0", "disk:x", "disk:1G:", "disc:1G", "none:1", "lmcache:1G"]
)
def test_what_is_no_wish_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be none, cpu:SIZE, disk:SIZE, disk:SIZE:FOLDER or lmcache"):
        values.kv_tier(text)


def test_the_setting_tells_nothing_said_from_none(tmp_path: Path) -> None:
    assert settings(tmp_path).kv_tier is None
    assert settings(tmp_path, AICOCKPIT_KV_TIER="none").kv_tier == KvTier()
    with pytest.raises(SettingError, match=r"AICOCKPIT_KV_TIER='ssd:1G'.*must be none"):
        settings(tmp_path, AICOCKPIT_KV_TIER="ssd:1G")


@pytest.mark.parametrize("place", [CPU, CUDA, ROCM])
def test_no_tier_is_no_flag(place: Place) -> None:
    found = tier.decide(KvTier(), place, FOLDER)
    assert isinstance(found, Tier)
    assert (found.flags, found.memory, found.shared) == ((), 0, 0)


@pytest.mark.parametrize(
    ("wish", "place", "why", "instead"),
    [
        ("cpu:1G", CPU, "in memory already", "--kv-cache-memory-bytes"),
        ("lmcache", CPU, "no connector for vLLM's CPU build", "disk:SIZE"),
        ("lmcache", ROCM, "for CUDA", "disk:SIZE"),
        ("lmcache", Place("cuda", "0.32.0", ""), "LMCache is not installed", "lmcache==0.5.6"),
        ("lmcache", Place("cuda", "0.32.0", "0.4.1"), "LMCache 0.4.1 is installed", "lmcache==0.5.6"),
        ("disk:1G", Place("cuda", "0.19.1"), "vLLM 0.19.1 is older than 0.32", "update vLLM"),
    ],
)
def test_a_refusal_says_why_and_what_instead(wish: str, place: Place, why: str, instead: str) -> None:
    found = tier.decide(values.kv_tier(wish), place, FOLDER)
    assert isinstance(found, NoTier)
    assert why in found.why
    assert instead in found.instead


def test_what_each_takes_of_the_host() -> None:
    small, large = KvTier("disk", GIB), KvTier("disk", 100 * GIB)
    for wish, place in ((KvTier("cpu", 3 * GIB), CUDA), (KvTier("cpu", 3 * GIB), ROCM), (small, CUDA), (large, ROCM)):
        found = tier.decide(wish, place, FOLDER)
        assert isinstance(found, Tier)
        assert found.memory == tier.memory(wish, True) > 0
    assert tier.memory(large, True) == tier.BUFFER
    assert tier.memory(small, False) == tier.WRITING
    assert tier.memory(KvTier(), False) == tier.memory(KvTier("lmcache"), True) == 0


def test_on_the_cpu_disk_is_our_connector(tmp_path: Path) -> None:
    spec = built(tmp_path, f"disk:3GiB:{tmp_path}/kv")
    assert transfer(spec) == {
        "kv_connector": "DiskPrefixConnector",
        "kv_connector_module_path": "aicockpit.kvdisk.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"folder": f"{tmp_path}/kv", "bytes": 3 * GIB, "buffer_bytes": tier.WRITING},
    }
    assert {"PYTHONPATH", "PYTHONHASHSEED"} & dict(spec.env).keys() == set()
    assert transfer(built(tmp_path, "disk:1G"))["kv_connector_extra_config"]["folder"] == str(tmp_path / "state/kv")


def test_on_the_cpu_a_tier_takes_no_core_from_computing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "VLLM_CPU_NUM_OF_RESERVED_CPU"
    monkeypatch.delenv(name, raising=False)
    assert dict(built(tmp_path, "disk:1G").env)[name] == "1", "as vLLM does without a connector"
    assert name not in dict(built(tmp_path, "none").env)
    assert name not in dict(built(tmp_path, "disk:1G", "--tensor-parallel-size", "2").env), "there it is two"
    monkeypatch.setenv(name, "2")
    assert name not in dict(built(tmp_path, "disk:1G").env), "the user's own stays"


def test_on_the_cpu_a_model_with_linear_attention_gets_no_disk_tier() -> None:
    wish = values.kv_tier("disk:1G")
    with pytest.raises(SettingError, match=r"linear attention.*kv_tier: none"):
        tier.wanted("m-0", wish, CPU, FOLDER, (), "", ("linear", "full"))
    assert tier.wanted("m-0", wish, CUDA, FOLDER, (), "", ("linear", "full")).files
    assert tier.wanted("m-0", wish, CPU, FOLDER, (), "", ("full",)).ours


def test_an_engine_of_another_python_finds_our_package_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "state"
    shape = EngineShape("m-0", env=(("PYTHONPATH", "/theirs"),), kv_tier=values.kv_tier("disk:1G"))
    own = settings(tmp_path, AICOCKPIT_VLLM_COMMAND=f"{sys.executable} -m my.vllm")
    for _ in range(2):  # the second time the link is there
        ours, theirs = dict(build(shape, model(tmp_path), "m", own).env)["PYTHONPATH"].split(os.pathsep)
    assert (theirs, os.listdir(ours)) == ("/theirs", ["aicockpit"])
    assert Path(ours).is_relative_to(state)
    child = "import sys, aicockpit.kvdisk; print(aicockpit.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {ours!r}); {child}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.startswith(ours)
    for wish in ("none", "disk:1G"):
        env = build(EngineShape("g", gpus=("0",), kv_tier=values.kv_tier(wish)), model(tmp_path), "m", own).env
        assert "PYTHONPATH" not in dict(env)


def test_on_gpus_they_are_vllms_own(tmp_path: Path) -> None:
    memory = words(built(tmp_path, "cpu:12GiB", gpus=("0", "1")))
    told = [flags.value(memory, flag) for flag in ("--kv-offloading-size", "--kv-offloading-backend")]
    assert told == ["12", "native"]
    disk = transfer(built(tmp_path, f"disk:1TiB:{tmp_path}/kv", gpus=("0",)))
    assert (disk["kv_connector"], disk["kv_load_failure_policy"]) == ("OffloadingConnector", "recompute")
    extra = disk["kv_connector_extra_config"]
    assert (extra["spec_name"], extra["cpu_bytes_to_use"]) == ("TieringOffloadingSpec", tier.BUFFER)
    (second,) = extra["secondary_tiers"]
    assert second["type"] == "fs"
    root = Path(second["root_dir"])
    assert (root.parent, stat.S_IMODE(root.stat().st_mode)) == (tmp_path / "kv", 0o700)


def test_a_folder_that_cannot_be_made_is_told_before_the_engine_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"file/kv/\w+ cannot be made for this user alone: Not a directory\. Name a"):
        built(tmp_path, f"disk:1G:{tmp_path}/file/kv", gpus=("0",))


def test_lmcache_is_reached_and_its_server_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = built(tmp_path, "lmcache", gpus=("0",), AICOCKPIT_VLLM_COMMAND="vllm serve")
    made = transfer(spec)
    assert made["kv_connector"] == "LMCacheMPConnector"
    assert made["kv_connector_extra_config"] == {"lmcache.mp.host": "tcp://localhost", "lmcache.mp.port": 5555}
    assert dict(spec.env)["DO_NOT_TRACK"] == "1"  # LMCache reads it too
    assert "lmcache server --host localhost --port 5555" in caplog.text


@pytest.mark.parametrize("gpus", [(), ("0",)])
@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--kv-transfer-config", "{}"), "--kv-transfer-config among the engine's flags"),
        (("--kv_offloading_size=4",), "--kv-offloading-size among"),
        (("--prefix-caching-hash-algo", "xxhash"), "names blocks anew at each start"),
    ],
)
def test_flags_that_contradict_the_wish_are_refused(
    tmp_path: Path, gpus: tuple[str, ...], args: tuple[str, ...], why: str
) -> None:
    with pytest.raises(SettingError, match=f"m-0: kv_tier disk:1GiB cannot be had: .*{why}"):
        built(tmp_path, "disk:1GiB", *args, gpus=gpus)
    argv = built(tmp_path, "none", *args, gpus=gpus).argv
    assert argv[-len(args) :] == args


THEIRS = """
import inspect, json, os, sys, types
from vllm.config import CacheConfig, KVTransferConfig, VllmConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.kv_offload import config as offload
from vllm.v1.kv_offload.base import make_offload_key
from vllm.v1.kv_offload.factory import OffloadingSpecFactory
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
parser, found = make_arg_parser(FlexibleArgumentParser(prog="x")), {}
for name, argv in json.load(sys.stdin).items():
    args = EngineArgs.from_cli_args(parser.parse_args(argv))
    config = args.kv_transfer_config
    cache = CacheConfig(kv_offloading_size=args.kv_offloading_size, kv_offloading_backend=args.kv_offloading_backend)
    whole = types.SimpleNamespace(cache_config=cache, kv_transfer_config=config)
    VllmConfig._post_init_kv_transfer_config(whole)
    config = whole.kv_transfer_config
    assert isinstance(config, KVTransferConfig) and config.is_kv_transfer_instance
    told = {"connector": config.kv_connector, "policy": config.kv_load_failure_policy, "registered": (
        config.kv_connector in KVConnectorFactory._registry)}
    extra = config.kv_connector_extra_config
    if config.kv_connector == "OffloadingConnector":
        told["class"] = KVConnectorFactory.get_connector_class(config).__name__
        told["spec"] = OffloadingSpecFactory.get_spec_cls(extra).__name__
        told["bytes"] = extra["cpu_bytes_to_use"]
        OffloadingSpecFactory.get_spec_cls(extra).build_metric_definitions(extra)
    if "secondary_tiers" in extra:
        parallel = offload.OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, True)
        made = OffloadingSpecFactory.create_spec(offload.OffloadingConfig(
            (offload.OffloadingGroupConfig(16, ("layer",), 0),), 4096, False, extra, f"tier{os.getpid()}",
            offload.OffloadingModelConfig("/m", "bfloat16"), offload.OffloadingCacheConfig(16, 1), parallel))
        manager = made.get_manager()
        told["chunks"] = made.num_chunks
        mapper = manager.secondary_tiers[0].file_mapper
        told["file"] = mapper.get_file_name(make_offload_key(bytes(range(32)), 0))
        manager.shutdown()
    found[name] = told
print("\\n" + json.dumps(found))
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllms_own_classes_take_every_tier(tmp_path: Path) -> None:
    """The parser, the configuration, and the file tier itself, built without a GPU."""
    specs = {
        "ours": built(tmp_path, "disk:1G"),
        "memory": built(tmp_path, "cpu:12GiB", gpus=("0",)),
        "disk": built(tmp_path, f"disk:4MiB:{tmp_path}/kv", gpus=("0",)),
        "lmcache": built(tmp_path, "lmcache", gpus=("0",), AICOCKPIT_VLLM_COMMAND="vllm serve"),
    }
    argvs = {name: ["--model", spec.model, *words(spec)] for name, spec in specs.items()}
    done = subprocess.run(
        [sys.executable, "-c", THEIRS], input=json.dumps(argvs), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ours"] == {"connector": "DiskPrefixConnector", "policy": "recompute", "registered": False}
    assert (told["memory"]["spec"], told["memory"]["bytes"]) == ("CPUOffloadingSpec", 12 * GIB)
    assert (told["disk"]["class"], told["disk"]["spec"]) == ("OffloadingConnector", "TieringOffloadingSpec")
    assert (told["disk"]["policy"], told["disk"]["chunks"]) == ("recompute", 1024)
    assert told["lmcache"]["registered"]
    (marked,) = (tmp_path / "kv").iterdir()
    assert len(marked.name) == 16
    about, block = next(marked.rglob("config.json")), Path(told["disk"]["file"])
    block.parent.mkdir(parents=True)
    block.write_bytes(b"x" * 5000)
    assert kv_files.trim(tmp_path / "kv", 1 << 20) == kv_files.Trimmed(block.stat().st_blocks * 512, 0)
    assert kv_files.trim(tmp_path / "kv", 0) == kv_files.Trimmed(0, 1)
    assert (block.exists(), about.exists()) == (False, True)


@pytest.mark.parametrize("wish", ["cpu:12GiB", "disk:1G", "lmcache"])
@pytest.mark.parametrize("place", [CPU, CUDA, ROCM])
def test_our_own_table_of_flags_takes_them(wish: str, place: Place) -> None:
    found = tier.decide(values.kv_tier(wish), place, FOLDER, "mark")
    if isinstance(found, Tier):
        assert found.flags
        assert flags.refuse(found.flags, "x", known.known().version) == ()
