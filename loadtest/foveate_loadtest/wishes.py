"""Wishes of single requests, mixed into a load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate_loadtest.errors import ScheduleError
from foveate_loadtest.payloads import Parameters

__all__ = ["Wish", "draw", "share_out"]

_STREAM = 2  # of a seed: wishes are drawn apart from gaps
_NAMES = ("level", "quality", "deadline_ms")


@dataclass(frozen=True)
class Wish:
    """Request parameters, and the share of the requests that has them."""

    parameters: Parameters
    share: float

    @staticmethod
    def parse(text: str) -> Wish:
        """``NAME=VALUE:SHARE``, as in ``quality=exact:0.05``. Raises :class:`ScheduleError`."""
        what, _, share = text.rpartition(":")
        name, _, value = what.partition("=")
        try:
            part = float(share)
        except ValueError:
            part = -1.0
        if name not in _NAMES or not value or not 0 <= part <= 1:
            raise ScheduleError(
                f"wish={text!r}: expected NAME=VALUE:SHARE with NAME of {', '.join(_NAMES)} and a "
                "SHARE of 0 to 1"
            )
        return Wish({name: value}, part)


def share_out(wishes: Sequence[Wish]) -> list[Wish]:
    """Adds the share without a wish. Raises :class:`ScheduleError` if shares exceed 1."""
    rest = 1.0 - sum(wish.share for wish in wishes)
    if rest < -1e-9:
        raise ScheduleError(f"wishes of {1 - rest:g} of the requests: expected at most 1")
    return [Wish({}, max(0.0, rest)), *wishes]


def draw(wishes: Sequence[Wish], count: int, seed: int) -> NDArray[np.int64]:
    """Which wish each of ``count`` requests has, at random."""
    shares = np.array([wish.share for wish in wishes])
    drawn: NDArray[np.int64] = np.random.default_rng((seed, _STREAM)).choice(
        len(wishes), count, p=shares / shares.sum()
    )
    return drawn
