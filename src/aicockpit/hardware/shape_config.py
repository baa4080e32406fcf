"""A `config.json` under one set of names, whatever its author called things. Pure; called by `shape`.

Which keys mean what follows vLLM 0.32, transformers_utils/model_arch_config_convertor.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aicockpit.errors import AicockpitError

_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "text_model_config")
_MOST = 1 << 40
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default", "mrope")
_MLA = {
    *("axk1", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note", "glm_moe_dsa", "glm4_moe_lite"),
    *("kimi_k2", "longcat_flash", "pangu_ultra_moe"),
}
_ENCODERS = {"bert", "roberta", "xlm-roberta", "modernbert", "nomic_bert", "new", "distilbert", "camembert", "electra"}
_NAMES = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
}


class ShapeUnknown(AicockpitError):
    """A model's dimensions cannot be read. `key` is what is missing or not understood."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"The model's shape is unknown: {why}")
        self.key = key


class Config:
    """Reads one `config.json`; the language model's part when it has several."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.whole = config
        self.text = _text(config)

    def number(self, *names: str) -> int | None:
        """The first of these keys that is set. Raises ShapeUnknown when it holds no count."""
        for name in names:
            value = self.text.get(name)
            if value is None:
                continue
            if isinstance(value, list) and value and all(item == value[0] for item in value):
                value = value[0]
            if isinstance(value, float) and value == int(min(max(value, -_MOST), _MOST)):
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
                raise ShapeUnknown(name, f"config.json says {name}: {str(value)[:80]}, which is not one number.")
            return value
        return None

    def needed(self, *names: str, most: int = _MOST) -> int:
        """Like `number`, but it must be there, 1 or more, and at most `most`."""
        value = self.number(*names)
        if value is None:
            raise ShapeUnknown(names[0], f"config.json has no {names[0]}.")
        if not 1 <= value <= most:
            raise ShapeUnknown(names[0], f"config.json says {names[0]}: {value}, which no model has.")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.text.get(name)
        return value if isinstance(value, bool) else default

    def word(self, name: str) -> str:
        value = self.text.get(name)
        return value if isinstance(value, str) else ""

    @property
    def architecture(self) -> str:
        named = self.whole.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def dtype(self) -> str:
        """ "bfloat16", "float16", "float32" or "" when the file does not say."""
        for scope in (self.whole, self.text):
            for key in ("dtype", "torch_dtype"):
                if isinstance(value := scope.get(key), str):
                    return value.removeprefix("torch.")
        return ""


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in _TEXT_PARTS:
        if isinstance(part := config.get(key), Mapping) and part:
            outer = {k: v for k, v in config.items() if k not in _TEXT_PARTS}
            inner = part if key != "thinker_config" else _text(part)
            return {**outer, **inner}
    return config


def max_length(config: Config) -> int | None:
    """The window that vLLM derives; None when no key tells it (vLLM then assumes 2,048)."""
    found = [n for name in _LENGTHS if (n := config.number(name))]
    if not found:
        return None
    ropes = [config.text.get("rope_scaling"), config.text.get("rope_parameters")]
    scopes = [rope for rope in ropes if isinstance(rope, Mapping)]
    scopes += [part for rope in scopes for part in rope.values() if isinstance(part, Mapping)]
    kinds = {str(rope.get("rope_type") or rope.get("type") or "default") for rope in scopes}
    if "longrope" in kinds and (own := config.number("original_max_position_embeddings")):
        return own
    factor = 1.0
    if "gemma3" not in config.word("model_type"):
        for rope in scopes:
            kind, told = rope.get("rope_type") or rope.get("type") or "default", rope.get("factor")
            if kind not in _SCALED_ALREADY and isinstance(told, int | float) and 1 <= told <= 1024:
                factor = float(told)
    return int(min(found) * factor)


def kinds(config: Config, layers: int) -> tuple[str, ...]:
    """What each layer keeps of a request: full, sliding, chunked, mla, linear, shared (another's) or encoder (nothing).

    Raises ShapeUnknown for state-space and compressed layers, whose memory is not known here.
    """
    model_type = config.word("model_type")
    if model_type in _ENCODERS or (config.text.get("is_causal") is False):
        return ("encoder",) * layers
    _refuse(config)
    found = _listed(config, layers) or _by_rule(config, layers, model_type)
    shared = min(config.number("num_kv_shared_layers") or 0, layers)
    return (*found[: layers - shared], *("shared",) * shared)


def _refuse(config: Config) -> None:
    if config.whole.get("is_encoder_decoder") is True:
        raise ShapeUnknown("is_encoder_decoder", "is_encoder_decoder is set, and cross attention is not known here.")
    for key, what in (
        ("compress_ratios", "compressed attention"),
        ("hybrid_override_pattern", "state-space layers"),
        ("mamba_d_state", "state-space layers"),
        ("ssm_state_size", "state-space layers"),
        ("linear_attn_config", "another linear attention"),
        ("block_configs", "layers that differ from each other"),
        ("per_layer_config", "layers that differ from each other"),
        ("global_head_dim", "heads that differ between its layers"),
        ("num_global_key_value_heads", "heads that differ between its layers"),
    ):
        if config.text.get(key):
            raise ShapeUnknown(key, f"{key} in config.json means {what}, whose memory is not known here.")


def _listed(config: Config, layers: int) -> tuple[str, ...]:
    types = config.text.get("layer_types")
    if not isinstance(types, list) or len(types) < layers:
        return ()
    found = [_NAMES.get(str(name)) for name in types[:layers]]
    if None in found:
        name = types[found.index(None)]
        raise ShapeUnknown("layer_types", f"layer_types has {str(name)[:60]!r}, whose memory is not known here.")
    window = config.number("sliding_window", "attention_chunk_size")
    return tuple("full" if kind == "sliding" and not window else str(kind) for kind in found)


def _by_rule(config: Config, layers: int, model_type: str) -> tuple[str, ...]:
    """For files older than `layer_types`."""
    if model_type in _MLA and config.number("kv_lora_rank"):
        return ("mla",) * layers
    if config.number("linear_num_value_heads"):
        every = config.number("full_attention_interval") or 4
        return tuple("full" if (i + 1) % every == 0 else "linear" for i in range(layers))
    if config.number("attention_chunk_size"):
        every = 4  # llama4: every fourth layer attends without positions, to everything
        return tuple("full" if (i + 1) % every == 0 else "chunked" for i in range(layers))
    window = config.number("sliding_window") if config.text.get("sliding_window") else None
    if not window or config.text.get("use_sliding_window") is False:
        return ("full",) * layers
    if config.text.get("use_sliding_window") is True and (first := config.number("max_window_layers")) is not None:
        return tuple("sliding" if i >= first else "full" for i in range(layers))
    every = config.number("sliding_window_pattern", "_sliding_window_pattern") or 0
    if not every:
        every = {"gemma2": 2, "gpt_oss": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}.get(model_type, 0)
    if every > 1:
        return tuple("full" if (i + 1) % every == 0 else "sliding" for i in range(layers))
    return ("sliding",) * layers


def sparse_layers(config: Config, layers: int) -> int:
    """How many layers hold experts."""
    dense = config.text.get("mlp_only_layers")
    only = {i for i in dense if isinstance(i, int)} if isinstance(dense, list) else set()
    first = config.number("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers") or 0
    step = max(1, config.number("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step") or 1)
    return sum(1 for i in range(layers) if i >= first and i not in only and (i + 1) % step == 0)
