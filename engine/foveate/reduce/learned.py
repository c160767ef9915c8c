"""Score: what a trained selector says. SPViT (arXiv 2112.13890 §4.1), DynamicViT (2106.02034).

The selector gives log-odds that a token is to be kept. SPViT thresholds them, which gives every
image its own count; served, the ``keep`` highest stay. See :mod:`foveate.selector`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from foveate.reduce.rows import Rows, Seen

__all__ = ["learned"]


def learned(rows: Rows, seen: Seen) -> Tensor:
    """[1, T] float32 log-odds; 0 for tokens that always stay."""
    assert seen.selector is not None, "checked when the ladder was loaded"
    patches = rows.x.view(-1, rows.n, rows.x.shape[1])[:, rows.prefix :]
    odds = seen.selector(patches, int(rows.packaged)).float()
    return F.pad(odds, (rows.prefix, 0)).reshape(1, -1)
