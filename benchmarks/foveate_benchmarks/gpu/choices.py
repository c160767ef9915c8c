"""How much similarity the choices of a kernel give away, at most, against float64.

Cosines that differ by a rounding make either choice right; a wrong one gives away much more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.packed import FOLDED

__all__ = ["CHOICES", "REGRET"]

REGRET = 1e-4
INVALID = float("inf")  # no choice at all: a place that does not exist

Arguments = dict[str, Any]


def bipartite(arguments: Arguments, outputs: list[Tensor]) -> float:
    """ToMe: which even rows merge, and into which odd ones."""
    worst, prefix, r = 0.0, arguments["prefix"], arguments["r"]
    for image, low, high in _images(arguments["cu_seqlens"]):
        rows = F.normalize(arguments["metric"][low:high].double(), dim=1)
        place, count = outputs[0][low:high].long(), int(outputs[1][image])
        similarity = rows[0::2] @ rows[1::2].T
        odd = similarity.shape[1]
        unmerged = count - odd
        even_place = place[0::2]
        merged = even_place >= unmerged
        movable = torch.arange(len(merged)) * 2 >= prefix
        similarity[:, torch.arange(odd) * 2 + 1 < prefix] = -2.0
        wanted = min(r, int(movable.sum())) if odd * 2 > prefix else 0
        mate = even_place[merged] - unmerged
        if (
            int(merged.sum()) != wanted
            or (merged & ~movable).any()
            or not torch.equal(even_place[~merged], torch.arange(unmerged))
            or not torch.equal(place[1::2], unmerged + torch.arange(odd))
            or (mate >= odd).any()
        ):
            return INVALID
        if wanted:
            best = similarity.max(1).values
            worst = max(worst, float((best[merged] - similarity[merged, mate]).max()))
            if (left := movable & ~merged).any():
                worst = max(worst, float(best[left].max() - best[merged].min()))
    return worst


def kept(arguments: Arguments, outputs: list[Tensor]) -> float:
    """TPS: which kept row each folded one goes to."""
    worst, (out,) = 0.0, outputs
    for _, low, high in _images(arguments["cu_seqlens"]):
        rows = F.normalize(arguments["x"][low:high].double(), dim=1)
        before, after = arguments["dest"][low:high], out[low:high]
        folded, stays = before == FOLDED, before >= arguments["prefix"]
        if not torch.equal(before[~folded], after[~folded]):
            return INVALID
        if not folded.any():
            continue
        chosen = after[folded][:, None] == before[stays][None, :]
        if not (chosen.sum(1) == 1).all():
            return INVALID
        similarity = rows[folded] @ rows[stays].T
        worst = max(worst, float((similarity.max(1).values - similarity[chosen]).max()))
    return worst


def words(arguments: Arguments, outputs: list[Tensor]) -> float:
    """VWT: which word each patch matches."""
    patches, vocabulary = arguments["patches"].double(), arguments["words"].double()
    word = outputs[0].long()
    if not ((word >= 0) & (word < len(vocabulary))).all():
        return INVALID
    if arguments["metric"] == "cosine":
        score = F.normalize(patches, dim=1) @ F.normalize(vocabulary, dim=1).T
    else:
        score = -torch.cdist(patches, vocabulary).square()
        score /= score.abs().max()
    return float((score.max(1).values - score.gather(1, word[:, None])[:, 0]).max())


def _images(cu_seqlens: Tensor) -> Iterator[tuple[int, int, int]]:
    """Number, first and last row of each image that has rows."""
    for image, (low, high) in enumerate(pairwise(cu_seqlens.tolist())):
        if high > low:
            yield image, low, high


CHOICES: dict[str, Callable[[Arguments, list[Tensor]], float]] = {
    "bipartite_match": bipartite,
    "match_kept": kept,
    "vwt_assign": words,
}
