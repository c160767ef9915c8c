"""In which precision a model answers as it does in fp32."""

from __future__ import annotations

import copy
import logging
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from foveate.inference.fixed import PLAIN, Forward, Routes
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT
from foveate.settings import Precision

__all__ = ["Precision", "difference", "gpu_dtype", "picture"]

_log = logging.getLogger(__name__)

_TOLERANCE = 0.05  # most that a score of level 0 may differ in 16 bits
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@lru_cache(maxsize=4)  # a calibration starts many engines of one model
def gpu_dtype(vit: ViT, device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """What a model computes in on a GPU.

    ``auto``: fp16 where level 0 answers a picture in it as in fp32, else bf16. Whatever is asked
    for, fp32 is used where 16 bits answer otherwise.
    """
    wanted = ["fp16", "bf16", "fp32"] if precision == "auto" else [precision, "fp32"]
    expected = _scores(vit, PLAIN)
    for own, following in pairwise(wanted):
        scores = _scores(copy.deepcopy(vit).to(device, _DTYPES[own]), Routes())
        if not (differs := difference(scores, expected, own)):
            return _DTYPES[own]
        _log.warning("%s; levels run in %s", differs, following)
    return torch.float32


def difference(scores: Tensor, expected: Tensor, precision: str) -> str:
    """How the scores [classes] of level 0 differ from those in fp32; empty if they do not."""
    apart = float((scores - expected).abs().max())
    if not apart <= _TOLERANCE:
        return f"in {precision}, a score of level 0 is off by {apart:.2f}"
    # Of classes that score nearly the same, either may come first.
    if expected.max() - expected[scores.argmax()] > _TOLERANCE:
        return f"in {precision}, level 0 answers another class"
    return ""


@torch.inference_mode()
def _scores(vit: ViT, routes: Routes) -> Tensor:
    """Of the picture, by the dense model where it is: [classes] float32."""
    device = vit.cls_token.device
    pixels = picture(vit.config.height, vit.config.width).unsqueeze(0).to(device)
    present = torch.arange(2, dtype=torch.int32, device=device)
    return Forward(Schedule(), vit, None, routes)(pixels, present)[0][0].float().cpu()


def picture(height: int, width: int) -> Tensor:
    """A picture with flat, shaded, edged and noisy parts: [H, W, 3] uint8, always the same."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    shaded = torch.stack([x, y, 1 - x * y], 2)
    disc = ((x - 0.6).square() + (y - 0.4).square() < 0.06).unsqueeze(2)
    noise = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    noisy = ((x < 0.3) & (y > 0.6)).unsqueeze(2)
    picture = torch.where(noisy, noise, torch.where(disc, 1 - shaded, shaded))
    return (picture * 255).to(torch.uint8)
