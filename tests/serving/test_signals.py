"""What the plugin estimates about its requests, against what the client and Triton saw."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from foveate.backend.telemetry import AGE_EDGES_S
from foveate.control.governor import Rejection
from foveate.levels.ladder import Ladder
from foveate_loadtest.arrivals import Schedule, poisson
from foveate_loadtest.rows import Outcome, Rows
from foveate_loadtest.run import LoadtestConfig, run

PUBLISHED_S = 0.5  # the plugin publishes more often than that
EDGES_S = (0.0, *AGE_EDGES_S)
CLOSE_S = 0.010
BUCKET = AGE_EDGES_S[1] / AGE_EDGES_S[0] - 1  # wide, as a share of where it starts

Numbers = Counter[tuple[str, str]]


def numbers(served: Any) -> Numbers:
    """Metrics of ``digits`` by name and ``le``; other labels are summed over."""
    time.sleep(PUBLISHED_S)
    found: Numbers = Counter()
    lines = httpx.get(f"http://{served.metrics}/metrics").raise_for_status().text.splitlines()
    # Told that they are counters, the parser would give them other names.
    bare = "\n".join(line for line in lines if not line.startswith("#"))
    for family in text_string_to_metric_families(bare):
        for sample in family.samples:
            if sample.labels.get("model") == "digits":
                found[sample.name, sample.labels.get("le", "")] += sample.value
    return found


def sent(served: Any, rate: float, seconds: float, rows: Path) -> tuple[Rows, Numbers]:
    """What the client saw of Poisson arrivals, and how much the metrics grew by them."""
    schedule = Schedule(
        times=poisson(rate, seconds, seed=1),
        seconds=seconds,
        scenario="poisson",
        seed=1,
        cv2=1.0,
        capacities=None,
    )
    before = numbers(served)
    run(LoadtestConfig(server=served.grpc, schedule=schedule, slo_ms=200, rows=rows))
    after = numbers(served)
    after.subtract(before)
    return Rows.load(rows), after


def quantile(cumulative: Sequence[float], share: float) -> float:
    """Linear within a bucket. ``cumulative``: how many were at most each of ``EDGES_S``."""
    return float(np.interp(share * cumulative[-1], cumulative, EDGES_S))


def of_triton(grown: Numbers) -> float:
    """Mean seconds of a request, as Triton measures them."""
    requests = grown["nv_inference_request_success", ""]
    return grown["nv_inference_request_duration_us", ""] / requests / 1e6


@pytest.fixture(scope="module")
def calm(server: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, Numbers]:
    """A load that the server can carry: of level 0, a quarter."""
    return sent(server, server.capacity / 4, 6, tmp_path_factory.mktemp("calm") / "rows.npz")


def test_ages_are_the_latencies_the_client_sees(calm: tuple[Rows, Numbers]) -> None:
    """But for the way there and back, which takes what Triton's own measure lacks.

    To a bucket of the histogram and no closer: in a client without a processor, answers wait. And
    the age of a request that found an idle server is estimated too high, by up to the time since
    the one before.
    """
    rows, grown = calm
    latency = rows.done - rows.sent
    way_s = float(np.mean(latency)) - of_triton(grown)
    assert way_s > 0
    seen = [float(np.sum(latency <= edge)) for edge in EDGES_S]
    told = [0.0, *(grown["foveate_age_seconds_bucket", str(edge)] for edge in AGE_EDGES_S)]
    assert all(low <= high for low, high in pairwise(told))
    assert told[-1] >= len(latency), "all are counted, and a probe now and then"
    for share in (0.5, 0.95):
        close = pytest.approx(quantile(seen, share), rel=BUCKET, abs=CLOSE_S)
        assert quantile(told, share) + way_s == close


def test_every_series_is_there_from_the_start(server: Any, repository: Path) -> None:
    """A rate does not see how a new series began."""
    levels = len(Ladder.load(repository / "digits/1/ladder.json").levels)
    text = httpx.get(f"http://{server.metrics}/metrics").text
    for level in range(levels):
        for slo in ("met", "missed"):
            assert f'foveate_answers_total{{level="{level}",model="digits",slo="{slo}"}}' in text
    for reason in Rejection:
        assert f'foveate_rejections_total{{model="digits",reason="{reason}"}}' in text
    for model in ("digits", "digits_decode"):
        assert f'foveate_errors_total{{model="{model}"}}' in text
        assert f'foveate_failures_total{{model="{model}"}}' in text
    assert 'foveate_build_info{component="model"' in text


def test_the_mean_age_is_what_triton_measures(calm: tuple[Rows, Numbers]) -> None:
    _, grown = calm
    age_s = grown["foveate_age_seconds_sum", ""] / grown["foveate_age_seconds_count", ""]
    assert age_s == pytest.approx(of_triton(grown), abs=CLOSE_S)


def test_every_rejection_the_client_sees_is_counted(server: Any, tmp_path: Path) -> None:
    pin = f"http://{server.adapter}/v1/models/digits/pin"
    httpx.put(pin, json={"level": "dense", "expires_s": 60}).raise_for_status()
    try:
        rows, grown = sent(server, 2 * server.capacity, 3, tmp_path / "rows.npz")
    finally:
        httpx.delete(pin).raise_for_status()
    refused = int(np.sum(rows.outcome == Outcome.REJECTED))
    assert refused > 0
    assert grown["foveate_rejections_total", ""] == refused
