"""What to keep longest in every block of a model, asked on calibration images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from foveate.compress.criteria import distinctness, elimination_order, query_key_importance
from foveate.compress.least_squares import moments
from foveate.model.vit import Block, BlockShape, ViT, attend, patchify

__all__ = [
    "Criterion",
    "Kept",
    "Ranking",
    "block_inputs",
    "keep",
    "rank_block",
    "rank_channels",
    "row_weights",
]

# How values, hidden units, heads and channels are chosen; queries and keys always by SNP's SVD.
# "loss": what least squares loses without them. "redundancy": SNP's cosines, blind to data.
Criterion = Literal["loss", "redundancy"]

CLS_WEIGHT = 20.0  # the head reads the class token alone: its row counts as this many patches


@dataclass(frozen=True)
class Ranking:
    """Neurons of one block, what to keep longest first (int64)."""

    heads: Tensor  # [H]
    qk: Tensor  # [H, d]
    v: Tensor  # [H, e]
    mlp: Tensor  # [M]


@dataclass(frozen=True)
class Kept:
    """Neurons of one block that stay (int64, ascending)."""

    heads: Tensor  # [h]
    qk: Tensor  # [h, a] within each of these heads
    v: Tensor  # [h, b]
    mlp: Tensor  # [m]


def keep(ranking: Ranking, shape: BlockShape) -> Kept:
    """The best neurons of a block that is to have the given sizes."""
    heads = ranking.heads[: shape.heads].sort().values
    return Kept(
        heads=heads,
        qk=ranking.qk[heads, : shape.qk_dim].sort(1).values,
        v=ranking.v[heads, : shape.v_dim].sort(1).values,
        mlp=ranking.mlp[: shape.mlp_dim].sort().values,
    )


def row_weights(images: int, tokens: int) -> Tensor:
    """Weight in least squares of each row of [images * tokens], summing to 1."""
    weight = torch.ones(images, tokens)
    weight[:, 0] = CLS_WEIGHT
    return (weight / weight.sum()).flatten()


def rank_block(block: Block, x: Tensor, criterion: Criterion) -> Ranking:
    """Rank the neurons of a block by what they do to its inputs x [B, n, C]."""
    attn, mlp = block.attn, block.mlp
    q, k, v = (part.transpose(1, 2) for part in attn.split(attn.qkv(block.norm1(x))))
    qk = query_key_importance(q, k).argsort(dim=1, descending=True, stable=True)
    heads, e = attn.shape.heads, attn.shape.v_dim
    if criterion == "redundancy":
        values = distinctness(attn.qkv.weight[-heads * e :]).view(heads, e)
        hidden = distinctness(mlp.fc1.weight)
        return Ranking(
            # A group's score is the mean of its neurons'.
            heads=values.mean(1).argsort(descending=True, stable=True),
            qk=qk,
            v=values.argsort(dim=1, descending=True, stable=True),
            mlp=hidden.argsort(descending=True, stable=True),
        )
    weight = row_weights(*x.shape[:2])
    mixed = attend(q, k, v).transpose(1, 2).flatten(2)
    hidden = F.gelu(mlp.fc1(block.norm2(x + attn.proj(mixed))))
    gram = moments(mixed.flatten(0, 1), weight)[1][None]
    reader = attn.proj.weight.double()[None]
    hidden_gram = moments(hidden.flatten(0, 1), weight)[1][None]
    return Ranking(
        heads=elimination_order(gram, reader, size=e)[0],
        qk=qk,
        v=elimination_order(gram, reader, lanes=heads),
        mlp=elimination_order(hidden_gram, mlp.fc2.weight.double()[None])[0],
    )


def rank_channels(vit: ViT, inputs: Sequence[Tensor], criterion: Criterion) -> Tensor:
    """Rank the channels of the residual stream, which all blocks share: [C] int64, best first.

    Args:
        vit: the dense model.
        inputs: [B, n, C] of every block, and of the final norm.
        criterion: by what all layers that read a normalised channel lose without it, or by the
            mean redundancy of what all layers write to it.
    """
    blocks: Sequence[Block] = list(vit.blocks)  # type: ignore[arg-type]
    if criterion == "redundancy":
        writers = [vit.patch_embed.proj.weight.flatten(1)]
        for block in blocks:
            writers += [block.attn.proj.weight, block.mlp.fc2.weight]
        scores = torch.stack([distinctness(writer) for writer in writers])
        return scores.mean(0).argsort(descending=True, stable=True)
    weight = row_weights(*inputs[0].shape[:2])
    grams: list[Tensor] = []
    readers: list[Tensor] = []
    for block, x in zip(blocks, inputs[:-1], strict=True):
        middle = x + block.attn(block.norm1(x))
        for rows, reader in (
            (block.norm1(x), block.attn.qkv.weight),
            (block.norm2(middle), block.mlp.fc1.weight),
        ):
            _see(grams, readers, rows.flatten(0, 1), reader, weight)
    cls = vit.norm(inputs[-1][:, 0])
    _see(grams, readers, cls, vit.head.weight, torch.full((len(cls),), 1 / len(cls)))
    stacked = pad_sequence(readers, batch_first=True)
    return elimination_order(torch.stack(grams), stacked)[0]


def _see(
    grams: list[Tensor], readers: list[Tensor], rows: Tensor, reader: Tensor, weight: Tensor
) -> None:
    """Add a layer, scaled to outputs of unit energy; only the Gram of its weights counts."""
    gram = moments(rows, weight)[1]
    square = torch.linalg.qr(reader.double(), mode="r").R
    energy = torch.einsum("oi,ij,oj->", square, gram, square)
    grams.append(gram)
    readers.append(square / energy.sqrt())


def block_inputs(vit: ViT, pixels: Tensor) -> list[Tensor]:
    """Tokens [B, n, C] before every block and before the final norm, of images [B, H, W, 3]."""
    inputs = [vit.embed(patchify(pixels, vit.config.patch).float())]
    for block in vit.blocks:
        inputs.append(block(inputs[-1]))
    return inputs
