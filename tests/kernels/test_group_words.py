"""``group_words`` on the CPU, against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foveate_kernels.ops.group_words import group_words, launch
from foveate_kernels.packed import DROPPED


def pack(images: list[list[int]], spare: int = 0) -> tuple[Tensor, Tensor, int]:
    word = torch.tensor([w for image in images for w in image] + [0] * spare, dtype=torch.int32)
    ends = torch.tensor([0, *map(len, images)]).cumsum(0).int()
    return word, ends, max(map(len, images), default=0)


WORDS = st.sampled_from([-1, -5, 0, 1, 2, 2**31 - 1])


@given(st.lists(st.lists(WORDS, max_size=9), max_size=5), st.integers(0, 3))
def test_rows_of_a_word_form_a_group(images: list[list[int]], spare: int) -> None:
    plan = group_words(*pack(images, spare))
    want: list[int] = []
    lengths = []
    for image in images:
        group: dict[int, int] = {}
        groups = 0
        for word in image:
            if word < 0 or word not in group:
                group[word] = groups
                groups += 1
            want.append(group[word])
        lengths.append(groups)
    assert plan.dest.tolist() == want + [DROPPED] * spare
    assert plan.lengths.tolist() == lengths
    assert plan.packaged.tolist() == [0] * len(images)
    assert plan.weight.tolist() == [1.0] * (len(want) + spare)


def test_op_is_registered_in_full() -> None:
    torch.library.opcheck(torch.ops.foveate.group_words.default, pack([[3, 3, -1], [], [3]]))


def test_it_compiles_into_one_graph() -> None:
    @torch.compile(backend="aot_eager", fullgraph=True)
    def even(word: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, ...]:
        return tuple(group_words(word // 2, cu_seqlens, 3))

    word, cu_seqlens, _ = pack([[3, 2, 4], [4, 5]])
    assert [x.tolist() for x in even(word, cu_seqlens)[:2]] == [[0, 0, 1, 0, 0], [2, 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"word": torch.zeros(5)}, r"word\.dtype=torch\.float32: expected torch\.int32"),
        ({"word": torch.zeros(5, 1).int()}, r"word\.shape=\[5, 1\]: expected \[\*\]"),
        ({"word": torch.zeros(10).int()[::2]}, r"word\.stride=\(2,\): expected 1"),
        ({"cu_seqlens": torch.tensor([0, 3])}, r"cu_seqlens\.dtype=torch\.int64: expected"),
        ({"cu_seqlens": torch.tensor([0, 3, 2]).int()}, r"cu_seqlens\[2\]=2: decreases from 3"),
        ({"cu_seqlens": torch.tensor([0, 6]).int()}, r"cu_seqlens\[-1\]=6: expected 5"),
        ({"max_seqlen": 2}, r"image 0 has 3 rows: expected max_seqlen=2 at most"),
        ({"max_seqlen": 5000}, r"max_seqlen=5000: expected 4096 at most"),
    ],
)
def test_errors_name_argument_value_and_limit(change: dict[str, Any], message: str) -> None:
    ends = torch.tensor([0, 3, 5], dtype=torch.int32)
    good = {"word": torch.zeros(5, dtype=torch.int32), "cu_seqlens": ends, "max_seqlen": 6}
    with pytest.raises(ValueError, match=message):
        launch(**good | change)
