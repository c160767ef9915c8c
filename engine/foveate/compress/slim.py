"""From a dense model and some images to a slim model: rank, search, cut, fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.compress.cut import cut_vit
from foveate.compress.fit import fit_vit
from foveate.compress.ranking import Criterion, block_inputs, keep, rank_block, rank_channels
from foveate.compress.search import (
    channel_counts,
    check_target,
    choose,
    least_macs,
    macs,
    measure_losses,
    sizes,
)
from foveate.images.folder import Progress
from foveate.model.vit import Block, ViT

__all__ = ["compress"]

_SEARCH_IMAGES = 96  # to rank and to fit on in the search; SNP ranks on 64
_HELD_OUT_SHARE = 1 / 4  # of the images: not fitted on, they measure the loss
# Losses of parts do not quite add up. The sums of their powers spread the cuts more or less evenly
# over the parts; each is tried, and the fitted results are judged.
_POWERS = (0.5, 1.0, 2.0)


@torch.no_grad()
def compress(
    dense: ViT,
    pixels: Tensor,
    target: float,
    *,
    multiple: int = 8,
    heads: bool = False,
    residual: bool = False,
    criterion: Criterion = "loss",
    progress: Progress = lambda *_: None,
) -> ViT:
    """A slim variant of ``dense`` with at most ``target`` of its multiply-accumulates.

    Deterministic, and without training or labels.

    Args:
        pixels: [B, H, W, 3] uint8 calibration images, at least 8.
        target: share of the multiply-accumulates that may be left.
        multiple: sizes are multiples of it, per head too, as fast kernels want them.
        heads: also remove whole heads.
        residual: also remove channels of the residual stream.
        criterion: how values, hidden units, heads and channels are ranked.
        progress: called with stage, steps done and total steps.

    Raises :class:`~foveate.errors.InputError` for a target out of reach, before any work.
    """
    config = dense.config
    check_target(config, target, multiple=multiple, heads=heads, residual=residual)
    held = round(_HELD_OUT_SHARE * len(pixels))
    judged, pixels = pixels[:held], pixels[held:]
    inputs = block_inputs(dense, pixels[:_SEARCH_IMAGES])
    judged_inputs = block_inputs(dense, judged[:_SEARCH_IMAGES])
    blocks = list(cast(Iterable[Block], dense.blocks))
    rankings = []
    for block, x in zip(blocks, inputs[:-1], strict=True):
        rankings.append(rank_block(block, x, criterion))
        progress("rank", len(rankings), len(blocks))
    options = [sizes(shape, multiple=multiple, heads=heads) for shape in config.shapes]
    losses = measure_losses(dense, rankings, inputs, judged_inputs, options, progress)
    order, counts = torch.arange(config.dim), [config.dim]
    if residual:
        order = rank_channels(dense, inputs, criterion)
        counts += channel_counts(config, multiple)
    budget = target * macs(config, config.dim, config.shapes)
    counts = [count for count in counts if least_macs(config, count, options) <= budget]
    expected = dense(judged).log_softmax(1)
    tries = list(
        dict.fromkeys(
            (count, choose(config, count, {key: x**power for key, x in losses.items()}, target))
            for count in counts
            for power in _POWERS
        )
    )
    best: tuple[float, ViT] | None = None
    for done, (count, shapes) in enumerate(tries):
        channels = order[:count].sort().values
        kept = [keep(ranking, shape) for ranking, shape in zip(rankings, shapes, strict=True)]
        slim = cut_vit(dense, kept, channels)
        fit_vit(dense, slim, kept, channels, pixels)
        answers = slim(judged).log_softmax(1)
        loss = F.kl_div(answers, expected, log_target=True, reduction="batchmean").item()
        if best is None or loss < best[0]:
            best = loss, slim
        progress("fit", done + 1, len(tries))
    assert best is not None, "the target was checked"
    return best[1]
