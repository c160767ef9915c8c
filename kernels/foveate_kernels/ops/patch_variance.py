"""How far each patch is from flat: what VWT ranks patches by (arXiv 2411.15397 §3.1, intra-image).

The paper pools the channels, which takes a flat patch of a saturated colour for a busy one; here
the variance within each channel is summed over the channels. On grey images both rank alike. One
mean and std for all channels, so raw pixels rank as normalised ones do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate_kernels.checks import check
from foveate_kernels.library import register

__all__ = ["patch_variance", "row_variance"]


def row_variance(rows: Tensor) -> Tensor:
    """The score of patches cut already: [T, D] float of integers 0..255, channels last -> [T].

    Integer sums are exact in any order, so a ranking never depends on the batch.
    """
    d = rows.shape[-1]
    exact = rows if d * 255**2 < 2**24 else rows.double()
    totals = exact.view(*rows.shape[:-1], d // 3, 3).sum(-2).double()
    return (d // 3 * (exact * exact).sum(-1).double() - (totals * totals).sum(-1)).float()


def reference(images: Tensor, patch: int) -> Tensor:
    """The same in PyTorch."""
    _check(images, patch)
    b, h, w, c = images.shape
    cut = images.reshape(b, h // patch, patch, w // patch, patch, c).permute(0, 1, 3, 2, 4, 5)
    return row_variance(cut.reshape(-1, patch * patch * c).float())


@triton.jit(do_not_specialize=["patches"])
def patch_variance_kernel(
    images_ptr,  # [B, H, W, 3]
    out_ptr,  # [B * N]
    patches,
    across,
    P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    patch = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    at = tl.arange(0, BLOCK_D)
    tile = (patch < patches)[:, None] & (at < P * P * 3)[None, :]
    # Bytes before the patch: whole bands of P lines, then patches of the same band.
    corner = (patch // across) * (P * P * 3 * across) + (patch % across) * (P * 3)
    inside = at // (P * 3) * (P * 3 * across) + at % (P * 3)
    x = tl.load(images_ptr + corner[:, None] + inside[None, :], mask=tile, other=0).to(tl.int32)
    spread = tl.sum(x * x, 1).to(tl.int64) * (P * P)
    for channel in tl.static_range(3):
        total = tl.sum(tl.where((at % 3 == channel)[None, :], x, 0), 1).to(tl.int64)
        spread -= total * total
    tl.store(out_ptr + patch, spread.to(tl.float32), mask=patch < patches)


def launch(images: Tensor, patch: int) -> Tensor:
    _check(images, patch)
    out = _empty(images, patch)
    if len(out) == 0:
        return out
    block = triton.next_power_of_2(patch * patch * 3)
    rows = max(1, 4096 // block)  # 32 bytes a thread
    patch_variance_kernel[(triton.cdiv(len(out), rows),)](
        images,
        out,
        len(out),
        images.shape[2] // patch,
        P=patch,
        BLOCK_T=rows,
        BLOCK_D=block,
        num_warps=4,
    )
    return out


def patch_variance(images: Tensor, patch: int) -> Tensor:
    """Variance of each patch within its channels, summed over the channels, times (patch²)².

    Args:
        images: [B, H, W, 3] uint8, contiguous.
        patch: side of a patch, 1 to 64, a divisor of H and W.

    Returns:
        [B * N] float32 in raster order: an exact integer, rounded once.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    out: Tensor = _op(images, patch)
    return out


def _check(images: Tensor, patch: int) -> None:
    check("images", images, (None, None, None, 3), (torch.uint8,))
    if not images.is_contiguous():
        raise ValueError(f"images.stride={images.stride()}: expected a contiguous tensor")
    height, width = images.shape[1:3]
    if not 1 <= patch <= 64 or height % patch or width % patch:
        raise ValueError(
            f"patch={patch}: expected 1 to 64 and a divisor of height {height} and width {width}"
        )


def _empty(images: Tensor, patch: int) -> Tensor:
    b, h, w, _ = images.shape
    return images.new_empty(b * (h // patch) * (w // patch), dtype=torch.float32)


_op = register(
    "patch_variance(Tensor images, SymInt patch) -> Tensor",
    cpu=reference,
    cuda=launch,
    fake=_empty,
    static=reference,
)
