"""Attention among the rows of each image, all images in one launch, nothing padded.

One pass over the keys (FlashAttention-2, arXiv 2307.08691, algorithm 1) that also does what token
reduction asks and others do not: a bias for each key (log-sizes: the proportional attention of
ToMe, arXiv 2210.09461, equation 1), the log-sum-exp of the logits, and the attention of the CLS
token, as ``cls_importance`` defines it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from foveate_kernels.checks import FLOATS, check, check_lengths, check_one_device
from foveate_kernels.library import register

__all__ = ["HEAD_DIMS", "Attention", "varlen_attention"]

HEAD_DIMS = range(16, 129, 8)

LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e38)  # finite: a first tile without any key must not give inf - inf


class Attention(NamedTuple):
    """What :func:`varlen_attention` returns.

    out: [T, H, E] in the dtype of q, contiguous.
    lse: [H, T] float32, log of the sum of the exponentials of a row's logits; None unless asked.
    cls: [H, T] float32, attention of the image's first row to each row; None unless asked.
    """

    out: Tensor
    lse: Tensor | None
    cls: Tensor | None


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    key_bias: Tensor | None,
    return_lse: bool,
    return_cls: bool,
    value_norm: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in PyTorch, any float dtype. Image by image: one product over several would round
    differently by how many they are."""
    _check(
        (*FLOATS, torch.float64), q, k, v, cu_seqlens, max_seqlen, key_bias, return_cls, value_norm
    )
    outputs = out, lse, cls = _empty(q, v, return_lse, return_cls)
    wide = torch.promote_types(q.dtype, torch.float32)
    fused = q.dtype == torch.float32 and not return_lse and not return_cls
    for low, high in pairwise(cu_seqlens.tolist()):
        if low == high:
            continue
        queries, keys, values = (x[low:high].transpose(0, 1).to(wide) for x in (q, k, v))
        bias = None if key_bias is None else key_bias[low:high].to(wide)
        if fused:
            mask = None if bias is None else bias.expand(1, 1, high - low, -1)
            mixed = F.scaled_dot_product_attention(
                queries[None], keys[None], values[None], mask, scale=scale
            )
            out[low:high] = mixed[0].transpose(0, 1)
            continue
        logits = queries @ keys.mT * scale
        if bias is not None:
            logits += bias
        weights = logits.softmax(-1)
        out[low:high] = (weights @ values).transpose(0, 1)
        if return_lse:
            lse[:, low:high] = logits.logsumexp(-1)
        if return_cls:
            norm = values.norm(dim=-1) if value_norm else 1.0
            cls[:, low:high] = weights[:, 0] * norm
    return outputs


