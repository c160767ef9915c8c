"""PiT (arXiv 2103.16302) with a selector in front of each stage, as in SPViT (arXiv 2112.13890).

Pooling needs the whole grid. SPViT's code keeps it and masks, which saves nothing; here only the
kept tokens pass through the blocks, and afterwards they return to their places. A token that was
left out has there what it had before the stage: the blocks are residual, it skipped them. So
nothing of it is lost, no package token is needed, and the next stage may choose it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate_benchmarks.hierarchical.salience import Score, salience, strongest

__all__ = ["forward", "grids"]


def forward(
    model: Any, images: Tensor, keep: Sequence[int], scores: Sequence[Score] | None = None
) -> Tensor:
    """Logits [B, classes] of images [B, 3, 224, 224] with timm's PiT.

    Args:
        keep: patch tokens that pass through the blocks of each stage, 1 to the stage's grid.
        scores: the selector of each stage; :func:`salience` for all, if not given.
    """
    x = model.patch_embed(images) + model.pos_embed
    cls = model.cls_token.expand(len(images), -1, -1)
    for stage, count, score in zip(
        model.transformers, keep, scores or [salience] * len(keep), strict=True
    ):
        if stage.pool is not None:
            x, cls = stage.pool(x, cls)
        tokens = x.flatten(2).transpose(1, 2)
        index = strongest(score(tokens), count).unsqueeze(-1).expand(-1, -1, tokens.shape[2])
        kept = stage.blocks(stage.norm(torch.cat([cls, tokens.gather(1, index)], 1)))
        cls, kept = kept[:, :1], kept[:, 1:]
        x = tokens.scatter(1, index, kept).transpose(1, 2).reshape(x.shape)
    logits: Tensor = model.forward_head(model.norm(cls))
    return logits


def grids(model: Any) -> list[int]:
    """Patch tokens of each stage: 729, 196 and 49 at 224 x 224."""
    side = model.patch_embed.height
    sides = [side, (side + 1) // 2, ((side + 1) // 2 + 1) // 2]
    return [s * s for s in sides]
