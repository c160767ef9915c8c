"""How soon a burst ends the calm, against how often chance does, for every threshold.

    python -m foveate_benchmarks.control.detection [NAME] [--seeds 20]

Simulated, batch times of ``results/cpu_peers.json``. Calm: five minutes of Poisson arrivals at half
of what level 0 carries. Burst: from 0.4 of that to 1.5; what counts is the first answer of a
cheaper level. The threshold is ``calm_share`` of the governor.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

import typer

from foveate.control import governor
from foveate_benchmarks.control.simulated import measured_scene
from foveate_benchmarks.results import save
from foveate_loadtest.arrivals import Phase, piecewise
from foveate_loadtest.simulate.compare import Scene
from foveate_loadtest.simulate.server import Run, simulate

CALM_S, BURST_AT_S, BURST_S = 300.0, 5.0, 3.0
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def first_cheaper_ms(run: Run) -> float:
    """From the start of the burst to the first answer of a cheaper level; infinite without one."""
    answered = (a.arrived_s + a.latency_s - BURST_AT_S for a in run.answers if a.level)
    return 1e3 * min((at for at in answered if at > 0), default=float("inf"))


def row(scene: Scene, inner: governor.Config, seeds: int) -> dict[str, float]:
    exact = scene.capacity(0)

    def play(*phases: Phase, seed: int) -> Run:
        times = piecewise(phases, 1.0, seed).tolist()
        return simulate(times, inner=inner, outer=scene.outer, server=scene.server)

    calm = play(Phase(CALM_S, 0.5 * exact), seed=0)
    levels = [answer.level for answer in calm.answers]
    reaction = [
        first_cheaper_ms(
            play(Phase(BURST_AT_S, 0.4 * exact), Phase(BURST_S, 1.5 * exact), seed=seed)
        )
        for seed in range(seeds)
    ]
    return {
        "calm_share": inner.calm_share,
        "level_0": levels.count(0) / len(levels),
        "switches": sum(a != b for a, b in pairwise(levels)),
        "reaction_median_ms": median(reaction),
        "reaction_p90_ms": quantiles(reaction, n=10)[-1],
    }


def main(
    name: str | None = None, repository: Path = Path("model_repository"), seeds: int = 20
) -> None:
    scene = measured_scene(repository, name)
    rows = []
    for threshold in THRESHOLDS:
        rows.append(row(scene, replace(scene.inner, calm_share=threshold), seeds))
        print({key: round(value, 3) for key, value in rows[-1].items()}, flush=True)
    save("detection", rows=rows)


if __name__ == "__main__":
    typer.run(main)
