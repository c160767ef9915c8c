"""Score: none. A fixed pseudo-random choice, the comparator every score must beat.

It depends on the block and the position of a row alone, so all images lose the same rows and an
answer is as repeatable as any other. Positions are hashed (the finaliser of MurmurHash3), not drawn
from a generator, so that a CUDA graph can compute it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.reduce.rows import Rows

__all__ = ["chance"]

_WORD = 0xFFFFFFFF


def chance(rows: Rows, block: int) -> Tensor:
    """[1, T] float32 in 0..1, multiples of 2⁻²⁴."""
    position = torch.arange(1, rows.n + 1, device=rows.x.device)
    x = (position * 0x9E3779B1 + (block + 1) * 0x85EBCA77) & _WORD
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _WORD
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _WORD
    x = x ^ (x >> 16)
    return ((x >> 8).float() / 2**24).repeat(rows.images).unsqueeze(0)
