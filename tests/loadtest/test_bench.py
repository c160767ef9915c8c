"""The comparison of policies: what is played, what is made of it, and each policy on the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_adapter.control import Config
from foveate_adapter.observe import Observation
from foveate_benchmarks import tables
from foveate_benchmarks.control import serve
from foveate_loadtest.bench.book import Book
from foveate_loadtest.bench.comparison_page import write_page
from foveate_loadtest.bench.findings import close_rivals, findings, interval, points, promises
from foveate_loadtest.bench.pictures import gather
from foveate_loadtest.bench.plan import TRACES, Policy, Run, order
from foveate_loadtest.bench.play import play, save_rows
from foveate_loadtest.bench.threshold import decide
from foveate_loadtest.choices import Shape, Target
from foveate_loadtest.errors import ResultsError, ScheduleError
from foveate_loadtest.image_sets import encode, labelled_images, save_images
from foveate_loadtest.shapes import shape_schedule
from foveate_loadtest.stage import Stage
from foveate_loadtest.temporary_server import Addresses

CAPACITIES = [110.0, 160.0, 220.0, 300.0, 400.0]
TABLE = LatencyTable(
    device="cpu",
    ladder="x",
    batches=(1, 8),
    seconds=tuple((2e-3 + 1 / c, 8 / c) for c in CAPACITIES),
)
SLOW = Config(slo_s=0.2, objective=0.99, table=TABLE, floor=4)


def facts(run: Run, **more: object) -> dict[str, Any]:
    """A run in which all went well."""
    return {
        "trace": run.name,
        "title": run.trace.title,
        "seed": run.trace.seed,
        "who": run.who,
        "take": run.take,
        "started": "2026-01-01T00:00:00+00:00",
        "commit": "abc",
        "problem": None,
        "requests": 100,
        "seconds": 4.0,
        "attainment": 1.0,
        "in_time": 100,
        "correct_in_time": 97,
        "by_level": {"0": [60, 59], "1": [40, 39]},
        "ladder_quality": 0.97,
        "p99_ms": 100.0,
        "rejected": 0,
        "errors": {},
        "send_lag_p99_ms": 1.0,
        "arrivals_sha256": "0" * 64,
        "latency_ms": [10.0, 50.0, 100.0],
        "series": {
            "offered": [25, 25, 25, 25],
            "in_time": [25, 25, 25, 25],
            "p99_ms": [90.0, None, 95.0, 100.0],
            "level": [0.0, None, 1.5, 0.0],
        },
        **more,
    }


@pytest.fixture
def data() -> dict[str, Any]:
    """Everything played once, and nothing amiss."""
    runs = {run.key: facts(run) for name in ("calm", "step") for run in order(name, 1, 5)}
    levels = [
        {"index": i, "level": f"l{i}", "quality": 0.98 - i / 100, "capacity": c}
        for i, c in enumerate(CAPACITIES)
    ]
    environment = {"commit": "abc", "torch": "2", "nvidia-pytriton": "0", "locust": "2"}
    environment |= {"processor": "p", "cores": "2"}
    return {
        "environment": environment,
        "seconds": 4.0,
        "slo_ms": 200.0,
        "levels": levels,
        "images": {"set": "digits", "count": 2000},
        "runs": runs,
    }


def change(data: dict[str, Any], who: str, **more: object) -> None:
    for run in data["runs"].values():
        if run["who"] == who:
            run.update(more)


def test_everybody_is_played_and_adaptive_is_first_and_last() -> None:
    played = list(order("bursty", 1, 5))
    assert [run.who for run in (played[0], played[-1])] == ["adaptive", "adaptive"]
    assert len({run.key for run in played}) == len(played) == 9
    assert {run.who for run in played} >= {"threshold", "limiter", "fixed 0", "fixed 4"}
    schedules = {run.trace.schedule(CAPACITIES, 10.0).sha256 for run in played}
    assert len(schedules) == 1
    some = [run.who for run in order("bursty", 2, 5, ["fixed 4"])]
    assert some == ["adaptive", "fixed 4", "adaptive"]


def test_every_trace_offers_what_its_title_says() -> None:
    for trace in TRACES.values():
        rate = trace.load * trace.unit.of(CAPACITIES)
        assert len(trace.schedule(CAPACITIES, 600.0).times) / 600 == pytest.approx(rate, rel=0.1)


def test_lateness_and_lost_quality_are_one_number(data: dict[str, Any]) -> None:
    change(data, "fixed 0", attainment=0.5, in_time=50, correct_in_time=49)
    change(data, "fixed 4", correct_in_time=95, ladder_quality=0.95)
    found = findings(data)[0]
    exact, cheapest = found.rivals["fixed exact"], found.rivals["fixed cheapest"]
    assert exact.right == pytest.approx(0.49)
    assert exact.ahead == (pytest.approx(0.48),)
    assert cheapest.ahead == (pytest.approx(0.02),)
    assert found.best_fixed == "fixed 1"
    assert list(found.rivals) == [
        "fixed exact",
        "fixed cheapest",
        "best fixed in hindsight",
        "p99 threshold",
        "concurrency limiter",
    ]


def test_the_noise_is_how_much_adaptive_differs_from_itself(data: dict[str, Any]) -> None:
    data["runs"]["calm, seed 1, adaptive, take 2"]["correct_in_time"] = 90
    calm, step = findings(data)
    assert (calm.noise, step.noise) == (pytest.approx(0.07), 0.0)
    ours = calm.get("adaptive")
    assert ours is not None
    assert ours.right == pytest.approx(0.935)


def test_an_invalid_run_counts_for_nothing_and_is_told(data: dict[str, Any]) -> None:
    for who in ("threshold", "fixed 0", "fixed 4"):
        change(data, who, problem="p99 send lag: 9 ms: the client was late")
    found = findings(data)[0]
    assert list(found.rivals) == ["best fixed in hindsight", "concurrency limiter"]
    assert "threshold, seed 1: p99 send lag: 9 ms: the client was late" in found.invalid


def test_only_close_rivals_get_more_seeds(data: dict[str, Any]) -> None:
    change(data, "fixed 0", correct_in_time=50)
    change(data, "fixed 2", correct_in_time=98)
    change(data, "limiter", correct_in_time=96, attainment=0.97)
    change(data, "threshold", correct_in_time=96.5)
    assert close_rivals(data, "calm") == ["fixed 4", "threshold"]
    assert close_rivals({**data, "runs": {}}, "calm") == []


def test_more_seeds_sharpen_the_difference_and_nothing_else(data: dict[str, Any]) -> None:
    for run in order("calm", 2, 5, ["fixed 4"]):
        data["runs"][run.key] = facts(run, correct_in_time=60 if run.level else 64)
    calm = findings(data)[0]
    cheapest = calm.rivals["fixed cheapest"]
    assert (calm.seeds, cheapest.runs) == (2, 2)
    assert cheapest.right == pytest.approx(0.97)
    assert cheapest.ahead == (0.0, pytest.approx(0.04))


def test_three_seeds_have_an_interval() -> None:
    assert interval([0.1, 0.2]) is None
    assert interval([0.1, 0.2, 0.3]) == pytest.approx((-0.0484, 0.4484), abs=1e-3)
    assert points([0.01]) == "+1.00"
    assert points([0.01, 0.01, 0.01]) == "+1.00 (+1.00 to +1.00)"


def test_what_levels_promise_is_held_against_labels(data: dict[str, Any]) -> None:
    seen = promises(data)
    assert [one.who for one in seen] == ["all levels", "l0", "l1"]
    assert seen[0].answers == 18 * 100
    assert seen[0].promised == pytest.approx(0.6 * 0.98 + 0.4 * 0.97)
    assert seen[0].measured == pytest.approx(0.98)
    assert all(one.kept for one in seen)
    change(data, "adaptive", by_level={"1": [100, 80]})
    assert [one.kept for one in promises(data)] == [False, True, False]
    assert promises({**data, "runs": {}}) == []


def test_bars_are_met_or_missed_one_by_one(data: Any) -> None:
    judge = serve.judge
    played = ("calm", "step")

    def missed() -> list[str]:
        return [text for text, met in judge(data, played).items() if not met]

    assert missed() == []
    change(data, "limiter", correct_in_time=98)
    assert len(missed()) == 2
    assert all("limiter" in text for text in missed())
    change(data, "fixed 2", problem="the client was late")
    assert sum("the client was late" in text for text in missed()) == 2
    change(data, "limiter", correct_in_time=97)
    data["runs"]["calm, seed 1, adaptive, take 2"]["correct_in_time"] = 95
    undecided = [text for text in missed() if "undecided" in text]
    assert all("differs from itself by 2.00" in text for text in undecided)
    assert len(undecided) == 5
    data["runs"]["calm, seed 1, adaptive, take 2"]["correct_in_time"] = 97
    for seed, right in ((2, 90), (3, 99)):
        for run in order("calm", seed, 5, ["threshold"]):
            data["runs"][run.key] = facts(
                run, correct_in_time=right if run.who == "threshold" else 97
            )
    assert any("threshold; undecided, as the interval holds" in text for text in missed())
    del data["runs"]["step, seed 1, fixed 3"]
    assert any(text.startswith("17 of 18 runs") for text in missed())


def test_the_tables_tell_all_that_was_played(data: Any) -> None:
    change(data, "fixed 0", attainment=0.5, in_time=50, correct_in_time=49)
    assert "| calm | 97.00 % | 49.00 % | 97.00 % |" in tables.serve("right")(data)
    assert "+48.00" in tables.serve("ahead")(data)
    rows = tables.serve_all(data).splitlines()[2:]
    assert len(rows) == 2 * 8
    assert "| calm | 0.50 of exact Poisson | 25 | 100 | 1 |" in tables.serve_traces(data)
    bars = tables.promises({**data, "bars": {"a": True, "b": False}})
    assert "1 of 2 met" in bars
    assert "| b | **missed** |" in bars


def test_the_page_stands_alone_however_little_was_played(
    data: dict[str, Any], tmp_path: Path
) -> None:
    change(data, "limiter", problem="the client was <late>", latency_ms=[])
    write_page(data, "digits", tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 2 * 3
    assert "the client was &lt;late&gt;" in page
    assert "src=" not in page
    assert 'href="http' not in page
    write_page({**data, "runs": {}, "levels": None}, "digits", tmp_path / "none.html")
    assert "<svg" not in (tmp_path / "none.html").read_text()


def test_results_of_other_inputs_are_not_mixed(repository: Path, tmp_path: Path) -> None:
    ladder = Ladder.load(repository / "digits" / "1" / "ladder.json")
    path = tmp_path / "serve.json"
    Book(path, ladder, 60.0, 200.0, {}).save()
    with pytest.raises(ResultsError, match=r"slo_ms=200.0, but this run has 100.0"):
        Book(path, ladder, 60.0, 100.0, {})
    with pytest.raises(ResultsError, match="images=None, but this run has 'mine'"):
        Book(path, ladder, 60.0, 200.0, {}, more={"images": "mine"})


def test_a_trace_that_was_not_played_whole_is_played_anew(repository: Path, tmp_path: Path) -> None:
    ladder = Ladder.load(repository / "digits" / "1" / "ladder.json")
    book = Book(tmp_path / "serve.json", ladder, 4.0, 200.0, {})
    levels = [{"capacity": capacity} for capacity in CAPACITIES]
    book.measure(TABLE, levels)
    calm, step = (list(order(name, 1, 5)) for name in ("calm", "step"))
    assert not book.whole(calm)
    assert (book.start(calm), book.start(step)) == (calm, step)
    for run in (*calm, *step[:3]):
        book.meet(run, 500.0)
        book.put(run, facts(run, arrivals_sha256=book.schedule(run).sha256))
    assert (book.start(calm), book.start(step)) == ((), step)
    assert list(book.data["runs"]) == [run.key for run in calm]
    assert (book.met(calm[0]), book.met(step[0])) == (True, False)
    book.put(calm[1], {**book[calm[1]], "problem": "the client was late"})
    assert book.start(calm[1:]) == calm[1:]
    assert book.data["runs"] == {}, "calm[0] was held against them"


def test_images_without_labels_are_refused(tmp_path: Path, repository: Path) -> None:
    model = repository / "digits"
    pixels, labels = labelled_images(8)
    np.savez(tmp_path / "bare.npz", pixels=pixels)
    with pytest.raises(ScheduleError, match="8 of 8 have no label"):
        gather(str(tmp_path / "bare.npz"), tmp_path, model)
    save_images(tmp_path / "named.npz", pixels, labels)
    seen = gather(str(tmp_path / "named.npz"), tmp_path, model)
    assert (seen.target, seen.count) == (Target.PIXELS, 8)
    for label in (0, 1):
        (tmp_path / "folder" / str(label)).mkdir(parents=True)
        (tmp_path / "folder" / str(label) / "a.jpg").write_bytes(encode(pixels[label]))
    assert gather(str(tmp_path / "folder"), tmp_path, tmp_path / "other").target is Target.CLASSIFY


def test_the_slow_controller_moves_one_level_at_a_time() -> None:
    def seen(p99_s: float | None) -> Observation:
        return Observation(at=0.0, age_p99_s=p99_s)

    assert decide(SLOW, 0, seen(0.161)) == 1
    assert decide(SLOW, 4, seen(0.3)) == 4
    assert decide(SLOW, 2, seen(0.12)) == 2
    assert decide(SLOW, 2, seen(0.09)) == 1
    assert decide(SLOW, 0, seen(0.01)) == 0
    assert decide(SLOW, 3, seen(None)) == 3


@pytest.mark.parametrize("policy", [Policy.THRESHOLD, Policy.LIMITER])
def test_a_rival_plays_on_the_real_server(server: Any, tmp_path: Path, policy: Policy) -> None:
    images = tmp_path / "images.npz"
    save_images(images, *labelled_images(32))
    stage = Stage(
        Addresses(
            http=f"http://{server.http}",
            grpc=server.grpc,
            metrics=f"http://{server.metrics}/metrics",
            adapter=f"http://{server.adapter}",
        ),
        "digits",
        str(images),
    )
    rate = max(600, 2 * server.capacity)  # far beyond level 0
    schedule = shape_schedule(Shape.STEADY, rate, 2.5, cv2=0.0)
    run = Run(name="step", trace=TRACES["step"], policy=policy)
    kept, rows = play(stage, run, schedule, SLOW, 32, lambda progress: None)
    json.dumps(kept)
    assert kept["who"] == policy.value
    assert sum(answers for answers, _ in kept["by_level"].values()) == kept["in_time"]
    assert sum(right for _, right in kept["by_level"].values()) == kept["correct_in_time"]
    assert kept["requests"] == len(schedule.times)
    levels = set(rows.level[rows.level >= 0].tolist())
    if policy is Policy.THRESHOLD:
        assert {0, 1} <= levels, "from level 0 on, and it moved"
    else:
        assert levels == {0}
        refused = np.count_nonzero(rows.done - rows.sent < 1e-3)
        assert refused > 0.3 * len(schedule.times)
        assert "limit of requests in flight" in rows.messages["rejected"]
    assert stage.adapter.view()["pin"] is None
    save_rows(rows, tmp_path, run)
    table = parquet.read_table(tmp_path / f"step-seed-1-{policy.value}.parquet")
    assert table.num_rows == len(schedule.times)
    assert table["level"].to_numpy().tolist() == rows.level.tolist()
