"""The predicted time of a schedule: blocks from their table, reducers from whole passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import nnls

from foveate.calibration.candidate import Point, label
from foveate.inference.block_times import BlockTimes
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig

__all__ = ["Cost", "learn_overheads"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Predicted seconds of a batch. Good enough for searching; results are measured."""

    configs: Mapping[str, ViTConfig]  # by weights file
    blocks: Mapping[str, BlockTimes]
    overheads: Mapping[str, float] = field(default_factory=dict)  # seconds of a unit of each part

    def seconds(self, point: Point) -> float:
        schedule = Schedule.parse(point.reducers, self.configs[point.weights])
        tokens = schedule.tokens(self.configs[point.weights])
        parts = _parts(point, tokens[0][0])
        rest = sum(self.overheads.get(part, 0.0) * units for part, units in parts.items())
        return self.blocks[point.weights].seconds(*tokens) + rest

    def tokens(self, point: Point) -> int:
        """Rows of one image at the first block."""
        config = self.configs[point.weights]
        return Schedule.parse(point.reducers, config).tokens(config)[0][0]


def learn_overheads(cost: Cost, points: Sequence[Point], seconds: Sequence[float]) -> Cost:
    """Explain measured passes: what the blocks' table leaves, spread over the parts of each point.

    Least squares of the relative error, no part negative. Parts are the pass itself, each token at
    the input, and each application of a kind of reducer.
    """
    bare = Cost(configs=cost.configs, blocks=cost.blocks)
    rows = [_parts(point, cost.tokens(point)) for point in points]
    names = sorted(set().union(*rows))
    measured = np.array(seconds)
    left = measured - [bare.seconds(point) for point in points]
    design = np.array([[row[name] for name in names] for row in rows], dtype=float)
    overheads, _ = nnls(design / measured[:, None], left / measured)
    return Cost(
        configs=cost.configs,
        blocks=cost.blocks,
        overheads=dict(zip(names, overheads.tolist(), strict=True)),
    )


def _parts(point: Point, tokens: int) -> Counter[str]:
    parts = Counter(label(reducer) for reducer in point.reducers)
    parts["pass"] = 1
    parts["input token"] = tokens
    return parts
