"""Carry out a plan that merges: the rows of a group become their mean, weighted by size.

The merge of the Visual-Word Tokenizer (arXiv 2411.15397), where every size is 1, and of ToMe
(arXiv 2210.09461, section 3) and DiffRate (arXiv 2305.17997), where rows stand for several tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate_kernels.checks import FLOATS, check, check_lengths, check_one_device
from foveate_kernels.library import register
from foveate_kernels.packed import Plan, image_of_rows

__all__ = ["Merged", "merge_groups"]


class Merged(NamedTuple):
    """Rows after merging.

    x: [capacity, C] in the dtype of the input.
    cu_seqlens: [B + 1] int32.
    sizes: [capacity] float32, tokens each row stands for.
    """

    x: Tensor
    cu_seqlens: Tensor
    sizes: Tensor


def reference(
    x: Tensor,
    dest: Tensor,
    lengths: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in PyTorch. Rows are added in their order."""
    _check(x, dest, lengths, cu_seqlens, max_seqlen, capacity, sizes, (*FLOATS, torch.float64))
    out, new_cu, new_sizes = _empty(x, dest, lengths, cu_seqlens, max_seqlen, capacity, sizes)
    images, rows = len(lengths), len(x)
    base = torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=torch.int32)])
    new_cu.copy_(base.clamp(max=capacity))
    image = image_of_rows(cu_seqlens, rows)
    target = base[image].long() + dest
    gone = (dest < 0) | (image == images) | (target >= capacity)
    target.masked_fill_(gone, capacity)
    size = x.new_ones(rows, dtype=torch.float32) if sizes is None else sizes
    size = size.to(torch.promote_types(x.dtype, torch.float32))
    sums = size.new_zeros(capacity + 1).index_add_(0, target, size)
    share = size / sums[target]
    means = size.new_zeros(capacity + 1, x.shape[1])
    means.index_add_(0, target, share.unsqueeze(1) * x.to(size.dtype))
    return out.copy_(means[:capacity]), new_cu, new_sizes.copy_(sums[:capacity])


