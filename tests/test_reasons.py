"""The real log lines of vLLM 0.32, huggingface_hub and torch, and what they are told to mean."""

from __future__ import annotations

import pytest

from aicockpit.engines.reasons import Reason, explain, stage, tells
from fake_client import EXIT_TEXTS, exit_log, start_log

API, CORE, WORKER = "(APIServer pid=7444)", "(EngineCore pid=7606)", "(Worker pid=7785)"
AT = "11-21 08:09:27 [core.py:1510]"

KV = (
    "ValueError: To serve at least one request with the model's max seq len (2048), (0.18 GiB KV cache is needed, which"
    " is larger than the available KV cache memory (0.07 GiB). Based on the available memory, the estimated maximum"
    " model length is 352. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the CPU backend)"
    " or decreasing `max_model_len` when initializing the engine."
)
RAM = (
    "ValueError: Available memory on node 0 ({free}/7.46 GiB) on kv cache allocation is less than requested memory for"
    " kv ({wanted} GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other"
    " processes."
)
POINTER = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)
CASES = {
    "bad path": (
        [
            "    raise HFValidationError(",
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or"
            " 'namespace/repo_name': '/nonexistent/model'. Use `repo_type` argument if needed.",
        ],
        "'/nonexistent/model' is neither a folder",
        "MODEL_NAME",
        True,
    ),
    "no such model": (
        [
            "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-6)",
            "",
            "Repository Not Found for url: https://huggingface.co/api/models/org/no-such/revision/main.",
        ],
        "does not show a model 'org/no-such'",
        "typo",
        True,
    ),
    "gated": (
        [
            "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-6)",
            "Cannot access gated repo for url https://huggingface.co/org/m/resolve/main/config.json.",
        ],
        "the model is gated, and this account has no access to it",
        "set HF_TOKEN",
        True,
    ),
    "not local while offline": (
        [
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the"
            " specified revision on the local disk and outgoing traffic has been disabled."
        ],
        "not on this machine",
        "HF_HUB_OFFLINE",
        True,
    ),
    "context over KV": (
        [f"{CORE} ERROR {AT}     raise ValueError(", f"{CORE} ERROR {AT} {KV}", KV, POINTER],
        "a context of 2048 tokens needs 0.18 GiB of KV cache, only 0.07 GiB are available; 352 tokens would fit",
        "--max-model-len 352",
        True,
    ),
    "context over model": (
        [
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
            "  Value error, User-specified max_model_len (20000) is greater than the derived max_model_len"
            " (max_position_embeddings=2048.0 or model_max_length=None in model's config.json). To allow overriding",
        ],
        "a context of 20000 tokens is more than the model's 2048",
        "--max-model-len 2048",
        True,
    ),
    "KV over RAM": (
        [f"{WORKER} ERROR {AT} {RAM.format(free='4.89', wanted='100.0')}", POINTER],
        "a KV cache of 100.0 GiB was asked for, but only 4.89 of 7.46 GiB",
        "--kv-cache-memory-bytes",
        True,
    ),
    "KV over free RAM": (
        [f"{WORKER} ERROR {AT} {RAM.format(free='1.2', wanted='4.0')}"],
        "only 1.2 of 7.46 GiB of memory are free",
        "end other programs",
        False,
    ),
    "address in use": (["OSError: [Errno 98] Address already in use"], "already in use", "end the other", False),
    "CUDA out of memory": (
        [f"{WORKER} ERROR {AT} torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", POINTER],
        "the GPU ran out of memory",
        "--gpu-memory-utilization",
        False,
    ),
    "GPU memory taken": (
        [
            f"{WORKER} ERROR {AT} ValueError: Free memory on device cuda:0 (10.1/23.64 GiB) on startup is less than"
            " desired GPU memory utilization (0.9, 21.28 GiB). Decrease GPU memory utilization or reduce GPU memory"
        ],
        "only 10.1 of 23.64 GiB are free on cuda:0, 21.28 GiB are wanted",
        "nvidia-smi",
        False,
    ),
    "CPU memory taken": (
        [
            "ValueError: Available memory on node 0 (3.0/7.46 GiB) on startup is less than desired CPU memory"
            " utilization (0.92, 6.9 GiB). On the CPU backend, the `--gpu-memory-utilization` flag"
        ],
        "only 3.0 of 7.46 GiB are free on node 0",
        "lower",
        False,
    ),
    "no room for KV": (
        ["ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"],
        "the weights leave no memory",
        "smaller",
        True,
    ),
    "unknown flag": (
        [
            "                [--log-error-stack | --no-log-error-stack]",
            "entry.py: error: unrecognized arguments: --nope",
        ],
        "unrecognized arguments: --nope",
        "AICOCKPIT_ENGINE_ARGS",
        True,
    ),
    "bad value of a flag": (
        ["vllm serve: error: argument --dtype: invalid choice: 'x' (choose from auto, half)"],
        "argument --dtype: invalid choice",
        "AICOCKPIT_ENGINE_ARGS",
        True,
    ),
    "no device": (
        ["RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG`"],
        "neither a GPU",
        "CPU build",
        True,
    ),
    "vLLM not installed": (
        [
            "python: Error while finding module specification for 'vllm.entrypoints.launchers.api_server.entry'"
            " (ModuleNotFoundError: No module named 'vllm')"
        ],
        "'vllm' is missing",
        "aicockpit[cpu]",
        True,
    ),
    "a module of vLLM's missing": (
        ["ModuleNotFoundError: No module named 'flashinfer.cute'"],
        "'flashinfer.cute' is missing",
        "install it again",
        True,
    ),
    "no command": (
        ["aicockpit guard: cannot start 'vllm': No such file or directory"],
        "the command 'vllm' cannot be started: No such file or directory",
        "AICOCKPIT_VLLM_COMMAND",
        True,
    ),
    "truncated weights": (
        [
            f"{WORKER} ERROR {AT} safetensors._safetensors_rust.SafetensorError: Error while deserializing header:"
            " incomplete metadata, file not fully covered",
            POINTER.replace("{'EngineCore': 1}", "{}"),
        ],
        "damaged or incomplete (Error while deserializing header",
        "fetch them again",
        True,
    ),
    "block size": (
        ["ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)])"],
        "does not know block size 16",
        "--block-size",
        True,
    ),
    "KV space": (
        ["ValueError: invalid literal for int() with base 10: '0.5'"],
        "'0.5' is not a whole number",
        "VLLM_CPU_KVCACHE_SPACE",
        True,
    ),
}
NOISE = [
    f"{API} WARNING 11-21 07:53:18 [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase"
    " with error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too many"
    " open files`. Consider increasing with ulimit -n",
    f"{API} INFO 11-21 07:53:18 [x.py:1] ValueError: No available memory for the cache blocks, says an INFO line",
    "Traceback (most recent call last):",
]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("prefix", ["", f"{API} "])
def test_known_causes(name: str, prefix: str) -> None:
    lines, text, fix, fatal = CASES[name]
    reason = explain([*NOISE, *(prefix + line if not line.startswith("(") else line for line in lines), "end"], 1)
    assert text in reason.text
    assert fix in reason.fix
    assert reason.fatal is fatal
    assert "\n" not in reason.text + reason.fix


