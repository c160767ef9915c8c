"""One level as a fixed sequence of kernels: every shape is known before the images are.

What a GPU runs, inside a CUDA graph. Counts are fixed by the level, so the rows of a batch are a
constant; ``cu_seqlens`` on the device says which of them are in use, and a batch that is not full
has images without rows at its end. Runs on a CPU too, where the operators are their references.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.reduce.vwt_intra import VwtIntra
from foveate.schedule import Schedule
from foveate.vit import Block, ViT, attend, pad_heads
from foveate_kernels.ops import (
    add_layernorm,
    cls_importance,
    compact_tokens,
    fold_patch_embed,
    linear_gelu,
    merge_groups,
    patch_variance,
    patchify_u8,
    varlen_attention,
)

__all__ = ["Forward", "Routes"]

Maker = Literal["torch", "foveate"]


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Who computes what both PyTorch and we can. PyTorch, until a GPU has shown ours to be faster:
    ``benchmarks/gpu.py model`` measures both."""

    attention: Maker = "torch"  # fused with the importance where a block prunes
    gelu: Maker = "torch"  # fused with the product before it
    norm: Maker = "torch"  # fused with the addition before it


class Forward:
    """Call it with pixels [batch, H, W, 3] (uint8) and how many of the images are real."""

    def __init__(
        self, schedule: Schedule, vit: ViT, words: Tensor | None, batch: int, routes: Routes
    ) -> None:
        """``vit`` and ``words`` are on the device and in the dtype to compute in."""
        config = vit.config
        self.schedule, self.vit, self.batch, self.routes = schedule, vit, batch, routes
        like = vit.cls_token
        proj = vit.patch_embed.proj
        assert proj.bias is not None
        mean, std = (config.mean,) * 3, (config.std,) * 3
        weight, bias = fold_patch_embed(proj.weight, proj.bias, mean, std)
        self._weight = weight.to(like)
        position = vit.pos_embed[0, 1:].float() + bias.to(like.device)
        self._position = position.to(like.dtype).repeat(batch, 1)
        self._cls = (vit.cls_token + vit.pos_embed[:, :1])[0].expand(batch, 1, -1)
        self._ordinals = torch.arange(batch + 1, dtype=torch.int32, device=like.device)
        self._words = words

    def __call__(self, pixels: Tensor, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Probabilities [batch, classes] float32, and where each reducer sent each row.

        Args:
            pixels: [batch, H, W, 3] uint8.
            images: [1] int32, how many come first that are real. Answers to others mean nothing.
        """
        config, vit = self.vit.config, self.vit
        present = torch.minimum(self._ordinals, images)
        x, dests, packaged = self._embed(pixels, present)
        n = len(x) // self.batch
        cu_seqlens = present * n
        blocks = list(cast(Iterable[Block], vit.blocks))
        h = self._norm(x, None, blocks[0].norm1)[1]
        for index, block in enumerate(blocks):
            prune = self.schedule.prunes.get(index)
            qkv = block.attn.split(block.attn.qkv(h))
            mixed, scores = self._attention(qkv, cu_seqlens, n, scored=prune is not None)
            if index == config.depth - 1 and prune is None:
                # Of the last block only the CLS rows are read.
                first = cu_seqlens[:-1].long().clamp(max=len(x) - 1)
                x, mixed = x[first], mixed[first]
            mixed = block.attn.proj(mixed)
            if prune is None:
                x, h = self._norm(x, mixed, block.norm2)
            else:
                assert scores is not None
                last = present.diff() if packaged else None  # 1 for each real image
                plan = prune.plan(scores, cu_seqlens, n, last)
                dests.append(plan.dest)
                n = prune.tokens(packaged)
                packaged = packaged or prune.fate == "package"
                x, cu_seqlens, _ = compact_tokens(
                    x + mixed, plan, cu_seqlens, len(x) // self.batch, capacity=self.batch * n
                )
                h = self._norm(x, None, block.norm2)[1]
            h = block.mlp.fc2(self._gelu(h, block))
            after = blocks[index + 1].norm1 if index + 1 < config.depth else vit.norm
            x, h = self._norm(x, h, after)
        if len(h) > self.batch:  # the last block pruned
            h = h[cu_seqlens[:-1].long().clamp(max=len(h) - 1)]
        return vit.head(h).float().softmax(-1), dests

    def _embed(self, pixels: Tensor, present: Tensor) -> tuple[Tensor, list[Tensor], bool]:
        """First rows [batch * n, C], where patches went, and whether the last row is a package."""
        config, reducer = self.vit.config, self.schedule.input
        rows, position = patchify_u8(pixels, config.patch, self._weight.dtype), self._position
        dests: list[Tensor] = []
        if reducer is not None:
            patches, left = config.patches, self.batch * reducer.tokens()
            cu_seqlens = present * patches
            if isinstance(reducer, VwtIntra):
                variance = patch_variance(pixels, config.patch)
                plan = reducer.plan(variance, cu_seqlens, patches)
                carry_out: Any = compact_tokens
            else:
                assert self._words is not None, "checked when the ladder was loaded"
                scale = 64 / (255 * config.std)
                shift = (128 / 255 - config.mean) / config.std
                plan = reducer.plan(rows * scale + shift, self._words, cu_seqlens)
                carry_out = merge_groups
            dests.append(plan.dest)
            rows = carry_out(rows, plan, cu_seqlens, patches, capacity=left).x
            position = carry_out(position, plan, cu_seqlens, patches, capacity=left).x
        x = torch.addmm(position, rows, self._weight.T)
        x = torch.cat([self._cls, x.view(self.batch, -1, x.shape[1])], 1)
        return x.view(-1, x.shape[2]), dests, isinstance(reducer, VwtIntra)

    def _attention(
        self, qkv: tuple[Tensor, Tensor, Tensor], cu_seqlens: Tensor, n: int, scored: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Rows [batch * n, H * d], and the importance [H, batch * n] of each if asked for."""
        q, k, v = qkv
        if self.routes.attention == "foveate" and q.shape == v.shape:
            out = varlen_attention(q, k, v, cu_seqlens, n, return_cls=scored, value_norm=scored)
            return out.out.flatten(1), out.cls
        scores = None
        if scored:
            scale = q.shape[-1] ** -0.5
            scores = cls_importance(*pad_heads(*qkv), cu_seqlens, n, scale=scale, value_norm=True)
        q, k, v = (x.view(self.batch, n, *x.shape[1:]).transpose(1, 2) for x in qkv)
        return attend(q, k, v).transpose(1, 2).flatten(0, 1).flatten(1), scores

    def _gelu(self, h: Tensor, block: Block) -> Tensor:
        fc1 = block.mlp.fc1
        if self.routes.gelu == "foveate":
            return linear_gelu(h, fc1.weight, fc1.bias)
        return F.gelu(fc1(h))

    def _norm(
        self, x: Tensor, residual: Tensor | None, norm: torch.nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """The sum, and its LayerNorm."""
        if self.routes.norm == "foveate":
            return add_layernorm(x, residual, norm.weight, norm.bias, eps=norm.eps)
        x = x if residual is None else x + residual
        return x, cast(Tensor, norm(x))
