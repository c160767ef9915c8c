"""``varlen_attention`` against its definition, image by image in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops import cls_importance, varlen_attention
from foveate_kernels.ops.varlen_attention import launch
from foveate_kernels.packed import uniform

ENDS = torch.tensor([0, 5, 5, 6, 23], dtype=torch.int32)


def packed(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(23, 3, 4, 16, generator=generator).to(dtype).unbind(1)
    return q, k, v


def attention(q: Tensor, k: Tensor, bias: Tensor | None) -> list[tuple[int, Tensor, Tensor]]:
    """First row, logits [H, n, n] and their softmax, of each image that has rows."""
    found = []
    for low, high in pairwise(ENDS.tolist()):
        if low < high:
            rows, keys = q[low:high].double(), k[low:high].double()
            logits = torch.einsum("ihd,jhd->hij", rows, keys) * 0.3
            if bias is not None:
                logits += bias[low:high].double()
            found.append((low, logits, logits.softmax(-1)))
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("more", [False, True])
def test_it_is_softmax_of_scaled_products_times_v(
    more: bool, biased: bool, dtype: torch.dtype
) -> None:
    q, k, v = packed(dtype)
    bias = torch.linspace(-1, 1, 23) if biased else None
    asked = dict.fromkeys(("return_lse", "return_cls", "value_norm"), more)
    out, lse, cls = varlen_attention(q, k, v, ENDS, 17, scale=0.3, key_bias=bias, **asked)
    assert out.dtype == dtype
    assert out.is_contiguous()
    rounding = max(torch.finfo(dtype).eps, 4 * torch.finfo(torch.float32).eps)
    for low, logits, weights in attention(q, k, bias):
        rows = slice(low, low + logits.shape[1])
        right = torch.einsum("hij,jhd->ihd", weights, v[rows].double())
        torch.testing.assert_close(out[rows].double(), right, rtol=rounding, atol=4 * rounding)
        if lse is None or cls is None:
            assert not more
            continue
        norm = v[rows].double().norm(dim=-1).T
        torch.testing.assert_close(
            lse[:, rows].double(), logits.logsumexp(-1), atol=1e-6, rtol=1e-6
        )
        torch.testing.assert_close(cls[:, rows].double(), weights[:, 0] * norm, atol=0, rtol=1e-5)


@pytest.mark.parametrize("more", [False, True])
def test_values_of_another_width_are_as_if_padded(more: bool) -> None:
    q, k, v = packed()
    wide = torch.cat([v, v.flip(2) / 2], 2)
    asked = dict.fromkeys(("return_lse", "return_cls", "value_norm"), more)
    out, _, cls = varlen_attention(q, k, wide, ENDS, 17, **asked)
    padded = [torch.nn.functional.pad(x, (0, 16)) for x in (q, k)]
    right, _, right_cls = varlen_attention(*padded, wide, ENDS, 17, scale=0.25, **asked)
    assert out.shape == (23, 4, 32)
    torch.testing.assert_close(out, right)
    if more:
        torch.testing.assert_close(cls, right_cls)


def test_large_logits_give_probabilities() -> None:
    q, k, v = (500 * x for x in packed())
    cls = varlen_attention(q, k, v, ENDS, 17, scale=1.0, return_cls=True).cls
    assert cls is not None
    torch.testing.assert_close(cls[:, 6:].sum(1), torch.ones(4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value_norm", [False, True])
def test_its_cls_is_cls_importance(value_norm: bool) -> None:
    q, k, v = packed()
    bias = torch.linspace(-1, 1, 23)
    cls = varlen_attention(
        q, k, v, ENDS, 17, key_bias=bias, return_cls=True, value_norm=value_norm
    ).cls
    scores = cls_importance(q, k, v, ENDS, 17, key_bias=bias, value_norm=value_norm)
    torch.testing.assert_close(cls, scores)


@pytest.mark.parametrize("more", [False, True])
def test_a_key_of_minus_infinity_is_as_if_absent(more: bool) -> None:
    q, k, v = (x[:17] for x in packed())
    bias = torch.zeros(17)
    bias[[0, 3, 16]] = -float("inf")
    seen = bias.isfinite()
    hidden = varlen_attention(q, k, v, uniform(1, 17), 17, key_bias=bias, return_lse=more).out
    absent = varlen_attention(
        *(x[seen] for x in (q, k, v)), uniform(1, 14), 14, return_lse=more
    ).out
    torch.testing.assert_close(hidden[seen], absent)


@pytest.mark.parametrize("more", [False, True])
def test_an_image_does_not_depend_on_its_batch_mates(more: bool) -> None:
    q, k, v = packed()
    together = varlen_attention(q, k, v, ENDS, 17, return_lse=more, return_cls=more)
    q, k, v = (x[6:] for x in (q, k, v))
    alone = varlen_attention(q, k, v, uniform(1, 17), 17, return_lse=more, return_cls=more)
    torch.testing.assert_close(together.out[6:], alone.out)
    if together.lse is not None and together.cls is not None:
        assert alone.lse is not None
        assert alone.cls is not None
        torch.testing.assert_close(together.lse[:, 6:], alone.lse)
        torch.testing.assert_close(together.cls[:, 6:], alone.cls)


@pytest.mark.parametrize("images", [0, 3])
def test_no_rows_no_attention(images: int) -> None:
    q = torch.zeros(0, 2, 16)
    found = varlen_attention(q, q, q, uniform(images, 0), 0, return_lse=True, return_cls=True)
    assert [x.shape for x in found if x is not None] == [(0, 2, 16), (2, 0), (2, 0)]
    launched = launch(q, q, q, uniform(images, 0), 0, 0.25, None, True, True, False)
    assert [x.shape for x in launched] == [(0, 2, 16), (2, 0), (2, 0)]


@pytest.mark.parametrize("more", [False, True])
def test_the_compiler_sees_the_operator(more: bool) -> None:
    def half(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, bias: Tensor) -> list[Tensor]:
        asked = dict.fromkeys(("return_lse", "return_cls", "value_norm"), more)
        found = varlen_attention(q, k, v, ends, 17, key_bias=bias, **asked)
        return [x / 2 for x in found if x is not None]

    q, k, v = packed()
    args = (q, k, torch.cat([v, v], 2), ENDS, torch.linspace(-1, 1, 23))
    compiled = torch.compile(half, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), half(*args), rtol=0, atol=0)
    op = torch.ops.foveate.varlen_attention.default
    torch.library.opcheck(op, (*args[:4], 17, 0.3, args[4], more, more, more))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(23, 64)}, r"q.shape=\[23, 64\]: expected \[\*, \*, \*\]"),
        ({0: torch.zeros(23, 4, 16).double()}, "q.dtype=torch.float64: expected torch.float16"),
        ({1: torch.zeros(23, 4, 24)}, r"k.shape=\[23, 4, 24\]: expected \[23, 4, 16\]"),
        ({2: torch.zeros(23, 2, 16)}, r"v.shape=\[23, 2, 16\]: expected \[23, 4, \*\]"),
        ({2: torch.zeros(23, 4, 12)}, r"v.shape=\[23, 4, 12\]: expected a head_dim of 16, 24"),
        ({2: torch.zeros(23, 4, 16).half()}, "v.dtype=torch.float16: expected torch.float32"),
        ({0: torch.zeros(23, 16, 4).mT}, "q.stride=.*: expected 1 in the last dimension"),
        ({2: torch.zeros(23, 4, 20)[..., :16]}, r"v.stride=\(80, 20, 1\): expected multiples of 8"),
        ({3: ENDS.long()}, "cu_seqlens.dtype=torch.int64: expected torch.int32"),
        ({3: torch.tensor([0, 9, 8, 23]).int()}, r"cu_seqlens\[2\]=8: decreases from 9"),
        ({4: 16}, "image 3 has 17 rows: expected max_seqlen=16 at most"),
        ({6: torch.zeros(22)}, r"key_bias.shape=\[22\]: expected \[23\]"),
        ({6: torch.zeros(23).half()}, "key_bias.dtype=torch.float16: expected torch.float32"),
        ({9: True}, "value_norm=True: expected return_cls=True"),
        ({1: torch.zeros(23, 4, 16, device="meta")}, "k.device=meta: expected cpu, as q"),
    ],
)
def test_the_launcher_refuses(change: dict[int, Any], message: str) -> None:
    arguments: list[Any] = [*packed(), ENDS, 17, 0.3, None, False, False, False]
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        launch(*arguments)


@pytest.mark.parametrize("dim", [8, 20, 136])
def test_the_launcher_refuses_heads_it_has_no_tiles_for(dim: int) -> None:
    q = torch.zeros(23, 1, dim)
    message = rf"q.shape=\[23, 1, {dim}\]: expected a head_dim of 16, 24, 32, ... 128"
    with pytest.raises(ValueError, match=message):
        launch(q, q, q, ENDS, 17, 0.3, None, False, False, False)
