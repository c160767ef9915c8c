"""Multiply-accumulates of a Vision Transformer from its sizes and token counts.

Counted as papers in this field count "FLOPs": matrix products only, a multiply and an add as one.
Like the papers, this leaves out norms, GELU, softmax and the scoring or matching of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from foveate.model.vit import ViTConfig

__all__ = ["head_macs", "vit_macs"]


def vit_macs(config: ViTConfig, attention: Sequence[int], mlp: Sequence[int], embedded: int) -> int:
    """Of one image: patch embedding, blocks, pooling, head.

    A plain block of width C takes ``4 n C^2 + 2 n^2 C + 8 m C^2``.

    Args:
        attention, mlp: tokens in the attention (n) and in the MLP (m) of each block, CLS included.
            They differ where tokens are reduced between the two.
        embedded: patches that pass through the patch embedding.
    """
    blocks = zip(config.shapes, attention, mlp, strict=True)
    return (
        embedded * 3 * config.patch**2 * config.dim
        + sum(shape.macs(config.dim, n, m) for shape, n, m in blocks)
        + head_macs(config, mlp[-1])
    )


def head_macs(config: ViTConfig, tokens: int) -> int:
    """Of one image with ``tokens`` after the last block: pooling, projection, head."""
    c, patches = config.dim, tokens - config.prefix
    total = (config.embedding or config.pooled_dim) * config.classes
    total += config.pooled_dim * config.embedding
    if config.pool == "map":  # keys and values, one query, its projection, MLP
        total += 2 * patches * c * c + 2 * patches * c + c * c + 2 * c * config.mlp_dim
    return total
