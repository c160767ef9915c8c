"""``select_tokens``: the kernel chooses what the reference chooses, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.select_tokens import launch, reference

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577]
INF, NAN = float("inf"), float("nan")
NO_RULE = (None, 0, 1, None, 0, 2**31 - 1)
RULES = {
    "count": (None, 0, 1, None, 16, 16),
    "nothing": (None, 0, 1, None, 0, 0),
    "everything": (None, 1, 1, None, 0, 1000),
    "ratio": (None, 7, 10, None, 0, 1000),
    "threshold": (None, 0, 1, 0.5, 2, 100),
    "per-image": (torch.tensor([3, -2, 1, 14, 99, 5, 1, -9, 7, 100, 288], dtype=torch.int32),),
}


def scores(total: int) -> Tensor:
    """Two heads whose mean has many ties, and some of every odd value."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 12, (2, total), generator=generator).float() / 8
    odd = torch.tensor([NAN, INF, -INF, -0.0, 0.0, -1.5])
    where = torch.rand(total, generator=generator) < 0.1
    values[0, where] = odd[torch.randint(0, 6, (int(where.sum()),), generator=generator)]
    return values


@pytest.mark.parametrize("fate", ["drop", "package", "merge"])
@pytest.mark.parametrize("rule", list(RULES))
def test_kernel_equals_reference(rule: str, fate: str, pack: Any, guard: Any) -> None:
    cu_seqlens, longest = pack(LENGTHS)
    total = int(cu_seqlens[-1])
    suffix = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0], dtype=torch.int32)
    values = guard(scores(total).T.contiguous()).T.contiguous()
    arguments = (values, cu_seqlens, longest, *RULES[rule], *NO_RULE[len(RULES[rule]) :])
    plan = launch(*arguments, 1, suffix, fate)
    expected = reference(*arguments, 1, suffix, fate)
    for name, got, want in zip(("dest", "count", "packaged"), plan, expected, strict=False):
        assert torch.equal(got, want), name
    torch.testing.assert_close(plan[3], expected[3], rtol=0, atol=0, equal_nan=True)


def test_spare_rows_are_not_written(pack: Any) -> None:
    cu_seqlens, longest = pack([5, 0, 6])
    dest, _, _, weight = launch(
        torch.rand(1, 20), cu_seqlens, longest, None, 0, 1, None, 2, 2, 1, None, "drop"
    )
    assert (dest[11:] == 2**31 - 1).all()  # as the memory was
    assert weight[11:].isnan().all()
