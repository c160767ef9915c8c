"""One level as a fixed sequence of kernels: every shape is known before the images are.

What a GPU runs, inside a CUDA graph. Counts are fixed by the level, so the rows of a batch are a
constant; ``cu_seqlens`` on the device says which of them are in use, and a batch that is not full
has images without rows at its end. Runs on a CPU too, where the operators are their references.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.levels.schedule import Schedule
from foveate.model.vit import Block, ViT, attend
from foveate.reduce.merge import Merge
from foveate.reduce.prune import Prune
from foveate.reduce.rows import Rows, Seen, reduce
from foveate.reduce.vwt_inter import VwtInter
from foveate.reduce.vwt_intra import VwtIntra, pooled_variance
from foveate_kernels.ops import (
    add_layernorm,
    compact_tokens,
    fold_patch_embed,
    linear_gelu,
    merge_groups,
    patch_variance,
    patchify_u8,
    varlen_attention,
)
from foveate_kernels.ops.varlen_attention import HEAD_DIMS

__all__ = ["Forward", "Routes"]

Maker = Literal["torch", "foveate"]


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Who computes what both PyTorch and we can: who was faster on an H100, when
    ``foveate_benchmarks.gpu model`` measured both."""

    attention: Maker = "foveate"  # fused with the importance where a block prunes
    gelu: Maker = "torch"  # fused with the product before it
    norm: Maker = "foveate"  # fused with the addition before it


