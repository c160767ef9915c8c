"""Packed sequences: the rows of all images behind one another, [T, ...], and where each begins.

``cu_seqlens`` [B + 1] int32 holds the first row of each image and, last, the end; an image may have
no rows. ``max_seqlen`` is an upper bound known on the host, never the batch's own maximum: it is
baked into CUDA graphs. Rows from ``cu_seqlens[-1]`` on are spare: nobody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DROPPED", "FOLDED", "Plan", "blocks", "image_of_rows", "ranks", "uniform"]

DROPPED = -1
FOLDED = -2


class Plan(NamedTuple):
    """Where each row goes: what selection and matching decide, and compaction carries out.

    dest: [T] int32, the row's new place within its image, ``DROPPED``, or ``FOLDED`` into the
        image's package token.
    lengths: [B] int32, rows each image has afterwards, its package included.
    packaged: [B] int32, 1 where the last of them is a package token, else 0.
    weight: [T] float32, share of a row in the package it is folded into, before normalisation;
        None: equal shares.
    """

    dest: Tensor
    lengths: Tensor
    packaged: Tensor
    weight: Tensor | None


def uniform(images: int, length: int, device: torch.device | str = "cpu") -> Tensor:
    """``cu_seqlens`` of images that all have ``length`` rows."""
    return torch.arange(images + 1, dtype=torch.int32, device=device) * length


def blocks(
    cu_seqlens: Tensor, max_seqlen: int, alike: bool = True
) -> Iterator[tuple[slice, slice, int]]:
    """Images that can be computed as one rectangle: (images, their rows, rows of each).

    Everything at once where all images have ``max_seqlen`` rows, as fixed counts give them, and are
    otherwise ``alike``; else image by image, without the empty ones. References compute by
    rectangles: what an image gives is the same either way.
    """
    ends = cu_seqlens.tolist()
    images, rows = len(ends) - 1, ends[-1]
    if alike and 0 < rows == images * max_seqlen:
        yield slice(0, images), slice(0, rows), max_seqlen
        return
    for image, (low, high) in enumerate(pairwise(ends)):
        if high > low:
            yield slice(image, image + 1), slice(low, high), high - low


def image_of_rows(cu_seqlens: Tensor, rows: int) -> Tensor:
    """Image of each row, [rows] int64; spare rows belong to image B."""
    row = torch.arange(rows, dtype=torch.int32, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), row, right=True)


def ranks(scores: Tensor) -> Tensor:
    """How many of an image's rows are better than each: [B, n] -> [B, n] int; of equal ones, the
    first is better.

    n² comparisons: compiled, they take a fraction of a sort.
    """
    row = torch.arange(scores.shape[1])
    mine, other = scores.unsqueeze(2), scores.unsqueeze(1)
    better = (other > mine) | ((other == mine) & (row < row.unsqueeze(1)))
    return better.int().sum(2)
