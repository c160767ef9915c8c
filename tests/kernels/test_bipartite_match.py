"""``bipartite_match`` against its definition, row by row in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.bipartite_match import bipartite_match, launch
from foveate_kernels.packed import Plan

LENGTHS = [0, 1, 2, 3, 16, 17, 0, 64]


def pack(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def rows(total: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(total, dim, generator=torch.Generator().manual_seed(seed))


def ties(total: int, seed: int = 0) -> Tensor:
    """Rows of 1 and -1, four wide: 16 different ones, whose cosines are exact."""
    return torch.randint(2, (total, 4), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def by_definition(x: Tensor, r: int, prefix: int) -> tuple[list[int], int]:
    """``dest`` and count of one image."""
    x = x.double()
    n = len(x)

    def cosine(i: int, j: int) -> float:
        value = (x[i].dot(x[j]) / (x[i].norm() * x[j].norm())).item()
        return -2.0 if value != value else round(value, 12)

    odd = range(1, n, 2)
    targets = [j for j in odd if j >= prefix]
    best = {}
    for i in range(0, n, 2):
        if i >= prefix and targets:
            similarity, j = max((cosine(i, j), -j) for j in targets)
            best[i] = (similarity, -j)
    merged = sorted(best, key=lambda i: (-best[i][0], i))[:r]
    order = [i for i in range(0, n, 2) if i not in merged] + list(odd)
    return [order.index(best[i][1] if i in merged else i) for i in range(n)], len(order)


def of_image(plan: Plan, cu_seqlens: Tensor, image: int) -> tuple[list[int], int]:
    low, high = cu_seqlens[image : image + 2].tolist()
    return plan.dest[low:high].tolist(), int(plan.lengths[image])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("r", "prefix"), [(0, 1), (5, 1), (8, 0), (1000, 1), (1000, 2), (4, 20)])
def test_equals_the_definition(r: int, prefix: int, dtype: torch.dtype) -> None:
    cu_seqlens = pack(LENGTHS)
    for metric in (rows(int(cu_seqlens[-1]), 10), ties(int(cu_seqlens[-1]))):
        metric = metric.to(dtype)
        plan = bipartite_match(metric, cu_seqlens, 64, r=r, prefix=prefix)
        for image, (low, n) in enumerate(zip(cu_seqlens.tolist(), LENGTHS, strict=False)):
            expected = by_definition(metric[low : low + n], r, prefix)
            assert of_image(plan, cu_seqlens, image) == expected
        assert plan.packaged.tolist() == [0] * len(LENGTHS)
        assert plan.weight.tolist() == [1.0] * int(cu_seqlens[-1])


def test_cls_never_merges_and_r_rows_go() -> None:
    metric = torch.ones(2 * 197, 4)  # everything is alike, of norm 2: exactly
    plan = bipartite_match(metric, pack([197, 197]), 197, r=500)
    assert plan.lengths.tolist() == [99, 99]  # CLS and the odd rows
    assert (plan.dest.view(2, 197)[:, 0] == 0).all()
    assert (plan.dest.view(2, 197)[:, 2::2] == 1).all()  # all into row 1


def test_what_is_not_a_number_merges_last() -> None:
    metric = rows(33, 8)
    metric[6] = float("nan")
    metric[9] = float("inf")
    metric[11] = 0.0
    for r in (3, 15, 16):
        plan = bipartite_match(metric, pack([33]), 33, r=r)
        assert of_image(plan, pack([33]), 0) == by_definition(metric, r, 1)
    assert int(bipartite_match(metric, pack([33]), 33, r=15).dest[6]) == 1  # the last that stays


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_plan_does_not_depend_on_the_others_in_the_batch(dtype: torch.dtype) -> None:
    lengths = [197, 50, 0, 145, 197]
    cu_seqlens = pack(lengths)
    metric = rows(int(cu_seqlens[-1]), 15).to(dtype)
    together = bipartite_match(metric, cu_seqlens, 197, r=13)
    metric[cu_seqlens[1] : cu_seqlens[2]] = float("nan")
    beside_nan = bipartite_match(metric, cu_seqlens, 197, r=13)
    for image in (0, 3, 4):
        low, high = cu_seqlens[image : image + 2].tolist()
        alone = bipartite_match(metric[low:high], pack([high - low]), 500, r=13)
        expected = of_image(alone, pack([high - low]), 0)
        assert of_image(together, cu_seqlens, image) == expected
        assert of_image(beside_nan, cu_seqlens, image) == expected


def test_empty_batches() -> None:
    plan = bipartite_match(rows(0, 8), pack([]), 0, r=3)
    assert [len(part) for part in plan] == [0, 0, 0, 0]
    plan = bipartite_match(rows(0, 8), pack([0, 0]), 0, r=3)
    assert plan.lengths.tolist() == [0, 0]


def test_as_an_operator_of_torch() -> None:
    metric, cu_seqlens = rows(81, 8), pack([64, 17])
    torch.library.opcheck(torch.ops.foveate.bipartite_match.default, (metric, cu_seqlens, 64, 5, 1))

    def merge(x: Tensor) -> Tensor:
        return bipartite_match(x * 2, cu_seqlens, 64, r=5).dest + 1

    compiled: Any = torch.compile(merge, fullgraph=True, backend="aot_eager")
    assert compiled(metric).equal(merge(metric))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metric": torch.zeros(4, 2, 2)}, r"metric\.shape=\[4, 2, 2\]: expected \[\*, \*\]"),
        ({"metric": torch.zeros(4, 0)}, r"metric\.shape=\[4, 0\]: expected a width of 1 or more"),
        ({"metric": torch.zeros(4, 2).double()}, r"metric\.dtype=torch\.float64: expected"),
        ({"metric": torch.zeros(2, 4).T}, r"metric\.stride=\(1, 4\): expected 1 in the last"),
        ({"cu_seqlens": torch.tensor([0, 4])}, r"cu_seqlens\.dtype=torch\.int64"),
        ({"cu_seqlens": pack([4, -1])}, r"cu_seqlens\[2\]=3: decreases from 4"),
        ({"cu_seqlens": torch.zeros(2, dtype=torch.int32, device="meta")}, r"cu_seqlens\.device"),
        ({"max_seqlen": 3}, r"image 0 has 4 rows: expected max_seqlen=3 at most"),
        ({"max_seqlen": 8193}, r"max_seqlen=8193: expected 8192 at most"),
        ({"r": -1}, r"r=-1: expected 0 or more"),
        ({"prefix": -1}, r"prefix=-1: expected 0 or more"),
    ],
)
def test_the_launcher_says_what_is_wrong(wrong: dict[str, Any], message: str) -> None:
    right = {
        "metric": torch.zeros(4, 2),
        "cu_seqlens": pack([4]),
        "max_seqlen": 4,
        "r": 1,
        "prefix": 1,
    }
    with pytest.raises(ValueError, match=message):
        launch(*(right | wrong).values())
