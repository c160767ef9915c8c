"""Images of bytes to rows of patches, ready for the product that embeds them.

A batch crosses to the GPU as bytes, a quarter of what float32 would take. ``(x - 128) / 64`` lies
in [-2, 2) and is exact in every float dtype, so what normalises pixels is folded into the
embedding, :func:`fold_patch_embed`, and costs neither time nor a rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate_kernels.checks import FLOATS, check
from foveate_kernels.library import register

__all__ = ["fold_patch_embed", "patchify_u8"]


def reference(images: Tensor, patch: int, dtype: torch.dtype) -> Tensor:
    """The same in PyTorch, any float dtype."""
    _check(images, patch, dtype, (*FLOATS, torch.float64))
    b, h, w, c = images.shape
    cut = images.reshape(b, h // patch, patch, w // patch, patch, c).permute(0, 1, 3, 2, 4, 5)
    return (cut.reshape(-1, patch * patch * c).to(dtype) - 128) / 64


@triton.jit
def patchify_u8_kernel(
    images_ptr,  # [B, H, W, 3]
    out_ptr,  # [B * N, P * P * 3]
    patches_across,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # The images' P lines that hold one row of patches are as many bytes as these rows have numbers.
    line = patches_across * (P * 3)
    band = tl.program_id(0).to(tl.int64) * P * line
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < P * line
    patch = at // (P * P * 3)
    y = at // (P * 3) % P
    x = at % (P * 3)
    # Written in order and gathered: a run of P * 3 bytes is read from the cache.
    pixel = tl.load(images_ptr + band + y * line + patch * (P * 3) + x, mask=inside, other=0)
    value = (pixel.to(tl.float32) - 128.0) * 0.015625
    tl.store(out_ptr + band + at, value.to(out_ptr.dtype.element_ty), mask=inside)


def launch(images: Tensor, patch: int, dtype: torch.dtype) -> Tensor:
    _check(images, patch, dtype, FLOATS)
    out = _empty(images, patch, dtype)
    if out.numel() == 0:
        return out
    height, width = images.shape[1:3]
    block = 1024  # 8 numbers a thread: 8 bytes read, 16 written in a 16-bit dtype
    bands = images.shape[0] * (height // patch)
    grid = (bands, triton.cdiv(patch * width * 3, block))
    patchify_u8_kernel[grid](images, out, width // patch, P=patch, BLOCK=block, num_warps=4)
    return out


def patchify_u8(images: Tensor, patch: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """Cut images into rows of numbers ``(x - 128) / 64``, exactly.

    Args:
        images: [B, H, W, 3] uint8, contiguous.
        patch: side of a patch in pixels; divides H and W.
        dtype: of the rows: float16, bfloat16 or float32.

    Returns:
        [B * N, patch * patch * 3], N patches an image in raster order; in a row: y, x, channel.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    out: Tensor = _op(images, patch, dtype)
    return out


def fold_patch_embed(
    weight: Tensor, bias: Tensor, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The patch embedding as a product with rows of :func:`patchify_u8`.

    Computed in float64: ``weight`` and ``bias`` that act on ``(x / 255 - mean) / std`` become those
    that act on ``(x - 128) / 64``.

    Args:
        weight: [C, 3, patch, patch], of a convolution with stride ``patch``.
        bias: [C].
        mean, std: of each channel, of pixels scaled to 0..1.

    Returns:
        Weight [C, patch * patch * 3] and bias [C], float32; float64 if ``weight`` is.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    if weight.dim() != 4 or weight.shape[1] != 3 or weight.shape[2] != weight.shape[3]:
        raise ValueError(f"weight.shape={list(weight.shape)}: expected [C, 3, patch, patch]")
    check("bias", bias, (weight.shape[0],), (*FLOATS, torch.float64))
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ValueError(f"mean={mean}, std={std}: expected 3 numbers each, std above 0")
    wide = weight.double().permute(0, 2, 3, 1)  # [C, patch, patch, 3], as rows are ordered
    centre, spread = (
        torch.tensor(x, dtype=torch.float64, device=weight.device) for x in (mean, std)
    )
    scaled = wide * (64 / (255 * spread))
    shift = (wide * ((128 / 255 - centre) / spread)).sum((1, 2, 3))
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return scaled.flatten(1).to(dtype), (bias.double() + shift).to(dtype)


def _check(images: Tensor, patch: int, dtype: torch.dtype, dtypes: Sequence[torch.dtype]) -> None:
    check("images", images, (None, None, None, 3), (torch.uint8,))
    if not images.is_contiguous():
        raise ValueError(f"images.stride={images.stride()}: expected contiguous images")
    if patch < 1:
        raise ValueError(f"patch={patch}: expected 1 or more")
    for name, length in (("H", images.shape[1]), ("W", images.shape[2])):
        if length % patch:
            raise ValueError(f"images {name}={length}: expected a multiple of patch={patch}")
    if dtype not in dtypes:
        raise ValueError(f"dtype={dtype}: expected {' or '.join(map(str, dtypes))}")


def _empty(images: Tensor, patch: int, dtype: torch.dtype) -> Tensor:
    b, h, w, c = images.shape
    return images.new_empty(b * (h // patch) * (w // patch), patch * patch * c, dtype=dtype)


_op = register(
    "patchify_u8(Tensor images, SymInt patch, ScalarType dtype) -> Tensor",
    cpu=reference,
    cuda=launch,
    fake=_empty,
    static=reference,
)
