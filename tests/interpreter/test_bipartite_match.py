"""``bipartite_match``: the kernels against float64. Plans are whole numbers, so equal or wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.bipartite_match import launch, reference

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577, 0]
UNWRITTEN = torch.iinfo(torch.int32).max


def signs(*shape: int, seed: int) -> Tensor:
    """Rows of 1 and -1, four wide: 16 different ones, whose cosines are exact in every dtype."""
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def assert_same_plan(metric: Tensor, cu_seqlens: Tensor, *rest: int) -> None:
    plan = launch(metric, cu_seqlens, *rest)
    expected = reference(metric.double(), cu_seqlens, *rest)
    for name, mine, theirs in zip(["dest", "count", "packaged"], plan, expected, strict=False):
        assert mine.tolist() == theirs.tolist(), name
    assert (plan[3] == 1).all()


@pytest.mark.parametrize(("r", "prefix"), [(0, 1), (13, 1), (8, 0), (1000, 2), (5, 33)])
def test_kernel_equals_float64(r: int, prefix: int, pack: Any, guard: Any) -> None:
    cu_seqlens, longest = pack(LENGTHS)
    generator = torch.Generator().manual_seed(1)
    metric = guard(torch.randn(int(cu_seqlens[-1]), 2, 24, generator=generator))[:, 1]  # strided
    assert_same_plan(metric, cu_seqlens, longest, r, prefix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keys_wider_than_a_tile(dtype: torch.dtype, pack: Any, guard: Any) -> None:
    cu_seqlens, _ = pack([145, 98])
    generator = torch.Generator().manual_seed(2)
    metric = guard(torch.randn(243, 80, generator=generator).to(dtype))
    assert_same_plan(metric, cu_seqlens, 197, 16, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_ties_go_to_the_lower_row(dtype: torch.dtype, pack: Any, guard: Any) -> None:
    cu_seqlens, longest = pack([197, 17, 64])
    metric = guard(signs(278, 4, seed=3).to(dtype))
    assert_same_plan(metric, cu_seqlens, longest, 20, 1)


def test_what_is_not_a_number_ranks_last_and_stays_in_its_image(pack: Any, guard: Any) -> None:
    cu_seqlens, longest = pack([20, 21, 20])
    metric = signs(61, 4, seed=4)
    clean = launch(metric, cu_seqlens, longest, 7, 1)[0]
    metric[22:40:3] = float("nan")
    metric[25] = float("inf")
    metric[26] = 0.0
    assert_same_plan(guard(metric), cu_seqlens, longest, 7, 1)
    spoilt = launch(metric, cu_seqlens, longest, 7, 1)[0]
    assert spoilt[:20].tolist() == clean[:20].tolist()
    assert spoilt[41:].tolist() == clean[41:].tolist()


def test_spare_rows_are_not_written(pack: Any) -> None:
    cu_seqlens, longest = pack([6, 5])
    dest, _, _, weight = launch(torch.randn(20, 16), cu_seqlens, longest, 2, 1)
    assert (dest[11:] == UNWRITTEN).all()
    assert weight[11:].isnan().all()
