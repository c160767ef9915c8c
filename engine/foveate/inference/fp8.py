"""Products of matrices in FP8 (e4m3), for levels that say so.

qkv, proj, fc1 and fc2 of each block are; embedding, norms, attention and head stay as they are.
Each row of an activation has its own scale, found where the row is made, and so has each output of
a weight: nothing has to be calibrated, and no image changes the answer to another. GPUs multiply so
from compute capability 8.9 on. Elsewhere the same can be computed in the dtype of the model, to
measure what FP8 costs in accuracy.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.levels.ladder import Ladder
from foveate.model.vit import Block, ViT
from foveate_kernels.fp8 import quantized
from foveate_kernels.ops import quantize_rows

__all__ = ["Fp8Linear", "Fp8Rows", "has_fp8", "in_fp8", "without_fp8"]

_log = logging.getLogger(__name__)

_MULTIPLE = 16  # of both sizes of a weight, which the matrix units take


def has_fp8(device: torch.device) -> bool:
    """Whether its matrix units multiply e4m3, and this PyTorch knows how.

    One product is tried: those with a scale for each row came to PyTorch generation by generation
    of GPUs, to some long after FP8 itself.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    values = torch.zeros(64, 64, device=device).to(torch.float8_e4m3fn)
    scale, bias = torch.ones(64, device=device), torch.zeros(64, device=device).bfloat16()
    try:
        _multiplied(values, scale, values, scale, bias)
    except RuntimeError as error:
        _log.info("%s, PyTorch %s: no product in FP8: %s", device, torch.__version__, error)
        return False
    return True


def without_fp8(ladder: Ladder, device: torch.device) -> str:
    """Which levels run otherwise than they were measured, in words; empty if none does."""
    names = [level.name for level in ladder.levels if level.precision == "fp8"]
    if not names or has_fp8(device):
        return ""
    return (
        f"PyTorch {torch.__version__} has no FP8 on {device}: levels {', '.join(names)} run in the "
        "precision of the others, which is slower and no less exact"
    )


class Fp8Rows(NamedTuple):
    """Rows to multiply: ``values * scale``."""

    values: Tensor  # [T, C] float8_e4m3fn
    scale: Tensor  # [T] float32


class Fp8Linear(nn.Module):
    """A linear layer whose product is in FP8, summed in float32."""

    def __init__(self, linear: nn.Linear, device: torch.device, dtype: torch.dtype) -> None:
        """``dtype`` is that of what it gives; on a GPU bfloat16, which is all that PyTorch's
        product with a scale for each row gives everywhere."""
        super().__init__()
        weight, scale = quantized(linear.weight.detach().float())
        self.weight, self.scale = weight.to(device), scale.to(device)
        self.bias = linear.bias.detach().to(device, dtype)

    def forward(self, x: Tensor | Fp8Rows) -> Tensor:
        """[T, K] -> [T, N]. Rounds rows that are not in FP8 yet."""
        values, scale = x if isinstance(x, Fp8Rows) else quantize_rows(x)
        if values.device.type == "cuda":
            return _multiplied(values, scale, self.weight, self.scale, self.bias)
        wide = torch.promote_types(self.bias.dtype, torch.float32)
        product = F.linear(values.to(wide), self.weight.to(wide))
        return (product * (scale.unsqueeze(1) * self.scale) + self.bias).to(self.bias.dtype)


def _multiplied(
    values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor
) -> Tensor:
    """Rows [T, K] and weight [N, K], in FP8 with scales [T] and [N], to [T, N] in bfloat16."""
    return torch._scaled_mm(
        values,
        weight.t(),
        scale_a=scale.unsqueeze(1),
        scale_b=weight_scale.unsqueeze(0),
        bias=bias,
        out_dtype=bias.dtype,
        use_fast_accum=True,
    )


def in_fp8(vit: ViT, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> ViT:
    """A copy on ``device`` with the products of its blocks in FP8, and all else in ``dtype``.

    Weights whose sizes are no multiples of 16, as slim variants may have, stay in ``dtype``.
    """
    copied = copy.deepcopy(vit).to(device, dtype)
    pairs = zip(
        cast(Iterable[Block], vit.blocks), cast(Iterable[Block], copied.blocks), strict=True
    )
    for block, own in pairs:
        for source, target in ((block.attn, own.attn), (block.mlp, own.mlp)):
            for name, linear in source.named_children():
                if isinstance(linear, nn.Linear) and not any(
                    size % _MULTIPLE for size in linear.weight.shape
                ):
                    setattr(target, name, Fp8Linear(linear, device, dtype))
    return copied
