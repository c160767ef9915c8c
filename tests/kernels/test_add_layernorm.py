"""``add_layernorm`` against its definition, row by row in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.add_layernorm import add_layernorm, launch


def _definition(row: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean = sum(row.tolist()) / len(row)
    variance = sum((value - mean) ** 2 for value in row.tolist()) / len(row)
    return (row - mean) / (variance + eps) ** 0.5 * weight + bias


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_equals_its_definition(dtype: torch.dtype, with_residual: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x, residual = torch.randn(2, 5, 33, generator=generator).to(dtype)
    weight, bias = torch.randn(2, 33, generator=generator)
    added, normed = add_layernorm(x, residual if with_residual else None, weight, bias, eps=1e-3)
    total = x.double() + residual.double() * with_residual
    rows = [_definition(row, weight.double(), bias.double(), 1e-3) for row in total]
    assert added.dtype == normed.dtype == dtype
    torch.testing.assert_close(added, total.to(dtype))
    torch.testing.assert_close(normed, torch.stack(rows).to(dtype))


def test_the_sum_is_normalised_before_it_is_rounded() -> None:
    x = torch.full((1, 2), 2048.0, dtype=torch.float16)  # to which float16 cannot add 1
    residual = torch.tensor([[0.0, 1.0]], dtype=torch.float16)
    added, normed = add_layernorm(x, residual, torch.ones(2), torch.zeros(2))
    assert added.tolist() == [[2048, 2048]]
    assert normed.tolist() == [[-1, 1]]


def test_without_a_residual_the_sum_is_x_itself() -> None:
    x = torch.randn(3, 8)
    assert add_layernorm(x, None, torch.ones(8), torch.zeros(8))[0] is x


def test_a_row_does_not_depend_on_the_others() -> None:
    x, residual = torch.randn(2, 37, 100, generator=torch.Generator().manual_seed(0))
    weight, bias = torch.ones(100), torch.zeros(100)
    together = add_layernorm(x, residual, weight, bias)
    for i in range(37):
        alone = add_layernorm(x[i : i + 1], residual[i : i + 1], weight, bias)
        assert torch.equal(together[0][i], alone[0][0])
        torch.testing.assert_close(together[1][i], alone[1][0])


@pytest.mark.parametrize("with_residual", [False, True])
def test_registration(with_residual: bool) -> None:
    x, residual = torch.randn(2, 6, 16)
    args = (x, residual if with_residual else None, torch.ones(16), torch.zeros(16))
    torch.library.opcheck(torch.ops.foveate.add_layernorm.default, (*args, 1e-6))

    def program(*args: Any) -> Tensor:
        added, normed = add_layernorm(*args)
        return added + 2 * normed

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), program(*args))


X, WEIGHT = torch.zeros(4, 8), torch.zeros(8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[0], None, WEIGHT, WEIGHT, 0.0), r"x.shape=\[8\]: expected \[\*, \*\]"),
        ((X.double(), None, WEIGHT, WEIGHT, 0.0), r"x.dtype=torch.float64: expected"),
        ((X.T, None, X[:, 0], X[:, 0], 0.0), r"x.stride=\(1, 8\): expected 1"),
        ((X[:, :0], None, WEIGHT[:0], WEIGHT[:0], 0.0), "expected 1 to 4096 columns"),
        ((X, X[:3], WEIGHT, WEIGHT, 0.0), r"residual.shape=\[3, 8\]: expected \[4, 8\]"),
        ((X, X.half(), WEIGHT, WEIGHT, 0.0), r"residual.dtype=torch.float16: expected"),
        ((X, None, WEIGHT[:7], WEIGHT, 0.0), r"weight.shape=\[7\]: expected \[8\]"),
        ((X, None, WEIGHT, WEIGHT.half(), 0.0), r"bias.dtype=torch.float16: expected"),
        ((X, None, WEIGHT, WEIGHT, -1.0), r"eps=-1.0: expected 0 or more"),
        ((X, None, WEIGHT.to("meta"), WEIGHT, 0.0), r"weight.device=meta: expected cpu, as x"),
    ],
)
def test_errors_name_the_argument(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(*args)
