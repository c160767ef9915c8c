"""What every answer promises: level 0 is the dense model, and batch mates do not matter."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveate.images import cluttered_digits
from foveate.inference.engine import Answers, Engine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.runtime import Runtime

LEVELS = range(9)


@pytest.fixture(scope="module")
def alone(engine: Engine, pixels: Tensor) -> list[list[Answers]]:
    return each_alone(engine, pixels)


def each_alone(engine: Engine, pixels: Tensor) -> list[list[Answers]]:
    """Every image at every level, in a batch of its own: [level][image]."""
    return [
        [engine.infer(pixels[i : i + 1], [level], token_map=True) for i in range(len(pixels))]
        for level in range(len(engine.levels))
    ]


@pytest.mark.parametrize("batch", range(1, 9))
def test_level_0_is_the_plain_forward(engine: Engine, pixels: Tensor, batch: int) -> None:
    vit = engine.levels[0].vit
    expected = vit(pixels[:batch]).softmax(-1)
    scores = engine.infer(pixels[:batch], [0] * batch).scores
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


def test_batch_mates_change_no_token_no_class_and_scores_by_rounding(repository: Path) -> None:
    """The demo model, compiled as it is served, on images of its test set."""
    pixels, _ = cluttered_digits.test_set(16)
    prepared = PreparedLadder.load(repository / "digits" / "1")
    engine = Runtime.choose(precision="fp32").engine(prepared, (1, 2, 4))
    check_batch_mates(engine, torch.from_numpy(pixels))


def test_no_image_sees_another(exact_engine: Engine, pixels: Tensor) -> None:
    """With every kind of level."""
    check_batch_mates(exact_engine, pixels)


def check_batch_mates(engine: Engine, pixels: Tensor) -> None:
    """Images answered among others, each at a level by chance, are answered as if alone."""
    alone = each_alone(engine, pixels)
    rng = random.Random(0)
    for _ in range(60):
        images = rng.sample(range(len(pixels)), rng.randint(1, 8))
        levels = [rng.randrange(len(alone)) for _ in images]
        answers = engine.infer(pixels[images], levels, token_map=True)
        assert answers.token_map is not None
        for row, (image, level) in enumerate(zip(images, levels, strict=True)):
            own = alone[level][image]
            assert own.token_map is not None
            assert torch.equal(answers.token_map[row], own.token_map[0])
            assert answers.scores[row].argmax() == own.scores[0].argmax()
            torch.testing.assert_close(answers.scores[row], own.scores[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_scores_are_probabilities(alone: list[list[Answers]], level: int) -> None:
    for answers in alone[level]:
        torch.testing.assert_close(answers.scores.sum(1), torch.ones(1))


@pytest.mark.parametrize("level", LEVELS)
def test_the_token_map_accounts_for_every_patch(
    engine: Engine, alone: list[list[Answers]], level: int
) -> None:
    """Each surviving patch token has a patch; packaged and dropped ones say so."""
    schedule = engine.levels[level].schedule
    final = engine.ladder.levels[level].tokens[-1]
    packaged = any(r["kind"] == "vwt-intra" or r.get("fate") == "package" for r in schedule.dump())
    for answers in alone[level]:
        assert answers.token_map is not None
        where = answers.token_map[0].tolist()
        assert len(where) == 144
        kept = {row for row in where if row >= 0}
        assert kept == set(range(1, final - packaged))
        drops = any(r.get("fate") == "drop" for r in schedule.dump())
        assert (-1 in where) == drops
        assert (-2 in where) == packaged


def test_intra_keeps_the_patches_of_highest_variance(engine: Engine, pixels: Tensor) -> None:
    answers = engine.infer(pixels[:1], [1], token_map=True)
    assert answers.token_map is not None
    cells = pixels[0].reshape(12, 8, 12, 8, 3).permute(0, 2, 4, 1, 3).reshape(144, 3, -1)
    variance = cells.double().var(2).sum(1)
    kept = answers.token_map[0] > 0
    assert variance[kept].min() >= variance[~kept].max()


def test_dropping_intra_ranks_by_the_variance_of_all_normalised_pixels(
    build_engine: Callable[..., Engine], pixels: Tensor
) -> None:
    engine = build_engine([[], [{"kind": "vwt-intra", "keep": 50, "fate": "drop"}]])
    where = engine.infer(pixels[:1], [1], token_map=True).token_map
    assert where is not None
    cells = pixels[0].reshape(12, 8, 12, 8, 3).permute(0, 2, 1, 3, 4).reshape(144, -1)
    variance = ((cells.double() / 255 - 0.5) / 0.5).var(1)
    kept = where[0] > 0
    assert int(kept.sum()) == 50
    assert variance[kept].min() >= variance[~kept].max()


def test_two_runs_are_identical(engine: Engine, pixels: Tensor) -> None:
    levels = [level % len(LEVELS) for level in range(8)]
    first, second = engine.infer(pixels, levels), engine.infer(pixels, levels)
    assert torch.equal(first.scores, second.scores)
