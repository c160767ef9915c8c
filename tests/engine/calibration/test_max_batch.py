"""The largest batch is as large as a quarter of the SLO allows."""

from __future__ import annotations

import pytest

from foveate.calibration.max_batch import SIZES, choose_max_batch
from foveate.levels.latency_table import LatencyTable

# Level 0, and a cheaper one: 2 ms, and 3 ms an image.
TABLE = LatencyTable(
    device="d",
    ladder="l",
    batches=SIZES,
    seconds=tuple(tuple(0.002 + n * each for n in SIZES) for each in (0.010, 0.003)),
)


def test_sizes_are_those_an_engine_runs() -> None:
    assert SIZES == (1, 2, 4, 8, 12, 16, 24, 32)


@pytest.mark.parametrize(
    ("slo_ms", "images"), [(200, 16), (199, 12), (304, 24), (10_000, 32), (20, 1), (1, 1)]
)
def test_it_is_the_largest_that_the_cheapest_level_answers_in_time(
    slo_ms: float, images: int
) -> None:
    assert choose_max_batch(TABLE, slo_ms).images == images


def test_the_reason_names_the_times_on_both_sides_of_the_limit() -> None:
    assert choose_max_batch(TABLE, 200).reason == (
        "at the cheapest level a batch of 16 takes 50.0 ms, one of 24 74.0 ms; "
        "a quarter of the SLO is 50 ms"
    )
    assert choose_max_batch(TABLE, 1000).reason == (
        "at the cheapest level a batch of 32 takes 98.0 ms; a quarter of the SLO is 250 ms"
    )
