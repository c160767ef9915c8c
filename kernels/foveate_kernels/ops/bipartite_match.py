"""Which rows merge into which: bipartite soft matching of ToMe (arXiv 2210.09461, section 3).

Even rows look for their most similar odd row, and the r most similar of them merge into it.
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
from foveate_kernels.packed import Plan, ranks
from foveate_kernels.topk import sortable, top_mask

__all__ = ["bipartite_match"]

MAX_ROWS = 8192  # of an image: half of them are ranked at once, 16 a thread


def reference(
    metric: Tensor, cu_seqlens: Tensor, max_seqlen: int, r: int, prefix: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same in PyTorch, any float dtype. One product for each image: batched ones round
    differently by batch size, and what merges in an image must not depend on the others."""
    _check(metric, cu_seqlens, max_seqlen, r, prefix, (*FLOATS, torch.float64))
    wide = torch.promote_types(metric.dtype, torch.float32)
    dest, count, packaged, weight = _empty(metric, cu_seqlens)
    ends = cu_seqlens.tolist()
    for image, (low, high) in enumerate(pairwise(ends)):
        rows = metric[low:high].to(wide, copy=True)
        merged = torch.zeros(len(rows[0::2]), dtype=torch.bool, device=rows.device)
        first_a, first_b = (prefix + 1) // 2, prefix // 2  # that may merge, and be merged into
        a, b = rows[0::2][first_a:], rows[1::2][first_b:]
        mate = torch.zeros_like(merged, dtype=torch.int32)
        if len(b):
            score, index = nearest(a, b)
            merged[first_a + score.sort(descending=True, stable=True).indices[:r]] = True
            mate[first_a:] = first_b + index
        stays = ~merged
        unmerged = stays.sum(dtype=torch.int32)
        place = stays.cumsum(0, dtype=torch.int32) - 1
        dest[low:high:2] = torch.where(merged, unmerged + mate, place)
        dest[low + 1 : high : 2] = unmerged + torch.arange(len(rows) // 2, device=rows.device)
        count[image] = unmerged + len(rows) // 2
    return dest, count, packaged.zero_(), weight.fill_(1.0)


def static(
    metric: Tensor, cu_seqlens: Tensor, max_seqlen: int, r: int, prefix: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for images of ``max_seqlen`` rows each, which have r even rows to merge."""
    images, n = int(cu_seqlens.shape[0]) - 1, max_seqlen
    unit = F.normalize(metric, dim=1).view(-1, n, metric.shape[1])
    first_a, first_b = (prefix + 1) // 2, prefix // 2
    evens, odds = (n + 1) // 2, n // 2
    similarity = unit[:, 0::2][:, first_a:] @ unit[:, 1::2][:, first_b:].transpose(-1, -2)
    score, index = similarity.max(2)
    merged = F.pad((ranks(score) < r).int(), (first_a, 0))
    mate = F.pad(index.int() + first_b, (first_a, 0))
    place = (1 - merged).cumsum(1, dtype=torch.int32) - 1
    even = torch.where(merged > 0, evens - r + mate, place)
    odd = torch.zeros_like(even[:, :1]) + torch.arange(evens - r, evens - r + odds).int()
    # Rows alternate: an even one, an odd one.
    dest = torch.stack([F.pad(even, (0, 1))[:, : odds + 1], F.pad(odd, (0, 1))], 2)
    dest = dest.view(-1, 2 * (odds + 1))[:, :n].reshape(-1)
    count = torch.full((images,), n - r, dtype=torch.int32)
    return dest, count, torch.zeros_like(count), torch.ones(images * n)


@triton.jit
def bipartite_match_kernel(
    metric_ptr,  # [T, C]
    inverse_ptr,  # [T], one over the norm of each row
    cu_ptr,  # [B + 1]
    score_ptr,  # [T], of the even rows of an image, from its first row on
    mate_ptr,  # [T], likewise: the odd row each is most similar to, counted among odd rows
    stride_t,
    prefix,
    C: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    image = tl.program_id(1)
    start = tl.load(cu_ptr + image).to(tl.int64)
    n = (tl.load(cu_ptr + image + 1).to(tl.int64) - start).to(tl.int32)
    a = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    if tl.program_id(0) * BLOCK_M * 2 >= n:
        return
    metric_ptr += start * stride_t
    inverse_ptr += start
    a_inverse = tl.load(inverse_ptr + 2 * a, mask=2 * a < n, other=0.0)
    best = tl.full([BLOCK_M], -float("inf"), tl.float32)
    mate = tl.zeros([BLOCK_M], tl.int32)
    for low in range(0, n // 2, BLOCK_N):
        b = low + tl.arange(0, BLOCK_N)
        similarity = cosine_tile(
            metric_ptr + 2 * a.to(tl.int64) * stride_t,
            metric_ptr + (2 * b.to(tl.int64) + 1) * stride_t,
            a_inverse,
            tl.load(inverse_ptr + 2 * b + 1, mask=2 * b + 1 < n, other=0.0),
            2 * a < n,
            2 * b + 1 < n,
            C,
            BLOCK_M,
            BLOCK_N,
            BLOCK_C,
        )
        candidate = (2 * b + 1 < n) & (2 * b + 1 >= prefix)
        best, mate = keep_best(best, mate, similarity, candidate, low)
    tl.store(score_ptr + start + a, best, mask=2 * a < n)
    tl.store(mate_ptr + start + a, mate, mask=2 * a < n)


@triton.jit(do_not_specialize=["r"])
def bipartite_rank_kernel(
    score_ptr,  # [T], as above
    mate_ptr,  # [T]
    cu_ptr,  # [B + 1]
    dest_ptr,  # [T]
    count_ptr,  # [B]
    packaged_ptr,  # [B]
    weight_ptr,  # [T]
    r,
    prefix,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0)
    start = tl.load(cu_ptr + image).to(tl.int64)
    n = (tl.load(cu_ptr + image + 1).to(tl.int64) - start).to(tl.int32)
    half = tl.arange(0, BLOCK)
    even = 2 * half < n
    odd = 2 * half + 1 < n
    score = tl.load(score_ptr + start + half, mask=even, other=0.0)
    mate = tl.load(mate_ptr + start + half, mask=even, other=0)
    merges = tl.where(n // 2 * 2 > prefix, r, 0)  # none where no odd row may be merged into
    merged = top_mask(sortable(score), even & (2 * half >= prefix), merges)
    stays = (even & ~merged).to(tl.int32)
    unmerged = tl.sum(stays, 0)
    place = tl.cumsum(stays, 0) - stays
    rows = start + 2 * half
    tl.store(dest_ptr + rows, tl.where(merged, unmerged + mate, place), mask=even)
    tl.store(dest_ptr + rows + 1, unmerged + half, mask=odd)
    tl.store(weight_ptr + rows, 1.0, mask=even)
    tl.store(weight_ptr + rows + 1, 1.0, mask=odd)
    tl.store(count_ptr + image, unmerged + n // 2)
    tl.store(packaged_ptr + image, 0)


def launch(
    metric: Tensor, cu_seqlens: Tensor, max_seqlen: int, r: int, prefix: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(metric, cu_seqlens, max_seqlen, r, prefix, FLOATS)
    dest, count, packaged, weight = _empty(metric, cu_seqlens)
    images = count.shape[0]
    if images == 0:
        return dest, count, packaged, weight
    score, mate = torch.empty_like(weight), torch.empty_like(dest)
    half, blocks = max((max_seqlen + 1) // 2, 1), tiles(metric)
    bipartite_match_kernel[(triton.cdiv(half, blocks["BLOCK_M"]), images)](
        metric,
        inverse_norms(metric, cu_seqlens),
        cu_seqlens,
        score,
        mate,
        metric.stride(0),
        prefix,
        C=metric.shape[1],
        **blocks,
    )
    block = max(triton.next_power_of_2(half), 128)  # a row to each thread at the least
    bipartite_rank_kernel[(images,)](
        score,
        mate,
        cu_seqlens,
        dest,
        count,
        packaged,
        weight,
        r,
        prefix,
        BLOCK=block,
        num_warps=8 if block > 1024 else 4,
    )
    return dest, count, packaged, weight


def bipartite_match(
    metric: Tensor, cu_seqlens: Tensor, max_seqlen: int, *, r: int, prefix: int = 1
) -> Plan:
    """Merge, in each image, the r even rows most similar to an odd row into the row they resemble.

    Similarity is the cosine of ``metric``; ties go to the lower row, and a NaN ranks last. What
    stays is ordered as ToMe does: even rows that did not merge, then all odd rows. An image with
    fewer than r even rows to merge merges those it has.

    Args:
        metric: [T, C] float16, bfloat16 or float32, rows may be strided: the keys, mean over heads.
        cu_seqlens: [B + 1] int32.
        max_seqlen: upper bound of an image's rows, at most 8192.
        r: rows to remove from each image.
        prefix: first rows of an image, CLS and its like, that neither merge nor are merged into.

    Returns:
        A plan without packages, every weight 1. Spare rows are not written.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    return Plan(*_op(metric, cu_seqlens, max_seqlen, r, prefix))


def _check(
    metric: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    r: int,
    prefix: int,
    dtypes: tuple[torch.dtype, ...],
) -> None:
    check("metric", metric, (None, None), dtypes)
    if metric.shape[1] < 1:
        raise ValueError(f"metric.shape={list(metric.shape)}: expected a width of 1 or more")
    check_lengths(cu_seqlens, metric.shape[0], max_seqlen)
    if max_seqlen > MAX_ROWS:
        raise ValueError(f"max_seqlen={max_seqlen}: expected {MAX_ROWS} at most")
    if r < 0:
        raise ValueError(f"r={r}: expected 0 or more")
    if prefix < 0:
        raise ValueError(f"prefix={prefix}: expected 0 or more")
    check_one_device(metric=metric, cu_seqlens=cu_seqlens)


def _empty(metric: Tensor, cu_seqlens: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, images = metric.shape[0], cu_seqlens.shape[0] - 1
    return (
        metric.new_empty(rows, dtype=torch.int32),
        metric.new_empty(images, dtype=torch.int32),
        metric.new_empty(images, dtype=torch.int32),
        metric.new_empty(rows, dtype=torch.float32),
    )


_op = register(
    "bipartite_match(Tensor metric, Tensor cu_seqlens, SymInt max_seqlen, SymInt r, SymInt prefix)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    static=static,
    fake=_empty,
)
