"""``foveate simulate``."""

from __future__ import annotations

import heapq
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from foveate.repository import choose_model
from foveate_cli.options import ADMISSION, REPOSITORY, Json, Name, Repository
from foveate_loadtest.choices import Shape

if TYPE_CHECKING:
    from foveate_loadtest.simulate.verdict import Verdict

__all__ = ["simulate"]


def simulate(
    name: Name = None,
    repository: Repository = REPOSITORY,
    latency: Annotated[
        Path | None,
        typer.Option(
            help="Latency table.", exists=True, show_default="last measured on this machine"
        ),
    ] = None,
    arrivals: Annotated[
        Path | None,
        typer.Option(
            help="Arrival file, or rows (.npz, .csv) of a load test, instead of a scenario.",
            exists=True,
        ),
    ] = None,
    scenario: Annotated[Shape, typer.Option(help="Shape of the load.")] = Shape.STEADY,
    load: Annotated[
        float,
        typer.Option(min=0.01, help="Mean load, as a share of the cheapest level's capacity."),
    ] = 0.7,
    cv2: Annotated[
        float, typer.Option(min=0, help="Burstiness, CV² of the gaps: 0 even, 1 Poisson.")
    ] = 1.0,
    seconds: Annotated[float, typer.Option(min=1, help="Length of the scenario.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    slo_ms: Annotated[float, typer.Option(min=1, help="Latency SLO, milliseconds.")] = 200.0,
    objective: Annotated[
        float, typer.Option(min=0, max=1, help="Share of requests to answer within the SLO.")
    ] = 0.99,
    overhead_ms: Annotated[
        float, typer.Option(min=0, help="Time per batch that the model does not measure.")
    ] = 3.0,
    within_ms: Annotated[
        float, typer.Option(min=0, help="Extra time per batch that the model does measure.")
    ] = 0.0,
    slowdown: Annotated[
        float, typer.Option(min=0.01, help="Batch times, as a multiple of the latency table's.")
    ] = 1.0,
    noise: Annotated[
        float, typer.Option(min=0, help="Standard deviation of the logarithm of batch times.")
    ] = 0.0,
    replicas: Annotated[
        int, typer.Option(min=1, help="Equal servers; above 1, compare ways to route to them.")
    ] = 1,
    admission: Annotated[bool, ADMISSION] = True,
    as_json: Json = False,
) -> None:
    """Compare controllers on one load, on a virtual clock; needs no server.

    With several replicas, each adds a load of its own; the comparison is of ways to route the sum.
    """
    from foveate.levels.ladder import Ladder
    from foveate.settings import state_dir
    from foveate_loadtest.shapes import shape_schedule
    from foveate_loadtest.simulate.compare import Scene, compare
    from foveate_loadtest.simulate.files import load_arrivals, load_table
    from foveate_loadtest.simulate.fleet import compare_routings
    from foveate_loadtest.simulate.server import Server

    ladder = Ladder.load(repository / choose_model(repository, name) / "1" / "ladder.json")
    scene = Scene(
        ladder=ladder,
        table=load_table(latency, ladder, state_dir()),
        slo_s=slo_ms / 1000,
        objective=objective,
        admission=admission,
        server=Server(
            overhead_s=overhead_ms / 1000,
            within_s=within_ms / 1000,
            slowdown=slowdown,
            noise=noise,
            seed=seed,
        ),
    )
    if arrivals is None:
        rate = load * scene.capacity(scene.outer.levels[-1])
        loads = (
            shape_schedule(scenario, rate, seconds, cv2, seed + i).times.tolist()
            for i in range(replicas)
        )
        times = list(heapq.merge(*loads))
    else:
        times = load_arrivals(arrivals)
    found = compare(times, scene) if replicas == 1 else compare_routings(times, scene, replicas)
    verdicts: dict[str, Verdict] = {}
    with Console(stderr=True).status("starting") as status:
        for controller, verdict in found:
            verdicts[controller] = verdict
            status.update(f"{controller}: {verdict.attainment:.2%} in SLO")
    if as_json:
        typer.echo(json.dumps({key: asdict(value) for key, value in verdicts.items()}, indent=1))
    else:
        Console().print(_table(verdicts))


def _table(verdicts: dict[str, Verdict]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for column in ("in SLO", "quality", "recovered", "rejected", "switches/min", "p99 ms"):
        table.add_column(column, justify="right")
    for controller, verdict in verdicts.items():
        table.add_row(
            controller,
            _text(verdict.attainment, ".2%"),
            _text(verdict.quality, ".4f"),
            _text(verdict.recovered, ".0%"),
            _text(verdict.rejected, ".2%"),
            _text(verdict.switches_per_minute, ".0f"),
            _text(verdict.p99_ms, ".0f"),
        )
    return table


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
