"""Score: how far the MLP moves each token. Representation Shift (arXiv 2508.00367).

s = ‖MLP(LN(x))‖₂, the length of what the MLP adds to the residual stream. It asks nothing of the
attention, so any kernel for that will do and models without a CLS token have it too. The price: it
is known only after the MLP, which therefore still sees all tokens of its block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.reduce.rows import Rows, Seen

__all__ = ["mlp_shift"]


def mlp_shift(_rows: Rows, seen: Seen) -> Tensor:
    """[1, T] float32."""
    assert seen.update is not None, "it acts after the MLP"
    length: Tensor = torch.linalg.vector_norm(seen.update.float(), dim=1)
    return length.unsqueeze(0)
