"""``cls_importance``: the kernel against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.ops.cls_importance import launch, reference

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577, 0]


@pytest.mark.parametrize("value_norm", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_equals_float64(
    dtype: torch.dtype, biased: bool, value_norm: bool, pack: Any, guard: Any, close: Any
) -> None:
    generator = torch.Generator().manual_seed(1)
    cu_seqlens, longest = pack(LENGTHS)
    total = int(cu_seqlens[-1])
    qkv = guard(torch.randn(total, 3, 2, 24, generator=generator).to(dtype))  # strided, odd D
    bias = guard(torch.rand(total, generator=generator)) if biased else None
    out = launch(*qkv.unbind(1), cu_seqlens, longest, 0.2, bias, value_norm)
    wide = [x.double() for x in qkv.unbind(1)]
    exact = reference(*wide, cu_seqlens, longest, 0.2, bias, value_norm)
    close(out, exact, "score", dtype)


@pytest.mark.parametrize(("dim", "v_dim"), [(72, 72), (80, 80), (24, 64), (9, 13)])
def test_every_width_also_where_values_have_another(
    dim: int, v_dim: int, pack: Any, guard: Any, close: Any
) -> None:
    generator = torch.Generator().manual_seed(dim)
    cu_seqlens, longest = pack([70, 0, 17])
    packed = guard(torch.randn(87, 2, 2 * dim + v_dim, generator=generator))
    qkv = packed.split([dim, dim, v_dim], 2)
    out = launch(*qkv, cu_seqlens, longest, dim**-0.5, None, True)
    exact = reference(*(x.double() for x in qkv), cu_seqlens, longest, dim**-0.5, None, True)
    close(out, exact, "score", torch.float32)


def test_large_logits_give_probabilities(pack: Any, guard: Any) -> None:
    cu_seqlens, longest = pack([190, 3])
    qkv = guard(torch.randn(193, 3, 1, 16, generator=torch.Generator().manual_seed(4)) * 500)
    out = launch(*qkv.unbind(1), cu_seqlens, longest, 1.0, None, False)
    assert (out <= 1).all()
    torch.testing.assert_close(out[0, :190].sum(), torch.tensor(1.0), rtol=1e-5, atol=0)


def test_spare_rows_are_not_written(pack: Any) -> None:
    cu_seqlens, longest = pack([5, 6])
    q = torch.randn(20, 1, 16)
    out = launch(q, q, q, cu_seqlens, longest, 0.25, None, False)
    assert out[:, 11:].isnan().all()
    assert not out[:, :11].isnan().any()


def test_keys_of_minus_infinity_are_not_seen(pack: Any, guard: Any, close: Any) -> None:
    cu_seqlens, longest = pack([300, 30])
    qkv = guard(torch.randn(330, 3, 1, 16, generator=torch.Generator().manual_seed(3)))
    bias = torch.zeros(330)
    bias[:140] = bias[300:329] = -float("inf")  # the first tile of one, all but one of the other
    out = launch(*qkv.unbind(1), cu_seqlens, longest, 0.3, bias, False)
    wide = [x.double() for x in qkv.unbind(1)]
    close(out, reference(*wide, cu_seqlens, longest, 0.3, bias, False), "score", torch.float32)
    assert (out[:, bias.isinf()] == 0).all()
