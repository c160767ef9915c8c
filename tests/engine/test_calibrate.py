"""Choosing levels from measured times and scores."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.calibrate import Images, calibrate, candidates, climb
from foveate.engine import Engine
from foveate.vit import ViT, ViTConfig, save_vit


def test_climb_keeps_the_front_with_steps_between() -> None:
    seconds = [10.0, 9.9, 5.0, 6.0, 4.5, 2.0, 1.0]
    scores = [0.97, 0.97, 0.97, 0.96, 0.965, 0.95, 0.80]
    assert climb(seconds, scores, max_loss=0.025, step=1.25) == [0, 2, 5]


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), min_size=1, max_size=20))
def test_a_ladder_gets_cheaper_and_never_loses_more_than_allowed(
    points: list[tuple[float, float]],
) -> None:
    seconds, scores = [p[0] for p in points], [p[1] for p in points]
    ladder = climb(seconds, scores, max_loss=0.1, step=1.25)
    assert ladder[0] == 0
    for dearer, cheaper in pairwise(ladder):
        assert seconds[cheaper] * 1.25 <= seconds[dearer]
    for level in ladder[1:]:
        assert scores[0] - scores[level] <= 0.1
        assert not any(
            seconds[i] < seconds[level] and scores[i] >= scores[level]
            for i in range(1, len(points))
            if scores[0] - scores[i] <= 0.1
        )


def test_candidates_start_dense_and_are_all_different() -> None:
    for config in (ViTConfig(), ViTConfig(height=224, width=224, patch=16, depth=12, dim=192)):
        grid = candidates(config)
        assert grid[0].dump() == ()
        assert len({str(schedule.dump()) for schedule in grid}) == len(grid)
        for schedule in grid:  # each is a level the ladder loader accepts
            assert type(schedule).parse(schedule.dump(), config) == schedule


def test_calibrate_writes_a_ladder_the_engine_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    save_vit(ViT(ViTConfig(height=48, width=48, dim=32, heads=2, mlp_dim=64)), tmp_path / "w")
    (tmp_path / "w").rename(tmp_path / "model.safetensors")
    pixels = torch.randint(0, 256, (24, 48, 48, 3), dtype=torch.uint8)
    result = calibrate(tmp_path, "toy", Images(pixels, None), Images(pixels, None), max_loss=1.0)
    engine = Engine.load(tmp_path)
    assert engine.ladder == result.ladder
    qualities = [engine.ladder.quality(i) for i in range(len(engine.levels))]
    assert qualities[0] == 1.0
    assert qualities == sorted(qualities, reverse=True)
    assert engine.infer(pixels[:3], [len(engine.levels) - 1] * 3).scores.shape == (3, 10)
