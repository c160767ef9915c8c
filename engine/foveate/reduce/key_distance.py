"""Score: how unlike the others a token is, by the keys of its block; asks for no CLS token.

s_i = 1 - cos(k_i, m), with keys averaged over heads, brought to unit length, and m their mean over
the patches of the image. |m| (1 - s_i) is thus the mean cosine between a token and all of them:
PiToMe's energy (arXiv 2405.16148) without its margin, in n products where that takes n². What many
resemble goes, what is rare stays.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.reduce.rows import Rows

__all__ = ["key_distance"]


def key_distance(rows: Rows, k: Tensor) -> Tensor:
    """[1, T] float32 in 0..2; ``k`` are the keys, [T, H, d]."""
    wide = torch.promote_types(k.dtype, torch.float32)
    keys = F.normalize(k.to(wide).mean(1), dim=1).view(-1, rows.n, k.shape[2])
    mean = F.normalize(keys[:, rows.prefix :].mean(1, keepdim=True), dim=2)
    return (1 - (keys * mean).sum(2)).float().reshape(1, -1)
