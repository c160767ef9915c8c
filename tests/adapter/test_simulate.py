"""The control law and a slack governor holding a simulated server: settling, swinging, recovery."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from foveate_adapter.control import Config, Reason
from foveate_adapter.simulate import Batch, Run, arrivals, simulate


def capacity(config: Config, level: int) -> float:
    return config.table.batches[-1] / config.table.seconds[level][-1]


def loosened(run: Run) -> int:
    """How often a dearer level was allowed again."""
    return sum(a.dearest > b.dearest for a, b in pairwise(run.decisions))


@pytest.mark.parametrize("seed", range(3))
def test_a_burst_of_one_and_a_half_times_level_0_is_held_with_most_quality(config, ladder, seed):
    load = capacity(config, 0)
    run = simulate(config, arrivals([(0.3 * load, 2), (1.5 * load, 10)], seed=seed))
    quality = [ladder.quality(a.level) for a in run.answers if a.level is not None]
    worst, best = ladder.quality(3), ladder.quality(0)
    assert run.attainment(config.slo_s) >= 0.99
    assert (sum(quality) / len(quality) - worst) / (best - worst) >= 0.8


@pytest.mark.parametrize("factor", [1.5, 3, 6])
def test_after_a_burst_the_dense_model_is_back_within_three_seconds(config, factor):
    load = capacity(config, 0)
    times = arrivals([(0.3 * load, 2), (factor * load, 10), (0.3 * load, 8)])
    run = simulate(config, times)
    after = [decision for decision in run.decisions if decision.at >= 15]
    assert {decision.dearest for decision in after} == {0}
    late = [answer for answer in run.answers if answer.arrived_s >= 15]
    assert sum(answer.level == 0 for answer in late) >= 0.95 * len(late)


def test_after_an_overload_the_margin_returns(config):
    load = capacity(config, 3)
    run = simulate(config, arrivals([(1.5 * load, 5), (0.1 * load, 6)]))
    assert min(decision.margin for decision in run.decisions) < 0.2
    assert run.decisions[-1].margin == 0.5


@pytest.mark.parametrize("level", range(3))
def test_no_swinging_between_two_capacities(config, level):
    load = (capacity(config, level) + capacity(config, level + 1)) / 2
    run = simulate(config, arrivals([(load, 60)], seed=level))
    assert run.attainment(config.slo_s) >= 0.99
    assert loosened(run) <= 6, "at most one in ten seconds"


def test_overload_keeps_its_goodput(config):
    """Of 1.5 times what the cheapest level carries, two thirds at best can be in time."""
    load = 1.5 * capacity(config, 3)
    run = simulate(config, arrivals([(load, 15)]))
    assert run.attainment(config.slo_s) >= 0.85 * 2 / 3
    assert Reason.AT_LIMIT in {decision.reason for decision in run.decisions}


def test_bursty_traffic_near_the_limit_costs_margin_before_it_costs_answers(config):
    times = arrivals([(0.8 * capacity(config, 3), 40)], cv2=8, seed=3)
    run = simulate(config, times, slowdown=1.1)
    assert run.attainment(config.slo_s) >= 0.98
    assert min(decision.margin for decision in run.decisions) < 0.5


def test_the_governor_is_never_offered_a_level_out_of_range(config):
    offered: set[int] = set()

    def cheapest(batch: Batch) -> int:
        offered.update(batch.levels)
        return batch.levels[-1]

    simulate(replace(config, floor=1), arrivals([(400, 3)]), governor=cheapest)
    assert offered == {0, 1}


def test_a_pin_is_served_whatever_the_load(config):
    run = simulate(replace(config, pin=0), arrivals([(300, 3)]))
    assert {answer.level for answer in run.answers} == {0, None}


def test_every_request_has_one_fate(config):
    times = arrivals([(900, 2)])
    run = simulate(config, times, after_s=1)
    assert [answer.arrived_s for answer in run.answers] == times
    assert run.decisions[-1].queue_depth == 0
    assert sum(run.shares().values()) < 1, "the rest was rejected"
