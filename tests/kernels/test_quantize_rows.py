"""``quantize_rows`` against its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.quantize_rows import launch, quantize_rows

DEFINITIONS = {
    "none": lambda x: x,
    "gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "gelu-tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick-gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
}


def restored(x: Tensor, activation: str = "none") -> Tensor:
    out, scale = quantize_rows(x, activation)
    return out.double() * scale.double().unsqueeze(1)


@pytest.mark.parametrize("activation", list(DEFINITIONS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_value_is_off_by_a_sixteenth_at_most(dtype: torch.dtype, activation: str) -> None:
    """Three bits of mantissa; near zero by half a step of 2^-9 scales."""
    x = (3 * torch.randn(7, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    exact = torch.tensor([[DEFINITIONS[activation](v) for v in row] for row in x.tolist()])
    smallest = 2**-10 * exact.abs().amax(1, keepdim=True) / 448
    off = (restored(x, activation) - exact).abs()
    assert (off <= 1.001 * torch.maximum(exact.abs() / 16, smallest)).all()


def test_the_largest_of_a_row_is_the_largest_of_fp8() -> None:
    x = torch.randn(5, 33) * torch.tensor([1e-6, 1e-2, 1.0, 1e2, 1e4]).unsqueeze(1)
    out, scale = quantize_rows(x)
    assert out.dtype == torch.float8_e4m3fn
    assert scale.dtype == torch.float32
    assert out.float().abs().amax(1).tolist() == [448.0] * 5
    torch.testing.assert_close(scale, x.abs().amax(1) / 448)


def test_an_outlier_costs_only_its_own_row() -> None:
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    before = quantize_rows(x)
    x[0, 5] = 1e4
    after = quantize_rows(x)
    assert torch.equal(before[0][1].float(), after[0][1].float())
    assert before[1][1] == after[1][1]
    assert before[1][0] < after[1][0]


def test_zeros_stay_zeros() -> None:
    out, scale = quantize_rows(torch.zeros(3, 16), "gelu")
    assert not out.float().any()
    assert scale.tolist() == [1.0] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_not_finite_is_not_hidden(value: float, dtype: torch.dtype) -> None:
    x = torch.ones(2, 16, dtype=dtype)
    x[0, 3] = value
    found = restored(x).sum(1)
    assert found.isfinite().tolist() == [False, True]


@pytest.mark.parametrize("activation", list(DEFINITIONS))
def test_registration(activation: str) -> None:
    x = torch.randn(6, 16)
    torch.library.opcheck(torch.ops.foveate.quantize_rows.default, (x, activation))

    def program(x: Tensor) -> Tensor:
        return restored(x, activation)

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), program(x))


X = torch.zeros(4, 8)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[0], "none"), r"x.shape=\[8\]: expected \[\*, \*\]"),
        ((X.double(), "none"), r"x.dtype=torch.float64: expected"),
        ((X.T, "none"), r"x.stride=\(1, 8\): expected 1"),
        ((X[:, :0], "none"), "expected 1 to 16384 columns"),
        ((X, "relu"), "activation='relu': expected none, gelu, gelu-tanh, quick-gelu"),
    ],
)
def test_errors_name_the_argument(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(*args)
