"""A recipe for a model that has none: what its dimensions alone allow. Called by `select.py`."""

from __future__ import annotations

from aicockpit.hardware.shape import ModelShape
from aicockpit.recipes.schema import RESERVED, AiCockpit, Meta, Model, Recipe, Role, Variant

ID = RESERVED


def recipe(model_id: str, shape: ModelShape) -> Recipe:
    """One variant, the checkpoint itself; no flags but those that its fit asks for."""
    roles: tuple[Role, ...] = ("embedding",) if shape.pooling else ("chat", "completion")
    strategies = ("single_node_tp", *(("single_node_tep", "single_node_dep") if shape.experts else ()))
    return Recipe(
        meta=Meta(slug=ID, title=model_id),
        model=Model(model_id=model_id, architecture="moe" if shape.experts else "dense", context_length=shape.max_len),
        variants={"default": Variant(precision=shape.precision)},
        compatible_strategies=strategies,
        aicockpit=AiCockpit(roles=roles),
    )
