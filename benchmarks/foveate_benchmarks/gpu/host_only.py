"""A model of Triton's Python backend: the plugin, with passes that compute nothing.

What it answers in a second is what the host can do: decisions, batches, copies to the device and
back. Copied into a model's version folder; nothing else may import it, for it changes the engine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.backend.model import TritonPythonModel
from foveate.inference.fixed import Forward

__all__ = ["TritonPythonModel"]


def _nothing(self: Forward, pixels: Tensor, present: Tensor) -> tuple[Tensor, list[Tensor]]:
    return torch.zeros(len(pixels), self.vit.config.classes, device=pixels.device), []


Forward.__call__ = _nothing  # type: ignore[method-assign]
