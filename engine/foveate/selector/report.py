"""Quality as served, top-k; and what an instance-wise threshold would do instead."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from foveate.images.dataset import Images
from foveate.model.vit import ViT
from foveate.reduce.selector_network import Selector
from foveate.selector.decision import Fate
from foveate.selector.masked import masked_forward
from foveate.selector.pruned import Score, pruned_forward

__all__ = ["served_report", "threshold_report"]

_BATCH = 32


@torch.inference_mode()
def served_report(
    dense: ViT,
    vit: ViT,
    counts: Mapping[int, int],
    score: Score,
    images: Images,
    fate: Fate = "drop",
) -> dict[str, float | None]:
    """``top1`` (None without labels) and ``agreement`` with ``dense`` of a pruned ``vit``."""
    guess = torch.cat(
        [
            pruned_forward(vit, part, counts, score, fate).logits.argmax(1)
            for part in torch.split(images.pixels, _BATCH)
        ]
    )
    same = torch.cat([dense(part).argmax(1) for part in torch.split(images.pixels, _BATCH)])
    top1 = None if images.labels is None else _share(guess == images.labels)
    return {"top1": top1, "agreement": _share(guess == same)}


@torch.inference_mode()
def threshold_report(
    vit: ViT, selectors: Mapping[int, Selector], images: Images, fate: Fate = "drop"
) -> dict[str, object]:
    """Keep-probability >= 0.5 instead of a count, HeatViT's rule: for reports, never served.

    Returns ``agreement`` with the dense model, ``top1`` (None without labels) and, by block,
    patch tokens kept over images: ``mean``, ``std``, ``min``, ``p5``, ``median``, ``p95``, ``max``.
    """
    counts: dict[int, list[Tensor]] = {block: [] for block in selectors}
    guesses, dense = [], []
    for part in torch.split(images.pixels, _BATCH):
        masked = masked_forward(vit, selectors, part, fate=fate)
        guesses.append(masked.logits.argmax(1))
        dense.append(vit(part).argmax(1))
        for block, alive in masked.alive.items():
            counts[block].append(alive.sum(1))
    guess = torch.cat(guesses)
    top1 = None if images.labels is None else _share(guess == images.labels)
    return {
        "images": len(images),
        "top1": top1,
        "agreement": _share(guess == torch.cat(dense)),
        "tokens": {str(block): _spread(torch.cat(parts)) for block, parts in counts.items()},
    }


def _share(right: Tensor) -> float:
    return right.double().mean().item()


def _spread(counts: Tensor) -> dict[str, float]:
    low, median, high = counts.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    return {
        "mean": counts.mean().item(),
        "std": counts.std(correction=0).item(),
        "min": counts.min().item(),
        "p5": low,
        "median": median,
        "p95": high,
        "max": counts.max().item(),
    }