def test_an_unknown_cause_is_the_first_error_not_the_last() -> None:
    lines = [*NOISE, f"{CORE} ERROR {AT} KeyError: 'layers.7'", "ValueError: a consequence", POINTER]
    assert explain(lines, 1) == Reason("KeyError: 'layers.7'")


def test_a_line_that_points_elsewhere_is_better_than_nothing() -> None:
    assert explain([POINTER], 1).text.startswith("RuntimeError: Engine core initialization failed")


def test_a_core_that_died_while_running() -> None:
    lines = [
        f"{API} ERROR {AT} Engine core proc EngineCore died unexpectedly, shutting down client.",
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the",
    ]
    assert explain(lines, 0).text == "Engine core proc EngineCore died unexpectedly, shutting down client."


def test_a_core_that_was_killed() -> None:
    line = (
        f"{API} ERROR {AT} vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace"
        " (above) for the root cause."
    )
    reason = explain([line], 0)
    assert reason.text.startswith("its core process died without a word")
    assert "dmesg" in reason.fix


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (137, "it was killed by signal 9: by the kernel because memory ran out (OOM), or by somebody"),
        (139, "it was ended by signal 11"),
        (0, "it ended with exit code 0 and gave no reason"),
        (None, "it ended; its status is not known"),
    ],
)
def test_without_a_line_the_status_speaks(status: int | None, text: str) -> None:
    assert explain(NOISE, status).text == text


@pytest.mark.parametrize("name", [name for name in EXIT_TEXTS if name != "silent"])
def test_every_death_of_the_fake_is_explained(name: str) -> None:
    lines = [line for line in exit_log(name).splitlines() if tells(line)]
    reason = explain(lines, EXIT_TEXTS[name].code)
    assert "See root cause above" not in reason.text
    assert reason.fix or name == "flood"
    assert len(lines) < 10


def test_the_stages_of_a_start_in_order() -> None:
    lines = [line for group in start_log("/models/m") for line in group.splitlines()]
    assert list(dict.fromkeys(found for line in lines if (found := stage(line)))) == [
        "importing",
        "reading the model's config (LlamaForCausalLM)",
        "starting the engine core",
        "loading weights",
        "loading weights (0/2)",
        "loading weights (2/2)",
        "weights loaded",
        "allocating the KV cache",
        "warming up",
        "warmed up",
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (f"{CORE} INFO {AT} Starting vLLM server on unix:/x.sock", "starting the API"),
        ("INFO:     Application startup complete.", "first generation"),
        (
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  30%|###  | 20/67 [00:01<00:03]",
            "capturing CUDA graphs (20/67)",
        ),
        (f"{WORKER} INFO {AT} Available KV cache memory: 10.20 GiB", "allocating the KV cache"),
        (f"{API} WARNING {AT} Enforce eager set, disabling torch.compile, CUDAGraphs", None),
        (f"{WORKER} INFO {AT} Dynamo bytecode transform time: 4.10 s", "compiling"),
        ('INFO:      - "GET /v1/models HTTP/1.1" 200 OK', None),
    ],
)
def test_a_stage(line: str, text: str | None) -> None:
    assert stage(line) == text
