"""``foveate compress``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from foveate.errors import InputError
from foveate.repository import choose_model
from foveate_cli.options import REPOSITORY, Data, Json, Name, Repository, Threads
from foveate_cli.progress import bars

if TYPE_CHECKING:
    from foveate.compress.report import Report

__all__ = ["compress"]

_FIT_IMAGES = 512
_FILE = re.compile(r"[\w.-]+\.safetensors")


def compress(
    name: Name = None,
    repository: Repository = REPOSITORY,
    target_macs: Annotated[
        float, typer.Option(help="Share of multiply-accumulates to keep.")
    ] = 0.5,
    data: Data = None,
    images: Annotated[
        int, typer.Option(min=64, help="Images to fit and distil on; as many again to report on.")
    ] = 2000,
    multiple: Annotated[int, typer.Option(min=1, help="Sizes are multiples of this.")] = 8,
    heads: Annotated[bool, typer.Option("--heads", help="Also remove whole heads.")] = False,
    residual: Annotated[
        bool, typer.Option("--residual", help="Also remove residual-stream channels.")
    ] = False,
    redundancy: Annotated[
        bool,
        typer.Option(
            "--redundancy",
            help="Rank values and hidden units by SNP's cosines, not by the loss without them.",
        ),
    ] = False,
    distill_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of distillation from the dense model.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    threads: Threads = 1,
    out: Annotated[
        str | None,
        typer.Option(help="File name, next to the model's.", show_default="slim50.safetensors"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prune neurons down to a share of the multiply-accumulates; writes a weight variant.

    Levels refer to it by file name ("weights" in ladder.json). Without --distill-epochs nothing is
    trained: the remaining weights are fitted to the dense model in closed form. Labels are used
    only to report top-1.
    """
    import torch

    from foveate.compress import slim
    from foveate.compress.distill import distill
    from foveate.compress.report import examine
    from foveate.compress.search import check_target
    from foveate.images.pairs import load_pair
    from foveate.inference.allocator import tune_allocator
    from foveate.levels.ladder import Ladder
    from foveate.model.vit import load_vit, save_vit

    tune_allocator()
    torch.set_num_threads(threads)
    model_folder = repository / choose_model(repository, name)
    folder = model_folder / "1"
    source = Ladder.load(folder / "ladder.json").levels[0].weights
    file = out or f"slim{round(100 * target_macs)}.safetensors"
    if not _FILE.fullmatch(file) or file == source:
        raise InputError(f"out={file}: expected a name ending in .safetensors, other than {source}")
    dense = load_vit(folder / source)
    dense.config.require_plain("compress")
    check_target(dense.config, target_macs, multiple=multiple, heads=heads, residual=residual)
    with bars() as progress:
        fit, held_out = load_pair(
            model_folder, dense.config, data, max_images=images, seed=seed, progress=progress
        )
        model = slim.compress(
            dense,
            fit.pixels[:_FIT_IMAGES],
            target_macs,
            multiple=multiple,
            heads=heads,
            residual=residual,
            criterion="redundancy" if redundancy else "loss",
            progress=progress,
        )
        if distill_epochs:
            distill(
                model,
                dense,
                fit.pixels,
                epochs=distill_epochs,
                seed=seed,
                checkpoint=folder / f".{file}.training",
                progress=progress,
            )
    save_vit(model, folder / file)
    # Measure the file, whose weights are rounded to fp16, not the model in memory.
    reports = examine([dense, load_vit(folder / file)], held_out.pixels, held_out.labels)
    if as_json:
        typer.echo(json.dumps({"file": str(folder / file), **_by_name(reports)}, indent=1))
    else:
        _print(reports)
        typer.echo(f"wrote {folder / file}")


def _by_name(reports: list[Report]) -> dict[str, dict[str, object]]:
    return {model: asdict(report) for model, report in zip(("dense", "slim"), reports, strict=True)}


def _print(reports: list[Report]) -> None:
    table = Table("", "dense", "slim", "slim / dense", box=None, header_style="bold")
    dense, slim = (asdict(report) for report in reports)
    for key in dense:
        if dense[key] is None:
            continue
        ratio = "" if key in ("top1", "agreement", "images") else f"{slim[key] / dense[key]:.3f}"
        table.add_row(key, *(f"{row[key]:.4g}" for row in (dense, slim)), ratio)
    Console().print(table)
