"""``attention_colsum`` against its definition, image by image in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops import varlen_attention
from foveate_kernels.ops.attention_colsum import attention_colsum, launch
from foveate_kernels.packed import uniform

ENDS = torch.tensor([0, 5, 5, 6, 23], dtype=torch.int32)


def packed(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, and the log-sum-exp of attention among them at the default scale."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(23, 2, 4, 16, generator=generator).to(dtype).unbind(1)
    lse = varlen_attention(q, k, k, ENDS, 17, return_lse=True).lse
    assert lse is not None
    return q, k, lse


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_the_sum_over_the_rows_of_attention(biased: bool, dtype: torch.dtype) -> None:
    q, k, _ = packed(dtype)
    bias = torch.linspace(-1, 1, 23) if biased else None
    lse = varlen_attention(q, k, k, ENDS, 17, scale=0.3, key_bias=bias, return_lse=True).lse
    assert lse is not None
    out = attention_colsum(q, k, lse, ENDS, 17, scale=0.3, key_bias=bias)
    for low, high in pairwise(ENDS.tolist()):
        for head in range(4 if low < high else 0):
            logits = q[low:high, head].double() @ k[low:high, head].double().T * 0.3
            if bias is not None:
                logits += bias[low:high].double()
            right = logits.softmax(-1).sum(0)
            torch.testing.assert_close(out[head, low:high].double(), right, rtol=1e-5, atol=1e-6)


def test_an_image_gives_as_much_as_it_has_rows() -> None:
    out = attention_colsum(*packed(), ENDS, 17)
    for low, high in pairwise(ENDS.tolist()):
        rows = torch.full((4,), float(high - low))
        torch.testing.assert_close(out[:, low:high].sum(1), rows)


def test_an_image_does_not_depend_on_its_batch_mates() -> None:
    q, k, lse = packed()
    together = attention_colsum(q, k, lse, ENDS, 17)
    alone = attention_colsum(q[6:], k[6:], lse[:, 6:], uniform(1, 17), 17)
    torch.testing.assert_close(together[:, 6:], alone)


@pytest.mark.parametrize("images", [0, 3])
def test_no_rows_no_sums(images: int) -> None:
    q, lse = torch.zeros(0, 2, 16), torch.zeros(2, 0)
    assert attention_colsum(q, q, lse, uniform(images, 0), 0).shape == (2, 0)
    assert launch(q, q, lse, uniform(images, 0), 0, 0.25, None).shape == (2, 0)


def test_the_compiler_sees_the_operator() -> None:
    def half(q: Tensor, k: Tensor, lse: Tensor, ends: Tensor, bias: Tensor) -> Tensor:
        return attention_colsum(q, k, lse, ends, 17, key_bias=bias) / 2

    args = (*packed(), ENDS, torch.linspace(-1, 1, 23))
    compiled = torch.compile(half, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*args), half(*args))
    op = torch.ops.foveate.attention_colsum.default
    torch.library.opcheck(op, (*args[:4], 17, 0.3, args[4]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(23, 4, 16).double()}, "q.dtype=torch.float64: expected torch.float16"),
        ({0: torch.zeros(23, 4, 20)}, r"k.shape=\[23, 4, 16\]: expected \[23, 4, 20\]"),
        ({1: torch.zeros(23, 4, 20)[..., :16]}, r"k.stride=\(80, 20, 1\): expected multiples of 8"),
        ({2: torch.zeros(23, 4)}, r"lse.shape=\[23, 4\]: expected \[4, 23\]"),
        ({2: torch.zeros(4, 23).half()}, "lse.dtype=torch.float16: expected torch.float32"),
        ({2: torch.zeros(23, 4).T}, "lse.stride=.*: expected 1 in the last dimension"),
        ({3: ENDS.long()}, "cu_seqlens.dtype=torch.int64: expected torch.int32"),
        ({4: 16}, "image 3 has 17 rows: expected max_seqlen=16 at most"),
        ({6: torch.zeros(22)}, r"key_bias.shape=\[22\]: expected \[23\]"),
        ({2: torch.zeros(4, 23, device="meta")}, "lse.device=meta: expected cpu, as q"),
    ],
)
def test_the_launcher_refuses(change: dict[int, Any], message: str) -> None:
    arguments: list[Any] = [*packed(), ENDS, 17, 0.3, None]
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        launch(*arguments)


@pytest.mark.parametrize("dim", [8, 20, 136])
def test_the_launcher_refuses_heads_it_has_no_tiles_for(dim: int) -> None:
    q = torch.zeros(23, 1, dim)
    message = rf"q.shape=\[23, 1, {dim}\]: expected a head_dim of 16, 24, 32, ... 128"
    with pytest.raises(ValueError, match=message):
        launch(q, q, torch.zeros(1, 23), ENDS, 17, 0.3, None)
