"""``attention_colsum``: the kernel against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.attention_colsum import launch, reference
from foveate_kernels.ops.varlen_attention import reference as attend

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577, 0]


def both(qk: Tensor, cu_seqlens: Tensor, longest: int, bias: Tensor | None) -> tuple[Any, Any]:
    """What the kernel says, given the exact log-sum-exp, and what is right."""
    q, k = qk.double().unbind(1)
    lse = attend(q, k, k, cu_seqlens, longest, 0.2, bias, True, False, False)[1]
    exact = reference(q, k, lse, cu_seqlens, longest, 0.2, bias)
    return launch(*qk.unbind(1), lse.float(), cu_seqlens, longest, 0.2, bias), exact


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_equals_float64(
    dtype: torch.dtype, biased: bool, pack: Any, guard: Any, close: Any
) -> None:
    generator = torch.Generator().manual_seed(1)
    cu_seqlens, longest = pack(LENGTHS)
    total = int(cu_seqlens[-1])
    qk = guard(torch.randn(total, 2, 1, 24, generator=generator).to(dtype))  # strided, odd D
    bias = guard(torch.rand(total, generator=generator)) if biased else None
    close(*both(qk, cu_seqlens, longest, bias), "score", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dim", [16, 72, 128])
def test_every_head_and_every_width_of_tiles(
    dim: int, dtype: torch.dtype, pack: Any, guard: Any, close: Any
) -> None:
    generator = torch.Generator().manual_seed(dim)
    cu_seqlens, longest = pack([70, 0, 17])
    qk = guard(torch.randn(87, 2, 3, dim, generator=generator).to(dtype))
    bias = guard(torch.rand(87, generator=generator))
    close(*both(qk, cu_seqlens, longest, bias), "score", dtype)


def test_a_key_of_minus_infinity_receives_nothing(pack: Any, guard: Any, close: Any) -> None:
    cu_seqlens, longest = pack([150, 30])
    qk = guard(torch.randn(180, 2, 1, 16, generator=torch.Generator().manual_seed(3)))
    bias = torch.zeros(180)
    bias[:70] = bias[150:179] = -float("inf")
    out, exact = both(qk, cu_seqlens, longest, bias)
    close(out, exact, "score", torch.float32)
    assert (out[:, bias.isinf()] == 0).all()


def test_an_image_does_not_feel_its_neighbours(pack: Any) -> None:
    qk = torch.randn(150, 2, 2, 16, generator=torch.Generator().manual_seed(5)).half()
    lse = torch.full((2, 150), 4.0)
    cu_seqlens, _ = pack([7, 0, 80, 63])
    together = launch(*qk.unbind(1), lse, cu_seqlens, 100, 0.25, None)
    alone = launch(*qk[7:87].unbind(1), lse[:, 7:87], pack([80])[0], 100, 0.25, None)
    assert torch.equal(together[:, 7:87], alone)


def test_spare_rows_are_neither_read_nor_written(pack: Any) -> None:
    cu_seqlens, longest = pack([5, 6])
    q = torch.randn(20, 1, 16)
    lse = torch.full((1, 20), float("nan"))
    lse[:, :11] = 3.0
    out = launch(q, q, lse, cu_seqlens, longest, 0.25, None)
    assert out[:, 11:].isnan().all()
    assert not out[:, :11].isnan().any()
