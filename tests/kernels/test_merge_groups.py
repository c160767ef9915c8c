"""``merge_groups`` on the CPU, against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foveate_kernels.ops import merge_groups
from foveate_kernels.ops.merge_groups import launch
from foveate_kernels.packed import DROPPED, Plan


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plan(images: list[list[int]], spare: int = 0) -> tuple[Plan, Tensor, int]:
    dest = torch.tensor([d for image in images for d in image] + [0] * spare, dtype=torch.int32)
    count = torch.tensor([max(image, default=-1) + 1 for image in images], dtype=torch.int32)
    ends = torch.tensor([0, *map(len, images)]).cumsum(0).int()
    longest = max(map(len, images), default=0)
    return Plan(dest, count, torch.zeros_like(count), torch.ones(len(dest))), ends, longest


@st.composite
def destinations(draw: st.DrawFn) -> list[int]:
    """Of an image's rows, any of them dropped; every group has a row."""
    groups = draw(st.integers(0, 4))
    more = draw(st.lists(st.integers(DROPPED, groups - 1), max_size=6))
    return draw(st.permutations([*range(groups), *more]))


@given(st.lists(destinations(), max_size=4), st.integers(0, 2), st.booleans(), st.integers(0, 20))
def test_groups_become_their_weighted_mean(
    images: list[list[int]], spare: int, sized: bool, capacity: int
) -> None:
    args = plan(images, spare)
    rows = len(args[0].dest)
    x = rand(rows, 3)
    sizes = rand(rows, seed=1).exp() if sized else None
    x[args[0].dest == DROPPED] = float("nan")
    x[rows - spare :] = float("nan")
    merged = merge_groups(x, *args, capacity=capacity, sizes=sizes)
    means, totals, ends = [], [], [0]
    for image, start in zip(images, args[1].tolist(), strict=False):
        for group in range(max(image, default=-1) + 1):
            members = [start + i for i, d in enumerate(image) if d == group]
            size = torch.ones(rows) if sizes is None else sizes
            weight = size[members].double()
            means.append((weight @ x[members].double() / weight.sum()).tolist())
            totals.append(weight.sum().item())
        ends.append(min(len(means), capacity))
    assert merged.cu_seqlens.tolist() == ends
    assert (merged.x.shape, merged.sizes.shape) == ((capacity, 3), (capacity,))
    want = torch.tensor(means).reshape(-1, 3)[:capacity]
    torch.testing.assert_close(merged.x[: len(want)], want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merged.sizes[: len(want)], torch.tensor(totals)[:capacity])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_alone_is_copied_to_the_bit(dtype: torch.dtype) -> None:
    x, sizes = rand(60, 8).to(dtype), rand(60, seed=1).exp()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    merged = merge_groups(x, *plan([order.tolist()]), sizes=sizes)
    assert merged.x.dtype == dtype
    assert torch.equal(merged.x[order], x)
    assert torch.equal(merged.sizes[order], sizes)


def test_an_image_does_not_depend_on_the_others() -> None:
    images = [(torch.arange(n) % (n // 2 + 1)).tolist() for n in (7, 0, 30, 13)]
    x, sizes = rand(50, 24), rand(50, seed=1).exp()
    merged = merge_groups(x, *plan(images), sizes=sizes)
    start = 0
    for i, image in enumerate(images):
        rows = slice(start, start + len(image))
        alone = merge_groups(x[rows], *plan([image]), sizes=sizes[rows])
        low, high = merged.cu_seqlens[i : i + 2].tolist()
        torch.testing.assert_close(alone.x[: high - low], merged.x[low:high])
        torch.testing.assert_close(alone.sizes[: high - low], merged.sizes[low:high])
        start = rows.stop


def test_op_is_registered_in_full() -> None:
    (dest, lengths, _, _), ends, longest = plan([[0, 1, 0], [], [DROPPED, 0]])
    for sizes in (None, torch.ones(5)):
        args = (rand(5, 8), dest, lengths, ends, longest, 4, sizes)
        torch.library.opcheck(torch.ops.foveate.merge_groups.default, args)


def test_it_compiles_into_one_graph() -> None:
    args = plan([[0, 1, 0], [0, 0]])

    @torch.compile(backend="aot_eager", fullgraph=True)
    def doubled(x: Tensor) -> tuple[Tensor, Tensor]:
        merged = merge_groups(x * 2, *args)
        return merged.x, merged.cu_seqlens

    out, ends = doubled(rand(5, 8))
    assert ends.tolist() == [0, 2, 3]
    assert torch.equal(out[:3], merge_groups(rand(5, 8) * 2, *args).x[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": rand(5, 2, 3)}, r"x\.shape=\[5, 2, 3\]: expected \[\*, \*\]"),
        ({"x": rand(5, 0)}, r"x\.shape=\[5, 0\]: expected 1 column or more"),
        ({"x": rand(5, 3).int()}, r"x\.dtype=torch\.int32: expected torch\.float16"),
        ({"x": rand(3, 5).T}, r"x\.stride=\(1, 5\): expected 1"),
        ({"x": rand(5, 3).to("meta")}, r"dest\.device=cpu: expected meta, as x"),
        ({"dest": torch.zeros(4).int()}, r"plan\.dest\.shape=\[4\]: expected \[5\]"),
        ({"dest": torch.zeros(5)}, r"plan\.dest\.dtype=torch\.float32: expected torch\.int32"),
        ({"lengths": torch.ones(3).int()}, r"plan\.lengths\.shape=\[3\]: expected \[2\]"),
        ({"sizes": torch.ones(4)}, r"sizes\.shape=\[4\]: expected \[5\]"),
        ({"sizes": torch.ones(5).half()}, r"sizes\.dtype=torch\.float16: expected torch\.float32"),
        ({"capacity": -1}, r"capacity=-1: expected 0 or more"),
        ({"cu_seqlens": torch.tensor([0, 3, 2]).int()}, r"cu_seqlens\[2\]=2: decreases from 3"),
        ({"max_seqlen": 2}, r"image 0 has 3 rows: expected max_seqlen=2 at most"),
    ],
)
def test_errors_name_argument_value_and_limit(change: dict[str, Any], message: str) -> None:
    (dest, lengths, _, _), ends, longest = plan([[0, 1, 0], [0, 0]])
    good = {
        "x": rand(5, 3),
        "dest": dest,
        "lengths": lengths,
        "cu_seqlens": ends,
        "max_seqlen": longest,
        "capacity": 5,
        "sizes": None,
    }
    with pytest.raises(ValueError, match=message):
        launch(**good | change)
