"""``top_mask`` against Python's sort, through a kernel of its own."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from foveate_kernels.topk import sortable, top_mask

INF, NAN = float("inf"), float("nan")
ODD = [NAN, -NAN, INF, -INF, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38]


@triton.jit
def top_kernel(score_ptr, candidate_ptr, out_ptr, k, n, block: tl.constexpr):
    i = tl.arange(0, block)
    score = tl.load(score_ptr + i, mask=i < n, other=0.0)
    candidate = tl.load(candidate_ptr + i, mask=i < n, other=0) != 0
    tl.store(out_ptr + i, top_mask(sortable(score), candidate, k).to(tl.int32), mask=i < n)


@pytest.mark.parametrize("n", [1, 16, 100, 577])
def test_the_highest_and_of_ties_the_first(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    score = torch.randint(-4, 4, (n,), generator=generator) * 0.1
    which = torch.randint(3 * len(ODD), (n,), generator=generator)
    score = torch.where(which < len(ODD), torch.tensor(ODD)[which % len(ODD)], score)
    candidate = torch.randint(4, (n,), generator=generator, dtype=torch.int32).clamp(max=1)
    last = [i for i in range(n) if candidate[i] and score[i].isnan()]
    order = [i for i in range(n) if candidate[i] and not score[i].isnan()]
    order.sort(key=lambda i: (-score[i].item(), i))
    order += last
    for k in (-1, 0, 1, n // 3, len(order) - 1, n + 5):
        out = torch.empty(n, dtype=torch.int32)
        top_kernel[(1,)](score, candidate, out, k, n, block=triton.next_power_of_2(n))
        assert out.nonzero().flatten().tolist() == sorted(order[: max(k, 0)])
