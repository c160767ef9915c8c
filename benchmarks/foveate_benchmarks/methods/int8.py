"""Dynamic int8: weights are stored as int8, activations are rounded anew at every product."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from foveate.model.vit import ViT

__all__ = ["quantized"]


def quantized(vit: ViT) -> ViT:
    """A copy whose linear layers multiply in int8; the patch embedding stays as it is.

    Activations get one scale per product, and a product holds all images of a batch: an answer
    depends on its batch mates, unlike any other level's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torchao, which we do without, succeeds it
        narrow: ViT = torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(vit), {nn.Linear}, dtype=torch.qint8
        )
    return narrow
