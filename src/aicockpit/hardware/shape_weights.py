"""What a model's weights come to: counted from its dimensions, or summed from its tensors. Pure; called by `fit`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aicockpit.hardware.shape import ModelShape, Tensor

_EMBEDDING = re.compile(r"(embed_tokens|embed_in|wte|word_embeddings|tok_embeddings|word_embedding)(\.weight)?$")
_HEAD = re.compile(r"(lm_head|embed_out|output)\.\w+$")
_NEAR = 0.02  # the sum leaves out norms and biases
_EXPERTS = re.compile(r"\.experts\.|block_sparse_moe\.\w+\.\d|\.switch_mlp\.")


@dataclass(frozen=True, slots=True)
class Count:
    """Parameters. `kept` are in layers but not quantised (routers, norms, attention where a checkpoint says so)."""

    embedding: int
    head: int
    linear: int  # in layers, outside of experts; quantised when anything is
    experts: int
    kept: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.linear + self.experts + self.kept


@dataclass(frozen=True, slots=True)
class Parts:
    """Bytes in the memory of GPUs, before they are divided. `how` is the sum as a person can repeat it."""

    embedding: int
    head: int  # 0 when it is the embedding itself
    experts: int
    rest: int
    how: str

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.experts + self.rest


def count(shape: ModelShape) -> Count:
    """Parameters from the dimensions: projections, embeddings and routers; norms and biases are left out."""
    embedding = shape.vocab * shape.hidden
    attention = sum(_attention(shape, kind) for kind in shape.layer_kinds)
    factor = 3 if shape.gated else 2
    dense = (shape.layers - shape.moe_layers) * factor * shape.hidden * shape.intermediate
    shared = shape.moe_layers * 3 * shape.hidden * shape.shared_intermediate
    experts = shape.moe_layers * shape.experts * 3 * shape.hidden * shape.moe_intermediate
    routers = shape.moe_layers * shape.experts * shape.hidden
    whole = shape.quant is None or shape.quant.attention
    return Count(
        embedding,
        0 if shape.tied or shape.pooling else embedding,
        dense + shared + (attention if whole else 0),
        experts,
        routers + shape.vision_params + (0 if whole else attention),
    )


def _attention(shape: ModelShape, kind: str) -> int:
    hidden, wide = shape.hidden, shape.heads * shape.head_dim
    if kind == "linear" and shape.state:
        s = shape.state
        keys, values = s.key_heads * s.key_dim, s.value_heads * s.value_dim
        return hidden * (2 * keys + 2 * values + 2 * s.value_heads) + values * hidden
    if kind == "mla" and shape.mla:
        m = shape.mla
        query = shape.heads * (m.nope + m.rope)
        into = m.query * (hidden + query) if m.query else hidden * query
        kept = hidden * (m.latent + m.rope) + m.latent * shape.heads * (m.nope + m.value)
        return into + kept + shape.heads * m.value * hidden
    query = hidden * wide * (2 if shape.output_gate else 1)
    return query + 2 * hidden * shape.kv_heads * shape.head_dim + wide * hidden


def sort(tensors: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    """Bytes of (embedding, head, experts, everything else)."""
    sums = [0, 0, 0, 0]
    for name, tensor in tensors.items():
        sums[_place(name)] += tensor.bytes
    return (sums[0], sums[1], sums[2], sums[3])


def _place(name: str) -> int:
    if _EXPERTS.search(name):
        return 2
    if _HEAD.search(name) and ".layers." not in name:
        return 1
    return 0 if _EMBEDDING.search(name) else 3


def parts(shape: ModelShape) -> Parts:
    """Bytes when loaded. What the checkpoint stores in 32 bits and does not quantise is loaded as 16."""
    halved = 2 if shape.quant is None and shape.dtype == "float32" else 1
    if shape.tensors is not None:
        embedding, head, experts, rest = (size // halved for size in shape.tensors)
        total = embedding + head + experts + rest
        return Parts(embedding, head, experts, rest, f"{gb(total)} of tensors{_note(halved)}")
    counted = count(shape)
    narrow = shape.quant.bytes_per_weight if shape.quant else 2.0
    plain = 2 * (counted.embedding + counted.head + counted.kept)
    experts, linear = int(counted.experts * narrow), int(counted.linear * narrow)
    summed = plain + experts + linear
    how = _sum(counted, narrow, shape.quant is not None)
    if shape.weights is None:
        return Parts(
            2 * counted.embedding, 2 * counted.head, experts, linear + 2 * counted.kept, f"{how} = {gb(summed)}"
        )
    total = shape.weights // halved
    scale = min(1.0, total / max(1, summed))
    embedding, head, experts = (int(scale * n) for n in (2 * counted.embedding, 2 * counted.head, experts))
    told = f"{gb(total)} in the checkpoint{_note(halved)}"
    if abs(total / max(1, summed) - 1) < _NEAR:
        told += f" ({how})"
    return Parts(embedding, head, experts, total - embedding - head - experts, told)


def _sum(counted: Count, narrow: float, quantised: bool) -> str:
    plain = counted.embedding + counted.head + counted.kept
    many = counted.linear + counted.experts
    if quantised:
        return f"{billions(many)} x {narrow:.4f} + {billions(plain)} x 2"
    return f"{billions(many + plain)} x 2 bytes"


def _note(halved: int) -> str:
    return ", loaded in 16 bits" if halved > 1 else ""


def billions(count: float) -> str:
    """ "31.2 B", "478.2 B", "134.5 M"."""
    value, unit = (count / 1e9, "B") if count >= 1e9 else (count / 1e6, "M")
    return f"{value:.{1 if value >= 10 else 2}f} {unit}"


def gb(size: float) -> str:
    """ "19.3 GB", in powers of ten as the Hub counts."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
