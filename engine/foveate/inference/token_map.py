"""Where each patch of an image ended, from what every reducer of its level did."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig

__all__ = ["trace"]


def trace(
    schedule: Schedule,
    config: ViTConfig,
    dests: Sequence[Tensor],
    images: int,
    device: torch.device | None = None,
) -> Tensor:
    """Destination of each patch: [images, patches] int16, -1 dropped, -2 packaged.

    Args:
        schedule: of the level; not adaptive.
        dests: of each reducer in turn, where it sent its rows: [B * n] int32, B >= ``images``.
        images: how many of the first images to trace.
        device: where the map is to be if there are no ``dests``; it is where they are.
    """
    device = dests[0].device if dests else device
    where = torch.arange(config.patches, device=device).expand(images, -1) + config.prefix
    moves = [dest.long() for dest in dests]
    if schedule.input is not None:
        into = moves.pop(0).view(-1, config.patches)[:images]
        where = torch.where(into < 0, into, into + config.prefix)
    tokens = schedule.tokens(config)[0]
    for block, dest in zip(schedule.blocks, moves, strict=True):
        into = dest.view(-1, tokens[block])[:images].gather(1, where.clamp(min=0))
        where = torch.where(where < 0, where, into)
    return where.short()
