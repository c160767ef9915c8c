"""How much the CLS token looks at each token, for each head.

Stands beside attention that does not tell (SDPA, FlashAttention): one row of the attention matrix,
no N x N matrix. With ``value_norm`` it is the score of PPT (arXiv 2310.01812) and DiffRate
(arXiv 2305.17997); without, EViT's (arXiv 2202.07800).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate_kernels.checks import FLOATS, check, check_lengths, check_one_device
from foveate_kernels.library import register
from foveate_kernels.packed import blocks

__all__ = ["cls_importance"]


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    key_bias: Tensor | None,
    value_norm: bool,
) -> Tensor:
    """The same in PyTorch, any float dtype. Products are summed, not matmul'd: batched BLAS rounds
    differently by batch size, and what is kept of an image must not depend on the others."""
    _check(q, k, v, cu_seqlens, max_seqlen, key_bias, (*FLOATS, torch.float64))
    wide = torch.promote_types(q.dtype, torch.float32)
    parts = []
    for images, rows, n in blocks(cu_seqlens, max_seqlen):
        shape = images.stop - images.start, n, q.shape[1], -1
        q_, k_, v_ = (x[rows].to(wide).view(shape).transpose(1, 2) for x in (q, k, v))
        logits = (q_[:, :, :1] * k_).sum(-1) * scale  # [b, H, n]
        if key_bias is not None:
            logits = logits + key_bias[rows].to(wide).view(-1, 1, n)
        scores = logits.softmax(-1)
        if value_norm:
            scores = scores * v_.norm(dim=-1)
        parts.append(scores.transpose(0, 1).reshape(q.shape[1], -1))
    if len(parts) == 1 and parts[0].shape[1] == len(q):
        return parts[0]
    out = _empty(q)
    filled = sum(part.shape[1] for part in parts)
    out[:, :filled] = torch.cat([out[:, :0], *parts], 1)
    return out


def static(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    key_bias: Tensor | None,
    value_norm: bool,
) -> Tensor:
    """The same for images of ``max_seqlen`` rows each, one product for all of them."""
    n = max_seqlen
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (x.view(-1, n, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))  # [b, H, n, d]
    logits = (q[:, :, :1] @ k.transpose(-1, -2)).squeeze(2).to(wide) * scale
    if key_bias is not None:
        logits = logits + key_bias.view(-1, 1, n)
    scores = logits.softmax(-1)
    if value_norm:
        scores = scores * v.to(wide).square().sum(-1).sqrt()
    return scores.transpose(0, 1).reshape(scores.shape[1], -1)


@triton.jit(do_not_specialize=["stride_oh"])  # it depends on T: no compilation a batch size
def cls_importance_kernel(
    q_ptr,  # [T, H, D]
    k_ptr,  # [T, H, D]
    v_ptr,  # [T, H, E]
    bias_ptr,  # [T]
    cu_ptr,  # [B + 1]
    out_ptr,  # [H, T]
    stride_qt,  # of q, k and v in units: of eights the compiler sees rows begin at 16 bytes
    stride_qh,
    stride_kt,
    stride_kh,
    stride_vt,
    stride_vh,
    stride_oh,
    scale,
    D: tl.constexpr,
    E: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    VALUE_NORM: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    image = tl.program_id(0)
    head = tl.program_id(1)
    start = tl.load(cu_ptr + image).to(tl.int64)
    n = tl.load(cu_ptr + image + 1).to(tl.int64) - start
    if n <= 0:
        return
    cols = tl.arange(0, BLOCK_D)
    q_ptr += start * (stride_qt * UNIT) + head * (stride_qh * UNIT)
    k_ptr += start * (stride_kt * UNIT) + head * (stride_kh * UNIT)
    v_ptr += start * (stride_vt * UNIT) + head * (stride_vh * UNIT)
    q = tl.load(q_ptr + cols, mask=cols < D, other=0.0).to(tl.float32)
    out_ptr += head.to(tl.int64) * stride_oh + start
    top = -1e38  # finite: a first tile without any key must not give inf - inf
    total = 0.0
    for low in range(0, n, BLOCK_N):
        rows = low + tl.arange(0, BLOCK_N)
        tile = (rows < n)[:, None] & (cols < D)[None, :]
        k_at = rows[:, None] * (stride_kt * UNIT) + cols[None, :]
        k = tl.load(k_ptr + k_at, mask=tile, other=0.0)
        logits = tl.sum(k.to(tl.float32) * q[None, :], 1) * scale
        if HAS_BIAS:
            logits += tl.load(bias_ptr + start + rows, mask=rows < n, other=0.0)
        tl.store(out_ptr + rows, logits, mask=rows < n)
        logits = tl.where(rows < n, logits, -float("inf"))
        new_top = tl.maximum(top, tl.max(logits, 0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(logits - new_top), 0)
        top = new_top
    tl.debug_barrier()  # the logits above are read again, by other threads of this program
    for low in range(0, n, BLOCK_N):
        rows = low + tl.arange(0, BLOCK_N)
        logits = tl.load(out_ptr + rows, mask=rows < n, other=0.0)
        score = tl.exp(logits - top) / total
        if VALUE_NORM:
            v_cols = tl.arange(0, BLOCK_E)
            tile = (rows < n)[:, None] & (v_cols < E)[None, :]
            v_at = rows[:, None] * (stride_vt * UNIT) + v_cols[None, :]
            v = tl.load(v_ptr + v_at, mask=tile, other=0.0).to(tl.float32)
            score *= tl.sqrt(tl.sum(v * v, 1))
        tl.store(out_ptr + rows, score, mask=rows < n)


def launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    key_bias: Tensor | None,
    value_norm: bool,
) -> Tensor:
    _check(q, k, v, cu_seqlens, max_seqlen, key_bias)
    out = _empty(q)
    images, heads, dim = cu_seqlens.shape[0] - 1, q.shape[1], q.shape[2]
    strides = [stride for x in (q, k, v) for stride in x.stride()[:2]]
    unit = 1 if any(stride % 8 for stride in strides) else 8
    if images == 0 or q.shape[0] == 0:
        return out
    cls_importance_kernel[(images, heads)](
        q,
        k,
        v,
        key_bias,
        cu_seqlens,
        out,
        *(stride // unit for stride in strides),
        out.stride(0),
        scale,
        D=dim,
        E=v.shape[2],
        HAS_BIAS=key_bias is not None,
        VALUE_NORM=value_norm,
        UNIT=unit,
        BLOCK_N=128,
        BLOCK_D=triton.next_power_of_2(dim),
        BLOCK_E=triton.next_power_of_2(v.shape[2]),
        num_warps=4,
    )
    return out


def cls_importance(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
    value_norm: bool = False,
) -> Tensor:
    """Attention of each image's first row to each of its rows, weighted by value norms on demand.

    Args:
        q, k: [T, H, D] float16, bfloat16 or float32, strides free but the last; D <= 128. Only
            the rows at ``cu_seqlens[:-1]`` of ``q`` are read.
        v: [T, H, E] likewise, read only for ``value_norm``; E may differ from D.
        cu_seqlens: [B + 1] int32.
        max_seqlen: upper bound of an image's rows.
        scale: of the logits; D ** -0.5 unless given.
        key_bias: [T] float32 added to the logits, log-sizes for proportional attention.
        value_norm: multiply by the norm of v of the same head.

    Returns:
        [H, T] float32. Spare rows are not written.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _op(q, k, v, cu_seqlens, max_seqlen, scale, key_bias, value_norm)
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    key_bias: Tensor | None,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> None:
    check("q", q, (None, None, None), dtypes)
    check("k", k, q.shape, (q.dtype,))
    check("v", v, (*q.shape[:2], None), (q.dtype,))
    for name, x in (("q", q), ("v", v)):
        if not 1 <= x.shape[2] <= 128:
            raise ValueError(f"{name}.shape={list(x.shape)}: expected a head_dim of 1 to 128")
    if key_bias is not None:
        check("key_bias", key_bias, (q.shape[0],), (torch.float32,))
    check_lengths(cu_seqlens, q.shape[0], max_seqlen)
    check_one_device(q=q, k=k, v=v, cu_seqlens=cu_seqlens, key_bias=key_bias)


def _empty(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32))


_op = register(
    "cls_importance(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, SymInt max_seqlen,"
    " float scale, Tensor? key_bias, bool value_norm) -> Tensor",
    cpu=reference,
    cuda=launch,
    fake=_empty,
    static=static,
)
