"""recipes/command.py"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aicockpit.errors import SettingError
from aicockpit.recipes import flags
from aicockpit.recipes.command import CPU_MODULE, EngineShape, build, command
from aicockpit.settings import Settings, load

SMOL = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
}


def settings(tmp_path: Path, **values: str) -> Settings:
    environ = {"AICOCKPIT_STATE_DIR": str(tmp_path), "AICOCKPIT_VLLM_COMMAND": "vllm serve"}
    return load(environ={**environ, "AICOCKPIT_KV_EVENTS": "off", **values})


def model(tmp_path: Path, config: object = SMOL) -> Path:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def value(argv: tuple[str, ...], flag: str) -> str | None:
    return flags.value(argv[argv.index("--served-model-name") :], flag)


def test_the_whole_command_on_the_cpu(tmp_path: Path) -> None:
    folder = model(tmp_path)
    spec = build(EngineShape("smol-0", aliases=("tiny",)), folder, "Org/Smol", settings(tmp_path))
    assert spec.uds == str(settings(tmp_path).run_dir / "smol-0.sock")
    assert spec.argv == (
        *("vllm", "serve", str(folder), "--served-model-name", "Org/Smol", "tiny", "--uds", spec.uds),
        *("--shutdown-timeout", "5", "--enable-prompt-tokens-details", "--scheduling-policy", "priority"),
        *("--enforce-eager", "--block-size", "32", "--kv-cache-memory-bytes", "500000000", "--max-model-len", "8192"),
    )
    assert spec.served_names == ("Org/Smol", "tiny")
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    assert dict(spec.env) == {**offline, "CUDA_VISIBLE_DEVICES": ""}


def test_kv_events_have_sockets_of_their_own_and_leave_the_users_alone(tmp_path: Path) -> None:
    on = settings(tmp_path, AICOCKPIT_KV_EVENTS="on")
    spec = build(EngineShape("smol-0"), model(tmp_path), "m", on)
    config = json.loads(value(spec.argv, "--kv-events-config") or "")
    assert spec.kv_events is not None
    assert (config["endpoint"], config["replay_endpoint"]) == (spec.kv_events.publish, spec.kv_events.replay)
    assert config["enable_kv_cache_events"] is True
    assert spec.kv_events.publish.startswith(f"ipc://{on.run_dir}/smol-0")
    theirs = build(EngineShape("smol-0", args=("--kv-events-config", "{}")), model(tmp_path), "m", on)
    assert theirs.kv_events is None
    assert value(theirs.argv, "--kv-events-config") == "{}"


def test_the_token_is_neither_in_the_command_nor_in_the_environment_we_add(tmp_path: Path) -> None:
    spec = build(EngineShape("a-0"), model(tmp_path), "m", settings(tmp_path, HF_TOKEN="hf_secret"))
    assert "hf_secret" not in repr(spec)


def test_gpus_become_tensor_parallelism_and_visible_devices(tmp_path: Path) -> None:
    spec = build(EngineShape("a-0", gpus=("2", "3")), model(tmp_path), "m", settings(tmp_path))
    assert value(spec.argv, "--tensor-parallel-size") == "2"
    assert dict(spec.env)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert dict(spec.env)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert spec.gpus == ("2", "3")
    for flag in ("--enforce-eager", "--block-size", "--kv-cache-memory-bytes", "--max-model-len"):
        assert value(spec.argv, flag) is None


def test_pipeline_parallelism_leaves_the_rest_to_tensor_parallelism(tmp_path: Path) -> None:
    shape = EngineShape("a-0", gpus=tuple("01234567"), args=("-pp", "2"))
    assert value(build(shape, model(tmp_path), "m", settings(tmp_path)).argv, "--tensor-parallel-size") == "4"


@pytest.mark.parametrize("args", ["--tensor-parallel-size 4", "-tp 4", "--data_parallel_size=4"])
def test_parallelism_that_does_not_match_the_gpus_is_refused_with_the_product(tmp_path: Path, args: str) -> None:
    shape = EngineShape("a-0", gpus=("0", "1"))
    with pytest.raises(SettingError, match=r"a-0 has 2 GPUs .* = [48]"):
        build(shape, model(tmp_path), "m", settings(tmp_path, AICOCKPIT_ENGINE_ARGS=args))


def test_a_size_that_is_no_number_is_refused(tmp_path: Path) -> None:
    shape = EngineShape("a-0", gpus=("0",), args=("-pp", "two"))
    with pytest.raises(SettingError, match="--pipeline-parallel-size must be a whole number"):
        build(shape, model(tmp_path), "m", settings(tmp_path))


def test_users_flags_win_and_are_not_doubled(tmp_path: Path) -> None:
    theirs = "--block_size=64 --kv-cache-memory-bytes 100M --no-enforce-eager"
    argv = build(EngineShape("a-0"), model(tmp_path), "m", settings(tmp_path, AICOCKPIT_ENGINE_ARGS=theirs)).argv
    assert argv[-4:] == tuple(theirs.split())
    assert "--block-size" not in argv
    assert "--enforce-eager" not in argv
    assert value(argv, "--max-model-len") == "4320"  # what 100 MiB hold, in whole blocks


def test_a_models_own_flags_win_over_the_general_ones(tmp_path: Path) -> None:
    shape = EngineShape("a-0", args=("--seed", "2"))
    argv = build(shape, model(tmp_path), "m", settings(tmp_path, AICOCKPIT_ENGINE_ARGS="--seed 1 --dtype half")).argv
    assert argv[-4:] == ("--dtype", "half", "--seed", "2")


def test_the_kv_cache_grows_with_the_length_asked_for(tmp_path: Path) -> None:
    folder = model(tmp_path, {**SMOL, "max_position_embeddings": 131072})
    argv = build(EngineShape("a-0", args=("--max-model-len", "64k")), folder, "m", settings(tmp_path)).argv
    assert int(value(argv, "--kv-cache-memory-bytes") or 0) >= 64000 * 23040
    assert argv.count("--max-model-len") == 1


def test_the_length_is_limited_to_what_the_kv_cache_holds(tmp_path: Path) -> None:
    folder = model(tmp_path, {"text_config": {**SMOL, "max_position_embeddings": 131072}})
    argv = build(EngineShape("a-0"), folder, "m", settings(tmp_path)).argv
    assert value(argv, "--max-model-len") == "20608"


@pytest.mark.parametrize("config", [{}, [], {"text_config": 3}, {**SMOL, "num_attention_heads": 0}])
def test_unknown_dimensions_leave_the_length_to_vllm(tmp_path: Path, config: object) -> None:
    argv = build(EngineShape("a-0"), model(tmp_path, config), "m", settings(tmp_path)).argv
    assert value(argv, "--max-model-len") is None
    assert value(argv, "--kv-cache-memory-bytes") == "500000000"


def test_cores_and_variables_of_a_model(tmp_path: Path) -> None:
    shape = EngineShape("a-0", cpus="0,1", env=(("HF_HUB_OFFLINE", "0"), ("X", "y")))
    env = dict(build(shape, model(tmp_path), "m", settings(tmp_path)).env)
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    assert (env["HF_HUB_OFFLINE"], env["X"]) == ("0", "y")


def test_refused_flags_name_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--swap-space \\(in AICOCKPIT_ENGINE_ARGS\\)"):
        build(EngineShape("a"), model(tmp_path), "m", settings(tmp_path, AICOCKPIT_ENGINE_ARGS="--swap-space 4"))
    with pytest.raises(SettingError, match="--port \\(in args of a\\)"):
        build(EngineShape("a", args=("--port", "1")), model(tmp_path), "m", settings(tmp_path))


def test_trust_is_given_only_when_asked(tmp_path: Path) -> None:
    folder = model(tmp_path)
    trusted = settings(tmp_path, AICOCKPIT_TRUST_REMOTE_CODE="on")
    assert "--trust-remote-code" in build(EngineShape("a"), folder, "m", trusted).argv
    assert "--trust-remote-code" not in build(EngineShape("a"), folder, "m", settings(tmp_path)).argv


def test_a_command_of_the_users_that_is_no_serve_gets_the_model_as_a_flag(tmp_path: Path) -> None:
    own = settings(tmp_path, AICOCKPIT_VLLM_COMMAND="python -m my.vllm")
    argv = build(EngineShape("a"), model(tmp_path), "m", own).argv
    assert argv[:5] == ("python", "-m", "my.vllm", "--model", str(tmp_path / "model"))


def test_the_command_follows_what_is_installed(tmp_path: Path) -> None:
    plain = settings(tmp_path, AICOCKPIT_VLLM_COMMAND="")
    assert command(plain, lambda name: name == "vllm", "/no/python") == ("vllm", "serve")
    assert command(plain, lambda name: name == "vllm-cpu", "/v/python") == ("/v/python", "-m", CPU_MODULE)
    (tmp_path / "vllm").touch()
    beside = command(plain, lambda name: name == "vllm", str(tmp_path / "python"))
    assert beside == (str(tmp_path / "vllm"), "serve")


def test_without_vllm_the_ways_out_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"aicockpit\[cpu\] or aicockpit\[gpu\].*AICOCKPIT_ENGINE_URLS"):
        command(settings(tmp_path, AICOCKPIT_VLLM_COMMAND=""), lambda name: False)


_PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser(prog="x"))
argvs, unknown = json.load(sys.stdin)
for argv in argvs:
    got = vars(parser.parse_args(argv))
    print(json.dumps({k: v for k, v in got.items() if isinstance(v, (str, int, list, type(None)))}))
known = {option for action in parser._actions for option in action.option_strings}
print(json.dumps(sorted(known)))
"""


