"""Nearest visual word of each patch.

The matching of the Visual-Word Tokenizer, inter-image (arXiv 2411.15397, section 3.2): the word at
the smallest cosine distance, unless even that is beyond a threshold.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.checks import FLOATS, check, check_one_device
from foveate_kernels.library import register

__all__ = ["vwt_assign"]

METRICS = ("cosine", "l2")
PROGRAMS = 512  # enough to fill a GPU: fewer tiles of patches than this share out the words
_CPU_ROWS = 64


def reference(
    patches: Tensor, words: Tensor, metric: str, threshold: float | None
) -> tuple[Tensor, Tensor]:
    """The same in PyTorch. Every product has the same padded shape: BLAS may round a row otherwise
    by the number of rows and threads, and the other patches should not decide a tie."""
    _check(patches, words, metric, threshold, (*FLOATS, torch.float64))
    word, distance = _empty(patches)
    cosine, (total, dim), count = metric == "cosine", patches.shape, len(words)
    wide, wide_words = patches.to(distance.dtype), words.to(distance.dtype)
    own, norms = _norms(wide, cosine), _norms(wide_words, cosine)
    wide_words = wide_words * norms.unsqueeze(1) if cosine else wide_words * 2
    wide_words = F.pad(wide_words, (0, -dim % 16, 0, -count % 16))
    wide = F.pad(wide, (0, -dim % 16, 0, -total % _CPU_ROWS))
    for low in range(0, total, _CPU_ROWS):
        score = (wide[low : low + _CPU_ROWS] @ wide_words.T)[: total - low, :count]
        if not cosine:
            score -= norms
        best, nearest = score.max(1)
        if best.isnan().any():
            best, nearest = score.masked_fill_(score.isnan(), -float("inf")).max(1)
        distance[low : low + _CPU_ROWS] = best
        word[low : low + _CPU_ROWS] = nearest
    distance = 1 - distance * own if cosine else own - distance
    distance.masked_fill_(distance.isnan(), float("inf"))
    if not cosine:
        distance.clamp_(min=0)
    if threshold is not None:
        word.masked_fill_(distance > threshold, -1)
    return word, distance


def static(
    patches: Tensor, words: Tensor, metric: str, threshold: float | None
) -> tuple[Tensor, Tensor]:
    """The same in one product."""
    if metric != "cosine" or threshold is not None:
        raise ValueError(f"metric={metric!r}, threshold={threshold}: expected cosine, no threshold")
    unit_words = words * _norms(words, True).unsqueeze(1)
    best, nearest = (patches @ unit_words.T).max(1)
    return nearest.int(), 1 - best * _norms(patches, True)


def _norms(rows: Tensor, cosine: bool) -> Tensor:
    """One over the norm of each row, 0 for a row of zeros; for l2 the square of the norm."""
    squares = (rows * rows).sum(1)
    return torch.where(squares == 0, float("inf"), squares).rsqrt() if cosine else squares


@triton.jit
def _tile_norms(
    x_ptr,  # [N, D]
    stride_n,
    rows,  # [BLOCK]
    n,
    D: tl.constexpr,
    COSINE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    squares = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    for d in range(0, D, BLOCK_D):
        dims = d + tl.arange(0, BLOCK_D)
        tile = (rows < n)[:, None] & (dims < D)[None, :]
        x = tl.load(
            x_ptr + rows.to(tl.int64)[:, None] * stride_n + dims[None, :], mask=tile, other=0.0
        ).to(tl.float32)
        squares += x * x
    norms = tl.sum(squares, 1)
    if COSINE:
        norms = tl.rsqrt(tl.where(norms == 0, float("inf"), norms))
    return norms


@triton.jit
def word_norms_kernel(
    words_ptr,  # [K, D]
    norms_ptr,  # [K]
    stride_wk,
    words,
    D: tl.constexpr,
    COSINE: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
    norms = _tile_norms(words_ptr, stride_wk, rows, words, D, COSINE, BLOCK_W, BLOCK_D)
    tl.store(norms_ptr + rows, norms, mask=rows < words)


@triton.jit(do_not_specialize=["total", "words", "split_words"])  # one binary for any number
def vwt_assign_kernel(
    patches_ptr,  # [T, D]
    words_ptr,  # [K, D]
    norms_ptr,  # [K]
    score_ptr,  # [S, T]
    word_ptr,  # [S, T]
    stride_pt,
    stride_wk,
    total,
    words,
    split_words,  # words of a split, a multiple of BLOCK_W
    D: tl.constexpr,
    COSINE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    split = tl.program_id(1)
    first = split * split_words
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    in_rows = rows < total
    patches_ptr += rows.to(tl.int64)[:, None] * stride_pt
    best = tl.full([BLOCK_T], -float("inf"), tl.float32)
    best_word = tl.zeros([BLOCK_T], tl.int32) + first
    for low in range(first, tl.minimum(first + split_words, words), BLOCK_W):
        cols = low + tl.arange(0, BLOCK_W)
        in_cols = cols < words
        tile_ptr = words_ptr + cols.to(tl.int64)[None, :] * stride_wk
        product = tl.zeros([BLOCK_T, BLOCK_W], tl.float32)
        for d in range(0, D, BLOCK_D):
            dims = d + tl.arange(0, BLOCK_D)
            p = tl.load(
                patches_ptr + dims[None, :], mask=in_rows[:, None] & (dims < D)[None, :], other=0.0
            )
            w = tl.load(
                tile_ptr + dims[:, None], mask=(dims < D)[:, None] & in_cols[None, :], other=0.0
            )
            product = tl.dot(p, w, product, input_precision=PRECISION)
        norms = tl.load(norms_ptr + cols, mask=in_cols, other=0.0)
        if COSINE:
            score = product * norms[None, :]
        else:
            score = 2 * product - norms[None, :]
        score = tl.where(in_cols[None, :] & (score == score), score, -float("inf"))  # NaN is last
        top = tl.max(score, 1)
        lowest = tl.min(tl.where(score == top[:, None], cols[None, :], words), 1)
        best_word = tl.where(top > best, lowest, best_word)
        best = tl.maximum(top, best)
    to = split.to(tl.int64) * total + rows
    tl.store(score_ptr + to, best, mask=in_rows)
    tl.store(word_ptr + to, best_word, mask=in_rows)


@triton.jit(do_not_specialize=["total", "words", "splits"])
def best_split_kernel(
    score_ptr,  # [S, T]
    split_word_ptr,  # [S, T]
    patches_ptr,  # [T, D]
    word_ptr,  # [T]
    distance_ptr,  # [T]
    stride_pt,
    total,
    words,
    splits,
    threshold,
    D: tl.constexpr,
    COSINE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    split = tl.arange(0, BLOCK_S)
    at = split.to(tl.int64)[:, None] * total + rows[None, :]
    tile = (split < splits)[:, None] & (rows < total)[None, :]
    score = tl.load(score_ptr + at, mask=tile, other=-float("inf"))
    word = tl.load(split_word_ptr + at, mask=tile, other=words)
    best = tl.max(score, 0)
    word = tl.min(tl.where(score == best[None, :], word, words), 0)
    apart = _tile_norms(patches_ptr, stride_pt, rows, total, D, COSINE, BLOCK_T, BLOCK_D)
    if COSINE:
        apart = 1 - best * apart
    else:
        apart = apart - best
    apart = tl.where(apart == apart, apart, float("inf"))
    if not COSINE:
        apart = tl.maximum(apart, 0.0)
    tl.store(distance_ptr + rows, apart, mask=rows < total)
    tl.store(word_ptr + rows, tl.where(apart > threshold, -1, word), mask=rows < total)


def launch(
    patches: Tensor, words: Tensor, metric: str, threshold: float | None
) -> tuple[Tensor, Tensor]:
    _check(patches, words, metric, threshold)
    word, distance = _empty(patches)
    patches, words = _aligned(patches), _aligned(words)
    (total, dim), count = patches.shape, len(words)
    if total == 0:
        return word, distance
    block_t, block_w, block_d, warps = _tile(total, count, patches.dtype)
    row_tiles, word_tiles = triton.cdiv(total, block_t), triton.cdiv(count, block_w)
    split_words = block_w * triton.cdiv(word_tiles, max(1, PROGRAMS // row_tiles))
    splits = triton.cdiv(count, split_words)
    norms = distance.new_empty(count)
    score = distance.new_empty(splits, total)
    split_word = word.new_empty(splits, total)
    shared = {"D": dim, "COSINE": metric == "cosine"}
    word_norms_kernel[(triton.cdiv(count, 16),)](
        words, norms, words.stride(0), count, **shared, BLOCK_W=16, BLOCK_D=128, num_warps=4
    )
    vwt_assign_kernel[(row_tiles, splits)](
        patches,
        words,
        norms,
        score,
        split_word,
        patches.stride(0),
        words.stride(0),
        total,
        count,
        split_words,
        **shared,
        PRECISION="ieee" if patches.dtype == torch.float32 else None,
        BLOCK_T=block_t,
        BLOCK_W=block_w,
        BLOCK_D=block_d,
        num_warps=warps,
        num_stages=3,
    )
    best_split_kernel[(triton.cdiv(total, 16),)](
        score,
        split_word,
        patches,
        word,
        distance,
        patches.stride(0),
        total,
        count,
        splits,
        float("inf") if threshold is None else threshold,
        **shared,
        BLOCK_S=triton.next_power_of_2(splits),
        BLOCK_T=16,
        BLOCK_D=128,
        num_warps=4,
    )
    return word, distance


def _aligned(x: Tensor) -> Tensor:
    """``x``, or a copy of it padded with zeros, with rows that can be loaded 16 bytes at a time."""
    if x.shape[1] % 16 == 0 and x.stride(0) % 16 == 0 and x.data_ptr() % 16 == 0:
        return x
    return F.pad(x, (0, -x.shape[1] % 16))


def _tile(total: int, words: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Rows, words and dims of a tile, and warps. Both 16-bit tiles add up the dims in the same
    order, by the same instruction on Hopper: a product must not depend on the other patches."""
    if dtype == torch.float32:
        return 64, 64, 32, 4
    if triton.cdiv(total, 128) * triton.cdiv(words, 128) < PROGRAMS // 2:
        return 64, 128, 64, 4
    return 128, 128, 64, 8


