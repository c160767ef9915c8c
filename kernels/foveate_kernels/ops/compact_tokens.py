"""Carry out a plan: gather the rows that stay, fold the others into one package token an image.

The package is SPViT's (arXiv 2112.13890, eq. 9), a mean weighted by scores, or with
``normalize=False`` EViT's (arXiv 2202.07800), the weighted sum.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate_kernels.checks import FLOATS, check, check_lengths, check_one_device
from foveate_kernels.library import register
from foveate_kernels.packed import FOLDED, Plan, blocks

__all__ = ["Compacted", "compact_tokens"]


class Compacted(NamedTuple):
    """Rows after compaction.

    x: [capacity, C] in the dtype of the input.
    cu_seqlens: [B + 1] int32.
    sizes: [capacity] float32, tokens each row stands for, if sizes were given.
    """

    x: Tensor
    cu_seqlens: Tensor
    sizes: Tensor | None


def reference(
    x: Tensor,
    dest: Tensor,
    count: Tensor,
    packaged: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in PyTorch."""
    wide = (*FLOATS, torch.float64)
    _check(x, dest, count, packaged, weight, cu_seqlens, max_seqlen, capacity, sizes, wide)
    lengths = count.tolist()
    ends = [min(end, capacity) for end in accumulate(lengths, initial=0)]
    alike = len({*lengths}) == 1 and len(x) == len(lengths) * max_seqlen
    if alike:  # and each keeps as many: one may keep an old package where another makes one
        alike = len({*(dest.view(len(lengths), -1) >= 0).sum(1).tolist()}) == 1
    parts, own = [], []
    for _, rows, n in blocks(cu_seqlens, max_seqlen, alike):
        fates = dest[rows].view(-1, n)
        weights = None if weight is None else weight[rows].view(-1, n)
        parts.append(_rectangle(x[rows].view(-1, n, x.shape[1]), fates, weights, normalize))
        if sizes is not None:
            summed = _rectangle(sizes[rows].view(-1, n, 1), fates, None, normalize=False)
            own.append(summed.squeeze(1))
    out = _filled(parts, x, capacity)
    new_sizes = x.new_empty(0, dtype=torch.float32) if sizes is None else sizes
    if sizes is not None:
        new_sizes = _filled(own, sizes, capacity)
    return out, cu_seqlens.new_tensor(ends), new_sizes


