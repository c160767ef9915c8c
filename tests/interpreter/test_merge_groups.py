"""``merge_groups``: the kernel against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.merge_groups import launch, reference
from foveate_kernels.packed import DROPPED

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577, 0]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def plan(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Groups of every kind: alone, in pairs, half of the image; every seventh row is dropped."""
    generator = torch.Generator().manual_seed(seed)
    dest, count = [], []
    for n in lengths:
        groups = (n + 2) // 3
        mine = torch.cat([torch.arange(groups), torch.zeros(n // 3, dtype=torch.int64)])
        more = torch.randint(0, max(1, groups // 2), (n - len(mine),), generator=generator)
        mine = torch.cat([mine, more])
        mine[groups:][::7] = DROPPED
        dest.append(mine[torch.randperm(n, generator=generator)])
        count.append(groups)
    return torch.cat(dest).int(), torch.tensor(count, dtype=torch.int32)


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_equals_float64(
    dtype: torch.dtype, sized: bool, pack: Any, guard: Any, close: Any
) -> None:
    generator = torch.Generator().manual_seed(1)
    cu_seqlens, longest = pack(LENGTHS)
    dest, count = plan(LENGTHS)
    x = torch.randn(len(dest), 50, generator=generator).to(dtype)
    x[dest == DROPPED] = float("nan")
    x = guard(x)[:, 5:35]  # strided, odd C
    sizes = guard(torch.rand(len(dest), generator=generator) * 40 + 0.1) if sized else None
    kept = int(count.sum())
    out, new_cu, new_sizes = launch(x, dest, count, cu_seqlens, longest, len(dest), sizes)
    exact = reference(x.double(), dest, count, cu_seqlens, longest, len(dest), sizes)
    close(out[:kept], exact[0][:kept], "package", dtype)
    assert torch.equal(new_cu, exact[1])
    close(new_sizes[:kept], exact[2][:kept], "score", torch.float32)
    assert out[kept:].isnan().all()
    assert new_sizes[kept:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_is_copied_to_the_bit(dtype: torch.dtype, pack: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    cu_seqlens, longest = pack([70, 3])
    order = torch.randperm(70, generator=generator)
    dest = torch.cat([order, torch.tensor([1, 0, 2])]).int()
    x = torch.randn(73, 70, generator=generator).to(dtype)
    sizes = torch.rand(73, generator=generator) * 100 + 0.01
    count = torch.tensor([70, 3], dtype=torch.int32)
    out, _, new_sizes = launch(x, dest, count, cu_seqlens, longest, 73, sizes)
    to = dest.long() + torch.tensor([0, 70]).repeat_interleave(torch.tensor([70, 3]))
    assert torch.equal(out[to], x)
    assert torch.equal(new_sizes[to], sizes)


@pytest.mark.parametrize("capacity", [0, 3, 70, 400])
def test_what_does_not_fit_is_cut_off(capacity: int, pack: Any) -> None:
    lengths = [5, 0, 200]
    cu_seqlens, longest = pack(lengths)
    dest, count = plan(lengths)
    x = torch.randn(205, 8, generator=torch.Generator().manual_seed(3))
    whole = launch(x, dest, count, cu_seqlens, longest, 205, None)
    cut = launch(x, dest, count, cu_seqlens, longest, capacity, None)
    fits = min(capacity, int(count.sum()))
    assert torch.equal(cut[1], whole[1].clamp(max=capacity))
    assert torch.equal(cut[0][:fits], whole[0][:fits])
    assert torch.equal(cut[2][:fits], whole[2][:fits])
    assert cut[0][fits:].isnan().all()


def test_nan_stays_in_its_image(pack: Any) -> None:
    lengths = [20, 70, 9]
    cu_seqlens, longest = pack(lengths)
    dest, count = plan(lengths)
    x = torch.randn(99, 8, generator=torch.Generator().manual_seed(4))
    clean, new_cu, _ = launch(x, dest, count, cu_seqlens, longest, 99, None)
    low, high = new_cu[1:3].tolist()
    x[20:90] = float("nan")
    x[50] = float("inf")
    out, _, _ = launch(x, dest, count, cu_seqlens, longest, 99, None)
    others = [*range(low), *range(high, int(new_cu[-1]))]
    assert torch.equal(out[others], clean[others])
    assert out[low:high].isnan().all()


def test_no_images_and_no_rows(pack: Any) -> None:
    nothing = torch.zeros(0, dtype=torch.int32)
    out, new_cu, sizes = launch(torch.zeros(0, 8), nothing, nothing, pack([])[0], 0, 0, None)
    assert (out.shape, new_cu.tolist(), len(sizes)) == ((0, 8), [0], 0)
    none = torch.zeros(2, dtype=torch.int32)
    _, new_cu, _ = launch(torch.zeros(0, 8), nothing, none, *pack([0, 0]), 0, None)
    assert new_cu.tolist() == [0, 0, 0]