def static(
    x: Tensor,
    dest: Tensor,
    lengths: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for images of ``max_seqlen`` rows each, of which as many stay in every one.

    A product with who belongs where: few compilers add up scattered rows well.
    """
    images, n = int(cu_seqlens.shape[0]) - 1, max_seqlen
    left = capacity // images
    belongs = dest.view(-1, 1, n) == torch.arange(left, dtype=dest.dtype).unsqueeze(1)
    weighs = belongs.float() if sizes is None else belongs * sizes.view(-1, 1, n)
    sums = weighs.sum(2, keepdim=True)
    out = ((weighs / sums).to(x.dtype) @ x.view(-1, n, x.shape[1])).view(-1, x.shape[1])
    return out, torch.arange(images + 1, dtype=torch.int32) * left, sums.view(-1)


@triton.jit(do_not_specialize=["capacity"])  # it depends on T
def merge_groups_kernel(
    x_ptr,  # [T, C]
    dest_ptr,  # [T]
    lengths_ptr,  # [B]
    sizes_ptr,  # [T]
    cu_ptr,  # [B + 1]
    out_ptr,  # [capacity, C]
    new_cu_ptr,  # [B + 1]
    new_sizes_ptr,  # [capacity]
    stride_xt,
    stride_ot,
    capacity,
    C: tl.constexpr,
    HAS_SIZES: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image = tl.program_id(0)
    first = tl.program_id(1) * BLOCK_G
    block = tl.program_id(2)
    start = tl.load(cu_ptr + image).to(tl.int64)
    n = (tl.load(cu_ptr + image + 1) - start).to(tl.int32)
    # Every program adds up the images before its own: cheaper than a launch that scans them.
    others = tl.arange(0, BLOCK_B)
    base = tl.sum(tl.load(lengths_ptr + others, mask=others < image, other=0), 0)
    count = tl.load(lengths_ptr + image)
    if (first == 0) & (block == 0):
        if image == 0:
            tl.store(new_cu_ptr, 0)
        tl.store(new_cu_ptr + image + 1, tl.minimum(base + count, capacity))
    count = tl.minimum(count, capacity - base)
    if first >= count:
        return

    groups = first + tl.arange(0, BLOCK_G)
    total = tl.zeros([BLOCK_G], tl.float32)
    for low in range(0, n, BLOCK_T):
        rows = low + tl.arange(0, BLOCK_T)
        dest = tl.load(dest_ptr + start + rows, mask=rows < n, other=-1)
        size = tl.full([BLOCK_T], 1.0, tl.float32)
        if HAS_SIZES:
            size = tl.load(sizes_ptr + start + rows, mask=rows < n, other=0.0)
        member = dest[None, :] == groups[:, None]
        total += tl.sum(tl.where(member, size[None, :], 0.0), 1)

    cols = block * BLOCK_C + tl.arange(0, BLOCK_C)
    mean = tl.zeros([BLOCK_G, BLOCK_C], tl.float32)
    for low in range(0, n, BLOCK_T):
        rows = low + tl.arange(0, BLOCK_T)
        dest = tl.load(dest_ptr + start + rows, mask=rows < n, other=-1)
        size = tl.full([BLOCK_T], 1.0, tl.float32)
        if HAS_SIZES:
            size = tl.load(sizes_ptr + start + rows, mask=rows < n, other=0.0)
        wanted = (dest >= first) & (dest < first + BLOCK_G)
        # Shares before products: a row alone in its group is multiplied by 1, thus copied.
        share = tl.div_rn(size, tl.gather(total, tl.where(wanted, dest - first, 0), 0))
        member = dest[None, :] == groups[:, None]
        x = tl.load(
            x_ptr + (start + rows)[:, None] * stride_xt + cols[None, :],
            mask=wanted[:, None] & (cols < C)[None, :],
            other=0.0,
        )
        if x_ptr.dtype.element_ty == tl.float32:
            weight = tl.where(member, share[None, :], 0.0)
            mean = tl.dot(weight, x, mean, input_precision="ieee")
        else:
            # Two 16-bit halves of a share keep the product on the matrix units, and precise.
            high = share.to(x.dtype)
            rest = (share - high.to(tl.float32)).to(x.dtype)
            mean = tl.dot(tl.where(member, high[None, :], 0.0), x, mean)
            mean = tl.dot(tl.where(member, rest[None, :], 0.0), x, mean)

    written = groups < count
    to = (base + groups).to(tl.int64)
    tl.store(
        out_ptr + to[:, None] * stride_ot + cols[None, :],
        mean.to(out_ptr.dtype.element_ty),
        mask=written[:, None] & (cols < C)[None, :],
    )
    if block == 0:
        tl.store(new_sizes_ptr + to, total, mask=written)


def launch(
    x: Tensor,
    dest: Tensor,
    lengths: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, dest, lengths, cu_seqlens, max_seqlen, capacity, sizes)
    out, new_cu, new_sizes = _empty(x, dest, lengths, cu_seqlens, max_seqlen, capacity, sizes)
    images, dim = len(lengths), x.shape[1]
    if images == 0:
        return out, new_cu.zero_(), new_sizes
    block_c = 32 if x.dtype == torch.float32 else 64
    grid = (images, max(1, triton.cdiv(max_seqlen, 64)), triton.cdiv(dim, block_c))
    merge_groups_kernel[grid](
        x,
        dest,
        lengths,
        sizes,
        cu_seqlens,
        out,
        new_cu,
        new_sizes,
        x.stride(0),
        out.stride(0),
        capacity,
        C=dim,
        HAS_SIZES=sizes is not None,
        BLOCK_B=max(64, triton.next_power_of_2(images)),
        BLOCK_G=64,
        BLOCK_T=32,
        BLOCK_C=block_c,
        num_warps=4,
    )
    return out, new_cu, new_sizes


def merge_groups(
    x: Tensor,
    plan: Plan,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    capacity: int | None = None,
    sizes: Tensor | None = None,
) -> Merged:
    """Mean of the rows of each group; one launch, nothing read back.

    A row alone in its group is copied to the bit. Dropped rows are not read; a NaN or an infinity
    in any other may spoil rows of its image, never of another.

    Args:
        x: [T, C] float16, bfloat16 or float32.
        plan: of ``bipartite_match`` or ``match_kept``: without packages.
        cu_seqlens: [B + 1] int32, of ``x``.
        max_seqlen: upper bound of an image's rows.
        capacity: rows of the result, T unless given. What does not fit is cut off, and
            ``cu_seqlens`` says so.
        sizes: [T] float32 positive, tokens each row stands for; 1 unless given.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    capacity = x.shape[0] if capacity is None else capacity
    return Merged(*_op(x, plan.dest, plan.lengths, cu_seqlens, max_seqlen, capacity, sizes))


def _check(
    x: Tensor,
    dest: Tensor,
    lengths: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> None:
    check("x", x, (None, None), dtypes)
    if x.shape[1] < 1:
        raise ValueError(f"x.shape={list(x.shape)}: expected 1 column or more")
    check("plan.dest", dest, (x.shape[0],), (torch.int32,))
    check("plan.lengths", lengths, (cu_seqlens.shape[0] - 1,), (torch.int32,))
    if sizes is not None:
        check("sizes", sizes, (x.shape[0],), (torch.float32,))
    if capacity < 0:
        raise ValueError(f"capacity={capacity}: expected 0 or more")
    check_lengths(cu_seqlens, x.shape[0], max_seqlen)
    check_one_device(x=x, dest=dest, lengths=lengths, cu_seqlens=cu_seqlens, sizes=sizes)


def _empty(
    x: Tensor,
    dest: Tensor,
    lengths: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(capacity, x.shape[1]),
        torch.empty_like(cu_seqlens),
        x.new_empty(capacity, dtype=torch.float32),
    )


_op = register(
    "merge_groups(Tensor x, Tensor dest, Tensor lengths, Tensor cu_seqlens, SymInt max_seqlen,"
    " SymInt capacity, Tensor? sizes) -> (Tensor, Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    fake=_empty,
    static=static,
)
