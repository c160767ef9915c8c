"""``group_words``: the kernel against the reference, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.ops.group_words import launch, reference

LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577, 0]


@pytest.mark.parametrize("vocabulary", [1, 9, 1000])
def test_kernel_equals_the_reference(vocabulary: int, pack: Any, guard: Any) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    cu_seqlens, longest = pack(LENGTHS)
    total = int(cu_seqlens[-1])
    word = torch.randint(-1, vocabulary, (total,), generator=generator, dtype=torch.int32)
    word[total // 2] = 2**31 - 1
    word[total // 2 + 3] = 2**31 - 1
    word = guard(word)
    for bound in (longest, longest + 700):
        got, want = launch(word, cu_seqlens, bound), reference(word, cu_seqlens, bound)
        for x, y in zip(got, want, strict=True):
            assert torch.equal(x, y)


def test_spare_rows_are_not_written(pack: Any) -> None:
    cu_seqlens, longest = pack([5, 6])
    dest, _, _, weight = launch(torch.zeros(20, dtype=torch.int32), cu_seqlens, longest)
    assert (dest[11:] == torch.iinfo(torch.int32).max).all()
    assert weight[11:].isnan().all()
    assert (dest[:11] == 0).all()


def test_no_images_and_no_rows(pack: Any) -> None:
    nothing = torch.zeros(0, dtype=torch.int32)
    assert [len(x) for x in launch(nothing, pack([])[0], 0)] == [0, 0, 0, 0]
    dest, count, packaged, weight = launch(nothing, *pack([0, 0]))
    assert (len(dest), count.tolist(), packaged.tolist(), len(weight)) == (0, [0, 0], [0, 0], 0)
