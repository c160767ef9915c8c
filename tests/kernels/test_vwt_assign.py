"""``vwt_assign`` on the CPU, against its definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate_kernels.ops import vwt_assign
from foveate_kernels.ops.vwt_assign import launch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 2])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_nearest_word_and_its_distance(dtype: torch.dtype, metric: str) -> None:
    patches, words = rand(70, 12).to(dtype), rand(9, 12, seed=1).to(dtype)
    word, distance = vwt_assign(patches, words, metric=metric)
    assert (word.dtype, distance.dtype) == (torch.int32, torch.float32)
    for i, p in enumerate(patches.double()):
        apart = []
        for w in words.double():
            cosine = (p @ w / (p.norm() * w.norm())).item()
            apart.append(1 - cosine if metric == "cosine" else ((p - w) @ (p - w)).item())
        assert word[i] == apart.index(min(apart))
        assert distance[i].item() == pytest.approx(min(apart), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_ties_go_to_the_lower_word(metric: str) -> None:
    words = rand(37, 1024).sign()  # of norm 32: products with whole numbers are exact
    patches = rand(30, 1024, seed=1).mul(4).round()
    word, _ = vwt_assign(patches, words.repeat(3, 1), metric=metric)
    assert word.max() < 37


def test_flat_patches_and_patches_that_are_not_finite() -> None:
    patches, words = rand(4, 12), rand(5, 12, seed=1)
    patches[0] = 0
    patches[1, 3] = float("nan")
    patches[2, 3] = -float("inf")
    word, distance = vwt_assign(patches, words)
    assert distance[:3].tolist() == [1.0, float("inf"), float("inf")]
    assert word[:2].tolist() == [0, 0]
    assert vwt_assign(patches, words, threshold=1.5)[0][:3].tolist() == [0, -1, -1]
    assert vwt_assign(patches, words, metric="l2")[1][1:3].tolist() == [float("inf")] * 2


def test_beyond_the_threshold_there_is_no_word() -> None:
    patches, words = rand(50, 12), rand(9, 12, seed=1)
    word, distance = vwt_assign(patches, words)
    bound = distance.median().item()
    near, same = vwt_assign(patches, words, threshold=bound)
    assert torch.equal(same, distance)
    assert torch.equal(near, torch.where(distance > bound, -1, word))
    assert vwt_assign(words, words, metric="l2", threshold=1e-4)[0].tolist() == [*range(9)]


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("dim", "count"), [(192, 64), (768, 100), (12, 1), (5, 5), (1024, 257)])
def test_a_patch_does_not_depend_on_the_others(dim: int, count: int) -> None:
    patches, words = rand(300, dim), rand(count, dim, seed=1)
    word, distance = vwt_assign(patches, words)
    for low, high in [(0, 1), (1, 2), (7, 10), (3, 8), (50, 63), (1, 66), (100, 245), (103, 300)]:
        alone = vwt_assign(patches[low:high], words)
        assert torch.equal(alone[0], word[low:high])
        torch.testing.assert_close(alone[1], distance[low:high])


def test_no_patches() -> None:
    word, distance = vwt_assign(rand(0, 12), rand(3, 12))
    assert (word.shape, distance.shape) == ((0,), (0,))


def test_op_is_registered_in_full() -> None:
    args = (rand(10, 12), rand(3, 12), "cosine", 0.5)
    torch.library.opcheck(torch.ops.foveate.vwt_assign.default, args)


def test_it_compiles_into_one_graph() -> None:
    @torch.compile(backend="aot_eager", fullgraph=True)
    def centred(patches: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return vwt_assign(patches - patches.mean(1, keepdim=True), words, threshold=0.5)

    patches, words = rand(20, 12), rand(5, 12, seed=1)
    eager = vwt_assign(patches - patches.mean(1, keepdim=True), words, threshold=0.5)
    for got, want in zip(centred(patches, words), eager, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patches": rand(3, 4, 12)}, r"patches\.shape=\[3, 4, 12\]: expected \[\*, \*\]"),
        ({"patches": rand(4, 12).int()}, r"patches\.dtype=torch\.int32: expected torch\.float16"),
        ({"patches": rand(12, 4).T}, r"patches\.stride=\(1, 4\): expected 1"),
        ({"patches": rand(4, 12).to("meta")}, r"words\.device=cpu: expected meta, as patches"),
        ({"words": rand(3, 13)}, r"words\.shape=\[3, 13\]: expected \[\*, 12\]"),
        ({"words": rand(0, 12)}, r"words\.shape=\[0, 12\]: expected 1 or more"),
        ({"words": rand(3, 12).half()}, r"words\.dtype=torch\.float16: expected torch\.float32"),
        ({"metric": "dot"}, r"metric='dot': expected 'cosine' or 'l2'"),
        ({"threshold": -0.1}, r"threshold=-0\.1: expected 0 or more"),
        ({"threshold": float("nan")}, r"threshold=nan: expected 0 or more"),
    ],
)
def test_errors_name_argument_value_and_limit(change: dict[str, Any], message: str) -> None:
    good = {"patches": rand(4, 12), "words": rand(3, 12), "metric": "cosine", "threshold": None}
    with pytest.raises(ValueError, match=message):
        launch(**good | change)
