"""The operators against their definitions, image by image in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate_kernels.ops import (
    cls_importance,
    compact_tokens,
    merge_groups,
    select_tokens,
    vwt_assign,
)


@pytest.mark.parametrize("n", [2, 17, 145])
def test_cls_importance_is_attention_times_value_norm(n: int) -> None:
    q, k, v = torch.randn(3, 2, 4, n, 32, generator=torch.Generator().manual_seed(n)).unbind(0)
    q64, k64, v64 = q.double(), k.double(), v.double()
    attention = (q64 @ k64.transpose(-1, -2) / 32**0.5).softmax(-1)[:, :, 0]
    expected = (attention * v64.norm(dim=-1)).mean(1)
    torch.testing.assert_close(cls_importance(q, k, v).double(), expected, rtol=1e-5, atol=1e-7)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, -1.0, float("nan"), float("-inf")]), min_size=1))
def test_select_keeps_the_best_in_order(values: list[float]) -> None:
    for keep in range(len(values) + 1):
        kept, rest = select_tokens(torch.tensor([values]), keep)
        best = sorted(
            range(len(values)),
            key=lambda i: (-(values[i] if values[i] == values[i] else float("-inf")), i),
        )
        assert kept[0].tolist() == sorted(best[:keep])
        assert rest[0].tolist() == sorted(best[keep:])


def test_select_refuses_a_count_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"keep=5: expected 0\.\.4"):
        select_tokens(torch.zeros(1, 4), 5)


def test_compact_gathers_and_packages_the_weighted_mean() -> None:
    x = torch.arange(10.0).reshape(1, 5, 2)
    weights = torch.tensor([[9.0, 9.0, 1.0, 9.0, 3.0]])
    out = compact_tokens(x, torch.tensor([[0, 3]]), torch.tensor([[2, 4]]), weights)
    assert out.tolist() == [[[0, 1], [6, 7], [0.25 * 4 + 0.75 * 8, 0.25 * 5 + 0.75 * 9]]]


def test_a_package_of_zero_weight_is_the_plain_mean() -> None:
    x = torch.arange(10.0).reshape(1, 5, 2)
    out = compact_tokens(x, torch.tensor([[0]]), torch.tensor([[2, 4]]), torch.zeros(1, 5))
    assert out[0, 1].tolist() == [6, 7]


def test_merge_groups_averages_each_group() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    out = merge_groups(x, torch.tensor([[0, 1, 0], [1, 0, 1]]), 2)
    assert out.tolist() == [[[2, 3], [2, 3]], [[8, 9], [8, 9]]]


def test_vwt_assign_finds_the_nearest_word_by_cosine() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 20, 12, generator=generator)
    words = torch.nn.functional.normalize(torch.randn(7, 12, generator=generator), dim=1)
    word, distance = vwt_assign(patches, words)
    cosine = torch.nn.functional.cosine_similarity(patches[:, :, None], words, dim=-1)
    assert torch.equal(word, cosine.argmax(-1))
    torch.testing.assert_close(distance, 1 - cosine.amax(-1))
