"""Sizes of every block that cost a given share of the multiply-accumulates and lose least.

SNP sets its ratios by hand. Here each size of each part is tried alone: the part is cut and fitted,
the rest of the model stays dense, and the divergence of its answers is measured on images nothing
was fitted on. Losses of different parts are taken to add up, and parts shrink in the order of loss
per multiply-accumulate saved. Deterministic: nothing is drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.compress.cut import cut_block
from foveate.compress.fit import fit_attention, fit_mlp
from foveate.compress.ranking import Ranking, keep
from foveate.errors import InputError
from foveate.images.folder import Progress
from foveate.levels.schedule import Schedule
from foveate.model.vit import Block, BlockShape, ViT, ViTConfig

__all__ = [
    "Losses",
    "channel_counts",
    "check_target",
    "choose",
    "least_macs",
    "macs",
    "measure_losses",
    "sizes",
]

Losses = Mapping[tuple[int, str, int], float]  # by block, part (a field of BlockShape) and size

_STEPS = 8  # sizes a hidden layer or the residual stream is tried at


def sizes(shape: BlockShape, *, multiple: int, heads: bool) -> dict[str, list[int]]:
    """Smaller sizes the parts of a block may have, ascending."""
    step = _step(shape.mlp_dim, multiple)
    return {
        "heads": list(range(1, shape.heads)) if heads else [],
        "qk_dim": list(range(multiple, shape.qk_dim, multiple)),
        "v_dim": list(range(multiple, shape.v_dim, multiple)),
        "mlp_dim": list(range(step, shape.mlp_dim, step)),
    }


def channel_counts(config: ViTConfig, multiple: int) -> list[int]:
    """Smaller sizes the residual stream may have, ascending, from a half up."""
    step = _step(config.dim, multiple)
    return [count for count in range(step, config.dim, step) if 2 * count >= config.dim]


def macs(config: ViTConfig, dim: int, shapes: Sequence[BlockShape]) -> int:
    """Multiply-accumulates of one image with all its tokens."""
    return Schedule().macs(replace(config, dim=dim, blocks=tuple(shapes)))


def check_target(
    config: ViTConfig, target: float, *, multiple: int, heads: bool, residual: bool
) -> None:
    """Raise :class:`InputError` unless ``target`` can be reached, naming the range."""
    if multiple < 1:
        raise InputError(f"multiple={multiple}: expected 1 or more")
    options = [sizes(shape, multiple=multiple, heads=heads) for shape in config.shapes]
    dim = min([config.dim, *(channel_counts(config, multiple) if residual else [])])
    least = least_macs(config, dim, options) / macs(config, config.dim, config.shapes)
    if not least <= target < 1:
        raise InputError(
            f"target-macs={target:g}: expected {math.ceil(1e4 * least) / 1e4:.4f} to below 1 "
            f"(with multiple={multiple}, heads={heads}, residual={residual})"
        )


def least_macs(config: ViTConfig, dim: int, options: Sequence[Mapping[str, Sequence[int]]]) -> int:
    """Multiply-accumulates with every part of every block at the smallest of its options."""
    smallest = [
        replace(shape, **{part: min(tried) for part, tried in own.items() if tried})
        for shape, own in zip(config.shapes, options, strict=True)
    ]
    return macs(config, dim, smallest)


@torch.no_grad()
def measure_losses(
    dense: ViT,
    rankings: Sequence[Ranking],
    inputs: Sequence[Tensor],
    judged: Sequence[Tensor],
    options: Sequence[Mapping[str, Sequence[int]]],
    progress: Progress = lambda *_: None,
) -> Losses:
    """Divergence (mean KL, nats) of the answers when one part of one block has another size.

    Args:
        inputs: [B, n, C] of every block of the dense model, and of its final norm, to fit on.
        judged: the same of other images, to measure on.
        options: the sizes to try of every part of every block.
        progress: called with stage, steps done and total steps.
    """
    blocks = list(cast(Iterable[Block], dense.blocks))
    channels = torch.arange(dense.config.dim)
    expected = dense.classify(dense.norm(judged[-1][:, 0])).log_softmax(1)
    losses: dict[tuple[int, str, int], float] = {}
    total = sum(len(tried) for own in options for tried in own.values())
    for index, (block, ranking) in enumerate(zip(blocks, rankings, strict=True)):
        x = inputs[index]
        middle = x + block.attn(block.norm1(x))
        for part, tried in options[index].items():
            for size in tried:
                kept = keep(ranking, replace(block.attn.shape, **{part: size}))
                slim = cut_block(dense.config, block, kept, channels)
                if part == "mlp_dim":
                    fit_mlp(block, slim, kept, channels, middle, middle)
                else:
                    fit_attention(block, slim, kept, channels, x, x)
                y = slim(judged[index])
                for later in blocks[index + 1 :]:
                    y = later(y)
                answers = dense.classify(dense.norm(y[:, 0])).log_softmax(1)
                loss = F.kl_div(answers, expected, log_target=True, reduction="batchmean")
                losses[index, part, size] = max(0.0, loss.item())
                progress("search", len(losses), total)
    return losses


def choose(config: ViTConfig, dim: int, losses: Losses, target: float) -> tuple[BlockShape, ...]:
    """Sizes with at most ``target`` of the dense multiply-accumulates.

    Shrinks what loses least for what it saves until the budget is met, then gives back what still
    fits, since the last step may have saved more than was needed.

    Args:
        config: of the dense model.
        dim: channels of the residual stream that will be left.
        losses: by block, part and size, as measured; the dense sizes lose nothing.
        target: share of the multiply-accumulates of ``config`` that may be left.

    Raises :class:`InputError` if the sizes in ``losses`` cannot reach it.
    """
    dense = macs(config, config.dim, config.shapes)
    shapes = config.shapes
    known = {**losses}
    for block, shape in enumerate(shapes):
        known |= {(block, part, getattr(shape, part)): 0.0 for part in asdict(shape)}

    def move(key: tuple[int, str, int]) -> tuple[tuple[BlockShape, ...], float, int]:
        """Shapes after a part was resized, the loss this adds and what it saves."""
        block, part, size = key
        new = replace(shapes[block], **{part: size})
        after = (*shapes[:block], new, *shapes[block + 1 :])
        added = known[key] - known[block, part, getattr(shapes[block], part)]
        return after, added, macs(config, dim, shapes) - macs(config, dim, after)

    while (left := macs(config, dim, shapes)) > target * dense:
        smaller = [key for key in losses if key[2] < getattr(shapes[key[0]], key[1])]
        if not smaller:
            raise InputError(f"target-macs={target:g}: expected at least {left / dense:.4f}")
        moves = {key: move(key) for key in smaller}
        best = min(smaller, key=lambda key: (max(0.0, moves[key][1]) / moves[key][2], key))
        shapes = moves[best][0]
    while True:
        spare = target * dense - macs(config, dim, shapes)
        larger = [key for key in known if key[2] > getattr(shapes[key[0]], key[1])]
        moves = {key: move(key) for key in larger}
        fitting = [key for key in larger if -moves[key][2] <= spare and moves[key][1] < 0]
        if not fitting:
            return shapes
        shapes = moves[min(fitting, key=lambda key: (moves[key][1], key))][0]


def _step(size: int, multiple: int) -> int:
    return max(multiple, size // _STEPS // multiple * multiple)
