"""Which tokens of each image stay: exactly k of the best, in their order.

k is a count, a share by integer arithmetic, or the number of scores that reach a threshold;
whatever the rule, the k best candidates are taken. Where the scores come from does not matter:
attention, a learned selector and chance all end here.
"""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.checks import FLOATS, check, check_lengths, check_one_device
from foveate_kernels.library import register
from foveate_kernels.packed import DROPPED, FOLDED, Plan, blocks, ranks
from foveate_kernels.topk import sortable, top_mask

__all__ = ["Fate", "select_tokens"]

Fate = Literal["drop", "package", "merge"]
_ALL = 2**31 - 1  # more rows than an image can have


def reference(
    scores: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    keep: Tensor | None,
    numerator: int,
    denominator: int,
    threshold: float | None,
    low: int,
    high: int,
    prefix: int,
    suffix: Tensor | None,
    fate: Fate,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same in PyTorch. Scores are compared as float32, as the kernel does: one choice."""
    _check(scores, cu_seqlens, max_seqlen, keep, suffix, (*FLOATS, torch.float64))
    images = cu_seqlens.shape[0] - 1
    keeps = [0] * images if keep is None else keep.tolist()
    suffixes = [0] * images if suffix is None else suffix.tolist()
    lengths, packaged = [0] * images, [0] * images
    weight = _mean(scores)
    dest = torch.full_like(weight, DROPPED, dtype=torch.int32)
    alike = threshold is None and len({*zip(keeps, suffixes, strict=True)}) == 1
    for which, rows, n in blocks(cu_seqlens, max_seqlen, alike):
        mean = weight[rows].view(-1, n)
        last = max(min(suffixes[which.start], n), 0)
        free = max(n - prefix - last, 0)
        candidates = mean[:, prefix : prefix + free]
        if keep is not None:
            k = keeps[which.start]
        elif threshold is not None:
            k = min(max(int((candidates >= threshold).sum()), low), high)
        else:
            k = min(max((free * numerator + denominator - 1) // denominator, low), high)
        k = max(min(k, free), 0)
        folds = fate == "package" and k < free

        # Rising and stable, of the negative: NaN comes last and ties go to the lower row.
        best = candidates.neg().argsort(dim=1, stable=True)[:, :k]
        stays = torch.zeros_like(mean, dtype=torch.bool).scatter_(1, best + prefix, True)
        stays[:, :prefix] = True
        if not folds:
            stays[:, n - last :] = True
        place = stays.cumsum(1, dtype=torch.int32).sub_(1)
        gone = DROPPED if fate == "drop" else FOLDED
        dest[rows] = place.masked_fill_(stays.logical_not_(), gone).view(-1)
        left = min(prefix + last, n) - last + k + (1 if folds else last)
        lengths[which] = [left] * len(mean)
        packaged[which] = [1 if folds else last] * len(mean)
    return dest, cu_seqlens.new_tensor(lengths), cu_seqlens.new_tensor(packaged), weight


def static(
    scores: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    keep: Tensor | None,
    numerator: int,
    denominator: int,
    threshold: float | None,
    low: int,
    high: int,
    prefix: int,
    suffix: Tensor | None,
    fate: Fate,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same for images of ``max_seqlen`` rows each and one count for all of them; images with a
    suffix have one row of it."""
    if keep is not None or threshold is not None:
        raise ValueError("keep, threshold: expected a count or a ratio, one for all images")
    images, n, last = int(cu_seqlens.shape[0]) - 1, max_seqlen, int(suffix is not None)
    free = n - prefix - last
    k = max(min(max((free * numerator + denominator - 1) // denominator, low), high, free), 0)
    folds = fate == "package" and k < free
    weight = _mean(scores)
    candidates = weight.view(-1, n)[:, prefix : prefix + free]
    best = (ranks(candidates) < k).int()
    stays = F.pad(F.pad(best, (prefix, 0), value=1), (0, last), value=int(not folds))
    place = stays.cumsum(1) - 1
    dest = torch.where(stays > 0, place, DROPPED if fate == "drop" else FOLDED)
    count = torch.full((images,), prefix + k + (1 if folds else last), dtype=torch.int32)
    packaged = torch.full((images,), 1 if folds else last, dtype=torch.int32)
    return dest.view(-1).int(), count, packaged, weight


def _mean(scores: Tensor) -> Tensor:
    """Mean over heads in float32, added in their order: the kernel's bits."""
    total = scores[0].float()
    for head in scores[1:]:
        total = total + head.float()
    return total / scores.shape[0]


_COUNTS = ["stride_h", "heads", "numerator", "denominator", "low", "high", "prefix"]


@triton.jit(do_not_specialize=[*_COUNTS, "folds", "gone"])  # one compilation for levels and batches
def select_tokens_kernel(
    scores_ptr,  # [H, T]
    cu_ptr,  # [B + 1]
    keep_ptr,  # [B]
    suffix_ptr,  # [B]
    dest_ptr,  # [T]
    count_ptr,  # [B]
    packaged_ptr,  # [B]
    weight_ptr,  # [T]
    stride_h,
    heads,
    numerator,
    denominator,
    threshold,
    low,
    high,
    prefix,
    folds,  # 1: rows that go become one package
    gone,  # where they go
    HAS_KEEP: tl.constexpr,
    HAS_THRESHOLD: tl.constexpr,
    HAS_SUFFIX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0)
    start = tl.load(cu_ptr + image)
    n = tl.load(cu_ptr + image + 1) - start
    position = tl.arange(0, BLOCK)
    inside = position < n
    scores_ptr += start
    weight = tl.zeros([BLOCK], tl.float32)
    for _ in range(heads):
        weight += tl.load(scores_ptr + position, mask=inside, other=0.0).to(tl.float32)
        scores_ptr += stride_h
    weight = tl.div_rn(weight, tl.zeros([BLOCK], tl.float32) + heads)

    suffix = 0
    if HAS_SUFFIX:
        suffix = tl.maximum(tl.minimum(tl.load(suffix_ptr + image), n), 0)
    candidates = tl.maximum(n - prefix - suffix, 0)
    candidate = (position >= prefix) & (position < n - suffix)
    if HAS_KEEP:
        k = tl.load(keep_ptr + image)
    else:
        if HAS_THRESHOLD:
            k = tl.sum((candidate & (weight >= threshold)).to(tl.int32), 0)
        else:
            k = (candidates * numerator + denominator - 1) // denominator
        k = tl.minimum(tl.maximum(k, low), high)
    k = tl.maximum(tl.minimum(k, candidates), 0)

    stays = top_mask(sortable(weight), candidate, k) | (position < prefix)
    last = n - suffix  # from here on rows are no candidates: they stay, if not in a new package
    packaged = suffix
    if (folds != 0) & (k < candidates):
        last = n
        packaged = 1
    stays = (stays | (position >= last)) & inside
    dest = tl.where(stays, tl.cumsum(stays.to(tl.int32), 0) - 1, gone)
    tl.store(dest_ptr + start + position, dest, mask=inside)
    tl.store(weight_ptr + start + position, weight, mask=inside)
    tl.store(packaged_ptr + image, packaged)
    tl.store(count_ptr + image, tl.minimum(tl.minimum(n, prefix) + k + packaged, n))


def launch(
    scores: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    keep: Tensor | None,
    numerator: int,
    denominator: int,
    threshold: float | None,
    low: int,
    high: int,
    prefix: int,
    suffix: Tensor | None,
    fate: Fate,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(scores, cu_seqlens, max_seqlen, keep, suffix)
    dest, count, packaged, weight = _empty(scores, cu_seqlens)
    if count.shape[0] > 0:
        block = triton.next_power_of_2(max(max_seqlen, 128))  # a row to each thread at the least
        select_tokens_kernel[(count.shape[0],)](
            scores,
            cu_seqlens,
            keep,
            suffix,
            dest,
            count,
            packaged,
            weight,
            scores.stride(0),
            scores.shape[0],
            numerator,
            denominator,
            threshold if threshold is not None else 0.0,
            low,
            high,
            prefix,
            int(fate == "package"),
            DROPPED if fate == "drop" else FOLDED,
            HAS_KEEP=keep is not None,
            HAS_THRESHOLD=threshold is not None,
            HAS_SUFFIX=suffix is not None,
            BLOCK=block,
            num_warps=4 if block <= 512 else 8,
        )
    return dest, count, packaged, weight


def select_tokens(
    scores: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    keep: int | Tensor | None = None,
    ratio: tuple[int, int] | None = None,
    threshold: float | None = None,
    min_keep: int = 0,
    max_keep: int | None = None,
    fate: Fate = "drop",
    prefix: int = 1,
    suffix: Tensor | None = None,
) -> Plan:
    """Choose the rows of each image that stay.

    Ties go to the lower row. Counts are kept exactly, so NaN, which ranks below every number, stays
    only where there are not k numbers; it never reaches a threshold.

    Args:
        scores: [H, T] or [T] float16, bfloat16 or float32; heads are averaged.
        cu_seqlens: [B + 1] int32.
        max_seqlen: upper bound of an image's rows.
        keep: rows to keep of each image's candidates, or [B] int32; negative ones count as 0.
        ratio: (numerator, denominator): keep the ceiling of this share of the candidates.
        threshold: keep scores that reach it. Just one of ``keep``, ``ratio``, ``threshold``.
        min_keep, max_keep: bounds of a count that ``ratio`` or ``threshold`` gives.
        fate: of the others: dropped; folded into one package token, a row more, together with the
            ``suffix`` rows; or left for ``match_kept`` to merge.
        prefix: first rows that always stay (CLS, registers).
        suffix: [B] int32 last rows that are no candidates: the ``packaged`` of an earlier plan.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    rules = {"keep": keep, "ratio": ratio, "threshold": threshold}
    if sum(rule is not None for rule in rules.values()) != 1:
        raise ValueError(f"{rules}: expected just one")
    if fate not in ("drop", "package", "merge"):
        raise ValueError(f"fate={fate!r}: expected 'drop', 'package' or 'merge'")
    if prefix < 0:
        raise ValueError(f"prefix={prefix}: expected 0 or more")
    high = _ALL if max_keep is None else max_keep
    if isinstance(keep, int):  # a count is a share of nothing, bounded to the count
        min_keep = high = keep
        keep = None
    if not 0 <= min_keep <= high:
        raise ValueError(
            f"min_keep={min_keep}, max_keep={high}: expected 0 <= min_keep <= max_keep"
        )
    numerator, denominator = ratio or (0, 1)
    if not 0 <= numerator <= denominator <= 4096 or denominator == 0:
        raise ValueError(f"ratio={ratio}: expected 0 <= numerator <= denominator <= 4096, not 0")
    scores = scores.unsqueeze(0) if scores.dim() == 1 else scores
    return Plan(
        *_op(
            scores,
            cu_seqlens,
            max_seqlen,
            keep,
            numerator,
            denominator,
            threshold,
            min_keep,
            high,
            prefix,
            suffix,
            fate,
        )
    )


def _check(
    scores: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    keep: Tensor | None,
    suffix: Tensor | None,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> None:
    check("scores", scores, (None, None), dtypes)
    if scores.shape[0] == 0:
        raise ValueError(f"scores.shape={list(scores.shape)}: expected one head at least")
    if max_seqlen > 16384:
        raise ValueError(f"max_seqlen={max_seqlen}: expected 16384 at most, one program an image")
    check_lengths(cu_seqlens, scores.shape[1], max_seqlen)
    images = cu_seqlens.shape[0] - 1
    if keep is not None:
        check("keep", keep, (images,), (torch.int32,))
    if suffix is not None:
        check("suffix", suffix, (images,), (torch.int32,))
    check_one_device(scores=scores, cu_seqlens=cu_seqlens, keep=keep, suffix=suffix)


def _empty(scores: Tensor, cu_seqlens: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, rows = cu_seqlens.shape[0] - 1, scores.shape[1]
    return (
        cu_seqlens.new_empty(rows),
        cu_seqlens.new_empty(images),
        cu_seqlens.new_empty(images),
        scores.new_empty(rows, dtype=torch.float32),
    )


_op = register(
    "select_tokens(Tensor scores, Tensor cu_seqlens, SymInt max_seqlen, Tensor? keep,"
    " int numerator, int denominator, float? threshold, SymInt low, SymInt high, int prefix,"
    " Tensor? suffix, str fate) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    fake=_empty,
    static=static,
)
