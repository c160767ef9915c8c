"""``compact_tokens``: kept rows to the bit, packages against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.ops import select_tokens
from foveate_kernels.ops.compact_tokens import launch, reference

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("fate", ["drop", "package"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_equals_float64(
    dtype: torch.dtype, fate: Any, normalize: bool, pack: Any, guard: Any, close: Any
) -> None:
    generator = torch.Generator().manual_seed(2)
    cu_seqlens, longest = pack(LENGTHS)
    total = int(cu_seqlens[-1])
    x = guard(torch.randn(total, 72, generator=generator).to(dtype))
    sizes = guard(torch.randint(1, 9, (total,), generator=generator).float())
    suffix = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0], dtype=torch.int32)
    values = torch.rand(total, generator=generator)
    values[cu_seqlens[7] : cu_seqlens[8]] = 0.0  # an image whose package has no weight
    plan = select_tokens(values, cu_seqlens, longest, ratio=(3, 5), fate=fate, suffix=suffix)
    rows = int(plan.lengths.sum())
    out, new_cu, new_sizes = launch(x, *plan, cu_seqlens, longest, rows + 9, sizes, normalize)
    exact, exact_cu, exact_sizes = reference(
        x.double(), *plan, cu_seqlens, longest, rows + 9, sizes, normalize
    )
    assert torch.equal(new_cu, exact_cu)
    assert torch.equal(new_sizes[:rows], exact_sizes[:rows])
    assert out[rows:].isnan().all(), "spare rows were written"
    package = torch.zeros(rows, dtype=torch.bool)
    package[new_cu[1:].long()[plan.packaged > 0] - 1] = fate == "package"
    assert torch.equal(out[:rows][~package].double(), exact[:rows][~package])
    if fate == "package":
        close(out[:rows][package], exact[:rows][package], "package", dtype)


def test_what_does_not_fit_is_cut_off(pack: Any) -> None:
    cu_seqlens, longest = pack([5, 6, 4])
    x = torch.randn(15, 16)
    plan = select_tokens(torch.rand(15), cu_seqlens, longest, keep=3, fate="package")
    whole, _, _ = reference(x, *plan, cu_seqlens, longest, 15, None, True)
    out, new_cu, _ = launch(x, *plan, cu_seqlens, longest, 7, None, True)
    assert new_cu.tolist() == [0, 5, 7, 7]
    torch.testing.assert_close(out, whole[:7])


def test_rows_that_vanish_may_hold_anything(pack: Any) -> None:
    cu_seqlens, longest = pack([6])
    x = torch.randn(6, 16)
    x[2] = float("nan")
    values = torch.tensor([0.0, 3.0, 1.0, 2.0, 4.0, 5.0])
    plan = select_tokens(values, cu_seqlens, longest, keep=4)
    out, _, _ = launch(x, *plan, cu_seqlens, longest, 5, None, True)
    assert torch.equal(out, x[[0, 1, 3, 4, 5]])
