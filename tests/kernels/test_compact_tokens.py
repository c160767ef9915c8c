"""``compact_tokens`` against its definition, image by image."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from foveate_kernels.ops import compact_tokens, select_tokens
from foveate_kernels.ops.compact_tokens import launch
from foveate_kernels.packed import Plan, uniform

ENDS = torch.tensor([0, 7, 7, 8, 20], dtype=torch.int32)


def plan_of(fate: Any, weights: torch.Tensor) -> Plan:
    suffix = torch.tensor([1, 1, 0, 0], dtype=torch.int32)
    return select_tokens(weights, ENDS, 12, keep=3, fate=fate, suffix=suffix)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("fate", ["drop", "package"])
def test_rows_move_and_packages_are_weighted_means(fate: str, normalize: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    weights = torch.rand(20, generator=generator)
    sizes = torch.arange(20.0)
    plan = plan_of(fate, weights)
    out = compact_tokens(x, plan, ENDS, 12, sizes=sizes, normalize=normalize)
    assert out.sizes is not None
    assert out.cu_seqlens.tolist() == [0, *plan.lengths.cumsum(0).tolist()]
    for i, (low, high) in enumerate(pairwise(ENDS.tolist())):
        dest = plan.dest[low:high]
        rows, own = x[low:high], sizes[low:high]
        expected, expected_sizes = rows[dest >= 0], own[dest >= 0]
        gone = dest == -2
        if gone.any():
            w = plan.weight[low:high][gone].double().unsqueeze(1)
            package = (w * rows[gone]).sum(0, keepdim=True) / (w.sum() if normalize else 1)
            expected = torch.cat([expected, package])
            expected_sizes = torch.cat([expected_sizes, own[gone].sum(0, keepdim=True)])
        first, last = out.cu_seqlens[i], out.cu_seqlens[i + 1]
        torch.testing.assert_close(out.x[first:last], expected)
        assert torch.equal(out.sizes[first:last], expected_sizes)


def test_a_package_of_no_weight_is_the_plain_mean() -> None:
    x = torch.arange(10.0).view(5, 2)
    plan = select_tokens(torch.tensor([0.0, 0, 0, 0, 0]), uniform(1, 5), 5, keep=2, fate="package")
    out = compact_tokens(x, plan, uniform(1, 5), 5, capacity=4)
    assert out.x.tolist() == [[0, 1], [2, 3], [4, 5], [7, 8]]


def test_an_image_does_not_depend_on_its_batch_mates() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 33, generator=generator)
    weights = torch.rand(20, generator=generator)
    together = compact_tokens(x, plan_of("package", weights), ENDS, 12)
    low, high = 8, 20
    ends = uniform(1, 12)
    plan = select_tokens(weights[low:high], ends, 12, keep=3, fate="package")
    alone = compact_tokens(x[low:high], plan, ends, 12, capacity=5)
    last = together.x[together.cu_seqlens[3] : together.cu_seqlens[4]]
    assert torch.equal(last[:-1], alone.x[:-1])  # copies
    torch.testing.assert_close(last[-1], alone.x[-1])


def test_what_does_not_fit_is_cut_off() -> None:
    plan = plan_of("drop", torch.rand(20))
    x = torch.randn(20, 3)
    whole = compact_tokens(x, plan, ENDS, 12)
    out = compact_tokens(x, plan, ENDS, 12, capacity=6)
    assert out.cu_seqlens.tolist() == [0, 5, 5, 6, 6]
    assert torch.equal(out.x, whole.x[:6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(20, 4, dtype=torch.int64)}, "x.dtype=torch.int64"),
        ({0: torch.zeros(4, 20).T}, r"x.stride=\(1, 20\): expected 1 in the last dimension"),
        ({1: torch.zeros(19, dtype=torch.int32)}, r"plan.dest.shape=\[19\]: expected \[20\]"),
        ({2: torch.zeros(4)}, "plan.lengths.dtype=torch.float32: expected torch.int32"),
        ({7: -1}, "capacity=-1: expected 0 or more"),
        ({8: torch.zeros(3)}, r"sizes.shape=\[3\]: expected \[20\]"),
        ({5: ENDS.flip(0)}, r"cu_seqlens\[0\]=20: expected 0"),
        ({5: ENDS.to("meta")}, "cu_seqlens.device=meta: expected cpu, as x"),
    ],
)
def test_the_launcher_refuses(change: dict[int, Any], message: str) -> None:
    arguments: list[Any] = [torch.zeros(20, 4), *plan_of("drop", torch.rand(20)), ENDS, 12]
    arguments += [20, None, True]
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(ValueError, match=message):
        launch(*arguments)


def test_it_is_a_sound_operator() -> None:
    # Every row of the result is written: what an operator leaves untouched differs from run to run.
    plan = plan_of("package", torch.rand(20))
    arguments = (torch.rand(20, 3), *plan, ENDS, 12, int(plan.lengths.sum()), torch.rand(20), True)
    torch.library.opcheck(torch.ops.foveate.compact_tokens.default, arguments)


def test_it_compiles_whole() -> None:
    def halve(x: torch.Tensor, scores: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        plan = select_tokens(scores, ends, 6, keep=2, fate="package")
        return compact_tokens(x * 2, plan, ends, 6, capacity=8).x

    arguments = (torch.rand(12, 4), torch.rand(12), uniform(2, 6))
    whole = torch.compile(halve, fullgraph=True, backend="aot_eager")
    assert torch.equal(whole(*arguments), halve(*arguments))


def test_an_old_package_may_stay_where_another_is_made() -> None:
    """Equal lengths before and after, and yet no rectangle."""
    ends, x = uniform(2, 5), torch.arange(20.0).view(10, 2)
    suffix = torch.tensor([1, 0], dtype=torch.int32)
    plan = select_tokens(torch.ones(10), ends, 5, keep=3, fate="package", suffix=suffix)
    out = compact_tokens(x, plan, ends, 5)
    assert out.cu_seqlens.tolist() == [0, 5, 10]
    assert torch.equal(out.x, x)
