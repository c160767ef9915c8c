"""Parameters and multiply-accumulates by arithmetic of sizes alone, as papers count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveate.model.vit import BlockShape, ViTConfig

__all__ = ["Ratios", "paper_macs", "parameters", "shrink"]


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Shares that are pruned: of the residual stream, and of each block's parts."""

    residual: float
    qk: Sequence[float]  # of the dimensions of each head, here and in ``v``
    v: Sequence[float]
    mlp: Sequence[float]


def shrink(config: ViTConfig, ratios: Ratios) -> ViTConfig:
    """The sizes that are left, each rounded to the nearest integer."""
    d = config.head_dim
    blocks = tuple(
        BlockShape(
            heads=config.heads,
            qk_dim=round(d * (1 - qk)),
            v_dim=round(d * (1 - v)),
            mlp_dim=round(config.mlp_dim * (1 - mlp)),
        )
        for qk, v, mlp in zip(ratios.qk, ratios.v, ratios.mlp, strict=True)
    )
    return replace(config, dim=round(config.dim * (1 - ratios.residual)), blocks=blocks)


def parameters(config: ViTConfig) -> int:
    """Numbers in the weights, biases, norms, class token and position embeddings."""
    c = config.dim
    total = (3 * config.patch**2 + 1) * c + (2 + config.patches) * c  # embedding, CLS, positions
    for shape in config.shapes:
        mixed = shape.heads * shape.v_dim
        total += (c + 1) * shape.qkv_dim + (mixed + 1) * c
        total += (c + 1) * shape.mlp_dim + (shape.mlp_dim + 1) * c + 4 * c
    return total + 2 * c + (c + 1) * config.classes


def paper_macs(config: ViTConfig) -> int:
    """Multiply-accumulates of one image as papers count them.

    ``Schedule.macs`` counts what is executed; it differs where queries and values have different
    sizes, since the shorter is padded.
    """
    n, c = 1 + config.patches, config.dim
    total = config.patches * 3 * config.patch**2 * c + c * config.classes
    for shape in config.shapes:
        projections = n * c * (shape.qkv_dim + shape.heads * shape.v_dim)
        mixing = n * n * shape.heads * (shape.qk_dim + shape.v_dim)
        total += projections + mixing + 2 * n * c * shape.mlp_dim
    return total
