"""``foveate_benchmarks.control`` judges what it is there to judge, and plays no run twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_benchmarks import tables
from foveate_benchmarks.control import answers, bars, bounds, parts, runs, traces
from foveate_benchmarks.results import SLO_MS
from foveate_loadtest.bench.book import Book
from foveate_loadtest.environment import environment
from foveate_loadtest.errors import ResultsError
from foveate_loadtest.rows import Outcome, Rows

ROOT = Path(__file__).parents[2]
CAPACITIES = (110.0, 160.0, 220.0, 300.0, 400.0)


def rows(intended: list[float], done: list[float], level: list[int]) -> Rows:
    """Answers, and rejections where the level is -1."""
    blank = Rows.blank(np.array(intended), np.zeros(len(intended), np.int16))
    outcome = np.where(np.array(level) < 0, Outcome.REJECTED, Outcome.OK).astype(np.int8)
    return replace(blank, done=np.array(done), level=np.array(level, np.int16), outcome=outcome)


def steady(levels: list[int], gap: float = 0.1) -> Rows:
    """One answer a ``gap`` seconds, at these levels."""
    times = [gap * (i + 0.5) for i in range(len(levels))]
    return rows(times, times, levels)


def test_changes_of_level_count_in_order_of_completion() -> None:
    assert answers.level_changes(rows([0, 1, 2, 3], [5, 4, 6, 7], [0, 1, 0, -1])) == 1
    assert answers.level_changes(steady([])) == 0


def test_level_0_is_back_when_it_answers_most_of_half_a_second() -> None:
    back = answers.mostly_exact_again
    found = steady([0] * 10 + [4] * 20 + [4, 0] * 5 + [0] * 20)  # from 4 s on it is always level 0
    assert back(found, 1.0, 6.0) == pytest.approx(2.2, abs=0.25)
    assert back(found, 1.0, 3.0) is None


def test_moves_of_the_usual_level() -> None:
    moves = answers.dearer_moves
    levels = [2, 2, 1, 2, 2, 2, 2, 1, 1, 1] + [1] * 10 + ([1] * 4 + [2] * 6) + [0] * 10
    assert [moves(steady(levels), window) for window in (1.0, 0.1, 100.0)] == [2, 3, 0]


def test_a_limit_cycle_shows_and_chance_does_not() -> None:
    cycle = answers.cycle
    assert cycle(steady(([1] * 50 + [2] * 50) * 12)) > 0.8
    assert cycle(steady([1] * 600)) == 0
    assert cycle(steady(np.random.default_rng(0).integers(1, 3, 6000).tolist())) < 0.2


def test_goodput_counts_answers_in_time_when_they_come() -> None:
    seen = rows([0.1, 0.2, 9.9, 11.0, 12.0], [0.2, 0.9, 10.05, 11.1, 12.1], [0, 0, 0, 0, -1])
    assert answers.goodput(seen, 0.2, 20.0, 10.0) == [0.1, 0.2]


def test_a_dearer_range_is_counted_either_way() -> None:
    ranges = [(0, 4), (1, 4), (2, 4), (1, 4), (1, 3), (1, 4), (0, 4)]
    decisions = [{"dearest": dearest, "cheapest": cheapest} for dearest, cheapest in ranges]
    assert runs.dearer_ranges(decisions) == 3


def test_policies_of_a_trace_get_the_same_arrivals() -> None:
    shas: dict[str, set[str]] = {}
    for some in parts.PARTS.values():
        for run in some:
            sha = run.trace.schedule(CAPACITIES, 30.0).sha256
            shas.setdefault(run.trace.key, set()).add(sha)
    assert all(len(found) == 1 for found in shas.values())
    assert len(set.union(*shas.values())) == len(shas)
    assert len(parts.PARTS["floor"]) == 52


@pytest.mark.parametrize("seconds", [30.0, 3.0])
def test_loads_are_what_their_names_say(seconds: float) -> None:
    for unit, capacity in (("exact", 110), ("cheapest", 400), ("midpoint", 190)):
        trace = traces.Trace(load=0.5, unit=traces.Unit(unit), cv2=0)
        assert len(trace.schedule(CAPACITIES, 60.0).times) == pytest.approx(30 * capacity, rel=0.01)
    assert parts.MIDPOINT.trace.schedule(CAPACITIES, seconds).seconds == 20 * seconds
    steps = traces.Steps()
    schedule = steps.schedule(CAPACITIES, seconds)
    starts = steps.starts(seconds)
    assert schedule.seconds == starts[-1] + steps.burst_s + steps.calm_s
    assert len(starts) == round(seconds / 3)
    for start in starts:
        burst = (schedule.times >= start) & (schedule.times < start + steps.burst_s)
        assert burst.sum() == pytest.approx(5 * 0.85 * 400, rel=0.15)


@pytest.fixture
def ladder() -> Ladder:
    return Ladder.load(ROOT / "model_repository" / "digits" / "1" / "ladder.json")


@pytest.fixture
def book(ladder: Ladder, tmp_path: Path) -> Any:
    """Capacities are measured, nothing is played; runs of a second."""
    book = Book(tmp_path / "control.json", ladder, 1.0, SLO_MS, environment())
    seconds = tuple((2e-3 + 1 / capacity, 8 / capacity - 4e-3) for capacity in CAPACITIES)
    table = LatencyTable(device="cpu", ladder=ladder.digest, batches=(1, 8), seconds=seconds)
    levels = [
        {
            "index": index,
            "level": level.name,
            "quality": ladder.quality(index),
            "capacity": CAPACITIES[index],
            "batch_s": 8 / CAPACITIES[index] - 3e-3,
        }
        for index, level in enumerate(ladder.levels)
    ]
    book.measure(table, levels)
    return book


def facts(book: Any, run: Any, **more: object) -> dict[str, object]:
    """A run without a fault."""
    schedule = book.schedule(run)
    burst = {"missed": 3, "mostly_level_0_again_s": 1.0}
    return {
        "arrivals_sha256": schedule.sha256,
        "problem": None,
        "attainment": 1.0,
        "ladder_quality": book.column("quality")[0],
        "recovered": 1.0,
        "p99_ms": 100.0,
        "seconds": schedule.seconds,
        "goodput": 400.0,
        "goodput_10s": [100.0, 400.0, 400.0],
        "rejected": 7,
        "rejections_counted": 7.0,
        "rejection_p99_ms": 50.0,
        "level_changes": 0,
        "dearer_moves_1s": 0,
        "dearer_moves_5s": 0,
        "dearer_ranges": 0,
        "cycle": 0.1,
        "bursts": [burst],
        **more,
    }


def put_all(book: Any, part: str, **more: object) -> None:
    for run in parts.PARTS[part]:
        book.put(run, facts(book, run, **more))


def test_what_is_there_is_not_played_again(book, ladder, tmp_path) -> None:
    calm = parts.PARTS["calm"]
    book.put(calm[0], facts(book, calm[0]))
    again = Book(tmp_path / "control.json", ladder, 1.0, SLO_MS, environment())
    assert again.missing(calm) == calm[1:]
    assert again.table == book.table
    with pytest.raises(ResultsError, match=r"seconds=1.0, but this run has 2.0"):
        Book(tmp_path / "control.json", ladder, 2.0, SLO_MS, environment())
    assert Book(tmp_path / "control.json", ladder, 2.0, SLO_MS, environment(), fresh=True).missing
    again.data["levels"][0]["capacity"] = 111.0  # other arrivals
    assert again.missing(calm) == calm


def test_a_player_waits_for_its_first_run(tmp_path) -> None:
    runs.Player(tmp_path, "digits", 0, SLO_MS).close()


def test_only_complete_parts_are_judged(book) -> None:
    judge = bars.judge
    assert judge(book) == {}
    put_all(book, "overload")
    assert list(judge(book)) == ["overload"]


@pytest.mark.parametrize(
    ("part", "fault", "word"),
    [
        ("calm", {"problem": "p99 send lag: 9 ms"}, "send lag"),
        ("calm", {"level_changes": 3}, "changes of level"),
        ("reaction", {"bursts": [{"missed": 3, "mostly_level_0_again_s": None}]}, "level 0 again"),
        ("reaction", {"bursts": [{"missed": 3, "mostly_level_0_again_s": 5.1}]}, "level 0 again"),
        ("midpoint", {"dearer_ranges": 3}, "range moves"),
        ("midpoint", {"dearer_moves_5s": 3}, "of 5 s"),
        ("midpoint", {"cycle": 0.3}, "autocorrelation"),
        ("overload", {"goodput": 299.0, "goodput_10s": [0.0, 299.0]}, "goodput 0.7"),
        ("overload", {"goodput_10s": [400.0, 310.0, 400.0]}, "least goodput"),
        ("overload", {"p99_ms": 201.0}, "p99 of answers"),
        ("overload", {"rejection_p99_ms": 101.0}, "p99 of rejections"),
        ("overload", {"rejections_counted": 6.0}, "counted"),
    ],
)
def test_each_fault_misses_its_bar_alone(book, part, fault, word) -> None:
    judge = bars.judge
    put_all(book, part)
    assert all(bar.met is not False for bar in judge(book)[part])
    put_all(book, part, **fault)
    missed = [bar.text for bar in judge(book)[part] if bar.met is False]
    assert missed
    assert all(word in text for text in missed)


def test_the_floor_is_held_against_the_same_arrivals(book) -> None:
    put_all(book, "floor")
    assert all(bar.met is not False for bar in bars.judge(book)["floor"])
    for run in parts.PARTS["floor"]:
        if run.policy == "adaptive":
            book.put(run, facts(book, run, attainment=0.996))
    met = [bar.met for bar in bars.judge(book)["floor"] if bar.met is not None]
    assert met == [False] * 6 + [True] * 6, "0.2 points at 0.70, 0.5 at 0.85"


def test_loads_follow_the_speed_of_the_machine(book) -> None:
    run, other, *_ = parts.PARTS["floor"]
    usual = len(book.schedule(run).times)
    assert not book.met(run)
    book.meet(run, 200.0)
    assert book.met(other), "the same trace"
    assert book.capacities(other)[-1] == 200.0
    assert len(book.schedule(other).times) == pytest.approx(usual / 2, rel=0.15)
    server = bounds.fitted(book, book.speed(run))
    assert server.slowdown == pytest.approx(2, rel=0.01)


def test_a_bar_beyond_the_bound_is_said_to_be(book) -> None:
    put_all(book, "quality", recovered=0.5)
    conditions, *judged = bars.judge(book)["quality"]
    assert "400" in conditions.text
    found = {bar.text.partition(":")[0]: bar for bar in judged}
    assert found["0.85 CV² 8"].met
    assert not found["0.70 CV² 8"].met
    for run, known in book.data["bounds"].items():
        assert 0 < known["recovered"] < 1, run
    for bar in found.values():
        assert "of the bound" in bar.text
    for known in book.data["bounds"].values():
        known["recovered"] = 0.1
    beyond = [bar for bar in bars.judge(book)["quality"] if "above the clairvoyant" in bar.text]
    assert len(beyond) == len(bars.RECOVERED)


def test_the_simulation_is_held_against_the_runs(book) -> None:
    server = bounds.fitted(book)
    assert (server.slowdown, server.within_s) == pytest.approx((1, 1e-3), abs=1e-6)
    assert server.overhead_s == pytest.approx(3e-3)
    for run in parts.FIDELITY:
        said = bounds.simulated(book, run)
        book.put(run, facts(book, run, attainment=said.attainment, ladder_quality=said.quality))
    assert all(bar.met is not False for bar in bars.judge(book)["fidelity"])
    book[parts.FIDELITY[0]]["ladder_quality"] -= 0.003
    assert sum(bar.met is False for bar in bars.judge(book)["fidelity"]) == 1


def test_the_table_shows_what_was_played(book) -> None:
    put_all(book, "quality", recovered=0.5)
    book.data["rows"] = bars.table(book)
    text = tables.control(book.data)
    assert "| 0.55 CV² 8 | 100.00 % | – | 0.50 |" in text
    assert "| 0.70 CV² 8 | 100.00 % | 100.00 % | 0.50 |" in text
    assert "0.70 ramp" not in text
    traces = [row["trace"] for row in book.data["rows"]]
    bursty = [f"{load} CV² {cv2}" for load in ("0.70", "0.85") for cv2 in (2, 4, 8)]
    assert traces == ["0.55 CV² 8", *bursty]
