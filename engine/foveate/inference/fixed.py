"""One level as a fixed sequence of operators: every shape is known before the images are.

The one description of a level, which every engine runs: as it is, inside a CUDA graph, or exported
to a compiler (:mod:`foveate.inference.export`). The level fixes all counts, so a batch has a
constant number of rows. ``cu_seqlens`` on the device says which of them are in use: a partial batch
in a CUDA graph ends with images without rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from foveate.inference.embed import Embedding
from foveate.inference.fp8 import Fp8Linear, Fp8Rows
from foveate.levels.schedule import Schedule
from foveate.model.vit import Block, ViT, attend
from foveate.reduce.merge import Merge
from foveate.reduce.prune import Prune
from foveate.reduce.rows import Rows, Seen, reduce
from foveate_kernels.ops import (
    add_layernorm,
    add_layernorm_fp8,
    packed_linear,
    quantize_rows,
    varlen_attention,
)
from foveate_kernels.ops.varlen_attention import HEAD_DIMS

__all__ = ["PLAIN", "Forward", "Routes"]

Maker = Literal["torch", "foveate"]


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Which implementation computes what both PyTorch and we provide: the faster one on an H100, as
    ``foveate_benchmarks.gpu model`` measured."""

    attention: Maker = "foveate"  # fused with the importance where a block prunes
    gelu: Maker = "torch"  # fused with the product before it
    norm: Maker = "foveate"  # fused with the addition before it
    # Of attention without a bias or importance, by the rows of an image, where it was timed.
    plain_attention: Mapping[int, Maker] = field(default_factory=dict)


PLAIN = Routes(attention="torch", gelu="torch", norm="torch")


class Forward:
    """Call it with pixels [batch, H, W, 3] (uint8) and which of the images are real."""

    def __init__(
        self,
        schedule: Schedule,
        vit: ViT,
        words: Tensor | None,
        routes: Routes,
        selectors: Mapping[int, Any] | None = None,
        embed: Embedding | None = None,
    ) -> None:
        """``vit``, ``words`` and ``selectors`` are on the device and in the dtype to compute in.

        ``schedule`` is not adaptive: of such a one, each variant has a sequence of its own.
        Products that are to run in FP8 are so in ``vit`` (:func:`foveate.inference.fp8.in_fp8`).
        ``embed`` saves memory: the levels of one model can share it.
        """
        self.schedule, self.vit, self.routes = schedule, vit, routes
        self._embed, self._words = embed or Embedding(vit), words
        self._selectors = selectors or {}

    def __call__(self, pixels: Tensor, present: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Probabilities [batch, classes] float32, and where each reducer sent each row.

        Args:
            pixels: [batch, H, W, 3] uint8.
            present: [batch + 1] int32, 0, 1, 2, ... and then constant: answers to later images mean
                nothing.
        """
        config, vit = self.vit.config, self.vit
        rows, dests = self._embed(self.schedule, self._words, pixels, present)
        blocks = list(cast(Iterable[Block], vit.blocks))
        norms = [(block.norm1, block.attn.qkv) for block in blocks] + [(vit.norm, vit.head)]
        h = self._norm(rows.x, None, *norms[0])[1]
        for index, block in enumerate(blocks):
            reducer = self.schedule.blocks.get(index)
            q, k, v = block.attn.split(block.attn.qkv(h))
            mixed, cls = self._attention(q, k, v, rows, reducer)
            selector = self._selectors.get(index)
            seen = Seen(q=q, k=k, v=v, depth=config.depth, cls=cls, selector=selector)
            if index == config.depth - 1 and reducer is None and config.pool == "cls":
                # Of the last block only the CLS rows are read.
                x, mixed = (part.view(-1, rows.n, part.shape[1])[:, 0] for part in (rows.x, mixed))
                rows = rows._replace(x=x, cu_seqlens=present, n=1)
            mixed = block.attn.proj(mixed)
            if reducer is not None and reducer.after == "attention":
                rows = rows._replace(x=rows.x + mixed)
                rows, dest = reduce(reducer, rows, seen, sized=self.schedule.sized)
                dests.append(dest)
                h = self._norm(rows.x, None, block.norm2, block.mlp.fc1)[1]
            else:
                x, h = self._norm(rows.x, mixed, block.norm2, block.mlp.fc1)
                rows = rows._replace(x=x)
            update = block.mlp.fc2(self._gelu(h, rows, block))
            after = norms[index + 1]
            if reducer is not None and reducer.after == "mlp":
                rows = rows._replace(x=rows.x + update)
                seen = replace(seen, update=update)
                rows, dest = reduce(reducer, rows, seen, sized=self.schedule.sized)
                dests.append(dest)
                h = self._norm(rows.x, None, *after)[1]
            else:
                x, h = self._norm(rows.x, update, *after)
                rows = rows._replace(x=x)
        if config.pool != "cls" or rows.n > 1:  # the last block kept more than CLS
            sizes = None if rows.sizes is None else rows.sizes.view(-1, rows.n)
            h = vit.pool(rows.x.view(-1, rows.n, config.dim), sizes)
        return vit.scores(vit.classify(h)), dests

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, reducer: Prune | Merge | None
    ) -> tuple[Tensor, Tensor | None]:
        """Rows [batch * n, C], and the score [H, batch * n] where our kernel gives it too."""
        bias, maker = rows.key_bias, self.routes.attention
        score = reducer.score if isinstance(reducer, Prune) else None
        if bias is None and score not in ("cls", "cls-value"):
            maker = self.routes.plain_attention.get(rows.n, maker)
        if maker == "foveate" and q.shape[2] in HEAD_DIMS and v.shape[2] in HEAD_DIMS:
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
        mask = None if bias is None else bias.to(q.dtype).view(-1, 1, 1, rows.n)
        q, k, v = (x.view(-1, rows.n, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v, mask).transpose(1, 2).flatten(0, 1).flatten(1), None

    def _gelu(self, h: Any, rows: Rows, block: Block) -> Any:
        """What fc2 takes of what fc1 takes."""
        fc1, activation = block.mlp.fc1, self.vit.config.activation
        if isinstance(block.mlp.fc2, Fp8Linear):
            return Fp8Rows(*quantize_rows(fc1(h), activation))
        if self.routes.gelu == "foveate" and activation == "gelu":
            return packed_linear(h, fc1.weight, fc1.bias, rows.cu_seqlens[-1:], gelu=True)
        if activation == "gelu-tanh" and h.is_cuda:
            # cuBLAS applies this one before it writes. On a CPU the same call takes the exact GELU.
            return torch._addmm_activation(fc1.bias, h, fc1.weight.T, use_gelu=True)
        return block.mlp.act(fc1(h))

    def _norm(
        self, x: Tensor, residual: Tensor | None, norm: torch.nn.LayerNorm, into: torch.nn.Module
    ) -> tuple[Tensor, Any]:
        """The sum, and its LayerNorm as ``into`` takes it."""
        if isinstance(into, Fp8Linear):
            x, *h = add_layernorm_fp8(x, residual, norm.weight, norm.bias, eps=norm.eps)
            return x, Fp8Rows(*h)
        if self.routes.norm == "foveate":
            return add_layernorm(x, residual, norm.weight, norm.bias, eps=norm.eps)
        x = x if residual is None else x + residual
        return x, cast(Tensor, norm(x))
