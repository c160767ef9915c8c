"""Many replicas, by simulation: how many, how requests are routed, a zone lost, capacity awaited.

    python -m foveate_benchmarks.control.scaling [NAME] [--part sizes]

Batch times are those of ``results/cpu_peers.json``, as in ``simulated.py``; SLO 200 ms. Verdicts
leave out the first two seconds, in which the controls settle.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from foveate_benchmarks.control.simulated import measured_scene
from foveate_benchmarks.results import bars, save, saved
from foveate_loadtest.arrivals import gamma, poisson
from foveate_loadtest.environment import environment
from foveate_loadtest.simulate.compare import Scene
from foveate_loadtest.simulate.fleet import Routing, Site, judge_fleet, simulate_fleet
from foveate_loadtest.simulate.server import Answer, Server

SETTLE_S = 2.0
LOAD, CV2 = 0.7, 4.0  # of the cheapest level's capacity; burstiness of each replica's own source
SIZES = ((1, 60.0), (10, 20.0), (100, 10.0), (1000, 3.0))  # replicas, seconds
FLEET, FLEET_S = 8, 10.0
STALE_S = 0.5
ZONES, ZONE, CALM = 3, 4, 0.8  # replicas in a zone; share of level 0's capacity
NODE_S = 240.0  # from the wish for a GPU node until it serves


def sources(replicas: int, rate: float, seconds: float) -> list[float]:
    """Arrivals of as many independent bursty sources as there are replicas."""
    return list(heapq.merge(*(gamma(rate, seconds, CV2, i).tolist() for i in range(replicas))))


def sites(replicas: int, server: Server, **life: float) -> list[Site]:
    return [Site(server=server, **life) for _ in range(replicas)]


def usual_load(scene: Scene) -> float:
    """Requests per second of each replica."""
    return LOAD * scene.capacity(scene.outer.levels[-1])


def worth(answers: Sequence[Answer], scene: Scene, start: float, end: float) -> dict[str, Any]:
    """The verdict on what arrived from ``start`` to ``end``."""
    some = [answer for answer in answers if start <= answer.arrived_s < end]
    verdict = asdict(judge_fleet(some, scene))
    verdict.pop("switches_per_minute")
    return verdict


def by_size(scene: Scene) -> Iterator[dict[str, Any]]:
    rate = usual_load(scene)
    for replicas, seconds in SIZES:
        times = sources(replicas, rate, seconds)
        fleet = sites(replicas, scene.server)
        answers = simulate_fleet(times, scene, fleet, Routing.SHORTER_OF_TWO)
        yield {
            "replicas": replicas,
            "requests_per_s": replicas * rate,
            **worth(answers, scene, SETTLE_S, seconds),
        }


def by_routing(scene: Scene) -> Iterator[dict[str, Any]]:
    """Equal replicas, then a quarter of them at half the speed, at the same share of capacity."""
    rate = usual_load(scene)
    equal = sites(FLEET, scene.server)
    slow = Server(overhead_s=scene.server.overhead_s, slowdown=2.0)
    mixed = [*sites(FLEET - FLEET // 4, scene.server), *sites(FLEET // 4, slow)]
    for name, fleet, share in (("equal", equal, 1.0), ("a quarter at half speed", mixed, 0.875)):
        times = sources(FLEET, share * rate, FLEET_S)
        for routing in Routing:
            for view_s in (0.0, STALE_S):
                if view_s and routing in (Routing.ROUND_ROBIN, Routing.RANDOM):
                    continue  # they look at nothing
                answers = simulate_fleet(times, scene, fleet, routing, view_s=view_s)
                yield {
                    "fleet": name,
                    "routing": routing.value,
                    "view_s": view_s,
                    **worth(answers, scene, SETTLE_S, FLEET_S),
                }


def zone_lost(scene: Scene) -> Iterator[dict[str, Any]]:
    """A third of the replicas dies at once; what they had not answered is lost."""
    at, seconds = 10.0, 30.0
    rate = CALM * ZONES * ZONE * scene.capacity(0)
    times = poisson(rate, seconds, 0).tolist()
    fleet = [*sites((ZONES - 1) * ZONE, scene.server), *sites(ZONE, scene.server, down_s=at)]
    for name, pin in (("adaptive", None), ("always exact", 0)):
        answers = simulate_fleet(times, scene, fleet, Routing.SHORTER_OF_TWO, pin=pin)
        for phase, start, end in (("before", SETTLE_S, at), ("after", at, seconds)):
            yield {"policy": name, "phase": phase, **worth(answers, scene, start, end)}


def capacity_awaited(scene: Scene) -> Iterator[dict[str, Any]]:
    """The load doubles; the replicas that the autoscaler then wants serve four minutes later."""
    at, replicas = 20.0, 2
    there, end = at + NODE_S, at + NODE_S + 30.0
    rate = CALM * replicas * scene.capacity(0)
    times = poisson(rate, at, 0).tolist() + [at + t for t in poisson(2 * rate, end - at, 1)]
    fleet = [*sites(replicas, scene.server), *sites(replicas, scene.server, up_s=there)]
    for name, pin in (("adaptive", None), ("always exact", 0)):
        answers = simulate_fleet(times, scene, fleet, Routing.SHORTER_OF_TWO, pin=pin)
        for phase, start, stop in (
            ("before", SETTLE_S, at),
            ("waiting", at, there),
            ("after", there + SETTLE_S, end),
        ):
            yield {"policy": name, "phase": phase, **worth(answers, scene, start, stop)}


PARTS = {
    "sizes": by_size,
    "routings": by_routing,
    "zone_lost": zone_lost,
    "capacity_awaited": capacity_awaited,
}


def main(
    name: str | None = None,
    repository: Path = Path("model_repository"),
    part: list[str] = list(PARTS),  # noqa: B006 (typer copies it); the others stay as they were
) -> None:
    scene = measured_scene(repository, name)
    facts: dict[str, Any] = {
        "environment": environment(),
        "slo_ms": 1000 * scene.slo_s,
        "load": LOAD,
        "cv2": CV2,
        "levels": [
            {
                "level": scene.ladder.levels[level].name,
                "capacity": scene.capacity(level),
                "quality": scene.ladder.quality(level),
            }
            for level in scene.outer.levels
        ],
    }
    for one in part:
        rows = []
        for row in PARTS[one](scene):
            print(one, *(f"{key}={value}" for key, value in row.items()), flush=True)
            rows.append(row)
        facts = {**saved("scaling"), **facts, one: rows}
        save("scaling", **facts)
    awaited = {(row["policy"], row["phase"]): row for row in facts["capacity_awaited"]}
    waiting = awaited["adaptive", "waiting"]
    bars(
        {
            "1000 replicas: at least 99 % in time": facts["sizes"][-1]["attainment"] >= 0.99,
            "while capacity is awaited: at least 99 % in time": waiting["attainment"] >= 0.99,
        }
    )


if __name__ == "__main__":
    typer.run(main)
