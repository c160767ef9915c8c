"""Group the patches of an image that match the same visual word.

The merging rule of the Visual-Word Tokenizer, inter-image (arXiv 2411.15397, section 3.2), with the
groups numbered in raster order. ``merge_groups`` carries it out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate_kernels.checks import check, check_lengths, check_one_device
from foveate_kernels.library import register
from foveate_kernels.packed import DROPPED, Plan, image_of_rows

__all__ = ["group_words"]

MAX_SEQLEN = 4096  # one program holds an image


def reference(
    word: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same in PyTorch."""
    _check(word, cu_seqlens, max_seqlen)
    dest, lengths, packaged, weight = _empty(word, cu_seqlens)
    images, total = len(lengths), len(word)
    image = image_of_rows(cu_seqlens, total)
    row = torch.arange(total, device=word.device)
    # One number for each word of each image, another for each row without a word.
    key = torch.where(word >= 0, image * 2**31 + word, -1 - row)
    _, group = torch.unique(key, return_inverse=True)
    leader = row.new_full((total,), total).scatter_reduce(0, group, row, "amin")[group]
    before = torch.cat([row.new_zeros(1), (leader == row).cumsum(0)])  # leaders before each row
    first = before[cu_seqlens.long()]
    dest.copy_(before[leader] - first[image]).masked_fill_(image == images, DROPPED)
    return dest, lengths.copy_(first.diff()), packaged.zero_(), weight.fill_(1)


@triton.jit
def group_words_kernel(
    word_ptr,  # [T]
    cu_ptr,  # [B + 1]
    dest_ptr,  # [T]
    lengths_ptr,  # [B]
    packaged_ptr,  # [B]
    weight_ptr,  # [T]
    BLOCK: tl.constexpr,
    BLOCK_OTHER: tl.constexpr,
):
    image = tl.program_id(0)
    start = tl.load(cu_ptr + image).to(tl.int64)
    n = (tl.load(cu_ptr + image + 1) - start).to(tl.int32)
    rows = tl.arange(0, BLOCK)
    word = tl.load(word_ptr + start + rows, mask=rows < n, other=-1)
    leader = rows
    for low in range(0, n, BLOCK_OTHER):
        others = low + tl.arange(0, BLOCK_OTHER)
        other = tl.load(word_ptr + start + others, mask=others < n, other=-1)
        same = (word[:, None] == other[None, :]) & (word >= 0)[:, None]
        leader = tl.minimum(leader, tl.min(tl.where(same, others[None, :], BLOCK), 1))
    leads = ((leader == rows) & (rows < n)).to(tl.int32)
    rank = tl.cumsum(leads, 0) - 1
    tl.store(dest_ptr + start + rows, tl.gather(rank, leader, 0), mask=rows < n)
    tl.store(weight_ptr + start + rows, 1.0, mask=rows < n)
    tl.store(lengths_ptr + image, tl.sum(leads, 0))
    tl.store(packaged_ptr + image, 0)


def launch(
    word: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(word, cu_seqlens, max_seqlen)
    plan = _empty(word, cu_seqlens)
    images = len(cu_seqlens) - 1
    if images == 0:
        return plan
    block = max(16, triton.next_power_of_2(max_seqlen))
    warps = min(16, max(4, block // 32))
    group_words_kernel[(images,)](
        word,
        cu_seqlens,
        *plan,
        BLOCK=block,
        BLOCK_OTHER=min(block, 1024 * warps // block),  # 32 pairs a thread
        num_warps=warps,
    )
    return plan


def group_words(word: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Plan:
    """Each word of an image becomes one group, at the place of its first row.

    Args:
        word: [T] int32 of ``vwt_assign``; rows of a word below 0 stay alone.
        cu_seqlens: [B + 1] int32.
        max_seqlen: upper bound of an image's rows, 4096 at most.

    Returns:
        A plan for ``merge_groups``: ``dest`` counts the groups of an image in the order of their
        first rows, ``lengths`` their number, every ``weight`` is 1 and nothing is packaged.

    Raises:
        ValueError: an argument is not as above; the message names it, its value and the limit.
    """
    return Plan(*_op(word, cu_seqlens, max_seqlen))


def _check(word: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> None:
    check("word", word, (None,), (torch.int32,))
    check_lengths(cu_seqlens, word.shape[0], max_seqlen)
    if max_seqlen > MAX_SEQLEN:
        raise ValueError(f"max_seqlen={max_seqlen}: expected {MAX_SEQLEN} at most")
    check_one_device(word=word, cu_seqlens=cu_seqlens)


def _empty(word: Tensor, cu_seqlens: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = cu_seqlens.shape[0] - 1
    return (
        word.new_empty(word.shape[0]),
        word.new_empty(images),
        word.new_empty(images),
        word.new_empty(word.shape[0], dtype=torch.float32),
    )


_op = register(
    "group_words(Tensor word, Tensor cu_seqlens, SymInt max_seqlen)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=reference,
    cuda=launch,
    fake=_empty,
)
