"""``quantize_rows``: the kernel against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.ops.quantize_rows import launch, reference


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu-tanh", "quick-gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "dim"), [(0, 8), (1, 1), (3, 384), (17, 48), (65, 772), (5, 3072)]
)
def test_kernel_equals_float64(
    rows: int, dim: int, dtype: torch.dtype, activation: str, guard: Any
) -> None:
    generator = torch.Generator().manual_seed(rows)
    sizes = torch.logspace(-3, 3, max(rows, 1))[:rows, None, None]
    x = guard((sizes * torch.randn(rows, 2, dim, generator=generator)).to(dtype))[:, 1]  # strided
    out, scale = launch(x, activation)
    exact, exact_scale = reference(x.double(), activation)
    torch.testing.assert_close(scale, exact_scale, rtol=1e-5, atol=1e-12)
    # A value between two that FP8 has may be rounded to either; nearly all are not so close to one.
    torch.testing.assert_close(out.double(), exact.double(), rtol=0.13, atol=2**-9)
    assert (out.double() != exact.double()).double().mean().nan_to_num() <= 2e-3


def test_rows_of_zeros_and_rows_that_are_not_finite() -> None:
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    x[1], x[2], x[3, 7], x[4, 9] = 0.0, float("nan"), float("inf"), float("nan")
    out, scale = launch(x, "none")
    assert not out[1].float().any()
    assert scale[1] == 1
    products = (out.float() * scale[:, None]).sum(1)
    assert products.isfinite().tolist() == [True, True, False, False, False, True]
    alone = [launch(x[i : i + 1].clone(), "none") for i in (0, 5)]
    for i, (row, own) in zip((0, 5), alone, strict=True):
        assert torch.equal(row[0].view(torch.uint8), out[i].view(torch.uint8))
        assert own[0] == scale[i]
