"""How close the control comes to fixed-cheapest and to the clairvoyant bound, by simulation.

    python -m foveate_benchmarks.control.simulated [NAME] [--seconds 120] [--seeds 3]
        [--overhead-ms 3]

Batch times are those of ``results/cpu_peers.json``, of which 3 ms do not depend on the batch size;
SLO 200 ms. Loads are shares of the cheapest level's capacity. Differences of attainment are paired:
the same arrivals with every request at the cheapest level, admission as always.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean

import typer

from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate.repository import choose_model
from foveate_benchmarks.cpu_peers.tables import served_levels
from foveate_benchmarks.results import conclude, saved
from foveate_loadtest.choices import Shape
from foveate_loadtest.shapes import shape_schedule
from foveate_loadtest.simulate.bound import best_quality
from foveate_loadtest.simulate.compare import Scene
from foveate_loadtest.simulate.server import Server, simulate
from foveate_loadtest.simulate.verdict import judge, recovered

FIXED_S = 0.003  # of a batch time
SCENARIOS = [
    (Shape.STEADY, 0.55, 8.0),
    *(
        (shape, load, cv2)
        for load in (0.70, 0.85)
        for shape, cv2 in (
            (Shape.STEADY, 1.0),
            (Shape.STEADY, 2.0),
            (Shape.STEADY, 4.0),
            (Shape.STEADY, 8.0),
            (Shape.ON_OFF, 1.0),
            (Shape.RAMP, 1.0),
            (Shape.FLASH, 1.0),
        )
    ),
    (Shape.STEADY, 1.3, 1.0),
    (Shape.STEADY, 2.0, 1.0),
]
ALLOWED = {0.70: 0.002, 0.85: 0.005}  # attainment lost to fixed-cheapest, mean of the seeds


def measured_scene(repository: Path, name: str | None, overhead_s: float = 0.0) -> Scene:
    """The model ``name`` of the repository, as fast as its levels were measured."""
    ladder = Ladder.load(repository / choose_model(repository, name) / "1" / "ladder.json")
    rows = served_levels(saved("cpu_peers")["levels"], "demo", threads=1, batch=8)
    full = [row["best_ms"] / 1e3 for row in rows]
    table = LatencyTable(
        device="results/cpu_peers.json",
        ladder=ladder.digest,
        batches=(1, 8),
        seconds=tuple((FIXED_S + (seconds - FIXED_S) / 8, seconds) for seconds in full),
    )
    return Scene(ladder=ladder, table=table, server=Server(overhead_s=overhead_s))


def play(scene: Scene, times: list[float]) -> dict[str, float]:
    """One file of arrivals: ours, the cheapest level, the bound."""
    outer, quality = scene.outer, scene.quality
    ours, cheapest = (
        judge(
            simulate(times, inner=scene.inner, outer=config, server=scene.server),
            quality=quality,
            slo_s=scene.slo_s,
        )
        for config in (outer, replace(outer, pin=outer.levels[-1]))
    )
    best = best_quality(
        times,
        seconds=[scene.cost(level) for level in outer.levels],
        quality=[quality[level] for level in outer.levels],
        slo_s=scene.slo_s,
        attainment=cheapest.attainment,
    )
    assert ours.recovered is not None
    assert ours.rejected is not None
    assert ours.p99_ms is not None
    bound = recovered(best, quality)
    assert bound is not None
    return {
        "attainment": ours.attainment,
        "cheapest": cheapest.attainment,
        "recovered": ours.recovered,
        "bound": bound,
        "rejected": ours.rejected,
        "p99_ms": ours.p99_ms,
    }


def main(
    name: str | None = None,
    repository: Path = Path("model_repository"),
    seconds: float = 120.0,
    seeds: int = 3,
    overhead_ms: float = 3.0,
) -> None:
    scene = measured_scene(repository, name, overhead_ms / 1000)
    capacity = scene.capacity(scene.outer.levels[-1])
    rows, checks = [], {}
    for shape, load, cv2 in SCENARIOS:
        runs = [
            play(scene, shape_schedule(shape, load * capacity, seconds, cv2, seed).times.tolist())
            for seed in range(seeds)
        ]
        row = {key: mean(run[key] for run in runs) for key in runs[0]}
        lost = row["cheapest"] - row["attainment"]
        what = f"{shape} {load:.2f} CV² {cv2:g}"
        print(
            f"{what:20} in SLO {row['attainment']:7.2%}  lost {100 * lost:+.2f} points  "
            f"goodput {load * row['attainment']:.2f}  recovered {row['recovered']:.2f} "
            f"of {row['bound']:.2f}  p99 {row['p99_ms']:.0f} ms",
            flush=True,
        )
        rows.append({"shape": shape, "load": load, "cv2": cv2, **row, "runs": runs})
        if load in ALLOWED:
            allowed = ALLOWED[load]
            checks[f"{what}: at most {100 * allowed:.1f} points lost"] = lost <= allowed
        if (shape, load, cv2) == (Shape.STEADY, 0.70, 2.0):
            ratio = row["recovered"] / row["bound"]
            checks[f"{what}: at least 0.85 of the bound"] = ratio >= 0.85
    conclude(
        "simulated",
        checks,
        seconds=seconds,
        overhead_ms=overhead_ms,
        capacity_exact=scene.capacity(0),
        capacity_cheapest=capacity,
        scenarios=rows,
    )


if __name__ == "__main__":
    typer.run(main)
