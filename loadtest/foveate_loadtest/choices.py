"""Choices of load-test options. Standard library only, so that ``--help`` is quick."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["DIGITS", "ROW_FORMATS", "Protocol", "Scenario", "Shape", "Target"]

ROW_FORMATS = (".parquet", ".csv", ".npz")
DIGITS = "digits"  # the image set that is always there


class Protocol(StrEnum):
    """KServe v2 over either transport."""

    GRPC = "grpc"
    HTTP = "http"


class Scenario(StrEnum):
    """Named shapes of load; see :func:`foveate_loadtest.arrivals.scenario_phases`."""

    CALM = "calm"
    BURST = "burst"
    OVERLOAD = "overload"


class Shape(StrEnum):
    """Shapes of load of any length; see :func:`foveate_loadtest.shapes.shape_phases`."""

    STEADY = "steady"
    ON_OFF = "on-off"
    RAMP = "ramp"
    FLASH = "flash"
    STEP = "step"
    MMPP = "mmpp"
    DIURNAL = "diurnal"
    AZURE = "azure"


class Target(StrEnum):
    """Which of a model's inputs to send to."""

    PIXELS = "pixels"  # NAME, raw pixels
    CLASSIFY = "classify"  # NAME_classify, JPEG bytes

    def model(self, name: str) -> str:
        return name if self is Target.PIXELS else f"{name}_classify"
