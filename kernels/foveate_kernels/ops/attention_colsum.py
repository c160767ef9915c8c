"""How much all rows of an image look at each of its rows, for each head.

The column sums of the attention matrix: by the number of rows, the informativeness of MCTF (arXiv
2403.10030). A second pass after ``varlen_attention``, which gives the log-sum-exp: no softmax is
left to do, and each program sums its own keys over all queries, without atomics.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate_kernels.checks import FLOATS, check, check_lengths, check_one_device
from foveate_kernels.library import register

__all__ = ["attention_colsum"]

LOG2E = tl.constexpr(1.4426950408889634)


def reference(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    key_bias: Tensor | None,
) -> Tensor:
    """The same in PyTorch, any float dtype. Image by image: one product over several would round
    differently by how many they are."""
    _check((*FLOATS, torch.float64), q, k, lse, cu_seqlens, max_seqlen, key_bias)
    out = _empty(q)
    for low, high in pairwise(cu_seqlens.tolist()):
        queries, keys = (x[low:high].transpose(0, 1).to(out.dtype) for x in (q, k))
        logits = queries @ keys.mT * scale
        if key_bias is not None:
            logits += key_bias[low:high]
        out[:, low:high] = (logits - lse[:, low:high].unsqueeze(-1)).exp().sum(1)
    return out


@triton.jit(do_not_specialize=["stride_lh", "stride_oh"])  # T: one kernel for all batches
def attention_colsum_kernel(
    q_ptr,  # [T, H, D]
    k_ptr,  # [T, H, D]
    lse_ptr,  # [H, T]
    bias_ptr,  # [T]
    cu_ptr,  # [B + 1]
    out_ptr,  # [H, T]
    stride_qt,  # of q and k in eights: whatever D, the compiler sees rows begin at 16 bytes
    stride_qh,
    stride_kt,
    stride_kh,
    stride_lh,
    stride_oh,
    scale,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tile = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    image = tl.program_id(2)
    start = tl.load(cu_ptr + image)
    n = tl.load(cu_ptr + image + 1) - start
    if tile * BLOCK_N >= n:
        return
    start = start.to(tl.int64)
    q_ptr += start * (stride_qt * 8) + head * (stride_qh * 8)
    k_ptr += start * (stride_kt * 8) + head * (stride_kh * 8)
    lse_ptr += head * stride_lh + start
    cols = tl.arange(0, BLOCK_D)
    keys = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k_tile = (keys < n)[:, None] & (cols < D)[None, :]
    k = tl.load(k_ptr + keys[:, None] * (stride_kt * 8) + cols[None, :], mask=k_tile, other=0.0)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + start + keys, mask=keys < n, other=0.0) * LOG2E
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)  # summed over its rows once, at the end
    for low in range(0, n, BLOCK_M):
        rows = low + tl.arange(0, BLOCK_M)
        q_tile = (rows < n)[:, None] & (cols < D)[None, :]
        q = tl.load(q_ptr + rows[:, None] * (stride_qt * 8) + cols[None, :], mask=q_tile, other=0.0)
        lse = tl.load(lse_ptr + rows, mask=rows < n, other=float("inf"))  # no row looks nowhere
        logits = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
        if HAS_BIAS:
            logits += bias[None, :]
        acc += tl.exp2(logits - (lse * LOG2E)[:, None])
    tl.store(out_ptr + head * stride_oh + start + keys, tl.sum(acc, 0), mask=keys < n)


def _tiles(dtype: torch.dtype, dim: int) -> dict[str, int]:
    if dtype == torch.float32:  # no matrix units: what fits in registers without spilling
        rows, keys = (32, 64) if dim <= 64 else (16, 32)
        return {"BLOCK_M": rows, "BLOCK_N": keys, "num_warps": 8, "num_stages": 2}
    return {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 3}


def launch(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    scale: float,
    key_bias: Tensor | None,
) -> Tensor:
    _check(FLOATS, q, k, lse, cu_seqlens, max_seqlen, key_bias)
    out = _empty(q)
    rows, heads, dim = q.shape
    images = cu_seqlens.shape[0] - 1
    if images == 0 or rows == 0:
        return out
    tiles = _tiles(q.dtype, dim)
    attention_colsum_kernel[(triton.cdiv(max_seqlen, tiles["BLOCK_N"]), heads, images)](
        q,
        k,
        lse,
        key_bias,
        cu_seqlens,
        out,
        *(stride // 8 for x in (q, k) for stride in x.stride()[:2]),
        lse.stride(0),
        out.stride(0),
        scale,
        D=dim,
        HAS_BIAS=key_bias is not None,
        BLOCK_D=triton.next_power_of_2(dim),
        **tiles,
    )
    return out


def attention_colsum(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
) -> Tensor:
    """Attention each row receives, summed over the rows of its image that give it.

    Args:
        q, k: [T, H, D] float16, bfloat16 or float32, D a multiple of 8 from 16 to 128. Strides are
            multiples of 8, the last is 1: views of a packed [T, 3, H, D] do.
        lse: [H, T] float32, as ``varlen_attention`` returns it for the same arguments.
        cu_seqlens: [B + 1] int32.
        max_seqlen: upper bound of an image's rows.
        scale: of the logits; D ** -0.5 unless given.
        key_bias: [T] float32 added to the logits of a key.

    Returns:
        [H, T] float32. Over an image it sums to its rows. Spare rows are not written.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _op(q, k, lse, cu_seqlens, max_seqlen, scale, key_bias)
    return out


def _check(
    dtypes: Sequence[torch.dtype],
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    key_bias: Tensor | None,
) -> None:
    check("q", q, (None, None, None), dtypes)
    check("k", k, q.shape, (q.dtype,))
    if q.shape[2] % 8 or not 16 <= q.shape[2] <= 128:
        raise ValueError(f"q.shape={list(q.shape)}: expected a head_dim of 16, 24, 32, ... 128")
    for name, x in (("q", q), ("k", k)):
        if any(x.shape[i] > 1 and x.stride(i) % 8 for i in (0, 1)):
            raise ValueError(f"{name}.stride={x.stride()}: expected multiples of 8, then 1")
    wide = torch.promote_types(q.dtype, torch.float32)
    check("lse", lse, (q.shape[1], q.shape[0]), (torch.float32, wide))
    if key_bias is not None:
        check("key_bias", key_bias, (q.shape[0],), (torch.float32, wide))
    check_lengths(cu_seqlens, q.shape[0], max_seqlen)
    check_one_device(q=q, k=k, lse=lse, cu_seqlens=cu_seqlens, key_bias=key_bias)


def _empty(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape[1], q.shape[0], dtype=torch.promote_types(q.dtype, torch.float32))


_op = register(
    "attention_colsum(Tensor q, Tensor k, Tensor lse, Tensor cu_seqlens, SymInt max_seqlen,"
    " float scale, Tensor? key_bias) -> Tensor",
    cpu=reference,
    cuda=launch,
    fake=_empty,
)
