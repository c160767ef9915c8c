"""What a calibration found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from foveate.calibration.candidate import Point
from foveate.calibration.max_batch import MaxBatch
from foveate.calibration.quality import Outcome
from foveate.calibration.settings import Settings
from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable

__all__ = ["Calibration", "Contest", "Rival", "Trial"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A point that was timed as a whole and measured on all images for choosing levels."""

    point: Point
    seconds: float  # of a batch
    outcome: Outcome
    on_front: bool  # no other is as fast and as near to level 0
    level: int | None  # its index in the ladder


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The uniform schedule of one family that fits a budget."""

    point: Point
    seconds: float  # of a batch
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The ladder against the uniform schedules of all families at one budget."""

    budget: float  # seconds of a batch
    level: int  # the best level that fits
    seconds: float
    outcome: Outcome
    rivals: Mapping[str, Rival]  # by family; those too slow for the budget are absent

    @property
    def best_rival(self) -> Rival | None:
        return max(self.rivals.values(), key=lambda rival: rival.outcome.score, default=None)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The ladder that was written, what it takes here, and what it was chosen from."""

    settings: Settings
    ladder: Ladder
    latency: LatencyTable  # of all batches there were to choose from
    max_batch: MaxBatch
    joules: tuple[float, ...] | None  # of an image at each level; None where nothing counts them
    outcomes: tuple[Outcome, ...]  # of the levels, on images they were not chosen on
    trials: tuple[Trial, ...]
    contests: tuple[Contest, ...]
    samples: Tensor  # [n, H, W, 3] uint8
    token_maps: Tensor  # [levels, n, patches] int16
    recalled: int  # values known from an interrupted run
    measured: int  # values measured by this run
