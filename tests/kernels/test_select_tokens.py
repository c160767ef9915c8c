"""``select_tokens`` against its definition, image by image."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate_kernels.ops import select_tokens
from foveate_kernels.ops.select_tokens import launch
from foveate_kernels.packed import uniform

VALUES = st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, float("nan"), float("inf"), -float("inf")])


def expected(scores: list[float], k: int, prefix: int, suffix: int, fate: str) -> list[int]:
    """Destinations of the rows of one image."""
    n = len(scores)
    candidates = [i for i in range(n) if prefix <= i < n - suffix]
    rank = {i: (scores[i] != scores[i], -scores[i], i) for i in candidates}
    kept = set(sorted(candidates, key=rank.__getitem__)[:k])
    folds = fate == "package" and k < len(candidates)
    stays = [i < prefix or i in kept or (i >= n - suffix and not folds) for i in range(n)]
    gone = -1 if fate == "drop" else -2
    return [sum(stays[:i]) if stays[i] else gone for i in range(n)]


@given(st.data())
def test_it_keeps_the_best_in_order(data: st.DataObject) -> None:
    images = data.draw(st.lists(st.lists(VALUES, max_size=9), min_size=1, max_size=4))
    prefix = data.draw(st.integers(0, 2))
    suffix = [data.draw(st.integers(0, 1)) for _ in images]
    fate: Any = data.draw(st.sampled_from(["drop", "package", "merge"]))
    rule = data.draw(st.sampled_from(["keep", "keeps", "ratio", "threshold"]))
    free = [max(0, len(s) - prefix - x) for s, x in zip(images, suffix, strict=True)]
    if rule == "keep":
        keep = data.draw(st.integers(0, 9))
        options: dict[str, Any] = {"keep": keep}
        counts = [keep] * len(images)
    elif rule == "keeps":
        counts = [data.draw(st.integers(-2, 9)) for _ in images]
        options = {"keep": torch.tensor(counts, dtype=torch.int32)}
    elif rule == "ratio":
        options = {"ratio": (2, 3)}
        counts = [-(-2 * n // 3) for n in free]
    else:
        options = {"threshold": 1.0, "min_keep": 1, "max_keep": 4}
        inner = [s[prefix : prefix + n] for s, n in zip(images, free, strict=True)]
        counts = [min(max(sum(x >= 1.0 for x in s), 1), 4) for s in inner]
    counts = [max(min(k, n), 0) for k, n in zip(counts, free, strict=True)]

    ends = torch.tensor([0, *map(len, images)]).cumsum(0).to(torch.int32)
    plan = select_tokens(
        torch.tensor([x for s in images for x in s]),
        ends,
        9,
        **options,
        fate=fate,
        prefix=prefix,
        suffix=torch.tensor(suffix, dtype=torch.int32),
    )
    for i, (low, high) in enumerate(pairwise(ends.tolist())):
        last = min(suffix[i], len(images[i]))
        dest = plan.dest[low:high].tolist()
        assert dest == expected(images[i], counts[i], prefix, last, fate)
        made = fate == "package" and counts[i] < free[i]
        assert plan.packaged[i] == (1 if made else last)
        assert plan.lengths[i] == sum(d >= 0 for d in dest) + made


def test_heads_are_averaged() -> None:
    scores = torch.tensor([[0.0, 3.0, 0.0, 1.0], [0.0, 0.0, 2.5, 2.5]])
    plan = select_tokens(scores, uniform(1, 4), 4, keep=1)
    assert plan.dest.tolist() == [0, -1, -1, 1]
    assert plan.weight.tolist() == [0.0, 1.5, 1.25, 1.75]


def test_ratios_are_whole_numbers() -> None:
    """7/10 of 10 is 7, which a float ceiling makes 8."""
    plan = select_tokens(torch.rand(10), uniform(1, 10), 10, ratio=(7, 10), prefix=0)
    assert plan.lengths.tolist() == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected just one"),
        ({"keep": 1, "threshold": 0.5}, "expected just one"),
        ({"keep": -1}, "min_keep=-1"),
        ({"ratio": (3, 2)}, r"ratio=\(3, 2\): expected 0 <= numerator <= denominator"),
        ({"ratio": (0, 0)}, r"ratio=\(0, 0\)"),
        ({"keep": 1, "fate": "burn"}, "fate='burn': expected 'drop', 'package' or 'merge'"),
        ({"keep": 1, "prefix": -1}, "prefix=-1: expected 0 or more"),
        ({"keep": torch.tensor([1, 2])}, r"keep.shape=\[2\]: expected \[1\]"),
        ({"keep": 1, "suffix": torch.tensor([1.0])}, "suffix.dtype=torch.float32: expected"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_tokens(torch.rand(4), uniform(1, 4), 4, **options)


@pytest.mark.parametrize(
    ("ends", "longest", "message"),
    [
        (torch.tensor([0, 3, 2], dtype=torch.int32), 4, r"cu_seqlens\[2\]=2: decreases from 3"),
        (torch.tensor([1, 4], dtype=torch.int32), 4, r"cu_seqlens\[0\]=1: expected 0"),
        (torch.tensor([0, 5], dtype=torch.int32), 5, r"cu_seqlens\[-1\]=5: expected 4 rows"),
        (torch.tensor([0, 4], dtype=torch.int32), 3, "image 0 has 4 rows: expected max_seqlen=3"),
        (torch.tensor([0, 4]), 4, "cu_seqlens.dtype=torch.int64: expected torch.int32"),
        (torch.tensor([[0, 4]], dtype=torch.int32), 4, r"cu_seqlens.shape=\[1, 2\]"),
        (torch.tensor([0, 4], dtype=torch.int32), 20000, "max_seqlen=20000: expected 16384"),
    ],
)
def test_the_launcher_refuses_bad_lengths(ends: torch.Tensor, longest: int, message: str) -> None:
    rule = (None, 0, 1, None, 1, 1, 1, None, "drop")
    with pytest.raises(ValueError, match=message):
        launch(torch.rand(1, 4), ends, longest, *rule)


def test_it_is_a_sound_operator() -> None:
    rule = (None, 0, 1, None, 2, 2, 1, None, "package")
    arguments = (torch.rand(2, 9), uniform(3, 3), 3, *rule)
    torch.library.opcheck(torch.ops.foveate.select_tokens.default, arguments)


def test_it_compiles_whole() -> None:
    def keep_two(scores: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return select_tokens(scores * 2, ends, 5, keep=2).dest + 0

    scores, ends = torch.rand(10), uniform(2, 5)
    whole = torch.compile(keep_two, fullgraph=True, backend="aot_eager")
    assert torch.equal(whole(scores, ends), keep_two(scores, ends))
