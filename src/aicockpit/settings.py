"""One table of settings -> one frozen object. The only reader of the environment and of env files.

Order: environment, then the env file, then the default. An empty value means the default.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dotenv import dotenv_values

from aicockpit import values
from aicockpit.errors import SettingError
from aicockpit.types import Address, KvTier


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: `parse` turns the text into the value and raises ValueError with a sentence."""

    name: str
    parse: Callable[[str], Any]
    default: str
    help: str
    attribute: str = ""
    secret: bool = False

    @property
    def attr(self) -> str:
        return self.attribute or self.name.removeprefix("AICOCKPIT_").lower()


_A = "AICOCKPIT_"
SETTINGS: tuple[Setting, ...] = (
    Setting(
        "MODEL_NAME", str, "", "Model to serve: a folder or a Hugging Face id, `owner/name@revision`. Empty: none."
    ),
    Setting(
        "GPU_COUNT",
        values.gpu_count,
        "auto",
        "GPUs in all, divided over the replicas. 0: the CPU. `auto`: as many as the model needs.",
    ),
    Setting(
        "PREC",
        str,
        "auto",
        "Which variant of the model to prefer: bf16, fp8, int8, int4. vLLM reads it from the checkpoint.",
    ),
    Setting("HF_TOKEN", str, "", "Hugging Face token, for gated models. Never logged.", secret=True),
    Setting(
        "CUDA_VISIBLE_DEVICES",
        values.optional,
        "",
        "CUDA's own variable: the GPUs that may be used.",
        attribute="cuda_visible",
    ),
    Setting(_A + "HOST", str, "127.0.0.1", "Address to listen on."),
    Setting(_A + "PORT", values.port, "8000", "Port to listen on."),
    Setting(
        _A + "API_KEY",
        str,
        "",
        "One fixed key, for scripts and compose. Empty: a key is made at each start.",
        secret=True,
    ),
    Setting(_A + "AUTH", values.switch, "on", "`off` asks for no key; accepted on a loopback address only."),
    Setting(
        _A + "ENGINE_URLS",
        values.urls,
        "",
        "Engines that already run, comma-separated; then none is started unless MODEL_NAME is set.",
    ),
    Setting(_A + "FLEET", values.optional_path, "", "YAML file naming several models and engines (see docs/fleet.md)."),
    Setting(_A + "ALIASES", values.aliases, "", "Other names for served models: `gpt-4o=my-model,small=my-model`."),
    Setting(_A + "REPLICAS", values.positive, "1", "Engines of MODEL_NAME, each with GPU_COUNT / REPLICAS GPUs."),
    Setting(
        _A + "VLLM_COMMAND",
        values.words,
        "",
        "Command that starts vLLM. Empty: `vllm serve`, or the CPU build's module.",
    ),
    Setting(_A + "ENGINE_ARGS", values.words, "", "More flags for vLLM, as one would type them."),
    Setting(_A + "TRUST_REMOTE_CODE", values.switch, "off", "Let a model run code of its own from its repository."),
    Setting(
        _A + "STATE_DIR", values.path, "~/.local/state/aicockpit", "Keys (hashed), logs, sockets, converted models."
    ),
    Setting(_A + "WORKSPACE", values.optional_path, "", "Source tree to index and keep warm (docs/workspaces.md)."),
    Setting(_A + "WORKSPACE_NAME", str, "", "Its name in requests. Empty: the folder's own name."),
    Setting(_A + "WORKSPACES", values.count, "64", "Workspaces of one key; more get 429."),
    Setting(_A + "WORKSPACE_FILES", values.positive, "500000", "Files of one workspace; more get 413."),
    Setting(_A + "WORKSPACE_SIZE", values.size, "8GiB", "Bytes of one workspace; more get 413."),
    Setting(
        _A + "CONTEXT",
        values.context,
        "auto",
        "Tokens of repository context in front of a prompt: a number, `none`, or `auto`: as measured for the model, "
        "else a guess from its size (docs/workspaces.md).",
    ),
    Setting(
        _A + "WORTH", values.optional_path, "", "TOML file with context budgets of your own models (docs/context.md)."
    ),
    Setting(_A + "CONTEXT_IDLE", values.seconds, "20", "Seconds without a save after which a journal is folded."),
    Setting(
        _A + "PREFETCH_STEP",
        values.seconds,
        "0.1",
        "Seconds that one step of warming aims at; a request that comes during one waits for its end.",
    ),
    Setting(_A + "KV_EVENTS", values.switch, "on", "Let engines publish what enters and leaves their KV cache."),
    Setting(
        _A + "KV_TIER",
        values.optional_kv_tier,
        "",
        "Where KV goes that leaves an engine's cache: `none`, `cpu:SIZE`, `disk:SIZE[:FOLDER]` or `lmcache` "
        "(docs/kv-tiers.md). Empty: what the recipe says, else `none`.",
    ),
    Setting(
        _A + "FIM",
        str,
        "",
        "Fill-in-the-middle form of the models; empty: read from the tokenizer. `qwen-whole` and the like keep the "
        "cursor's line in the prefix, as the models' authors write it; each key then computes the text behind it, too.",
    ),
    Setting(
        _A + "TOKENIZERS",
        values.aliases,
        "",
        "Folders with `tokenizer.json` for models of external engines: `model=folder,...`.",
    ),
    Setting(_A + "MAX_BODY", values.size, "64MiB", "Largest request body."),
    Setting(_A + "BODY_WAIT", values.limit, "300", "Seconds a request's body may take to arrive."),
    Setting(_A + "MAX_INFLIGHT", values.positive, "4096", "Requests in work at once, over all engines; more get 429."),
    Setting(_A + "ENGINE_QUEUE", values.positive, "512", "Requests in work at once on one engine; more get 429."),
    Setting(
        _A + "BACKGROUND_QUEUE", values.count, "256", "Background requests that may wait per engine; more get 429."
    ),
    Setting(_A + "BACKGROUND_SLOTS", values.positive, "1", "Background requests in work at once on one engine."),
    Setting(_A + "BACKGROUND_WAIT", values.limit, "300", "Seconds a background request waits for its turn before 429."),
    Setting(_A + "CONNECT_WAIT", values.seconds, "5", "Seconds to connect to an engine."),
    Setting(
        _A + "FIRST_BYTE_WAIT",
        values.limit,
        "off",
        "Seconds from the request to the first byte of the answer's body.",
    ),
    Setting(_A + "TOKEN_WAIT", values.limit, "120", "Seconds between two pieces of a streamed answer."),
    Setting(_A + "START_WAIT", values.seconds, "1800", "Seconds an engine may take to become ready."),
    Setting(
        _A + "STOP_WAIT", values.seconds, "20", "Seconds requests in work get to finish when an engine or we stop."
    ),
    Setting(
        _A + "CHECK_PERIOD",
        values.seconds,
        "10",
        "Seconds between two health checks; two without progress mean hung.",
    ),
    Setting(_A + "RESTARTS", values.count, "5", "Restarts of a crashing engine in RESTART_WINDOW before giving up."),
    Setting(_A + "RESTART_WINDOW", values.seconds, "600", "Seconds, see RESTARTS."),
    Setting(_A + "FIT", values.switch, "on", "`off` starts a model although the arithmetic says that it does not fit."),
    Setting(_A + "RECIPES", values.optional_path, "", "Folder with recipes of your own (docs/recipes.md)."),
    Setting(_A + "WAKE_WAIT", values.seconds, "300", "Seconds that a request waits for a model that is not in memory."),
    Setting(_A + "WAKE_QUEUE", values.positive, "256", "Requests that may wait for models at once; more get 429."),
    Setting(
        _A + "MIN_RESIDENT", values.seconds, "30", "Seconds that a model stays in memory before another may replace it."
    ),
    Setting(_A + "LOG_LEVEL", values.level, "info", "debug, info, warning or error."),
    Setting(_A + "ACCESS_LOG", values.switch, "off", "One log line per request."),
)

