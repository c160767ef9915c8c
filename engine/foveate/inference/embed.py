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
        batch, patches, dim = len(present) - 1, config.patches, config.dim
        rows = patchify_u8(pixels, config.patch, self._weight.dtype)
        position = self._position
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
                plan = reducer.plan(rows * scale + shift, words, cu_seqlens, patches)
                carry_out = merge_groups
            dests.append(plan.dest)
            one = torch.ones_like(rows[:, 0], dtype=torch.float32) if schedule.sized else None
            rows, _, own = carry_out(rows, plan, cu_seqlens, patches, capacity=left, sizes=one)
            every = position.expand(pixels.shape[0], -1, -1).reshape(-1, dim)
            position = carry_out(every, plan, cu_seqlens, patches, capacity=left).x
            if one is not None:
                own = own.view(-1, reducer.tokens())
                sizes = F.pad(own, (config.prefix, 0), value=1.0).view(-1)
        n = patches if reducer is None else reducer.tokens()
        x = F.linear(rows, self._weight).view(-1, n, dim) + position.view(-1, n, dim)
        if config.prefix:
            x = torch.cat([self._first.expand(pixels.shape[0], -1, -1), x], 1)
            n += config.prefix
        packaged = reducer is not None and reducer.packages
        x = vit.norm_pre(x.view(-1, dim))
        return Rows(x, present * n, n, packaged, sizes, config.prefix), dests
