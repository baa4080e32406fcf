"""vLLM's flags as text: which are ours, which are none or were removed, and how users' flags replace ours.

Used by `command.py`, `fleet.py` and the recipes. What vLLM's parser takes is `known.py`'s; `tests/test_flags.py` holds
both against the real parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from aicockpit.errors import SettingError
from aicockpit.recipes.known import Complaint, Known, installed, known
from aicockpit.settings import Settings

SUPERVISOR_OWNED: Mapping[str, str] = {
    "--model": "set MODEL_NAME",
    "--served-model-name": "add names with AICOCKPIT_ALIASES, or `aliases` in the fleet file",
    "--uds": "the gateway gives each engine its own private socket",
    "--host": "set AICOCKPIT_HOST, which is the gateway's address",
    "--port": "set AICOCKPIT_PORT, which is the gateway's port",
    "--api-key": "set AICOCKPIT_API_KEY, or use `aicockpit keys`; engines listen on a private socket",
    "--root-path": "let the reverse proxy in front of the gateway set the path",
    "--middleware": "the gateway is what stands in front of the engine",
    "--grpc-port": "the gateway speaks HTTP",
    "--headless": "list the engine under `engines` in the fleet file",
    "--api-server-count": "set AICOCKPIT_REPLICAS for more engines",
    "--config": "write the flags out in AICOCKPIT_ENGINE_ARGS, or as `args` in the fleet file",
    "--device-ids": "set GPU_COUNT, or `gpus` in the fleet file",
    "--hf-token": "set HF_TOKEN; a command line can be read by other users",
    "--ssl-keyfile": "end TLS in front of the gateway",
    "--ssl-certfile": "end TLS in front of the gateway",
    "--ssl-ca-certs": "end TLS in front of the gateway",
    "--ssl-cert-reqs": "end TLS in front of the gateway",
    "--ssl-ciphers": "end TLS in front of the gateway",
    "--enable-ssl-refresh": "end TLS in front of the gateway",
}

TRUST = "set AICOCKPIT_TRUST_REMOTE_CODE=on if you trust the code in its repository"

_V0 = "leave it out: it belonged to an engine that vLLM no longer has"
_SPECULATIVE = "use --speculative-config '{...}' instead"
_STRUCTURED = "use --structured-outputs-config '{...}' instead"
_HF = "use --hf-overrides '{...}' instead"

REMOVED_FLAGS: Mapping[str, str] = {
    "--swap-space": "use --kv-offloading-size GIB instead (a total over all GPUs of the engine)",
    "--preemption-mode": "leave it out: a preempted request is always recomputed",
    "--disable-log-requests": "leave it out: requests are not logged unless --enable-log-requests is given",
    "--task": "use --runner generate|pooling and --convert instead",
    "--device": "leave it out: the installed vLLM build decides",
    "--rope-scaling": _HF,
    "--rope-theta": _HF,
    "--guided-decoding-backend": _STRUCTURED,
    "--guided-decoding-disable-fallback": _STRUCTURED,
    "--speculative-model": _SPECULATIVE,
    "--num-speculative-tokens": _SPECULATIVE,
    "--ngram-prompt-lookup-max": _SPECULATIVE,
    "--typical-acceptance-sampler-posterior-threshold": _SPECULATIVE,
    "--num-scheduler-steps": _V0,
    "--multi-step-stream-outputs": _V0,
    "--num-lookahead-slots": _V0,
    "--use-v2-block-manager": _V0,
    "--scheduler-delay-factor": _V0,
    "--disable-async-output-proc": _V0,
    "--disable-frontend-multiprocessing": _V0,
    "--enable-reasoning": "leave it out: --reasoning-parser alone turns it on",
    "--max-seq-len-to-capture": "use --compilation-config '{...}' instead",
    "--max-context-len-to-capture": "use --compilation-config '{...}' instead",
    "--override-neuron-config": "use --additional-config '{...}' instead",
    "--override-pooler-config": "use --pooler-config '{...}' instead",
    "--worker-use-ray": "use --distributed-executor-backend ray instead",
    "--engine-use-ray": "use --distributed-executor-backend ray instead",
    "--lora-extra-vocab-size": "leave it out: LoRA adapters can no longer add tokens",
}

REMOVED_VARIABLES: Mapping[str, str] = {
    "VLLM_USE_V1": "leave it out: there is only the V1 engine",
    "VLLM_ATTENTION_BACKEND": "use the flag --attention-backend instead",
    "VLLM_USE_BF16": "use --dtype bfloat16 instead",
    "VLLM_USE_FP16": "use --dtype float16 instead",
    "VLLM_USE_FP8": "leave it out: the precision is read from the checkpoint",
    "HF_HUB_TRUST_REMOTE_CODE": "set AICOCKPIT_TRUST_REMOTE_CODE=on instead",
}

_NO_GGUF = (
    "GGUF is no longer a vLLM format: leave {flag} out and use the safetensors version of the model "
    "(an AWQ, GPTQ or FP8 one is as small)."
)


def canonical(word: str) -> str:
    """The flag of one word of a command line: `--max_model_len=5`, `--max-model-len` and, as vLLM's parser has it, any
    other spelling or unambiguous beginning are the same; "" if none."""
    if not re.match(r"--?[A-Za-z]", word):
        return ""
    if re.match(r"-O[=\w]", word):
        return "--optimization-level"
    name = word.partition("=")[0].partition(".")[0].replace("_", "-")
    return known().find(name) or name


def split(args: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Group words by flag: `--a 1 --b=2` -> [("--a", ("--a", "1")), ("--b", ("--b=2",))]."""
    groups: list[tuple[str, list[str]]] = []
    for word in args:
        if flag := canonical(word):
            groups.append((flag, [word]))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise SettingError(f"the engine flags must start with a flag, not with {word!r}. The model is MODEL_NAME.")
    return [(flag, tuple(words)) for flag, words in groups]


