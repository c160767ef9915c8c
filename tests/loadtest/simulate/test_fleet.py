"""Many simulated replicas behind a router."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from foveate_loadtest.arrivals import gamma, poisson
from foveate_loadtest.simulate.compare import Scene
from foveate_loadtest.simulate.fleet import Routing, Site, judge_fleet, simulate_fleet
from foveate_loadtest.simulate.server import Replica, Server, simulate


@pytest.fixture
def scene(ladder, table) -> Scene:
    return Scene(ladder=ladder, table=table)


def test_a_fleet_of_one_is_the_server(scene):
    times = gamma(300, 2, 4, 0).tolist()
    run = simulate(times, inner=scene.inner, outer=scene.outer, server=scene.server)
    for routing in (Routing.ROUND_ROBIN, Routing.SHORTER_OF_TWO):
        assert tuple(simulate_fleet(times, scene, [Site()], routing)) == run.answers


def test_what_has_not_been_answered_is_known_at_any_time(scene):
    replica = Replica(inner=scene.inner, outer=scene.outer)
    for at in (1.0, 1.001, 1.002):
        replica.arrive(at)
    assert [replica.unanswered(now) for now in (1.002, 10.0)] == [3, 0]
    assert [answer.arrived_s for answer in replica.end().answers] == [1.0, 1.001, 1.002]


@pytest.mark.parametrize("routing", Routing)
def test_every_request_is_answered_once_in_order_of_arrival(scene, routing):
    times = poisson(900, 1, 0).tolist()
    answers = simulate_fleet(times, scene, [Site()] * 4, routing, view_s=0.1)
    assert [answer.arrived_s for answer in answers] == times


def test_a_predicted_wait_spares_slow_replicas(scene):
    slow = Server(slowdown=4.0)
    sites = [*[Site()] * 4, *[Site(server=slow)] * 2]
    times = poisson(0.75 * 4.5 * scene.capacity(3), 4, 0).tolist()
    attainment = {
        routing: judge_fleet(simulate_fleet(times, scene, sites, routing), scene).attainment
        for routing in (Routing.ROUND_ROBIN, Routing.SHORTER_OF_TWO, Routing.SHORTEST)
    }
    assert attainment[Routing.ROUND_ROBIN] < 0.95
    assert attainment[Routing.SHORTER_OF_TWO] > 0.97
    assert attainment[Routing.SHORTEST] > 0.97


def test_a_replica_that_dies_loses_what_it_holds_and_gets_no_more(scene):
    times = poisson(400, 4, 0).tolist()
    sites = [Site(), Site(down_s=2.0), Site(up_s=3.0)]
    answers = simulate_fleet(times, scene, sites, Routing.ROUND_ROBIN)
    assert [answer.arrived_s for answer in answers] == times
    lost = [answer.arrived_s for answer in answers if answer.level is None]
    assert lost
    assert all(1.5 < at < 2.0 for at in lost)


def test_the_command_compares_routings(tmp_path, table, repository):
    from foveate.levels.ladder import Ladder

    ladder = Ladder.load(repository / "digits" / "1" / "ladder.json")
    rows = table.seconds + table.seconds[-1:]
    latency = tmp_path / "latency.json"
    replace(table, ladder=ladder.digest, seconds=rows).save(latency)
    options = f"simulate --replicas 3 --seconds 3 --json --latency {latency}"
    command = [sys.executable, "-m", "foveate_cli.main", *options.split()]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert list(json.loads(out)) == [routing.value for routing in Routing]
