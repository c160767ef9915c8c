"""``foveate train-selector``: options and output. The work is in ``selector/job.py``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foveate.repository import choose_model, device_of
from foveate_cli.options import REPOSITORY, Data, Device, Json, Name, Repository
from foveate_cli.progress import bars

__all__ = ["train_selector"]

_CORES = len(os.sched_getaffinity(0))


def train_selector(
    budget_ms: Annotated[
        float, typer.Option(help="Time all blocks together may take for one batch, milliseconds.")
    ],
    name: Name = None,
    data: Data = None,
    repository: Repository = REPOSITORY,
    blocks: Annotated[
        str,
        typer.Option(
            help="Blocks that get a selector, after their attention, e.g. 1,3,4; or auto: "
            "layer-to-phase schedule.",
            show_default="at 1/4, 1/2 and 3/4 of the depth",
        ),
    ] = "",
    method: Annotated[
        str, typer.Option(help="distill (frozen model) or gumbel (SPViT, end to end).")
    ] = "distill",
    train_backbone: Annotated[
        bool, typer.Option("--train-backbone", help="gumbel: also train the model's weights.")
    ] = False,
    learn_ratios: Annotated[
        bool,
        typer.Option("--learn-ratios", help="gumbel: learn to divide the budget among selectors."),
    ] = False,
    warm_up: Annotated[
        bool,
        typer.Option("--warm-up/--no-warm-up", help="gumbel: start from distilled selectors."),
    ] = True,
    fate: Annotated[
        str, typer.Option(help="What happens to removed tokens: drop, package or package-sum.")
    ] = "drop",
    per_head: Annotated[
        bool, typer.Option("--per-head", help="Separate weights for each head, as in HeatViT.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(help="Block times of another device: CSV with columns tokens,ms."),
    ] = None,
    device: Device = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size to time the device at.")] = 8,
    images: Annotated[
        int, typer.Option(min=16, help="Maximum images to train on; a tenth is for validation.")
    ] = 4096,
    steps: Annotated[int, typer.Option(min=1, help="Maximum steps; may stop early.")] = 120,
    max_drop: Annotated[
        float, typer.Option(min=0, max=1, help="auto: maximum agreement lost to all selectors.")
    ] = 0.01,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads for training.", show_default="all")
    ] = _CORES,
    seed: Annotated[int, typer.Option(min=0, max=999_999, help="Random seed.")] = 0,
    out: Annotated[
        str, typer.Option(help="File name, next to the weights.")
    ] = "selector.safetensors",
    restart: Annotated[bool, typer.Option("--restart", help="Discard an interrupted run.")] = False,
    as_json: Json = False,
) -> None:
    """Train SPViT's token selectors. The same command resumes an interrupted run."""
    from foveate.inference.allocator import tune_allocator
    from foveate.selector.job import Options, run

    tune_allocator()
    model = choose_model(repository, name)
    options = Options(
        repository=repository,
        model=model,
        budget_ms=budget_ms,
        data=data,
        blocks=blocks,
        method=method,
        train_backbone=train_backbone,
        learn_ratios=learn_ratios,
        warm_up=warm_up,
        fate=fate,
        per_head=per_head,
        table=table,
        # A table is of another device: nothing is timed here.
        device=device or "cpu" if table else device_of(repository, model, device),
        batch=batch,
        images=images,
        steps=steps,
        max_drop=max_drop,
        threads=threads,
        seed=seed,
        out=out,
    )
    with bars() as progress:
        report = run(options, progress, restart=restart)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    """Counts and qualities as a table, then the level that uses the file."""
    table = Table(box=None, header_style="bold")
    for column in ("tokens chosen by", "top-1", "agreement"):
        table.add_column(column)
    for title, key in (
        ("selector, top-k", "served"),
        ("CLS attention, top-k", "cls_attention"),
        ("selector, probability >= 0.5", "threshold"),
    ):
        cells = [report[key][name] for name in ("top1", "agreement")]
        table.add_row(title, *("-" if cell is None else f"{cell:.4f}" for cell in cells))
    console = Console(highlight=False)
    console.print(table)
    for block, spread in report["threshold"]["tokens"].items():
        console.print(
            f"block {block}: probability >= 0.5 keeps {spread['mean']:.0f} tokens "
            f"({spread['p5']:.0f} to {spread['p95']:.0f} in 90 % of images)"
        )
    console.print(
        f"blocks take {report['blocks_ms']:.3g} of {report['budget_ms']:g} ms "
        f"(dense {report['dense_blocks_ms']:.3g}); wrote {report['selector']}, for a level with"
    )
    level = {key: report[key] for key in ("weights", "selector", "reducers")}
    console.print_json(json.dumps(level))
