"""``match_kept`` against its definition, row by row in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops.match_kept import launch, match_kept
from foveate_kernels.packed import DROPPED, FOLDED, Plan

LENGTHS = [0, 1, 2, 3, 16, 17, 0, 64]


def pack(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def rows(total: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(total, dim, generator=torch.Generator().manual_seed(seed))


def ties(total: int, seed: int = 0) -> Tensor:
    """Rows of 1 and -1, four wide: 16 different ones, whose cosines are exact."""
    return torch.randint(2, (total, 4), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def selection(lengths: list[int], kept: float, folded: float) -> Plan:
    """A plan whose images keep their first row and these shares of the others, by chance."""
    generator = torch.Generator().manual_seed(1)
    dest, count = [], []
    for n in lengths:
        chance = torch.rand(n, generator=generator)
        chance[:1] = 0.0
        keep = chance <= kept
        lost = torch.where(chance <= kept + folded, FOLDED, DROPPED)
        dest.append(torch.where(keep, keep.cumsum(0) - 1, lost))
        count.append(int(keep.sum()))
    total = sum(lengths)
    return Plan(
        torch.cat(dest).to(torch.int32),
        torch.tensor(count, dtype=torch.int32),
        torch.zeros(len(lengths), dtype=torch.int32),
        torch.rand(total, generator=generator),
    )


def by_definition(x: Tensor, dest: list[int], prefix: int) -> list[int]:
    """``dest`` of one image."""
    x = x.double()

    def cosine(i: int, j: int) -> float:
        value = (x[i].dot(x[j]) / (x[i].norm() * x[j].norm())).item()
        return -2.0 if value != value else round(value, 12)

    kept = [j for j, place in enumerate(dest) if place >= prefix]
    out = list(dest)
    for i, place in enumerate(dest):
        if place == FOLDED:
            out[i] = dest[-max((cosine(i, j), -j) for j in kept)[1]] if kept else DROPPED
    return out


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("kept", "folded"), [(0.7, 0.3), (0.3, 0.3), (0.0, 1.0), (1.0, 0.0)])
def test_equals_the_definition(kept: float, folded: float, dtype: torch.dtype, prefix: int) -> None:
    cu_seqlens, plan = pack(LENGTHS), selection(LENGTHS, kept, folded)
    before = plan.dest.clone()
    for x in (rows(int(cu_seqlens[-1]), 10), ties(int(cu_seqlens[-1]))):
        x = x.to(dtype)
        matched = match_kept(x, plan, cu_seqlens, 64, prefix=prefix)
        for low, n in zip(cu_seqlens.tolist(), LENGTHS, strict=False):
            dest = plan.dest[low : low + n].tolist()
            expected = by_definition(x[low : low + n], dest, prefix)
            assert matched.dest[low : low + n].tolist() == expected
        assert all(mine is theirs for mine, theirs in zip(matched[1:], plan[1:], strict=True))
        assert plan.dest.equal(before)


def test_what_folds_beside_cls_alone_is_dropped() -> None:
    plan = Plan(
        torch.tensor([0, FOLDED, FOLDED, 0, 1, FOLDED], dtype=torch.int32),
        torch.tensor([1, 2], dtype=torch.int32),
        torch.zeros(2, dtype=torch.int32),
        torch.ones(6),
    )
    matched = match_kept(torch.ones(6, 4), plan, pack([3, 3]), 3)
    assert matched.dest.tolist() == [0, DROPPED, DROPPED, 0, 1, 1]


def test_a_kept_row_that_is_not_a_number_is_matched_last() -> None:
    plan, x = selection([40], 0.5, 0.5), rows(40, 8)
    for spoilt, value in enumerate((float("nan"), float("inf"), 0.0), start=3):
        x[plan.dest == spoilt] = value
    matched = match_kept(x, plan, pack([40]), 40).dest
    assert not torch.isin(matched[plan.dest == FOLDED], torch.tensor([3, 4, 5])).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_plan_does_not_depend_on_the_others_in_the_batch(dtype: torch.dtype) -> None:
    lengths = [197, 50, 0, 145, 197]
    cu_seqlens, plan = pack(lengths), selection(lengths, 0.5, 0.5)
    x = rows(int(cu_seqlens[-1]), 15).to(dtype)
    together = match_kept(x, plan, cu_seqlens, 197)
    x[cu_seqlens[1] : cu_seqlens[2]] = float("nan")
    beside_nan = match_kept(x, plan, cu_seqlens, 197)
    for image in (0, 3, 4):
        low, high = cu_seqlens[image : image + 2].tolist()
        single = plan._replace(dest=plan.dest[low:high])
        alone = match_kept(x[low:high], single, pack([high - low]), 500).dest
        assert together.dest[low:high].equal(alone)
        assert beside_nan.dest[low:high].equal(alone)


def test_empty_batches() -> None:
    assert match_kept(rows(0, 8), selection([0], 1, 0), pack([0]), 0).dest.shape == (0,)
    none = Plan(*(torch.zeros(0, dtype=torch.int32) for _ in range(4)))
    assert match_kept(rows(0, 8), none, pack([]), 0).dest.shape == (0,)


def test_as_an_operator_of_torch() -> None:
    x, cu_seqlens, plan = rows(81, 8), pack([64, 17]), selection([64, 17], 0.5, 0.5)
    args = (x, plan.dest, cu_seqlens, 64, 1)
    torch.library.opcheck(torch.ops.foveate.match_kept.default, args)

    def match(x: Tensor) -> Tensor:
        return match_kept(x * 2, plan, cu_seqlens, 64).dest + 1

    compiled: Any = torch.compile(match, fullgraph=True, backend="aot_eager")
    assert compiled(x).equal(match(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": torch.zeros(4, 2, 2)}, r"x\.shape=\[4, 2, 2\]: expected \[\*, \*\]"),
        ({"x": torch.zeros(4, 0)}, r"x\.shape=\[4, 0\]: expected a width of 1 or more"),
        ({"x": torch.zeros(4, 2).double()}, r"x\.dtype=torch\.float64: expected"),
        ({"x": torch.zeros(2, 4).T}, r"x\.stride=\(1, 4\): expected 1 in the last dimension"),
        ({"dest": torch.zeros(4)}, r"plan\.dest\.dtype=torch\.float32: expected torch\.int32"),
        ({"dest": torch.zeros(3, dtype=torch.int32)}, r"plan\.dest\.shape=\[3\]: expected \[4\]"),
        ({"cu_seqlens": torch.tensor([0, 4])}, r"cu_seqlens\.dtype=torch\.int64"),
        ({"cu_seqlens": pack([4, -1])}, r"cu_seqlens\[2\]=3: decreases from 4"),
        ({"cu_seqlens": torch.zeros(2, dtype=torch.int32, device="meta")}, r"cu_seqlens\.device"),
        ({"max_seqlen": 3}, r"image 0 has 4 rows: expected max_seqlen=3 at most"),
        ({"prefix": -1}, r"prefix=-1: expected 0 or more"),
    ],
)
def test_the_launcher_says_what_is_wrong(wrong: dict[str, Any], message: str) -> None:
    right = {
        "x": torch.zeros(4, 2),
        "dest": torch.zeros(4, dtype=torch.int32),
        "cu_seqlens": pack([4]),
        "max_seqlen": 4,
        "prefix": 1,
    }
    with pytest.raises(ValueError, match=message):
        launch(*(right | wrong).values())
