"""What the demo calls a success."""

from __future__ import annotations

import numpy as np
import pytest

from foveate_cli.demo import verdict
from foveate_loadtest.arrivals import Schedule, constant
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.report import Report, summarise
from foveate_loadtest.rows import Outcome, Rows

LADDER = LadderFacts(names=("dense", "tiny"), quality=(0.98, 0.90), cheapest=1)


def _report(*, in_time: int, exact: int) -> Report:
    """A hundred requests: so many in time, so many of those at level 0."""
    times = constant(101, 1.0)[:100]
    rows = Rows.blank(times, np.zeros(100, np.int16))
    rows.sent[:] = times
    rows.done[:] = times + np.where(np.arange(100) < in_time, 0.05, 5.0)
    rows.outcome[:] = Outcome.OK
    rows.level[:] = np.where(np.arange(100) < exact, 0, 1)
    schedule = Schedule(times=times, seconds=1.0, scenario="hand", seed=0, cv2=0.0, capacities=None)
    return summarise(rows, schedule, 200.0, LADDER, 5.0, {})


EXACT = _report(in_time=20, exact=100)
CHEAPEST = _report(in_time=100, exact=0)


def test_better_than_both_ends_is_a_success() -> None:
    assert verdict(_report(in_time=99, exact=60), EXACT, CHEAPEST) is None


@pytest.mark.parametrize(
    ("adaptive", "reason"),
    [
        (_report(in_time=20, exact=100), "in time"),
        (_report(in_time=100, exact=0), "quality"),
        (_report(in_time=0, exact=100), "in time"),
    ],
)
def test_no_better_than_an_end_is_a_failure(adaptive: Report, reason: str) -> None:
    assert reason in str(verdict(adaptive, EXACT, CHEAPEST))