# Read by `make start-dev` or by the tests, never by the package.
_ELSEWHERE = {_A + "ENV_FILE"}

# Leaves room for the names of the sockets in it.
_MAX_RUN_DIR = 70

_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for. Built once by `load`; secrets stay out of `repr`."""

    model_name: str
    gpu_count: int | None
    prec: str
    hf_token: str = field(repr=False)
    cuda_visible: str | None
    host: str
    port: int
    api_key: str = field(repr=False)
    auth: bool
    engine_urls: tuple[Address, ...]
    fleet: Path | None
    aliases: tuple[tuple[str, str], ...]
    replicas: int
    vllm_command: tuple[str, ...]
    engine_args: tuple[str, ...]
    trust_remote_code: bool
    state_dir: Path
    workspace: Path | None
    workspace_name: str
    workspaces: int
    workspace_files: int
    workspace_size: int
    context: int | None
    worth: Path | None
    context_idle: float
    prefetch_step: float
    kv_events: bool
    kv_tier: KvTier | None
    fim: str
    tokenizers: tuple[tuple[str, str], ...]
    max_body: int
    body_wait: float | None
    max_inflight: int
    engine_queue: int
    background_queue: int
    background_slots: int
    background_wait: float | None
    connect_wait: float
    first_byte_wait: float | None
    token_wait: float | None
    start_wait: float
    stop_wait: float
    check_period: float
    restarts: int
    restart_window: float
    fit: bool
    recipes: Path | None
    wake_wait: float
    wake_queue: int
    min_resident: float
    log_level: str
    access_log: bool

    @property
    def run_dir(self) -> Path:
        """Folder of the sockets. A socket's path holds 107 bytes at most, so a long STATE_DIR gets a short stand-in."""
        folder = self.state_dir / "run"
        if len(os.fsencode(folder)) <= _MAX_RUN_DIR:
            return folder
        mark = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"aicockpit-{os.getuid()}-{mark}"

    @property
    def loopback(self) -> bool:
        """True when only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def load(
    env_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """Build the settings. `overrides` are command-line options by setting name. Raises SettingError."""
    environ = os.environ if environ is None else environ
    texts: dict[str, str] = {}
    sources: dict[str, str] = {}
    layers = (
        (str(env_file), _read_file(env_file)),
        ("the environment", environ),
        ("the command line", overrides),
    )
    for source, layer in layers:
        _refuse_unknown(layer, source)
        for name in _BY_NAME:
            if layer.get(name):
                texts[name], sources[name] = layer[name], source
    chosen = {s.attr: _parse(s, texts.get(s.name, s.default), sources.get(s.name, "the default")) for s in SETTINGS}
    settings = Settings(**chosen)
    _check(settings)
    return settings


def _read_file(path: Path | None) -> Mapping[str, str]:
    if path is None:
        return {}
    if not path.is_file():
        raise SettingError(f"the env file {path} does not exist. Name another with --env-file.")
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def _refuse_unknown(layer: Mapping[str, str], source: str) -> None:
    for name in layer:
        if name.startswith(_A) and name not in _BY_NAME and name not in _ELSEWHERE and not _internal(name):
            near = _nearest(name.removeprefix(_A))
            hint = f"Did you mean {near}?" if near else "The README's section Settings lists them all."
            raise SettingError(f"{name} (in {source}) is not a setting. {hint}")


def _nearest(bare: str) -> str:
    """The setting whose name comes closest, ours or one without our prefix (MODEL: MODEL_NAME); "" when none does."""
    names = {name.removeprefix(_A): name for name in _BY_NAME}
    near = difflib.get_close_matches(bare, names, 1) or [name for name in names if name.startswith(f"{bare}_")]
    return names[near[0]] if near else ""


def _internal(name: str) -> bool:
    """Marks that we set on our own children (`AICOCKPIT_MARK_...`) and switches of the tests."""
    return name.startswith((_A + "MARK", _A + "TEST"))


def _parse(setting: Setting, text: str, source: str) -> Any:
    try:
        return setting.parse(text.strip())
    except ValueError as error:
        shown = "***" if setting.secret else repr(text)
        raise SettingError(f"{setting.name}={shown} (from {source}): {error}") from error


def _check(settings: Settings) -> None:
    if not settings.auth and not settings.loopback:
        raise SettingError(
            f"AICOCKPIT_AUTH=off with AICOCKPIT_HOST={settings.host} would let anyone on the network in. "
            "Bind to 127.0.0.1, or leave AICOCKPIT_AUTH on."
        )
    if settings.gpu_count is not None and settings.gpu_count % settings.replicas:
        raise SettingError(
            f"GPU_COUNT={settings.gpu_count} cannot be divided over AICOCKPIT_REPLICAS={settings.replicas}."
        )


def table() -> str:
    """The settings as a Markdown table, for the README (checked by a test)."""
    rows = [f"| `{s.name}` | {f'`{s.default}`' if s.default else '(empty)'} | {s.help} |" for s in SETTINGS]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def keyless(environ: Mapping[str, str]) -> dict[str, str]:
    """For a child that needs no key: an indexer speaks over our private socket, a reader reads pages of strangers."""
    secret = ("AICOCKPIT_API_KEY", "HF_TOKEN", "AICOCKPIT_ENV_FILE")
    return {name: value for name, value in environ.items() if name not in secret}
