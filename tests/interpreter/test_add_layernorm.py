"""``add_layernorm``: the kernel against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.ops.add_layernorm import launch, reference


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "dim"), [(0, 8), (1, 1), (2, 384), (15, 128), (17, 24), (65, 771), (197, 64)]
)
def test_kernel_equals_float64(
    rows: int, dim: int, dtype: torch.dtype, with_residual: bool, guard: Any, close: Any
) -> None:
    generator = torch.Generator().manual_seed(rows)
    both = 3 * torch.randn(rows, 2, dim, generator=generator) + 5
    x, residual = guard(both.to(dtype)).unbind(1)  # strided
    weight, bias = guard(torch.randn(2, dim, generator=generator).to(dtype))
    added, normed = launch(x, residual if with_residual else None, weight, bias.float(), 1e-6)
    wide = [t.double() for t in (x, residual, weight)]
    exact = reference(wide[0], wide[1] if with_residual else None, wide[2], bias.float(), 1e-6)
    close(normed, exact[1], "output", dtype)
    close(added, exact[0], "output", dtype)
    if with_residual and dtype != torch.bfloat16:  # to which the interpreter truncates
        assert torch.equal(added, (x.float() + residual.float()).to(dtype))


def test_a_row_of_nan_or_inf_or_one_value_keeps_to_itself() -> None:
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    x[1], x[2, 7], x[4] = float("nan"), float("inf"), 3.0
    ones, zeros = torch.ones(40), torch.zeros(40)
    _, normed = launch(x, None, ones, zeros, 1e-6)
    assert normed[1:3].isnan().all()
    assert not normed[4].any()
    alone = [launch(x[i : i + 1].clone(), None, ones, zeros, 1e-6)[1] for i in (0, 3, 5)]
    assert torch.equal(normed[[0, 3, 5]], torch.cat(alone))
