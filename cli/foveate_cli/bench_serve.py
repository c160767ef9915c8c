"""``foveate bench serve``. Imports what it runs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from foveate.repository import choose_model
from foveate_cli.options import REPOSITORY, Name, Repository
from foveate_loadtest.choices import DIGITS

__all__ = ["serve"]


def serve(
    name: Name = None,
    repository: Repository = REPOSITORY,
    output: Annotated[
        Path, typer.Option(help="Results folder; runs already in it are not repeated.")
    ] = Path("bench-serve"),
    trace: Annotated[
        list[str] | None,
        typer.Option(help="Trace to play; repeatable.", show_default="all"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each run.")] = 60.0,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Seeds for policies within a percentage point of adaptive."),
    ] = 3,
    slo_ms: Annotated[float, typer.Option(min=1, help="Latency SLO, milliseconds.")] = 200.0,
    image_set: Annotated[
        str,
        typer.Option(
            help="digits, an .npz file with pixels and labels, or a folder with one sub-folder "
            "per class."
        ),
    ] = DIGITS,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two traces, runs of 15 s, one seed: eight minutes.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Play nothing, only rewrite the report.")
    ] = False,
) -> None:
    """Compare adaptive serving with fixed levels and other controllers on the same arrivals.

    Each trace takes ten minutes with runs of 60 s: adaptive twice, each fixed level, a threshold
    controller and a concurrency limiter. Ctrl-C keeps what was played; the same command then
    resumes with the incomplete trace.
    """
    from foveate_loadtest.bench.comparison_page import write_page
    from foveate_loadtest.bench.plan import QUICK, TRACES
    from foveate_loadtest.bench.session import Session
    from foveate_loadtest.errors import TargetError
    from foveate_loadtest.temporary_server import cores_apart

    wanted = trace or (list(QUICK) if quick else list(TRACES))
    if unknown := [one for one in wanted if one not in TRACES]:
        raise typer.BadParameter(f"--trace={unknown[0]!r}: known are {', '.join(TRACES)}")
    model = choose_model(repository, name)
    if report_only:
        saved = output / "serve.json"
        if fresh or not saved.exists():
            raise typer.BadParameter(f"--report-only: nothing to report from in {output}")
        write_page(json.loads(saved.read_text()), model, output / "index.html")
        typer.echo(output / "index.html")
        return
    if len(os.sched_getaffinity(0)) < 2:
        raise TargetError("one core: load beside the server on the same core would be invalid")
    session = Session(
        repository=repository,
        model=model,
        output=output,
        traces=wanted,
        seconds=15.0 if quick else seconds,
        seeds=1 if quick else seeds,
        slo_ms=slo_ms,
        image_set=image_set,
        fresh=fresh,
        server_core=cores_apart(),
        console=Console(highlight=False),
    )
    try:
        complete = session.play()
    finally:
        session.report()
    raise typer.Exit(0 if complete else 130)