def vwt_assign(
    patches: Tensor, words: Tensor, *, metric: str = "cosine", threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """The word nearest to each patch, and how far it is.

    Args:
        patches: [T, D] float16, bfloat16 or float32 pixels, normalised as the words were.
        words: [K, D] in the same dtype, of any length, K >= 1.
        metric: "cosine", 1 - p.w / (|p| |w|), where a patch of zeros is at distance 1 of all words;
            or "l2", |p - w| squared.
        threshold: patches farther than this from every word get none.

    Returns:
        word [T] int32, the lower one of two equally near, or -1 for none; and distance [T] float32,
        infinite for a patch that is not finite.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    word, distance = _op(patches, words, metric, threshold)
    return word, distance


def _check(
    patches: Tensor,
    words: Tensor,
    metric: str,
    threshold: float | None,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> None:
    check("patches", patches, (None, None), dtypes)
    check("words", words, (None, patches.shape[1]), (patches.dtype,))
    if min(words.shape) < 1:
        raise ValueError(f"words.shape={list(words.shape)}: expected 1 or more of each")
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r}: expected {' or '.join(map(repr, METRICS))}")
    if threshold is not None and not threshold >= 0:
        raise ValueError(f"threshold={threshold}: expected 0 or more")
    check_one_device(patches=patches, words=words)


def _empty(patches: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return (
        patches.new_empty(patches.shape[0], dtype=torch.int32),
        patches.new_empty(
            patches.shape[0], dtype=torch.promote_types(patches.dtype, torch.float32)
        ),
    )


_op = register(
    "vwt_assign(Tensor patches, Tensor words, str metric, float? threshold) -> (Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    static=static,
    fake=_empty,
)
