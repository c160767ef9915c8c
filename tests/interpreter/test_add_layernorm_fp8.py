"""``add_layernorm_fp8``: the kernel against float64, and its sum against ``add_layernorm``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.ops.add_layernorm import launch as add_layernorm
from foveate_kernels.ops.add_layernorm_fp8 import launch, reference


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "dim"), [(0, 8), (1, 1), (2, 384), (17, 48), (65, 772)])
def test_kernel_equals_float64(
    rows: int, dim: int, dtype: torch.dtype, with_residual: bool, guard: Any
) -> None:
    generator = torch.Generator().manual_seed(rows)
    both = 3 * torch.randn(rows, 2, dim, generator=generator) + 5
    x, residual = guard(both.to(dtype)).unbind(1)  # strided
    weight, bias = guard(torch.randn(2, dim, generator=generator).to(dtype))
    second = residual if with_residual else None
    added, normed, scale = launch(x, second, weight, bias.float(), 1e-6)
    exact = reference(
        x.double(),
        None if second is None else second.double(),
        weight.double(),
        bias.float(),
        1e-6,
    )
    assert torch.equal(added, add_layernorm(x, second, weight, bias.float(), 1e-6)[0])
    torch.testing.assert_close(scale, exact[2], rtol=1e-4, atol=1e-12)
    # A value between two that FP8 has may be rounded to either; nearly all are not so close to one.
    torch.testing.assert_close(normed.double(), exact[1].double(), rtol=0.13, atol=2**-9)
    assert (normed.double() != exact[1].double()).double().mean().nan_to_num() <= 2e-3


def test_rows_of_one_value_and_rows_that_are_not_finite() -> None:
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    x[1], x[2, 7], x[3] = float("nan"), float("inf"), 3.0
    _, normed, scale = launch(x, None, torch.ones(40), torch.zeros(40), 1e-6)
    products = (normed.float() * scale[:, None]).sum(1)
    assert products.isfinite().tolist() == [True, False, False, True, True]
    assert not normed[3].float().any()
    assert scale[3] == 1
