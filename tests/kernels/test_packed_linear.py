"""``packed_linear`` against its definition, image by image in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.packed_linear import launch, packed_linear


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_equals_its_definition(dtype: torch.dtype, gelu: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20, 19, generator=generator).to(dtype)
    x[11:] = float("nan")
    weight = torch.randn(7, 19, generator=generator).to(dtype)
    bias = torch.randn(7, generator=generator).to(dtype)
    cu_seqlens = torch.tensor([0, 4, 4, 11], dtype=torch.int32)
    found = packed_linear(x, weight, bias, cu_seqlens[-1:], gelu=gelu)
    assert found.dtype == dtype
    for low, high in ((0, 4), (4, 11)):
        y = x[low:high].double() @ weight.double().T + bias.double()
        expected = torch.nn.functional.gelu(y) if gelu else y
        atol = 16 * torch.finfo(dtype).eps  # of sums as large as 10, rounded
        torch.testing.assert_close(found[low:high].double(), expected, rtol=atol, atol=atol)


def test_registration() -> None:
    rows = torch.tensor([4], dtype=torch.int32)
    args = (torch.randn(6, 16), torch.randn(8, 16), torch.randn(8), rows)
    torch.library.opcheck(torch.ops.foveate.packed_linear.default, (*args, True))

    def program(*args: Tensor) -> Tensor:
        return packed_linear(*args, gelu=True) + 1

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), program(*args))


X, WEIGHT, BIAS = torch.zeros(4, 8), torch.zeros(6, 8), torch.zeros(6)
ROWS = torch.tensor([4], dtype=torch.int32)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X.double(), WEIGHT.double(), BIAS, ROWS), "x.dtype=torch.float64: expected"),
        ((X, WEIGHT[:, :7], BIAS, ROWS), r"weight.shape=\[6, 7\]: expected \[\*, 8\]"),
        ((X, WEIGHT, BIAS, ROWS[0]), r"rows.shape=\[\]: expected \[1\]"),
        ((X, WEIGHT, BIAS, ROWS.long()), "rows.dtype=torch.int64: expected torch.int32"),
        ((X, WEIGHT, BIAS, ROWS.to("meta")), "rows.device=meta: expected cpu, as x"),
        ((X, WEIGHT, BIAS, ROWS + 1), "rows=5: expected 0 to 4"),
        ((X, WEIGHT, BIAS, ROWS - 5), "rows=-1: expected 0 to 4"),
    ],
)
def test_errors_name_the_argument(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(*args, False)
