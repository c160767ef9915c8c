"""Score: none. A fixed pseudo-random choice, the comparator every score must beat.

It depends on the block and the position of a row alone, so all images lose the same rows and an
answer is as repeatable as any other: positions are hashed (the finaliser of MurmurHash3).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from foveate.reduce.rows import Rows

__all__ = ["chance"]

_WORD = 0xFFFFFFFF


def chance(rows: Rows, block: int) -> Tensor:
    """[1, T] float32 in 0..1, multiples of 2⁻²⁴."""
    like = torch.zeros_like(rows.x[:, 0], dtype=torch.float32).view(-1, rows.n)
    return (like + _drawn(rows.n, block, rows.x.device)).view(1, -1)


@lru_cache
def _drawn(n: int, block: int, device: torch.device) -> Tensor:
    """Of each row of an image: [n]. Kept, for a CUDA graph cannot fetch it from the host."""
    return torch.tensor([_hash(place, block) / 2**24 for place in range(1, n + 1)], device=device)


def _hash(place: int, block: int) -> int:
    x = (place * 0x9E3779B1 + (block + 1) * 0x85EBCA77) & _WORD
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _WORD
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _WORD
    return (x ^ (x >> 16)) >> 8
