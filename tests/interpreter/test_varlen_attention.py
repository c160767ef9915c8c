"""``varlen_attention``: the kernel against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.varlen_attention import launch, reference

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577, 0]
CLS = (True, True, False)  # return_lse, return_cls, value_norm
ASKED = {
    "plain": (False, False, False, False),
    "bias cls": (True, *CLS),
    "cls norm": (False, False, True, True),
}


def both(qkv: Tensor, *rest: Any) -> tuple[Any, Any]:
    """What the kernel says, and what is right."""
    return launch(*qkv.unbind(1), *rest), reference(*qkv.double().unbind(1), *rest)


@pytest.fixture
def close_to(close: Any) -> Any:
    def compare(outputs: Any, exact: Any, dtype: torch.dtype) -> None:
        for x, right, kind in zip(outputs, exact, ("output", "score", "score"), strict=True):
            close(x, right, kind, dtype)

    return compare


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_equals_float64(
    dtype: torch.dtype, asked: str, pack: Any, guard: Any, close_to: Any
) -> None:
    biased, *returns = ASKED[asked]
    generator = torch.Generator().manual_seed(1)
    cu_seqlens, longest = pack(LENGTHS if dtype.itemsize == 2 else LENGTHS[:-2])  # smaller tiles
    total = int(cu_seqlens[-1])
    qkv = guard(torch.randn(total, 3, 1, 24, generator=generator).to(dtype))  # strided, odd D
    bias = guard(torch.rand(total, generator=generator)) if biased else None
    close_to(*both(qkv, cu_seqlens, longest, 0.2, bias, *returns), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dim", [16, 72, 80, 128])
def test_every_head_and_every_width_of_tiles(
    dim: int, dtype: torch.dtype, pack: Any, guard: Any, close_to: Any
) -> None:
    generator = torch.Generator().manual_seed(dim)
    cu_seqlens, longest = pack([70, 0, 17])
    qkv = guard(torch.randn(87, 3, 3, dim, generator=generator).to(dtype))
    bias = guard(torch.rand(87, generator=generator))
    close_to(*both(qkv, cu_seqlens, longest, dim**-0.5, bias, *CLS), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("dim", "v_dim"), [(24, 64), (64, 40), (16, 80)])
def test_values_may_be_wider_or_narrower(
    dim: int, v_dim: int, dtype: torch.dtype, pack: Any, guard: Any, close_to: Any
) -> None:
    generator = torch.Generator().manual_seed(dim)
    cu_seqlens, longest = pack([70, 0, 17])
    packed = guard(torch.randn(87, 3 * (2 * dim + v_dim), generator=generator).to(dtype))
    q, k, v = packed.split([3 * dim, 3 * dim, 3 * v_dim], 1)
    qkv = [x.unflatten(1, (3, -1)) for x in (q, k, v)]
    bias = guard(torch.rand(87, generator=generator))
    for value_norm in (False, True):
        rest = (cu_seqlens, longest, dim**-0.5, bias, True, True, value_norm)
        close_to(launch(*qkv, *rest), reference(*(x.double() for x in qkv), *rest), dtype)


def test_the_bound_may_be_above_the_longest_and_changes_the_tiles(
    pack: Any, guard: Any, close_to: Any
) -> None:
    cu_seqlens, _ = pack([100, 1, 129])
    qkv = guard(torch.randn(230, 3, 1, 32, generator=torch.Generator().manual_seed(2)).half())
    for bound in (129, 256):  # tiles of 64 rows, of 128
        close_to(*both(qkv, cu_seqlens, bound, 0.2, None, *CLS), torch.float16)


def test_keys_of_minus_infinity_are_not_seen(pack: Any, guard: Any, close_to: Any) -> None:
    cu_seqlens, longest = pack([150, 30])
    qkv = guard(torch.randn(180, 3, 1, 16, generator=torch.Generator().manual_seed(3)))
    bias = torch.zeros(180)
    bias[:70] = bias[150:179] = -float("inf")  # the first tiles of one, all but one of the other
    outputs, exact = both(qkv, cu_seqlens, longest, 0.3, bias, *CLS)
    close_to(outputs, exact, torch.float32)
    assert (outputs[2][:, bias.isinf()] == 0).all()
    assert torch.equal(outputs[0][150:], qkv[179:, 2].expand(30, 1, 16))


def test_logits_far_apart_do_not_overflow(pack: Any, guard: Any, close: Any) -> None:
    cu_seqlens, longest = pack([90, 3])
    qkv = guard(torch.randn(93, 3, 1, 16, generator=torch.Generator().manual_seed(4)) * 40)
    (out, lse, cls), exact = both(qkv, cu_seqlens, longest, 1.0, None, *CLS)
    close(out, exact[0], "output", torch.float32)
    close(lse, exact[1], "score", torch.float32)
    assert cls.isfinite().all()


@pytest.mark.parametrize("exact", [True, False])
def test_large_logits_give_probabilities(exact: bool, pack: Any) -> None:
    """Of about a million, where float32 knows sixteenths. Logits that are exact give exact sums;
    of others none is above 1."""
    cu_seqlens, longest = pack([90, 3])
    qkv = torch.zeros(93, 3, 1, 16)
    qkv[:, 0, :, 0] = 1000.0
    qkv[:, 1, :, 0] = 1000.0 - torch.arange(93)[:, None] % 3 / 1024  # logits differ by 0, 1 and 2
    if not exact:
        qkv += torch.randn(qkv.shape, generator=torch.Generator().manual_seed(5))
    _, _, cls = launch(*qkv.unbind(1), cu_seqlens, longest, 1.0, None, *CLS)
    assert (cls <= 1).all()
    if exact:
        sums = torch.stack([cls[0, :90].sum(), cls[0, 90:].sum()])
        torch.testing.assert_close(sums, torch.ones(2), rtol=1e-6, atol=0)


def test_an_image_does_not_feel_its_neighbours(pack: Any) -> None:
    qkv = torch.randn(150, 3, 2, 16, generator=torch.Generator().manual_seed(5)).half()
    cu_seqlens, _ = pack([7, 0, 80, 63])
    together = launch(*qkv.unbind(1), cu_seqlens, 100, 0.25, None, *CLS)
    alone = launch(*qkv[7:87].unbind(1), pack([80])[0], 100, 0.25, None, *CLS)
    assert torch.equal(together[0][7:87], alone[0])
    assert torch.equal(together[1][:, 7:87], alone[1])
    assert torch.equal(together[2][:, 7:87], alone[2])


def test_spare_rows_are_not_written(pack: Any) -> None:
    cu_seqlens, longest = pack([5, 6])
    q = torch.randn(20, 1, 16)
    out, lse, cls = launch(q, q, q, cu_seqlens, longest, 0.25, None, *CLS)
    for rows in (out.transpose(0, 1), lse, cls):
        assert rows[:, 11:].isnan().all()
        assert not rows[:, :11].isnan().any()