@triton.jit(do_not_specialize=["stride_lh", "stride_ch"])  # T: one kernel for all batches
def varlen_attention_kernel(
    q_ptr,  # [T, H, D]
    k_ptr,  # [T, H, D]
    v_ptr,  # [T, H, E]
    bias_ptr,  # [T]
    cu_ptr,  # [B + 1]
    out_ptr,  # [T, H, E]
    lse_ptr,  # [H, T]
    cls_ptr,  # [H, T]
    stride_qt,  # of q, k and v in eights: whatever D, the compiler sees rows begin at 16 bytes
    stride_qh,
    stride_kt,
    stride_kh,
    stride_vt,
    stride_vh,
    stride_ot,
    stride_lh,
    stride_ch,
    scale,
    D: tl.constexpr,
    E: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RETURN_LSE: tl.constexpr,
    RETURN_CLS: tl.constexpr,
    VALUE_NORM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    tile = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    image = tl.program_id(2)
    start = tl.load(cu_ptr + image)
    n = tl.load(cu_ptr + image + 1) - start
    if tile * BLOCK_M >= n:
        return
    start = start.to(tl.int64)
    q_ptr += start * (stride_qt * 8) + head * (stride_qh * 8)
    k_ptr += start * (stride_kt * 8) + head * (stride_kh * 8)
    v_ptr += start * (stride_vt * 8) + head * (stride_vh * 8)
    cols = tl.arange(0, BLOCK_D)
    v_cols = tl.arange(0, BLOCK_E)
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    q_tile = (rows < n)[:, None] & (cols < D)[None, :]
    q = tl.load(q_ptr + rows[:, None] * (stride_qt * 8) + cols[None, :], mask=q_tile, other=0.0)
    top = tl.full([BLOCK_M], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    for low in range(0, n, BLOCK_N):
        keys = low + tl.arange(0, BLOCK_N)
        k_tile = (keys < n)[:, None] & (cols < D)[None, :]
        k = tl.load(k_ptr + keys[:, None] * (stride_kt * 8) + cols[None, :], mask=k_tile, other=0.0)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)  # in base 2
        if HAS_BIAS:
            bias = tl.load(bias_ptr + start + keys, mask=keys < n, other=-float("inf"))
            # Gathered as it is, or each thread would load all it needs: 16 loads instead of one.
            logits += (tl.gather(bias, tl.arange(0, BLOCK_N), 0) * LOG2E)[None, :]
        else:
            logits = tl.where((keys < n)[None, :], logits, -float("inf"))
        new_top = tl.maximum(top, tl.max(logits, 1))
        weights = tl.exp2(logits - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        v_tile = (keys < n)[:, None] & (v_cols < E)[None, :]
        v_at = keys[:, None] * (stride_vt * 8) + v_cols[None, :]
        v = tl.load(v_ptr + v_at, mask=v_tile, other=0.0)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        top = new_top
    out_ptr += start * stride_ot + head * E
    out = acc / total[:, None]
    out_tile = (rows < n)[:, None] & (v_cols < E)[None, :]
    tl.store(out_ptr + rows[:, None] * stride_ot + v_cols[None, :], out, mask=out_tile)
    if RETURN_LSE:
        lse = (top + tl.log2(total)) / LOG2E
        tl.store(lse_ptr + head * stride_lh + start + rows, lse, mask=rows < n)
    if RETURN_CLS:
        # One row times the keys once more: to keep its logits in the loop above would put a branch
        # between the matrix instructions, and ptxas then runs them one at a time.
        if tile == 0:
            cls_ptr += head * stride_ch + start
            first = tl.load(q_ptr + cols, mask=cols < D, other=0.0).to(tl.float32)
            first_top = tl.sum(tl.where(rows == 0, top, 0.0), 0)
            share = 1.0 / tl.sum(tl.where(rows == 0, total, 0.0), 0)
            for low in range(0, n, BLOCK_N):
                keys = low + tl.arange(0, BLOCK_N)
                k_tile = (keys < n)[:, None] & (cols < D)[None, :]
                k = tl.load(
                    k_ptr + keys[:, None] * (stride_kt * 8) + cols[None, :], mask=k_tile, other=0.0
                )
                logit = tl.sum(k.to(tl.float32) * first[None, :], 1) * (scale * LOG2E)
                if HAS_BIAS:
                    logit += tl.load(bias_ptr + start + keys, mask=keys < n, other=0.0) * LOG2E
                # Less the largest logit, and then divided: their log-sum-exp is rounded, which
                # large logits feel. Summed up another way, a logit may be above the largest.
                score = tl.exp2(tl.minimum(logit - first_top, 0.0)) * share
                if VALUE_NORM:
                    v_tile = (keys < n)[:, None] & (v_cols < E)[None, :]
                    v_at = keys[:, None] * (stride_vt * 8) + v_cols[None, :]
                    v = tl.load(v_ptr + v_at, mask=v_tile, other=0.0).to(tl.float32)
                    score *= tl.sqrt(tl.sum(v * v, 1))
                tl.store(cls_ptr + keys, score, mask=keys < n)


def _tiles(dtype: torch.dtype, dim: int, max_seqlen: int) -> dict[str, int]:
    if dtype == torch.float32:  # no matrix units: what fits in registers without spilling
        rows, keys = (64, 32) if dim <= 64 else (32, 16)
        return {"BLOCK_M": rows, "BLOCK_N": keys, "num_warps": 8, "num_stages": 2}
    stages = 3 if dim <= 64 else 2  # two programs on one multiprocessor at any width
    if -max_seqlen % 128 < 64:  # tiles of 128 rows read keys half as often, and pad no more here
        return {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": stages}
    return {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": stages}


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    key_bias: Tensor | None,
    return_lse: bool,
    return_cls: bool,
    value_norm: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _check(FLOATS, q, k, v, cu_seqlens, max_seqlen, key_bias, return_cls, value_norm)
    outputs = out, lse, cls = _empty(q, v, return_lse, return_cls)
    (rows, heads, dim), v_dim = q.shape, v.shape[2]
    images = cu_seqlens.shape[0] - 1
    if images == 0 or rows == 0:
        return outputs
    tiles = _tiles(q.dtype, max(dim, v_dim), max_seqlen)
    varlen_attention_kernel[(triton.cdiv(max_seqlen, tiles["BLOCK_M"]), heads, images)](
        q,
        k,
        v,
        key_bias,
        cu_seqlens,
        out,
        lse,
        cls,
        *(stride // 8 for x in (q, k, v) for stride in x.stride()[:2]),
        out.stride(0),
        lse.stride(0),
        cls.stride(0),
        scale,
        D=dim,
        E=v_dim,
        HAS_BIAS=key_bias is not None,
        RETURN_LSE=return_lse,
        RETURN_CLS=return_cls,
        VALUE_NORM=value_norm,
        BLOCK_D=triton.next_power_of_2(dim),
        BLOCK_E=triton.next_power_of_2(v_dim),
        **tiles,
    )
    return outputs


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
    return_lse: bool = False,
    return_cls: bool = False,
    value_norm: bool = False,
) -> Attention:
    """Attention of each row to the rows of its image: softmax(scale q kᵀ + key_bias) v.

    Args:
        q, k: [T, H, D] float16, bfloat16 or float32, D a multiple of 8 from 16 to 128. Strides
            are multiples of 8, the last is 1: views of a packed [T, 3, H, D] do.
        v: [T, H, E] likewise; E may differ from D, as in models whose heads were pruned.
        cu_seqlens: [B + 1] int32.
        max_seqlen: upper bound of an image's rows.
        scale: of the logits; D ** -0.5 unless given.
        key_bias: [T] float32 added to the logits of a key: log-sizes for proportional attention,
            -inf for a key nobody may see. Each image needs one that is finite.
        return_lse: also the logarithm of the sum of the exponentials of each row's logits.
        return_cls: also the attention of each image's first row to each of its rows.
        value_norm: multiply the latter by the norm of v of the same head.

    Returns:
        :class:`Attention`. Spare rows are not written.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, lse, cls = _op(
        q, k, v, cu_seqlens, max_seqlen, scale, key_bias, return_lse, return_cls, value_norm
    )
    return Attention(out, lse if return_lse else None, cls if return_cls else None)


def _check(
    dtypes: Sequence[torch.dtype],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    key_bias: Tensor | None,
    return_cls: bool,
    value_norm: bool,
) -> None:
    check("q", q, (None, None, None), dtypes)
    check("k", k, q.shape, (q.dtype,))
    check("v", v, (*q.shape[:2], None), (q.dtype,))
    for name, x in (("q", q), ("v", v)):
        if x.shape[2] not in HEAD_DIMS:
            raise ValueError(
                f"{name}.shape={list(x.shape)}: expected a head_dim of 16, 24, 32, ... 128"
            )
    for name, x in (("q", q), ("k", k), ("v", v)):
        if any(x.shape[i] > 1 and x.stride(i) % 8 for i in (0, 1)):
            raise ValueError(f"{name}.stride={x.stride()}: expected multiples of 8, then 1")
    if key_bias is not None:
        check(
            "key_bias",
            key_bias,
            (q.shape[0],),
            (torch.float32, torch.promote_types(q.dtype, torch.float32)),
        )
    if value_norm and not return_cls:
        raise ValueError("value_norm=True: expected return_cls=True with it")
    check_lengths(cu_seqlens, q.shape[0], max_seqlen)
    check_one_device(q=q, k=k, v=v, cu_seqlens=cu_seqlens, key_bias=key_bias)


def _empty(
    q: Tensor, v: Tensor, return_lse: bool, return_cls: bool
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    rows, heads, _ = q.shape
    lse = q.new_empty((heads, rows) if return_lse else (0, 0), dtype=wide)
    cls = q.new_empty((heads, rows) if return_cls else (0, 0), dtype=wide)
    return q.new_empty(v.shape), lse, cls


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    key_bias: Tensor | None,
    return_lse: bool,
    return_cls: bool,
    value_norm: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(q, v, return_lse, return_cls)


_op = register(
    "varlen_attention(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, SymInt max_seqlen,"
    " float scale, Tensor? key_bias, bool return_lse, bool return_cls, bool value_norm)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    fake=_fake,
)
