"""Governor and law, as they are served, holding a simulated server."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from foveate_adapter.control import Reason
from foveate_loadtest.arrivals import Phase, gamma, piecewise
from foveate_loadtest.choices import Shape
from foveate_loadtest.shapes import shape_schedule
from foveate_loadtest.simulate.baselines import AUTOSCALER, THRESHOLD
from foveate_loadtest.simulate.bound import best_quality
from foveate_loadtest.simulate.compare import Scene, compare
from foveate_loadtest.simulate.fit import Throughput, fit
from foveate_loadtest.simulate.server import Run, Server, simulate
from foveate_loadtest.simulate.verdict import Verdict, judge

POINT = 0.01


@pytest.fixture
def scene(ladder, table) -> Scene:
    """Capacities 156, 277, 457 and 526 requests a second, of which batches take 3 ms unseen."""
    return Scene(ladder=ladder, table=table)


def play(scene: Scene, times, *, pin: int | None = None, after_s: float = 0.0, **kwargs) -> Run:
    outer = replace(scene.outer, pin=pin)
    kwargs = {"inner": scene.inner, "outer": outer, "server": scene.server, **kwargs}
    return simulate(list(times), after_s=after_s, **kwargs)


def verdict(scene: Scene, run: Run) -> Verdict:
    return judge(run, quality=scene.quality, slo_s=scene.slo_s)


def steps(*phases: tuple[float, float], seed: int = 0) -> list[float]:
    """Poisson arrivals of phases (requests per second, seconds)."""
    return piecewise([Phase(seconds, rate) for rate, seconds in phases], 1.0, seed).tolist()


@pytest.mark.parametrize(("cv2", "allowed"), [(1, 0.2), (4, 0.2), (8, 0.5)])
def test_attainment_is_nearly_that_of_the_cheapest_level(scene, cv2, allowed):
    lost = []
    for seed in range(3):
        times = gamma(0.7 * scene.capacity(3), 20, cv2, seed)
        ours, cheapest = (verdict(scene, play(scene, times, pin=pin)) for pin in (None, 3))
        lost.append(cheapest.attainment - ours.attainment)
        assert cheapest.recovered == pytest.approx(0)
        assert ours.recovered > 0.3
    assert np.mean(lost) <= allowed * POINT


def test_windows_of_a_minute_answer_a_burst_later_and_worse(scene):
    calm, burst = (0.3 * scene.capacity(0), 5), (0.8 * scene.capacity(3), 5)
    times = steps(*(calm, burst) * 4)
    ours = verdict(scene, play(scene, times))
    for pilot in (THRESHOLD, AUTOSCALER):
        theirs = verdict(scene, play(scene, times, pilot=pilot))
        assert ours.attainment > theirs.attainment + 2 * POINT
        assert ours.recovered > theirs.recovered


@pytest.mark.parametrize("seed", range(3))
def test_a_step_costs_hardly_a_request_and_is_forgotten_within_five_seconds(scene, seed):
    calm, burst = 0.4 * scene.capacity(0), 0.85 * scene.capacity(3)
    times = steps((calm, 5), (burst, 10), (calm, 15), seed=seed)
    run, cheapest = play(scene, times), play(scene, times, pin=3)
    lost = (verdict(scene, cheapest).attainment - verdict(scene, run).attainment) * len(times)
    assert lost <= 10
    never_pressed = play(scene, [time for time in times if time >= 15])
    assert exact_share(run, since=20) == pytest.approx(
        exact_share(never_pressed, since=20), abs=POINT
    )
    assert exact_share(run, since=20) > 0.85


def exact_share(run: Run, *, since: float) -> float:
    return np.mean([answer.level == 0 for answer in run.answers if answer.arrived_s >= since])


@pytest.mark.parametrize("level", range(3))
def test_no_limit_cycle_between_two_capacities(scene, level):
    load = (scene.capacity(level) + scene.capacity(level + 1)) / 2
    run = play(scene, steps((load, 120)))
    loosened = sum(a.dearest > b.dearest for a, b in pairwise(run.decisions))
    assert loosened <= 2 * 6, "allowed range: six times a minute"
    quality = [np.mean(part) for part in np.array_split(served_quality(scene, run), 12)]
    assert np.std(quality) <= 0.3 * POINT


def served_quality(scene: Scene, run: Run) -> np.ndarray:
    return np.array([scene.quality[a.level] for a in run.answers if a.level is not None])


def test_a_table_that_promises_too_much_is_corrected(scene):
    slow = replace(scene, server=Server(slowdown=1.5))
    times = gamma(0.5 * scene.capacity(3), 20, 1.0, 0)
    run, cheapest = play(slow, times), play(slow, times, pin=3)
    corrections = [batch.correction for batch in run.batches if batch.at_s > 5]
    assert min(corrections) > 1.4
    assert max(corrections) < 1.6
    assert verdict(slow, run).attainment >= verdict(slow, cheapest).attainment - 0.3 * POINT


def test_the_governor_sees_what_is_within_a_batch_and_not_what_is_beside(scene):
    times = [0.0] * 4000  # every batch is full
    for server, seen in ((Server(within_s=0.005), 0.005), (Server(overhead_s=0.005), 0.0)):
        run = play(scene, times, pin=3, server=server, inner=replace(scene.inner, admission=False))
        full = scene.table.batch_seconds(3, 8)
        assert run.batches[-1].correction == pytest.approx((full + seen) / full, rel=0.01)


def full_batches(scene: Scene, server: Server, level: int) -> Throughput:
    """What a closed loop would measure of a simulated server."""
    inner = replace(scene.inner, admission=False)
    run = play(scene, [0.0] * 800, pin=level, server=server, inner=inner)
    return Throughput(
        capacity=800 / run.answers[-1].latency_s,
        batch_s=server.batch_s(scene.table.batch_seconds(level, 8)),
    )


@pytest.mark.parametrize(("slowdown", "within", "overhead"), [(1.2, 0.002, 0.0025), (1.0, 0, 0)])
def test_a_fitted_server_is_the_one_that_was_measured(scene, slowdown, within, overhead):
    server = Server(slowdown=slowdown, within_s=within, overhead_s=overhead)
    found = fit(scene.table, {level: full_batches(scene, server, level) for level in range(4)})
    assert found.slowdown == pytest.approx(slowdown, rel=1e-3)
    assert (found.within_s, found.overhead_s) == pytest.approx((within, overhead), abs=1e-5)


def test_a_fit_promises_no_time_below_zero(scene):
    """A table that is worse at dear levels, and a model clock that reads too much."""
    measured = {
        level: Throughput(capacity=8 / seconds[-1], batch_s=0.001 + seconds[-1] * factor)
        for level, (seconds, factor) in enumerate(
            zip(scene.table.seconds, (1.3, 1.2, 1.0, 0.9), strict=True)
        )
    }
    server = fit(scene.table, measured)
    assert server.slowdown > 1
    assert server.within_s == server.overhead_s == 0


def test_a_blind_adapter_does_no_harm(scene):
    blind = replace(scene, server=Server(blind_s=(5, 25)))
    times = gamma(0.7 * scene.capacity(3), 30, 1.0, 0)
    run, cheapest = play(blind, times), play(blind, times, pin=3)
    assert {d.reason for d in run.decisions if 8 < d.at < 25} == {Reason.NO_SIGNAL}
    assert Reason.NO_SIGNAL not in {d.reason for d in run.decisions if d.at > 26}
    assert verdict(blind, run).attainment >= verdict(blind, cheapest).attainment - 0.5 * POINT


def test_after_an_overload_the_margin_returns(scene):
    run = play(scene, steps((1.5 * scene.capacity(3), 5), (0.1 * scene.capacity(3), 6)))
    assert min(decision.margin for decision in run.decisions) < 0.2
    assert Reason.AT_LIMIT in {decision.reason for decision in run.decisions}
    assert run.decisions[-1].margin == scene.outer.max_margin


@pytest.mark.parametrize(("shape", "cv2"), [(Shape.STEADY, 8.0), (Shape.ON_OFF, 1.0)])
def test_nobody_beats_the_bound(scene, shape, cv2):
    times = shape_schedule(shape, 0.8 * scene.capacity(3), 10, cv2).times.tolist()
    for name, seen in compare(times, scene):
        best = best_quality(
            times,
            seconds=[scene.cost(level) for level in range(4)],
            quality=scene.quality,
            slo_s=scene.slo_s,
            attainment=seen.attainment,
        )
        assert best is not None, name
        assert seen.quality <= best + 1e-9, name


def test_the_bound_of_a_clump_is_what_fits_in_time():
    """Six slots of 40 ms until the SLO: 240 ms = 9 x 20 + 6 x 10 ms."""
    facts = {"seconds": (0.02, 0.01), "quality": (1.0, 0.0), "slo_s": 0.2}
    clump = [0.0] * 15
    assert best_quality(clump, attainment=1.0, **facts) == pytest.approx(9 / 15)
    assert best_quality([0.0] * 25, attainment=1.0, **facts) is None
    assert best_quality([0.0] * 25, attainment=24 / 25, **facts) == pytest.approx(0)


def test_the_scrapes_tell_the_law_the_truth(scene):
    run = play(scene, gamma(300, 20, 1.0, 0), after_s=1)
    assert [b.at - a.at for a, b in pairwise(run.decisions)] == pytest.approx([0.05] * 421)
    loads = [decision.load for decision in run.decisions if 2 < decision.at < 20]
    assert np.mean(loads) == pytest.approx(300, rel=0.03)
    assert run.decisions[-1].queue_depth == 0


def test_every_request_has_one_fate(scene):
    times = steps((900, 2))
    run = play(scene, times)
    assert [answer.arrived_s for answer in run.answers] == times
    assert {answer.level for answer in run.answers} >= {3, None}
    assert all(answer.latency_s > 0 for answer in run.answers)


def test_a_pin_is_served_whatever_the_load(scene):
    assert {answer.level for answer in play(scene, steps((300, 3)), pin=0).answers} == {0, None}


def test_no_level_under_the_quality_floor_is_served(scene):
    run = play(scene, steps((450, 3)), outer=replace(scene.outer, floor=1))
    assert {answer.level for answer in run.answers} <= {0, 1, None}


def test_noise_is_repeatable(scene):
    times = steps((300, 3))
    runs = [
        play(scene, times, server=Server(noise=noise, seed=seed))
        for noise, seed in ((0.2, 1), (0.2, 1), (0.2, 2), (0.0, 1))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0] != runs[3]


def test_goodput_survives_an_overload(scene):
    """At 1.5 times the cheapest capacity, four fifths of it are still answered in time."""
    capacity, seconds = scene.capacity(3), 20
    times = steps((1.5 * capacity, seconds))
    ours = verdict(scene, play(scene, times))
    assert ours.attainment * len(times) >= 0.8 * capacity * seconds
