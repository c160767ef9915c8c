"""From pixels to the first rows of a level, reduced at the input if the level says so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT
from foveate.reduce.rows import Rows
from foveate.reduce.vwt_inter import VwtInter
from foveate.reduce.vwt_intra import VwtIntra, pooled_variance
from foveate_kernels.ops import (
    compact_tokens,
    fold_patch_embed,
    merge_groups,
    patch_variance,
    patchify_u8,
)

__all__ = ["Embedding"]


class Embedding:
    """The patch embedding of one model, for every level that uses its weights."""

    def __init__(self, vit: ViT) -> None:
        """``vit`` is on the device and in the dtype to compute in."""
        proj, config = vit.patch_embed.proj, vit.config
        assert proj.bias is not None
        mean, std = (config.mean,) * 3, (config.std,) * 3
        weight, bias = fold_patch_embed(proj.weight, proj.bias, mean, std)
        self._vit, self._first = vit, vit.first_tokens
        self._weight = weight.to(vit.cls_token)
        position = vit.patch_positions + bias.to(vit.cls_token.device)
        self._position = position.to(vit.cls_token.dtype)
        self._repeated: dict[int, Tensor] = {}  # position of every patch, by number of images

    def __call__(
        self, schedule: Schedule, words: Tensor | None, pixels: Tensor, present: Tensor
    ) -> tuple[Rows, list[Tensor]]:
        """First rows, and where the input reducer sent each patch, if there is one.

        Args:
            schedule: of the level; not adaptive, whose variants are schedules of their own.
            words: [K, D] visual words, if the schedule asks for them.
            pixels: [B, H, W, 3] uint8.
            present: [B + 1] int32, 0, 1, 2, ... and then constant: later images have no rows.
        """
        vit, config, reducer = self._vit, self._vit.config, schedule.input
        batch, patches = len(pixels), config.patches
        rows = patchify_u8(pixels, config.patch, self._weight.dtype)
        position = self._repeated.get(batch)
        if position is None:
            position = self._repeated[batch] = self._position.repeat(batch, 1)
        dests: list[Tensor] = []
        sizes: Tensor | None = None
        if reducer is not None:
            # The embedding is affine: the mean of embeddings is the embedding of the mean, and only
            # the remaining rows pass through the projection.
            cu_seqlens, left = present * patches, batch * reducer.tokens()
            if isinstance(reducer, VwtIntra):
                if reducer.packages:
                    variance = patch_variance(pixels, config.patch)
                else:
                    variance = pooled_variance(rows)
                plan = reducer.plan(variance, cu_seqlens, patches)
                carry_out: Any = compact_tokens
            else:
                assert isinstance(reducer, VwtInter), "adaptive levels are their variants here"
                assert words is not None, "checked when the ladder was loaded"
                scale = 64 / (255 * config.std)
                shift = (128 / 255 - config.mean) / config.std
                plan = reducer.plan(rows * scale + shift, words, cu_seqlens)
                carry_out = merge_groups
            dests.append(plan.dest)
            one = rows.new_ones(len(rows), dtype=torch.float32) if schedule.sized else None
            rows, _, own = carry_out(rows, plan, cu_seqlens, patches, capacity=left, sizes=one)
            position = carry_out(position, plan, cu_seqlens, patches, capacity=left).x
            if one is not None:
                sizes = F.pad(own.view(batch, -1), (config.prefix, 0), value=1.0).view(-1)
        x = torch.addmm(position, rows, self._weight.T)
        x = torch.cat([self._first.expand(batch, -1, -1), x.view(batch, -1, x.shape[1])], 1)
        n, packaged = x.shape[1], reducer is not None and reducer.packages
        x = vit.norm_pre(x.view(-1, x.shape[2]))
        return Rows(x, present * n, n, packaged, sizes, config.prefix), dests
