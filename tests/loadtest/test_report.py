"""The verdict, on rows small enough to judge by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.ending import finish
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.progress import measure
from foveate_loadtest.report import Report, summarise
from foveate_loadtest.report_page import write_page
from foveate_loadtest.rows import Outcome, Rows

LADDER = LadderFacts(names=("dense", "half", "tiny"), quality=(0.98, 0.97, 0.90), cheapest=2)
NAN = float("nan")


@pytest.fixture
def rows() -> Rows:
    """Ten requests, one each tenth of a second; the SLO of the tests is 100 ms."""
    ok, no = Outcome.OK, Outcome.REJECTED
    intended = np.arange(10) / 10
    latency = np.array([0.05, 0.05, 0.05, 0.10, 0.05, 0.25, 0.01, 0.02, 0.02, NAN])
    outcome = [ok, ok, ok, ok, ok, ok, no, Outcome.INVALID, Outcome.FAILED, Outcome.UNANSWERED]
    return Rows(
        intended=intended,
        sent=intended + 0.001,
        done=intended + latency,
        outcome=np.array(outcome, np.int8),
        level=np.array([0, 0, 0, 1, 2, 2, -1, -1, -1, -1], np.int16),
        answer=np.array([1, 2, 3, 4, 9, 6, -1, -1, -1, -1], np.int16),
        label=np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 0], np.int16),
        worker=np.zeros(10, np.int16),
        messages={"rejected": "deadline"},
    )


@pytest.fixture
def report(rows: Rows) -> Report:
    return _summarise(rows)


@pytest.fixture
def healthy(rows: Rows) -> Rows:
    """Two that were late instead of two that failed."""
    failed = np.isin(rows.outcome, (Outcome.INVALID, Outcome.FAILED))
    return replace(rows, outcome=np.where(failed, Outcome.TIMEOUT, rows.outcome))


def _summarise(rows: Rows, *, ladder: LadderFacts | None = LADDER, lag_ms: float = 5.0) -> Report:
    schedule = Schedule(
        times=rows.intended, seconds=1.0, scenario="hand", seed=4, cv2=0.0, capacities=None
    )
    return summarise(rows, schedule, 100.0 + 1e-6, ladder, lag_ms, {"commit": "abc"})


def test_everything_but_an_answer_in_time_is_a_miss(report: Report) -> None:
    assert report.requests == 10
    assert report.attainment == pytest.approx(0.5)  # the late one, and four without an answer
    assert report.attainment_admitted == pytest.approx(5 / 9)
    assert report.rejected == 1
    assert report.errors == {"unanswered": 1, "invalid": 1, "failed": 1}
    assert (report.offered_rate, report.served_rate, report.goodput) == (10.0, 6.0, 5.0)


def test_latency_is_of_answers_and_from_the_intended_time(rows: Rows) -> None:
    rows.sent[5] += 0.2  # the client was late: that is part of what the user waited
    latency = _summarise(rows).latency_ms
    assert latency is not None
    assert latency.p50 == pytest.approx(50)
    assert latency.longest == pytest.approx(250)


def test_quality_is_of_the_answers_in_time(report: Report) -> None:
    expected = (3 * 0.98 + 0.97 + 0.90) / 5
    assert report.ladder_quality == pytest.approx(expected)
    assert report.recovered == pytest.approx((expected - 0.90) / 0.08)
    assert report.measured_quality == pytest.approx(0.8)  # one of five answered wrongly


def test_shares_of_levels(report: Report) -> None:
    shares = {share.name: share for share in report.levels}
    assert {name: share.answers for name, share in shares.items()} == pytest.approx(
        {"dense": 3 / 6, "half": 1 / 6, "tiny": 2 / 6}
    )
    # Answers at 50, 150, 250 | 400 | 450, 750 ms.
    assert {name: share.time for name, share in shares.items()} == pytest.approx(
        {"dense": 250 / 750, "half": 150 / 750, "tiny": 350 / 750}
    )


def test_without_a_ladder_only_measured_quality_is_known(rows: Rows) -> None:
    report = _summarise(rows, ladder=None)
    assert report.ladder_quality is None
    assert report.recovered is None
    assert report.measured_quality == pytest.approx(0.8)


def test_a_late_client_spoils_the_run(healthy: Rows) -> None:
    assert _summarise(healthy).problem is None
    assert "client was late" in str(_summarise(healthy, lag_ms=0.5).problem)


def test_requests_that_fail_spoil_the_run(rows: Rows) -> None:
    rows.messages["failed"] = "INTERNAL: no such level"
    assert _summarise(rows).problem == "2 of 10 requests failed: INTERNAL: no such level"


def test_an_answer_after_the_run_is_not_served_in_it(rows: Rows) -> None:
    rows.done[5] += 1.0
    report = _summarise(rows)
    assert report.served_rate == 5.0
    assert report.latency_ms is not None
    assert report.latency_ms.longest == pytest.approx(1250)


@pytest.mark.parametrize(
    ("late", "allowed"),
    [(0, 5.0), (1, 5.0), (100, 5.0), (1, 200.0)],  # interpolated, 1 of 100 would be 1 ms
)
def test_locust_and_the_report_judge_the_lag_alike(late: int, allowed: float) -> None:
    rows = Rows.blank(np.arange(100) / 100, np.zeros(100, np.int16))
    rows.sent[:] = rows.intended
    rows.sent[:late] += 0.1
    assert _ends_well(rows, allowed) == (_summarise(rows, lag_ms=allowed).problem is None)


def test_nothing_sent_fails_locust_too(rows: Rows) -> None:
    assert not _ends_well(Rows.blank(rows.intended, rows.label), 5.0)


def _ends_well(rows: Rows, lag_ms: float) -> bool:
    """Does Locust exit with 0?"""
    locust = SimpleNamespace(
        parsed_options=SimpleNamespace(rows=None, max_send_lag_ms=lag_ms),
        runner=SimpleNamespace(quit=lambda: None),
        web_ui=None,
        process_exit_code=0,
    )
    finish(locust, rows)
    return locust.process_exit_code == 0


def test_nothing_sent_is_a_problem_not_a_success(rows: Rows) -> None:
    blank = Rows.blank(rows.intended, rows.label)
    report = _summarise(blank)
    assert report.attainment == 0.0
    assert report.problem is not None
    assert report.latency_ms is None


def test_in_flight_counts_what_overlaps(report: Report) -> None:
    assert report.max_in_flight == 2  # one waits from 0.5 to 0.75 s, others come and go


def test_series_adds_up(report: Report) -> None:
    (second,) = report.series
    assert (second.offered, second.answered, second.in_time, second.rejected) == (10, 6, 5, 1)


def test_json_carries_seed_hash_and_verdict(healthy: Rows) -> None:
    data = json.loads(_summarise(healthy).to_json())
    assert data["seed"] == 4
    assert len(data["arrivals_sha256"]) == 64
    assert data["problem"] is None
    assert data["latency_ms"]["p99"] == pytest.approx(250)


def test_rows_survive_a_file(rows: Rows, tmp_path: Path) -> None:
    rows.save(tmp_path / "rows.npz")
    loaded = Rows.load(tmp_path / "rows.npz")
    assert np.array_equal(loaded.done, rows.done, equal_nan=True)
    assert loaded.messages == rows.messages
    rows.save(tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines[0] == "intended,sent,done,outcome,level,answer,label,worker"
    assert len(lines) == 11


def test_progress_knows_what_is_already_too_late(rows: Rows) -> None:
    progress = measure(rows, now=1.0, slo=0.1 + 1e-9)
    assert progress.in_flight == 1
    assert progress.level == 2
    assert progress.rejected == 1
    # The unanswered one is due at 1.0 s: not judged yet, and lost a moment later.
    assert progress.attainment == pytest.approx(5 / 9)
    assert measure(rows, now=1.01, slo=0.1 + 1e-9).attainment == pytest.approx(5 / 10)


def test_the_page_stands_alone_and_says_what_is_wrong(healthy: Rows, tmp_path: Path) -> None:
    write_page(_summarise(healthy, lag_ms=0.5), healthy, tmp_path / "late.html")
    page = (tmp_path / "late.html").read_text()
    assert "invalid: p99 send lag: 1.0 ms" in page
    assert "rejected: deadline" in page
    assert page.count("<svg") == 2
    assert "src=" not in page
    write_page(_summarise(healthy, ladder=None), healthy, tmp_path / "good.html")
    assert "invalid: " not in (tmp_path / "good.html").read_text()
    nothing = Rows.blank(np.zeros(0), np.zeros(0, np.int16))
    write_page(_summarise(nothing), nothing, tmp_path / "nothing.html")
    assert "nothing was sent" in (tmp_path / "nothing.html").read_text()