def value(args: Sequence[str], flag: str) -> str | None:
    """The value of the last such flag; "" for a bare one, None when it is absent."""
    found: str | None = None
    for name, words in split(args):
        if name == flag:
            found = " ".join(_values(words))
    return found


def _values(words: Sequence[str]) -> tuple[str, ...]:
    """What a group gives its flag: `--a=1` and `--a 1`, `-O3`."""
    if match := re.match(r"-O=?(\w+)$", words[0]):
        return (match[1],)
    _, equals, value = words[0].partition("=")
    return (value, *words[1:]) if equals else tuple(words[1:])


def merge(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...]:
    """Our flags without those that the user also gave (`--no-x` replaces `--x`), then the user's."""
    given = {flag for flag, _ in split(theirs)}
    given |= {"--" + flag.removeprefix("--no-") for flag in given if flag.startswith("--no-")}
    kept = [word for flag, words in split(ours) if flag not in given for word in words]
    return (*kept, *theirs)


def reader(settings: Settings) -> str | None:
    """The version of the vLLM that will read the flags; None where it is a command of the user's."""
    return None if settings.vllm_command else installed()


def refuse(args: Sequence[str], where: str, vllm: str | None = "") -> tuple[str, ...]:
    """Raise SettingError for flags that vLLM does not have (any more), with values that it does not take, or that
    belong to the supervisor. `where` names the setting, `vllm` the version that will read them: "" is the installed
    one, None an unknown one. Of another version than `known()` is of, a flag may be new: that is returned as text."""
    version = installed() if vllm == "" else vllm
    table, warnings, groups = known(), [], split(args)
    plugins = [flag for flag, _ in groups]
    for flag, words in groups:
        if flag in REMOVED_FLAGS:
            raise SettingError(f"{flag} (in {where}) was removed from vLLM: {REMOVED_FLAGS[flag]}.")
        if flag in SUPERVISOR_OWNED:
            raise SettingError(f"{flag} (in {where}) is set by AiCockpit: {SUPERVISOR_OWNED[flag]}.")
        _refuse_gguf(flag, words)
        wrong = _unknown(flag, table) or table.wrong(flag, _values(words), _dotted(words[0]), plugins)
        if wrong is None:
            continue
        text = f"{flag} {wrong.said} (in {where}). {wrong.hint}".rstrip()
        if version == table.version:
            raise SettingError(text)
        reader = f"the vLLM here is {version}" if version else "the version of the vLLM that will read it is not known"
        warnings.append(f"{text} That holds for vLLM {table.version}; {reader}.")
    return tuple(warnings)


def spare(args: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A recipe's flags without those that are the supervisor's or the user's to give, and why each was left out."""
    kept: list[str] = []
    left: list[str] = []
    for flag, words in split(args):
        if why := TRUST if flag == "--trust-remote-code" else SUPERVISOR_OWNED.get(flag):
            left.append(f"{flag} is not a recipe's to set: {why}")
        else:
            kept += words
    return tuple(kept), tuple(left)


def _dotted(word: str) -> bool:
    """`--config.key 1` sets a part of a JSON value."""
    return "." in word.partition("=")[0]


def _unknown(flag: str, table: Known) -> Complaint | None:
    if table.find(flag):
        return None
    near = table.nearest(flag, REMOVED_FLAGS)
    told = [f"{name} (removed: {REMOVED_FLAGS[name]})" if name in REMOVED_FLAGS else name for name in near]
    return Complaint("is not a flag of vLLM", f"Did you mean {' or '.join(told)}?" if told else "")


def _refuse_gguf(flag: str, words: Sequence[str]) -> None:
    if flag in ("--quantization", "--load-format") and "gguf" in " ".join(words).lower():
        raise SettingError(_NO_GGUF.format(flag=flag))


def refuse_variables(names: Iterable[str], where: str) -> None:
    """Raise SettingError for environment variables that vLLM no longer reads."""
    for name in names:
        if name in REMOVED_VARIABLES:
            raise SettingError(f"{name} (in {where}) is not read by vLLM any more: {REMOVED_VARIABLES[name]}.")


_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def number(text: str | None) -> int | None:
    """vLLM's own spelling of large numbers: `32k` is 32,000, `32K` is 32,768. None when it is no number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)", text or "")
    return int(float(match[1]) * _SUFFIXES[match[2]]) if match else None
