"""Memory of the host that a device copies by itself, beside the device's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Mirror"]


class Mirror:
    """Two tensors of one shape. Where the device is the CPU, both are the same, and nothing moves.

    The host's is pinned: a copy is queued behind what the current stream does, and waits for
    nobody.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self.host = torch.zeros(*shape, dtype=dtype, pin_memory=device.type == "cuda")
        self.device: Tensor = self.host.to(device)

    def push(self, rows: slice | int) -> None:
        """To the device."""
        if self.device is not self.host:
            self.device[rows].copy_(self.host[rows], non_blocking=True)

    def pull(self, rows: slice | int) -> None:
        """From the device."""
        if self.device is not self.host:
            self.host[rows].copy_(self.device[rows], non_blocking=True)
