"""``foveate bench accuracy``. Imports what it runs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from foveate.repository import choose_model, device_of, precision_of
from foveate_cli.options import (
    REPOSITORY,
    Device,
    Executor,
    ExecutorName,
    Json,
    Name,
    Precision,
    Repository,
    Threads,
)
from foveate_cli.progress import bars

__all__ = ["bench"]

bench = typer.Typer(no_args_is_help=True, help="Measure a model.")


@bench.callback()
def _group() -> None:
    """Measure a model."""


@bench.command()
def accuracy(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of JPEG and PNG images with one sub-folder per class, named as in "
            "labels.txt or, for ImageNet, by WordNet ID."
        ),
    ],
    name: Name = None,
    repository: Repository = REPOSITORY,
    level: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Level index; repeatable.", show_default="all"),
    ] = None,
    device: Device = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 8,
    executor: Executor = ExecutorName.AUTO,
    precision: Precision = None,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Measure the accuracy of each level on labelled images."""
    model = choose_model(repository, name)

    import torch

    from foveate.accuracy.measure import measure

    torch.set_num_threads(threads)
    with bars() as progress:
        rows = measure(
            repository / model,
            data,
            device=device_of(repository, model, device),
            executor=executor.value,
            precision=precision_of(repository, model, precision),
            batch=batch,
            threads=threads,
            workers=threads,
            levels=level,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table("level", "name", "top-1", "95 %", "top-5", "agreement", box=None)
    for row in rows:
        shares = (f"{100 * x:.2f}" for x in (row.top5, row.agreement))
        interval = f"{100 * row.low:.2f}-{100 * row.high:.2f}"
        table.add_row(str(row.level), row.name, f"{100 * row.top1:.2f}", interval, *shares)
    Console().print(table)
    typer.echo(f"{rows[0].n} images; values in per cent")
