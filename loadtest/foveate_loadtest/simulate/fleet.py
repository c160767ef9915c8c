"""Many replicas behind a router, each with its own governor and adapter.

Replicas know nothing about each other; the router only chooses which one gets a request. A replica
that dies loses its unanswered requests, and gets no more from then on.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from foveate_loadtest.simulate.compare import Scene
from foveate_loadtest.simulate.server import Answer, Replica, Run, Server
from foveate_loadtest.simulate.verdict import Verdict, judge

__all__ = ["Routing", "Site", "compare_routings", "judge_fleet", "simulate_fleet"]


class Routing(StrEnum):
    """Who gets the next request."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    FEWER_OF_TWO = "fewer-of-two"  # of two at random, the one with fewer unanswered requests
    SHORTER_OF_TWO = "shorter-of-two"  # of two at random, the one with the shorter predicted wait
    SHORTEST = "shortest"  # of all, the one with the shortest predicted wait


@dataclass(frozen=True, kw_only=True)
class Site:
    """A replica and its life. Times in seconds."""

    server: Server = field(default_factory=Server)
    up_s: float = 0.0
    down_s: float = math.inf


class _Member:
    def __init__(self, site: Site, scene: Scene, pin: int | None) -> None:
        self.site = site
        self.replica = Replica(
            inner=scene.inner, outer=replace(scene.outer, pin=pin), server=site.server
        )
        # Seconds of one image at the cheapest level; a router learns it from the adapter.
        self.cost_s = replace(scene, server=site.server).cost(scene.outer.levels[-1])
        self.seen: tuple[float, int] = (-math.inf, 0)

    def unanswered(self, now: float, view_s: float) -> int:
        """As the router knows it, who looks every ``view_s`` seconds."""
        if now - self.seen[0] >= view_s:
            self.seen = now, self.replica.unanswered(now)
        return self.seen[1]

    def wait_s(self, now: float, view_s: float) -> float:
        return self.unanswered(now, view_s) * self.cost_s


def simulate_fleet(
    times: Iterable[float],
    scene: Scene,
    sites: Sequence[Site],
    routing: Routing,
    *,
    view_s: float = 0.0,
    pin: int | None = None,
    seed: int = 0,
) -> list[Answer]:
    """Answers to requests arriving at ``times`` (ascending, seconds), in order of arrival.

    ``view_s``: how old the router's knowledge of a replica may be. ``pin``: serve at that level.
    """
    members = [_Member(site, scene, pin) for site in sites]
    chance = random.Random(seed)
    changes = sorted({time for site in sites for time in (site.up_s, site.down_s)})
    alive: list[_Member] = []
    for turn, now in enumerate(times):
        if changes and now >= changes[0]:
            while changes and now >= changes[0]:
                changes.pop(0)
            for member in alive:
                if member.site.down_s <= now:
                    member.replica.die(member.site.down_s)
            alive = [one for one in members if one.site.up_s <= now < one.site.down_s]
        _choose(alive, routing, turn, now, view_s, chance).replica.arrive(now)
    for member in members:
        member.replica.die(member.site.down_s)
    answers = (member.replica.answers for member in members)
    return list(heapq.merge(*answers, key=lambda answer: answer.arrived_s))


def _choose(
    alive: Sequence[_Member],
    routing: Routing,
    turn: int,
    now: float,
    view_s: float,
    chance: random.Random,
) -> _Member:
    if routing is Routing.ROUND_ROBIN:
        return alive[turn % len(alive)]
    if routing is Routing.RANDOM:
        return chance.choice(alive)
    if routing is Routing.SHORTEST:
        return min(alive, key=lambda one: one.wait_s(now, view_s))
    two = (chance.choice(alive), chance.choice(alive))
    if routing is Routing.FEWER_OF_TWO:
        return min(two, key=lambda one: one.unanswered(now, view_s))
    return min(two, key=lambda one: one.wait_s(now, view_s))


def judge_fleet(answers: Sequence[Answer], scene: Scene) -> Verdict:
    """What these answers were worth; switches of replicas are not looked at."""
    run = Run(answers=tuple(answers), batches=(), decisions=())
    return judge(run, quality=scene.quality, slo_s=scene.slo_s)


def compare_routings(
    times: Sequence[float], scene: Scene, replicas: int
) -> Iterator[tuple[str, Verdict]]:
    """Name and verdict of each routing of ``times`` to equal replicas, as soon as it is known."""
    sites = [
        Site(server=replace(scene.server, seed=scene.server.seed + i)) for i in range(replicas)
    ]
    for routing in Routing:
        yield routing.value, judge_fleet(simulate_fleet(times, scene, sites, routing), scene)