def static(
    x: Tensor,
    dest: Tensor,
    count: Tensor,
    packaged: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for images of ``max_seqlen`` rows each, of which as many stay in every one:
    ``capacity`` is the rows that stay."""
    images, n = int(cu_seqlens.shape[0]) - 1, max_seqlen
    left, fate = capacity // images, dest.view(-1, n)
    folded = fate == FOLDED
    folds = int(folded.any())  # a new package is the last row
    goes = fate.unsqueeze(1) == torch.arange(left - folds, dtype=fate.dtype).unsqueeze(1)
    source = (goes.int() * torch.arange(n)).sum(2)
    first = n * torch.arange(fate.shape[0]).unsqueeze(1)
    kept = (source + first).view(-1)
    out, own = x.index_select(0, kept), None if sizes is None else sizes.index_select(0, kept)
    if folds:
        share = folded.float() if weight is None else folded * weight.view(-1, n)
        if normalize:
            total, members = share.sum(1, keepdim=True), folded.sum(1, keepdim=True)
            share = torch.where(total > 0, share / total, folded / members)
        package = share.unsqueeze(1).to(x.dtype) @ x.view(-1, n, x.shape[1])
        out = torch.cat([out.view(-1, left - 1, x.shape[1]), package], 1).view(-1, x.shape[1])
        if own is not None and sizes is not None:
            total = (folded * sizes.view(-1, n)).sum(1, keepdim=True)
            own = torch.cat([own.view(-1, left - 1), total], 1).view(-1)
    ends = torch.arange(images + 1, dtype=torch.int32) * left
    return out, ends, x.new_empty(0, dtype=torch.float32) if own is None else own


def _filled(parts: list[Tensor], like: Tensor, capacity: int) -> Tensor:
    """The parts behind one another, cut off at ``capacity`` rows or with spare ones after them."""
    rows = parts[0] if len(parts) == 1 else torch.cat([like[:0], *parts])
    if len(rows) >= capacity:
        return rows[:capacity]
    out = rows.new_empty(capacity, *rows.shape[1:])
    out[: len(rows)] = rows
    return out


def _rectangle(x: Tensor, dest: Tensor, weight: Tensor | None, normalize: bool) -> Tensor:
    """Rows left of images [b, n, C] that all lose and fold as many: [b * m, C]."""
    b, n, c = x.shape
    flat, where = x.reshape(b * n, c), dest.reshape(-1)
    kept = flat.index_select(0, (where >= 0).nonzero().squeeze(1)).view(b, -1, c)
    folded = (where == FOLDED).nonzero().squeeze(1)
    if len(folded) == 0:
        return kept.view(-1, c)
    members, wide = len(folded) // b, torch.promote_types(x.dtype, torch.float32)
    if weight is None and members + kept.shape[1] == n:
        # What is folded is what is not kept: a difference of sums, and its rows are not copied.
        package = x.sum(1, dtype=wide) - kept.sum(1, dtype=wide)
        package = package / members if normalize else package
    else:
        share = where.new_ones(len(folded)) if weight is None else weight.reshape(-1)[folded]
        share = share.view(b, members).to(wide)
        if normalize:
            total = share.sum(1, keepdim=True)
            share = torch.where(total > 0, share / total, 1.0 / members)
        rows = flat.index_select(0, folded).view(b, members, c).to(wide)
        package = (share.unsqueeze(-1) * rows).sum(1)
    return torch.cat([kept, package.unsqueeze(1).to(x.dtype)], 1).view(-1, c)


@triton.jit(do_not_specialize=["capacity"])
def compact_tokens_kernel(
    x_ptr,  # [T, C]
    dest_ptr,  # [T]
    count_ptr,  # [B]
    packaged_ptr,  # [B]
    weight_ptr,  # [T]
    sizes_ptr,  # [T]
    cu_ptr,  # [B + 1]
    out_ptr,  # [capacity, C]
    new_cu_ptr,  # [B + 1]
    new_sizes_ptr,  # [capacity]
    stride_xt,
    stride_ot,
    capacity,
    width,
    HAS_WEIGHT: tl.constexpr,
    HAS_SIZES: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image = tl.program_id(0)
    block = tl.program_id(1)
    start = tl.load(cu_ptr + image).to(tl.int64)
    n = tl.load(cu_ptr + image + 1) - tl.load(cu_ptr + image)
    # Every program adds up the images before its own: cheaper than a launch that scans them.
    others = tl.arange(0, BLOCK_B)
    base = tl.sum(tl.load(count_ptr + others, mask=others < image, other=0), 0)
    count = tl.load(count_ptr + image)
    if block == 0:
        if image == 0:
            tl.store(new_cu_ptr, 0)
        tl.store(new_cu_ptr + image + 1, tl.minimum(base + count, capacity))

    cols = block * BLOCK_C + tl.arange(0, BLOCK_C)
    in_cols = cols < width
    weighted = tl.zeros([BLOCK_C], tl.float32)
    plain = tl.zeros([BLOCK_C], tl.float32)
    total = 0.0
    members = 0
    size = 0.0
    for low in range(0, n, BLOCK_T):
        rows = low + tl.arange(0, BLOCK_T)
        in_rows = rows < n
        dest = tl.load(dest_ptr + start + rows, mask=in_rows, other=-1)
        wanted = ((dest >= 0) | (dest == -2))[:, None] & in_cols[None, :]
        x = tl.load(
            x_ptr + (start + rows)[:, None] * stride_xt + cols[None, :], mask=wanted, other=0.0
        )
        target = base + dest
        stays = (dest >= 0) & (target < capacity)
        to = out_ptr + target.to(tl.int64)[:, None] * stride_ot + cols[None, :]
        tl.store(to, x, mask=stays[:, None] & in_cols[None, :])
        folded = dest == -2
        weight = folded.to(tl.float32)
        if HAS_WEIGHT:
            weight = tl.load(weight_ptr + start + rows, mask=folded, other=0.0)
        wide = tl.where(folded[:, None], x.to(tl.float32), 0.0)
        weighted += tl.sum(weight[:, None] * wide, 0)
        plain += tl.sum(wide, 0)
        total += tl.sum(weight, 0)
        members += tl.sum(folded.to(tl.int32), 0)
        if HAS_SIZES:
            if block == 0:
                row_size = tl.load(sizes_ptr + start + rows, mask=in_rows, other=0.0)
                tl.store(new_sizes_ptr + target, row_size, mask=stays)
                size += tl.sum(tl.where(folded, row_size, 0.0), 0)

    last = base + count - 1
    # Without members an old package has stayed where it was, or there is none.
    if (tl.load(packaged_ptr + image) > 0) & (members > 0) & (last < capacity):
        if NORMALIZE:
            if total > 0:
                weighted = weighted / total
            else:
                weighted = plain / members
        to = out_ptr + last.to(tl.int64) * stride_ot + cols
        tl.store(to, weighted.to(out_ptr.dtype.element_ty), mask=in_cols)
        if HAS_SIZES:
            if block == 0:
                tl.store(new_sizes_ptr + last, size)


def launch(
    x: Tensor,
    dest: Tensor,
    count: Tensor,
    packaged: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, dest, count, packaged, weight, cu_seqlens, max_seqlen, capacity, sizes)
    out, new_cu, new_sizes = _empty(
        x, dest, count, packaged, weight, cu_seqlens, max_seqlen, capacity, sizes
    )
    images, dim = count.shape[0], x.shape[1]
    if images == 0:
        return out, new_cu.zero_(), new_sizes
    compact_tokens_kernel[(images, triton.cdiv(dim, 64))](
        x,
        dest,
        count,
        packaged,
        weight,
        sizes,
        cu_seqlens,
        out,
        new_cu,
        new_sizes,
        x.stride(0),
        out.stride(0),
        capacity,
        dim,
        HAS_WEIGHT=weight is not None,
        HAS_SIZES=sizes is not None,
        NORMALIZE=normalize,
        BLOCK_B=max(64, triton.next_power_of_2(images)),
        BLOCK_T=64,
        BLOCK_C=64,
        num_warps=4,
    )
    return out, new_cu, new_sizes


def compact_tokens(
    x: Tensor,
    plan: Plan,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    capacity: int | None = None,
    sizes: Tensor | None = None,
    normalize: bool = True,
) -> Compacted:
    """Move rows to their places and make the package tokens; one launch, nothing read back.

    Rows that stay are copied to the bit. A package is the mean of its rows weighted by
    ``plan.weight``, which should not be negative; where they sum up to nothing, the plain mean.

    Args:
        x: [T, C] float16, bfloat16 or float32.
        plan: of ``select_tokens``: rows that stay keep their order, none is left to merge.
        cu_seqlens: [B + 1] int32, of ``x``.
        max_seqlen: upper bound of an image's rows.
        capacity: rows of the result, T unless given. What does not fit is cut off, and
            ``cu_seqlens`` says so.
        sizes: [T] float32 tokens each row stands for.
        normalize: divide the package by its weights.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    capacity = x.shape[0] if capacity is None else capacity
    out, new_cu, new_sizes = _op(x, *plan, cu_seqlens, max_seqlen, capacity, sizes, normalize)
    return Compacted(out, new_cu, None if sizes is None else new_sizes)


def _check(
    x: Tensor,
    dest: Tensor,
    count: Tensor,
    packaged: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> None:
    check("x", x, (None, None), dtypes)
    if x.shape[1] < 1:
        raise ValueError(f"x.shape={list(x.shape)}: expected 1 column or more")
    rows, images = x.shape[0], cu_seqlens.shape[0] - 1
    check("plan.dest", dest, (rows,), (torch.int32,))
    check("plan.lengths", count, (images,), (torch.int32,))
    check("plan.packaged", packaged, (images,), (torch.int32,))
    if weight is not None:
        check("plan.weight", weight, (rows,), (torch.float32,))
    if sizes is not None:
        check("sizes", sizes, (rows,), (torch.float32,))
    if capacity < 0:
        raise ValueError(f"capacity={capacity}: expected 0 or more")
    check_lengths(cu_seqlens, rows, max_seqlen)
    check_one_device(
        x=x,
        dest=dest,
        count=count,
        packaged=packaged,
        weight=weight,
        cu_seqlens=cu_seqlens,
        sizes=sizes,
    )


def _empty(
    x: Tensor,
    dest: Tensor,
    count: Tensor,
    packaged: Tensor,
    weight: Tensor | None,
    cu_seqlens: Tensor,
    max_seqlen: int,
    capacity: int,
    sizes: Tensor | None,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(capacity, x.shape[1]),
        torch.empty_like(cu_seqlens),
        x.new_empty(0 if sizes is None else capacity, dtype=torch.float32),
    )


_op = register(
    "compact_tokens(Tensor x, Tensor dest, Tensor count, Tensor packaged, Tensor? weight,"
    " Tensor cu_seqlens, SymInt max_seqlen, SymInt capacity, Tensor? sizes, bool normalize)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    fake=_empty,
    static=static,
)
