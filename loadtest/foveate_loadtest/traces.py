"""Loads, defined relative to the server's capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.choices import Shape
from foveate_loadtest.shapes import shape_schedule

__all__ = ["Trace", "Unit"]


class Unit(StrEnum):
    """What a load is a multiple of: capacities, in requests per second."""

    EXACT = "exact"
    CHEAPEST = "cheapest"
    MIDPOINT = "midpoint"  # between those of levels 1 and 2

    def of(self, capacities: Sequence[float]) -> float:
        """``capacities`` of all levels, dearest first."""
        match self:
            case Unit.EXACT:
                return capacities[0]
            case Unit.CHEAPEST:
                return capacities[-1]
            case Unit.MIDPOINT:
                return (capacities[1] + capacities[2]) / 2


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A shape of load."""

    load: float  # mean, in units
    shape: Shape = Shape.STEADY
    unit: Unit = Unit.CHEAPEST
    cv2: float = 1.0
    seed: int = 1
    length: float = 1.0  # in usual runs

    @property
    def title(self) -> str:
        shape = self.shape.value if self.cv2 == 1 else f"CV² {self.cv2:g}"
        unit = "" if self.unit is Unit.CHEAPEST else f" of {self.unit}"
        return f"{self.load:.2f}{unit} {'Poisson' if shape == Shape.STEADY else shape}"

    @property
    def key(self) -> str:
        return f"{self.title}, seed {self.seed}, {self.length:g} long"

    def schedule(self, capacities: Sequence[float], seconds: float) -> Schedule:
        """``seconds`` of a usual run."""
        rate = self.load * self.unit.of(capacities)
        return shape_schedule(self.shape, rate, seconds * self.length, self.cv2, self.seed)
