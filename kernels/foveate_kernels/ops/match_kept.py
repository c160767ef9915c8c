"""Which kept row each folded row is most like, so that it merges there instead of being packaged.

The matching of TPS (arXiv 2304.10716) and DiffRate (arXiv 2305.17997) after a selection;
``merge_groups`` carries the plan out.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.checks import FLOATS, check, check_lengths, check_one_device
from foveate_kernels.cosine import cosine_tile, inverse_norms, keep_best, nearest, tiles
from foveate_kernels.library import register
from foveate_kernels.packed import DROPPED, FOLDED, Plan

__all__ = ["match_kept"]


def reference(x: Tensor, dest: Tensor, cu_seqlens: Tensor, max_seqlen: int, prefix: int) -> Tensor:
    """The same in PyTorch, any float dtype. One product for each image: batched ones round
    differently by batch size, and what merges in an image must not depend on the others."""
    _check(x, dest, cu_seqlens, max_seqlen, prefix, (*FLOATS, torch.float64))
    wide = torch.promote_types(x.dtype, torch.float32)
    out = dest.clone()
    ends = cu_seqlens.tolist()
    for low, high in pairwise(ends):
        rows, place = x[low:high], dest[low:high]
        folded, kept = place == FOLDED, place >= prefix
        if kept.any():
            _, index = nearest(rows[folded].to(wide), rows[kept].to(wide))
            out[low:high][folded] = place[kept][index]
        else:
            out[low:high][folded] = DROPPED
    return out


def static(x: Tensor, dest: Tensor, cu_seqlens: Tensor, max_seqlen: int, prefix: int) -> Tensor:
    """The same for images of ``max_seqlen`` rows each: all pairs of rows, and those that matter."""
    n = max_seqlen
    place, unit = dest.view(-1, n), F.normalize(x, dim=1).view(-1, n, x.shape[1])
    similarity = unit @ unit.transpose(-1, -2)
    similarity = torch.where((place >= prefix).unsqueeze(1), similarity, -2.0)
    mate = place.gather(1, similarity.max(2).indices)
    return torch.where(place == FOLDED, mate, place).view(-1)


@triton.jit
def match_kept_list_kernel(
    dest_ptr,  # [T]
    cu_ptr,  # [B + 1]
    out_ptr,  # [T]
    folded_ptr,  # [T], the folded rows of an image, from its first row on
    kept_ptr,  # [T], likewise the kept ones
    folded_count_ptr,  # [B]
    kept_count_ptr,  # [B]
    prefix,
    FOLDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0)
    start = tl.load(cu_ptr + image).to(tl.int64)
    n = (tl.load(cu_ptr + image + 1).to(tl.int64) - start).to(tl.int32)
    folded_count = 0
    kept_count = 0
    for low in range(0, n, BLOCK):
        rows = low + tl.arange(0, BLOCK)
        dest = tl.load(dest_ptr + start + rows, mask=rows < n, other=-1)
        folded = (dest == FOLDED).to(tl.int32)
        kept = (dest >= prefix).to(tl.int32)
        folded_place = folded_count + tl.cumsum(folded, 0) - folded
        kept_place = kept_count + tl.cumsum(kept, 0) - kept
        tl.store(folded_ptr + start + folded_place, rows, mask=folded != 0)
        tl.store(kept_ptr + start + kept_place, rows, mask=kept != 0)
        tl.store(out_ptr + start + rows, dest, mask=(rows < n) & (folded == 0))
        folded_count += tl.sum(folded, 0)
        kept_count += tl.sum(kept, 0)
    tl.store(folded_count_ptr + image, folded_count)
    tl.store(kept_count_ptr + image, kept_count)


@triton.jit
def match_kept_kernel(
    x_ptr,  # [T, C]
    inverse_ptr,  # [T], one over the norm of each row
    dest_ptr,  # [T]
    cu_ptr,  # [B + 1]
    folded_ptr,  # [T], as above
    kept_ptr,  # [T]
    folded_count_ptr,  # [B]
    kept_count_ptr,  # [B]
    out_ptr,  # [T]
    stride_t,
    C: tl.constexpr,
    DROPPED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image = tl.program_id(1)
    folded_count = tl.load(folded_count_ptr + image)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    if tl.program_id(0) * BLOCK_M >= folded_count:
        return
    kept_count = tl.load(kept_count_ptr + image)
    start = tl.load(cu_ptr + image).to(tl.int64)
    folded = start + tl.load(folded_ptr + start + m, mask=m < folded_count, other=0)
    folded_inverse = tl.load(inverse_ptr + folded, mask=m < folded_count, other=0.0)
    best = tl.full([BLOCK_M], -float("inf"), tl.float32)
    mate = tl.zeros([BLOCK_M], tl.int32)
    for low in range(0, kept_count, BLOCK_N):
        j = low + tl.arange(0, BLOCK_N)
        kept = start + tl.load(kept_ptr + start + j, mask=j < kept_count, other=0)
        similarity = cosine_tile(
            x_ptr + folded * stride_t,
            x_ptr + kept * stride_t,
            folded_inverse,
            tl.load(inverse_ptr + kept, mask=j < kept_count, other=0.0),
            m < folded_count,
            j < kept_count,
            C,
            BLOCK_M,
            BLOCK_N,
            BLOCK_C,
        )
        best, mate = keep_best(best, mate, similarity, j < kept_count, low)
    row = tl.load(kept_ptr + start + mate, mask=mate < kept_count, other=0)
    place = tl.load(dest_ptr + start + row, mask=mate < kept_count, other=DROPPED)
    tl.store(out_ptr + folded, place, mask=m < folded_count)


def launch(x: Tensor, dest: Tensor, cu_seqlens: Tensor, max_seqlen: int, prefix: int) -> Tensor:
    _check(x, dest, cu_seqlens, max_seqlen, prefix, FLOATS)
    out = torch.empty_like(dest)
    images = cu_seqlens.shape[0] - 1
    if images == 0 or max_seqlen == 0:
        return out
    folded, kept = torch.empty_like(dest), torch.empty_like(dest)
    folded_count, kept_count = (dest.new_empty(images) for _ in range(2))
    match_kept_list_kernel[(images,)](
        dest,
        cu_seqlens,
        out,
        folded,
        kept,
        folded_count,
        kept_count,
        prefix,
        FOLDED=FOLDED,
        BLOCK=min(max(triton.next_power_of_2(max_seqlen), 128), 1024),
        num_warps=4,
    )
    blocks = tiles(x)
    match_kept_kernel[(triton.cdiv(max_seqlen, blocks["BLOCK_M"]), images)](
        x,
        inverse_norms(x, cu_seqlens),
        dest,
        cu_seqlens,
        folded,
        kept,
        folded_count,
        kept_count,
        out,
        x.stride(0),
        C=x.shape[1],
        DROPPED=DROPPED,
        **blocks,
    )
    return out


def match_kept(
    x: Tensor, plan: Plan, cu_seqlens: Tensor, max_seqlen: int, *, prefix: int = 1
) -> Plan:
    """Complete a plan: what it folds goes, row by row, into the kept row it is most similar to.

    Similarity is the cosine of ``x``; ties go to the lower row, and a NaN ranks last. Where an
    image keeps nothing but its prefix, what it folds is dropped.

    Args:
        x: [T, C] float16, bfloat16 or float32, rows may be strided.
        plan: of a selection without package tokens; rows whose ``dest`` is ``FOLDED`` are matched.
        cu_seqlens: [B + 1] int32.
        max_seqlen: upper bound of an image's rows.
        prefix: places that are not merged into: CLS and its like, kept as the first rows.

    Returns:
        The plan with another ``dest``. Spare rows are not written.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    dest: Tensor = _op(x, plan.dest, cu_seqlens, max_seqlen, prefix)
    return plan._replace(dest=dest)


def _check(
    x: Tensor,
    dest: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    prefix: int,
    dtypes: tuple[torch.dtype, ...],
) -> None:
    check("x", x, (None, None), dtypes)
    if x.shape[1] < 1:
        raise ValueError(f"x.shape={list(x.shape)}: expected a width of 1 or more")
    check("plan.dest", dest, (x.shape[0],), (torch.int32,))
    check_lengths(cu_seqlens, x.shape[0], max_seqlen)
    if prefix < 0:
        raise ValueError(f"prefix={prefix}: expected 0 or more")
    check_one_device(x=x, dest=dest, cu_seqlens=cu_seqlens)


def _empty(x: Tensor, dest: Tensor, *_: object) -> Tensor:
    return torch.empty_like(dest)


_op = register(
    "match_kept(Tensor x, Tensor dest, Tensor cu_seqlens, SymInt max_seqlen, SymInt prefix)"
    " -> Tensor",
    cpu=reference,
    cuda=launch,
    static=static,
    fake=_empty,
)