class Forward:
    """Call it with pixels [batch, H, W, 3] (uint8) and how many of the images are real."""

    def __init__(
        self,
        schedule: Schedule,
        vit: ViT,
        words: Tensor | None,
        batch: int,
        routes: Routes,
        selectors: Mapping[int, Any] | None = None,
    ) -> None:
        """``vit``, ``words`` and ``selectors`` are on the device and in the dtype to compute in.

        ``schedule`` is not adaptive: of such a one, each variant has a sequence of its own.
        """
        config = vit.config
        self.schedule, self.vit, self.batch, self.routes = schedule, vit, batch, routes
        self._selectors = selectors or {}
        like = vit.cls_token
        proj = vit.patch_embed.proj
        assert proj.bias is not None
        mean, std = (config.mean,) * 3, (config.std,) * 3
        weight, bias = fold_patch_embed(proj.weight, proj.bias, mean, std)
        self._weight = weight.to(like)
        position = vit.patch_positions + bias.to(like.device)
        self._position = position.to(like.dtype).repeat(batch, 1)
        self._first = vit.first_tokens.expand(batch, -1, -1)
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
        rows, dests = self._embed(pixels, present)
        blocks = list(cast(Iterable[Block], vit.blocks))
        h = self._norm(rows.x, None, blocks[0].norm1)[1]
        for index, block in enumerate(blocks):
            reducer = self.schedule.blocks.get(index)
            q, k, v = block.attn.split(block.attn.qkv(h))
            mixed, cls = self._attention(q, k, v, rows, reducer)
            selector = self._selectors.get(index)
            seen = Seen(q=q, k=k, v=v, depth=config.depth, cls=cls, selector=selector)
            if index == config.depth - 1 and reducer is None and config.pool == "cls":
                # Of the last block only the CLS rows are read.
                first = rows.cu_seqlens[:-1].long().clamp(max=len(rows.x) - 1)
                rows, mixed = rows._replace(x=rows.x[first]), mixed[first]
            mixed = block.attn.proj(mixed)
            if reducer is not None and reducer.after == "attention":
                rows = rows._replace(x=rows.x + mixed)
                rows, dest = reduce(reducer, rows, seen, sized=self.schedule.sized)
                dests.append(dest)
                h = self._norm(rows.x, None, block.norm2)[1]
            else:
                x, h = self._norm(rows.x, mixed, block.norm2)
                rows = rows._replace(x=x)
            update = block.mlp.fc2(self._gelu(h, block))
            after = blocks[index + 1].norm1 if index + 1 < config.depth else vit.norm
            if reducer is not None and reducer.after == "mlp":
                rows = rows._replace(x=rows.x + update)
                seen = replace(seen, update=update)
                rows, dest = reduce(reducer, rows, seen, sized=self.schedule.sized)
                dests.append(dest)
                h = self._norm(rows.x, None, after)[1]
            else:
                x, h = self._norm(rows.x, update, after)
                rows = rows._replace(x=x)
        if config.pool != "cls" or len(h) > self.batch:  # the last block kept more than CLS
            shape = self.batch, rows.n
            h = vit.pool(
                rows.x.view(*shape, -1), None if rows.sizes is None else rows.sizes.view(shape)
            )
        return vit.scores(vit.classify(h)), dests

    def _embed(self, pixels: Tensor, present: Tensor) -> tuple[Rows, list[Tensor]]:
        """First rows, and where patches went."""
        config, reducer = self.vit.config, self.schedule.input
        rows, position = patchify_u8(pixels, config.patch, self._weight.dtype), self._position
        dests: list[Tensor] = []
        sizes: Tensor | None = None
        if reducer is not None:
            patches, left = config.patches, self.batch * reducer.tokens()
            cu_seqlens = present * patches
            if isinstance(reducer, VwtIntra):
                if reducer.packages:
                    variance = patch_variance(pixels, config.patch)
                else:
                    variance = pooled_variance(rows)
                plan = reducer.plan(variance, cu_seqlens, patches)
                carry_out: Any = compact_tokens
            else:
                assert isinstance(reducer, VwtInter), "adaptive levels are their variants here"
                assert self._words is not None, "checked when the ladder was loaded"
                scale = 64 / (255 * config.std)
                shift = (128 / 255 - config.mean) / config.std
                plan = reducer.plan(rows * scale + shift, self._words, cu_seqlens)
                carry_out = merge_groups
            dests.append(plan.dest)
            one = rows.new_ones(len(rows), dtype=torch.float32) if self.schedule.sized else None
            rows, _, own = carry_out(rows, plan, cu_seqlens, patches, capacity=left, sizes=one)
            position = carry_out(position, plan, cu_seqlens, patches, capacity=left).x
            if one is not None:
                sizes = F.pad(own.view(self.batch, -1), (config.prefix, 0), value=1.0).view(-1)
        x = torch.addmm(position, rows, self._weight.T)
        x = torch.cat([self._first, x.view(self.batch, -1, x.shape[1])], 1)
        n, packaged = x.shape[1], reducer is not None and reducer.packages
        x = self.vit.norm_pre(x.view(-1, x.shape[2]))
        return Rows(x, present * n, n, packaged, sizes, config.prefix), dests

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, reducer: Prune | Merge | None
    ) -> tuple[Tensor, Tensor | None]:
        """Rows [batch * n, C], and the score [H, batch * n] where our kernel gives it too."""
        bias = rows.key_bias
        if self.routes.attention == "foveate" and q.shape == v.shape and q.shape[2] in HEAD_DIMS:
            score = reducer.score if isinstance(reducer, Prune) else None
            out = varlen_attention(
                q,
                k,
                v,
                rows.cu_seqlens,
                rows.n,
                key_bias=bias,
                return_cls=score in ("cls", "cls-value"),
                value_norm=score == "cls-value",
            )
            return out.out.flatten(1), out.cls
        mask = None if bias is None else bias.to(q.dtype).view(self.batch, 1, 1, rows.n)
        q, k, v = (x.view(self.batch, rows.n, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v, mask).transpose(1, 2).flatten(0, 1).flatten(1), None

    def _gelu(self, h: Tensor, block: Block) -> Tensor:
        fc1 = block.mlp.fc1
        if self.routes.gelu == "foveate" and self.vit.config.activation == "gelu":
            return linear_gelu(h, fc1.weight, fc1.bias)
        return block.mlp.act(fc1(h))

    def _norm(
        self, x: Tensor, residual: Tensor | None, norm: torch.nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """The sum, and its LayerNorm."""
        if self.routes.norm == "foveate":
            return add_layernorm(x, residual, norm.weight, norm.bias, eps=norm.eps)
        x = x if residual is None else x + residual
        return x, cast(Tensor, norm(x))
