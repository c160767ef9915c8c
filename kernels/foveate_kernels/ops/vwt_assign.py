"""Nearest visual word of each patch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["vwt_assign"]


def vwt_assign(patches: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Word with the smallest cosine distance 1 - cos(patch, word), and that distance.

    The matching of the Visual-Word Tokenizer (arXiv 2411.15397, inter-image). A flat patch of zeros
    has distance 1 to every word and takes word 0.

    Args:
        patches: [B, n, D] normalised pixels.
        words: [K, D] visual words of unit length.

    Returns:
        word [B, n] int64 and distance [B, n] float. Each image is one product of its own, so its
        words do not depend on the other images of the batch.
    """
    unit = F.normalize(patches, dim=-1)
    best = [(image @ words.T).max(-1) for image in unit]
    similarity = torch.stack([b.values for b in best])
    return torch.stack([b.indices for b in best]), 1.0 - similarity
