"""``add_layernorm_fp8`` is ``add_layernorm``, rounded to FP8."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops import add_layernorm, quantize_rows
from foveate_kernels.ops.add_layernorm_fp8 import add_layernorm_fp8, launch


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rounds_what_add_layernorm_gives(dtype: torch.dtype, with_residual: bool) -> None:
    x, residual = torch.randn(2, 5, 33, generator=torch.Generator().manual_seed(3)).to(dtype)
    weight, bias = torch.randn(2, 33)
    second = residual if with_residual else None
    added, normed, scale = add_layernorm_fp8(x, second, weight, bias, eps=1e-3)
    total, exact = add_layernorm(x, second, weight, bias, eps=1e-3)
    rounded, own = quantize_rows(exact)
    assert torch.equal(added, total)
    assert torch.equal(normed.float(), rounded.float())
    assert torch.equal(scale, own)


def test_what_is_normalised_is_rounded_only_once() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, 5.0]], dtype=torch.bfloat16)
    weight, bias = torch.ones(4), torch.zeros(4)
    _, normed, scale = add_layernorm_fp8(x, None, weight, bias)
    wide = quantize_rows(add_layernorm(x.float(), None, weight, bias)[1])
    assert torch.equal(scale, wide[1])  # not of the row in bfloat16
    assert torch.equal(normed.float(), wide[0].float())


def test_without_a_residual_the_sum_is_x_itself() -> None:
    x = torch.randn(3, 8)
    assert add_layernorm_fp8(x, None, torch.ones(8), torch.zeros(8))[0] is x


@pytest.mark.parametrize("with_residual", [False, True])
def test_registration(with_residual: bool) -> None:
    x, residual = torch.randn(2, 6, 16)
    args = (x, residual if with_residual else None, torch.ones(16), torch.zeros(16))
    torch.library.opcheck(torch.ops.foveate.add_layernorm_fp8.default, (*args, 1e-6))

    def program(*args: Any) -> Tensor:
        added, normed, scale = add_layernorm_fp8(*args)
        return added + normed.float() * scale.unsqueeze(1)

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), program(*args))


def test_errors_name_the_argument() -> None:
    x, weight = torch.zeros(4, 8), torch.zeros(8)
    with pytest.raises(ValueError, match=r"weight.shape=\[7\]: expected \[8\]"):
        launch(x, None, weight[:7], weight, 0.0)
