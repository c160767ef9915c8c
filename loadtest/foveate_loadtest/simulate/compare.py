"""One file of arrivals under every controller worth comparing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from foveate.control import governor
from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_adapter import control
from foveate_loadtest.simulate.baselines import AUTOSCALER, THRESHOLD
from foveate_loadtest.simulate.bound import best_quality
from foveate_loadtest.simulate.server import Server, simulate
from foveate_loadtest.simulate.verdict import Verdict, judge, recovered

__all__ = ["Scene", "compare"]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A ladder on a device, and its objectives."""

    ladder: Ladder
    table: LatencyTable
    slo_s: float = 0.2
    objective: float = 0.99
    admission: bool = True
    server: Server = field(default_factory=Server)

    @property
    def inner(self) -> governor.Config:
        return governor.Config(
            latency=self.table,
            quality=self.ladder.qualities,
            max_batch=self.table.batches[-1],
            slo_ns=round(self.slo_s * 1e9),
            admission=self.admission,
        )

    @property
    def outer(self) -> control.Config:
        return control.Config(
            slo_s=self.slo_s,
            objective=self.objective,
            table=self.table,
            floor=len(self.ladder.levels) - 1,
        )

    @property
    def quality(self) -> list[float]:
        """Of every level up to the cheapest worth serving on this device."""
        return [self.ladder.quality(level) for level in range(self.outer.levels[-1] + 1)]

    def capacity(self, level: int) -> float:
        """Requests per second that full batches of ``level`` serve, as measured in good times."""
        batch, server = self.table.batches[-1], replace(self.server, slowdown=1.0)
        seconds = server.batch_s(self.table.batch_seconds(level, batch))
        return batch / (seconds + server.overhead_s)

    def cost(self, level: int) -> float:
        """Least seconds of one image in this scene, whatever the batch."""
        server = self.server
        return min(
            (server.batch_s(self.table.batch_seconds(level, n)) + server.overhead_s) / n
            for n in range(1, self.table.batches[-1] + 1)
        )


def compare(times: Sequence[float], scene: Scene) -> Iterator[tuple[str, Verdict]]:
    """Name and verdict of each controller, as soon as it is known; ``times`` in seconds.

    The last is the bound: the best possible quality with the SLO met as often as at the cheapest
    level.
    """
    inner, outer, quality = scene.inner, scene.outer, scene.quality
    cheapest = outer.levels[-1]
    floor = 0.0
    for name, config, pilot in (
        ("foveate", outer, None),
        ("governor alone", None, None),
        ("fixed exact", replace(outer, pin=0), None),
        ("fixed cheapest", replace(outer, pin=cheapest), None),
        ("p99 of 60 s", outer, THRESHOLD),
        ("autoscaler", outer, AUTOSCALER),
    ):
        run = simulate(times, inner=inner, outer=config, server=scene.server, pilot=pilot)
        verdict = judge(run, quality=quality, slo_s=scene.slo_s)
        if name == "fixed cheapest":
            floor = verdict.attainment
        yield name, verdict
    best = best_quality(
        times,
        seconds=[scene.cost(level) for level in outer.levels],
        quality=[quality[level] for level in outer.levels],
        slo_s=scene.slo_s,
        attainment=floor,
    )
    yield (
        "clairvoyant bound",
        Verdict(
            attainment=floor,
            quality=best,
            recovered=recovered(best, quality),
            rejected=None,
            switches_per_minute=None,
            p99_ms=None,
        ),
    )