@pytest.mark.real
@pytest.mark.timeout(180)
def test_the_real_parser_takes_our_commands_and_knows_no_removed_flag(tmp_path: Path) -> None:
    if "CI" not in os.environ and subprocess.run([sys.executable, "-c", "import vllm"], capture_output=True).returncode:
        pytest.skip("vLLM is not installed beside the tests")
    folder, plain = model(tmp_path), settings(tmp_path, AICOCKPIT_VLLM_COMMAND="x serve")
    shapes = [EngineShape("a-0", aliases=("b",)), EngineShape("a-1", gpus=("0", "1"))]
    argvs = [["--model", *build(shape, folder, "m", plain).argv[2:]] for shape in shapes]
    done = subprocess.run(
        [sys.executable, "-c", _PARSE], input=json.dumps([argvs, []]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cpu, gpu, known = (json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "[")))
    assert (cpu["model"], cpu["served_model_name"], cpu["block_size"]) == (str(folder), ["m", "b"], 32)
    assert (cpu["scheduling_policy"], cpu["shutdown_timeout"], cpu["max_model_len"]) == ("priority", 5, 8192)
    assert (cpu["enforce_eager"], cpu["kv_cache_memory_bytes"]) == (True, 500_000_000)
    assert gpu["tensor_parallel_size"] == 2
    assert not set(flags.REMOVED_FLAGS) & set(known)
    assert set(flags.SUPERVISOR_OWNED) <= set(known)
