"""``vwt_assign``: the kernels against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_kernels.ops.vwt_assign import launch, reference

NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=[512, 4, 1], ids=["a tile each", "some splits", "no splits, large tiles"])
def _programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to share out the words that a GPU sees between one image and many."""
    monkeypatch.setitem(launch.__globals__, "PROGRAMS", request.param)


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_equals_float64(dtype: torch.dtype, metric: str, guard: Any, close: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    patches = guard(torch.randn(197, 90, generator=generator).to(dtype))[:, :70]  # strided, odd D
    words = guard(torch.randn(300, 80, generator=generator).to(dtype))[:, :70]
    word, distance = launch(patches, words, metric, None)
    _, exact = reference(patches.double(), words.double(), metric, None)
    close(distance, exact, "score", dtype)
    # The word is one of those at the smallest distance: float32 sums may swap the very nearest.
    chosen = words.double()[word.long()]
    if metric == "cosine":
        apart = 1 - torch.nn.functional.cosine_similarity(patches.double(), chosen)
    else:
        apart = (patches.double() - chosen).square().sum(1)
    assert ((apart - exact) <= 1e-6 * exact).all()


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_words_go_to_the_lower(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    words = torch.randint(-8, 9, (75, 32), generator=generator).to(dtype)  # exact in any order
    patches = torch.randint(-8, 9, (17, 32), generator=generator).to(dtype)
    for metric in ("cosine", "l2"):
        once, _ = launch(patches, words, metric, None)
        assert torch.equal(launch(patches, words.repeat(4, 1), metric, None)[0], once)


@pytest.mark.parametrize("rows", [0, 1, 2, 15, 16, 17, 64, 65])
@pytest.mark.parametrize("count", [1, 2, 17, 129])
def test_any_number_of_patches_and_words(rows: int, count: int, guard: Any) -> None:
    generator = torch.Generator().manual_seed(rows)
    patches = guard(torch.randint(-8, 9, (rows, 5), generator=generator).float())
    words = guard(torch.randint(-8, 9, (count, 5), generator=generator).float())
    word, distance = launch(patches, words, "l2", None)  # integers: exact, and full of ties
    exact_word, exact = reference(patches.double(), words.double(), "l2", None)
    assert torch.equal(word, exact_word)
    assert torch.equal(distance.double(), exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_nan_and_infinity(dtype: torch.dtype) -> None:
    patches = torch.randn(7, 16, generator=torch.Generator().manual_seed(3)).to(dtype)
    words = torch.randn(9, 16, generator=torch.Generator().manual_seed(4)).to(dtype)
    patches[1] = 0
    patches[2, 3] = NAN
    patches[3, 0] = INF
    words[0, 2] = NAN
    words[4] = 0
    for metric in ("cosine", "l2"):
        word, distance = launch(patches, words, metric, 0.9)
        exact_word, exact = reference(patches.double(), words.double(), metric, 0.9)
        assert torch.equal(word, exact_word)
        torch.testing.assert_close(distance.double(), exact, rtol=1e-5, atol=1e-5)
        assert distance[2:4].tolist() == [INF, INF]
        assert word[2:4].tolist() == [-1, -1]
    word, distance = launch(patches, words[1:], "cosine", None)
    assert (word[1].item(), distance[1].item()) == (0, 1.0)


def test_a_threshold_leaves_patches_without_a_word() -> None:
    patches = torch.eye(4) * 3
    words = torch.tensor([[1.0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    word, distance = launch(patches, words, "cosine", 0.5)
    assert word.tolist() == [0, 0, 1, -1]
    torch.testing.assert_close(distance, torch.tensor([1 - 0.5**0.5, 1 - 0.5**0.5, 0, 1]))
    assert launch(patches, words, "l2", 4.0)[0].tolist() == [-1, -1, 1, -1]
