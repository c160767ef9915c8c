"""``linear_gelu`` against its definition, number by number in float64."""

from __future__ import annotations

from math import erf, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.matmul import MULTIPROCESSORS, tile_for
from foveate_kernels.ops.linear_gelu import launch, linear_gelu


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_equals_its_definition(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 19, generator=generator).to(dtype)
    weight = torch.randn(7, 19, generator=generator).to(dtype)
    bias = torch.randn(7, generator=generator)
    expected = torch.empty(5, 7, dtype=torch.float64)
    for i, row in enumerate(x.tolist()):
        for j, column in enumerate(weight.tolist()):
            y = sum(a * b for a, b in zip(row, column, strict=True)) + bias.to(dtype)[j].item()
            expected[i, j] = y * (1 + erf(y / sqrt(2))) / 2
    found = linear_gelu(x, weight, bias)
    assert found.dtype == dtype
    atol = 16 * torch.finfo(dtype).eps  # of sums as large as 10, rounded before GELU
    torch.testing.assert_close(found.double(), expected, rtol=atol, atol=atol)


def test_registration() -> None:
    args = (torch.randn(6, 16), torch.randn(8, 16), torch.randn(8))
    torch.library.opcheck(torch.ops.foveate.linear_gelu.default, args)

    def program(*args: Tensor) -> Tensor:
        return linear_gelu(*args) + 1

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), program(*args))


@pytest.mark.parametrize(
    ("rows", "inner", "cols", "dtype", "tile"),
    [
        (6304, 384, 1536, torch.float16, (128, 256, 64)),
        (1576, 384, 1536, torch.bfloat16, (128, 128, 64)),
        (197, 384, 1536, torch.float16, (64, 64, 64)),
        (6304, 384, 1536, torch.float32, (64, 64, 32)),  # no matrix units
        (6304, 588, 1536, torch.float16, (64, 64, 32)),  # rows that do not begin at 16 bytes
    ],
)
def test_the_largest_tile_that_fills_the_gpu(
    rows: int, inner: int, cols: int, dtype: torch.dtype, tile: tuple[int, ...]
) -> None:
    x = torch.empty(rows, inner, dtype=dtype, device="meta")
    weight = torch.empty(cols, inner, dtype=dtype, device="meta")
    found = tile_for(x, weight)
    assert found[:3] == tile
    if rows > 1000:
        assert found.cover(rows, cols) >= MULTIPROCESSORS


X, WEIGHT, BIAS = torch.zeros(4, 8), torch.zeros(6, 8), torch.zeros(6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X[0], WEIGHT, BIAS), r"x.shape=\[8\]: expected \[\*, \*\]"),
        ((X.double(), WEIGHT.double(), BIAS), "x.dtype=torch.float64: expected torch.float16 or"),
        ((X.T, WEIGHT[:, :4], BIAS), r"x.stride=\(1, 8\): expected 1"),
        ((X, WEIGHT[:, :7], BIAS), r"weight.shape=\[6, 7\]: expected \[\*, 8\]"),
        ((X, WEIGHT.half(), BIAS), "weight.dtype=torch.float16: expected torch.float32"),
        ((X, WEIGHT[:0], BIAS[:0]), r"weight.shape=\[0, 8\]: expected 1 or more of each"),
        ((X, WEIGHT, BIAS[:5]), r"bias.shape=\[5\]: expected \[6\]"),
        ((X, WEIGHT, BIAS.half()), "bias.dtype=torch.float16: expected torch.float32"),
        ((X, WEIGHT, BIAS.to("meta")), "bias.device=meta: expected cpu, as x"),
    ],
)
def test_errors_name_the_argument(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(*args)
