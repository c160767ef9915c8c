"""``cls_importance`` against its definition, image by image."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from foveate_kernels.ops import cls_importance
from foveate_kernels.ops.cls_importance import launch
from foveate_kernels.packed import uniform

ENDS = torch.tensor([0, 5, 5, 6, 23], dtype=torch.int32)


def qkv(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(23, 3, 4, 8, generator=generator).unbind(1))


@pytest.mark.parametrize("value_norm", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_the_first_row_of_attention(biased: bool, value_norm: bool) -> None:
    q, k, v = qkv()
    bias = torch.linspace(-1, 1, 23) if biased else None
    out = cls_importance(q, k, v, ENDS, 17, key_bias=bias, value_norm=value_norm)
    for low, high in pairwise(ENDS.tolist()):
        for head in range(4 if low < high else 0):
            rows = [x[low:high, head].double() for x in (q, k, v)]
            logits = rows[0] @ rows[1].T / 8**0.5
            if bias is not None:
                logits += bias[low:high]
            expected = logits.softmax(-1)[:1].squeeze(0)
            if value_norm:
                expected = expected * rows[2].norm(dim=-1)
            got = out[head, low:high].double()
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_an_image_does_not_depend_on_its_batch_mates() -> None:
    q, k, v = qkv()
    together = cls_importance(q, k, v, ENDS, 17, value_norm=True)
    alone = cls_importance(q[6:], k[6:], v[6:], uniform(1, 17), 17, value_norm=True)
    torch.testing.assert_close(together[:, 6:], alone)


def test_no_images_no_scores() -> None:
    q = torch.zeros(0, 2, 8)
    assert cls_importance(q, q, q, uniform(0, 0), 0).shape == (2, 0)
    assert cls_importance(q, q, q, uniform(3, 0), 0).shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(23, 4, 8, dtype=torch.int32)}, "q.dtype=torch.int32: expected"),
        ({1: torch.zeros(23, 4, 9)}, r"k.shape=\[23, 4, 9\]: expected \[23, 4, 8\]"),
        ({2: torch.zeros(23, 4, 8).half()}, "v.dtype=torch.float16: expected torch.float32"),
        ({0: torch.zeros(23, 8, 4).mT}, "q.stride=.*: expected 1 in the last dimension"),
        ({3: ENDS.long()}, "cu_seqlens.dtype=torch.int64: expected torch.int32"),
        ({3: ENDS.flip(0)}, r"cu_seqlens\[0\]=23: expected 0"),
        ({4: 16}, "image 3 has 17 rows: expected max_seqlen=16 at most"),
        ({6: torch.zeros(22)}, r"key_bias.shape=\[22\]: expected \[23\]"),
        ({1: torch.zeros(23, 4, 8, device="meta")}, "k.device=meta: expected cpu, as q"),
    ],
)
def test_the_launcher_refuses(change: dict[int, Any], message: str) -> None:
    arguments: list[Any] = [*qkv(), ENDS, 17, 0.3, None, False]
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        launch(*arguments)


def test_the_launcher_refuses_wide_heads() -> None:
    q = torch.zeros(23, 1, 136)
    message = r"q.shape=\[23, 1, 136\]: expected a head_dim of 1 to 128"
    with pytest.raises(ValueError, match=message):
        launch(q, q, q, ENDS, 17, 0.3, None, False)


def test_it_is_a_sound_operator() -> None:
    arguments = (*qkv(), ENDS, 17, 0.3, torch.zeros(23), True)
    torch.library.opcheck(torch.ops.foveate.cls_importance.default, arguments)


def test_it_compiles_whole() -> None:
    def double(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return cls_importance(q * 2, k, v, ENDS, 17) + 1

    whole = torch.compile(double, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(*qkv()), double(*qkv()))
