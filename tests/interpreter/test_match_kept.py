"""``match_kept``: the kernels against float64. Plans are whole numbers, so equal or wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.match_kept import launch, reference
from foveate_kernels.packed import DROPPED, FOLDED

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577, 0]
UNWRITTEN = torch.iinfo(torch.int32).max


def selection(lengths: list[int], kept: float, folded: float, seed: int = 0) -> Tensor:
    """``dest`` of images that keep their first row and these shares of the others, by chance."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for n in lengths:
        chance = torch.rand(n, generator=generator)
        chance[:1] = 0.0
        keep = chance <= kept
        lost = torch.where(chance <= kept + folded, FOLDED, DROPPED)
        images.append(torch.where(keep, keep.cumsum(0) - 1, lost))
    return torch.cat(images).to(torch.int32)


@pytest.mark.parametrize(
    ("kept", "folded"), [(0.7, 0.3), (0.3, 0.3), (0.0, 0.9), (1.0, 0.0), (0.1, 0.9)]
)
def test_kernel_equals_float64(kept: float, folded: float, pack: Any, guard: Any) -> None:
    cu_seqlens, longest = pack(LENGTHS)
    generator = torch.Generator().manual_seed(1)
    x = guard(torch.randn(int(cu_seqlens[-1]), 2, 24, generator=generator))[:, 1]  # strided
    dest = guard(selection(LENGTHS, kept, folded))
    before = dest.clone()
    matched = launch(x, dest, cu_seqlens, longest, 1)
    assert matched.tolist() == reference(x.double(), dest, cu_seqlens, longest, 1).tolist()
    assert dest.equal(before)


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_wider_than_a_tile(dtype: torch.dtype, prefix: int, pack: Any, guard: Any) -> None:
    lengths = [197, 0, 98, 3]
    cu_seqlens, _ = pack(lengths)
    generator = torch.Generator().manual_seed(2)
    x = guard(torch.randn(298, 200, generator=generator).to(dtype))
    dest = guard(selection(lengths, 0.6, 0.4))
    matched = launch(x, dest, cu_seqlens, 256, prefix)
    assert matched.tolist() == reference(x.double(), dest, cu_seqlens, 256, prefix).tolist()


def test_an_image_listed_in_two_blocks(pack: Any, guard: Any) -> None:
    cu_seqlens, longest = pack([3, 1300])
    x = guard(torch.randn(1303, 16, generator=torch.Generator().manual_seed(5)))
    dest = guard(selection([3, 1300], 0.1, 0.1))
    matched = launch(x, dest, cu_seqlens, longest, 1)
    assert matched.tolist() == reference(x.double(), dest, cu_seqlens, longest, 1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ties_go_to_the_lower_row(dtype: torch.dtype, pack: Any, guard: Any) -> None:
    lengths = [300, 17, 64]
    cu_seqlens, longest = pack(lengths)
    generator = torch.Generator().manual_seed(3)
    x = guard((torch.randint(2, (381, 4), generator=generator) * 2 - 1).to(dtype))
    dest = guard(selection(lengths, 0.7, 0.3))
    matched = launch(x, dest, cu_seqlens, longest, 1)
    assert matched.tolist() == reference(x.double(), dest, cu_seqlens, longest, 1).tolist()


def test_what_is_not_a_number_is_matched_last_and_stays_in_its_image(pack: Any, guard: Any) -> None:
    lengths = [20, 21, 20]
    cu_seqlens, longest = pack(lengths)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(61, 24, generator=generator)
    dest = selection(lengths, 0.5, 0.5)
    clean = launch(x, dest, cu_seqlens, longest, 1)
    x[21:39:3] = float("nan")
    x[25] = float("inf")
    x[26] = 0.0
    x = guard(x)
    spoilt = launch(x, dest, cu_seqlens, longest, 1)
    assert spoilt.tolist() == reference(x.double(), dest, cu_seqlens, longest, 1).tolist()
    assert spoilt[:20].tolist() == clean[:20].tolist()
    assert spoilt[41:].tolist() == clean[41:].tolist()


def test_spare_rows_are_not_written(pack: Any) -> None:
    cu_seqlens, longest = pack([6, 5])
    dest = torch.cat([selection([6, 5], 0.5, 0.5), torch.full([9], FOLDED, dtype=torch.int32)])
    assert (launch(torch.randn(20, 16), dest, cu_seqlens, longest, 1)[11:] == UNWRITTEN).all()
