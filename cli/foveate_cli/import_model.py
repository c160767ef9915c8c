"""``foveate import``. Imports what it runs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foveate.errors import InputError
from foveate.repository import MAX_BATCH
from foveate.usable_cpus import default_decoders, usable_cpus
from foveate_cli.options import REPOSITORY, Json, Repository
from foveate_cli.progress import bars

if TYPE_CHECKING:
    from foveate.importers.check import Compared
    from foveate.importers.importer import Imported

__all__ = ["import_"]

_MAX_BATCH_ON_GPU = 32


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Checkpoint file or folder, or hf-hub:OWNER/NAME, or hf-hub:OWNER/NAME@REVISION.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name to give the model.")],
    repository: Repository = REPOSITORY,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Edge of the images to serve, pixels; position embeddings are interpolated.",
            show_default="the checkpoint's",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="File of class names, one per line; zero-shot heads (CLIP, SigLIP) need it.",
            show_default="the checkpoint's",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Zero-shot prompt, {} for the class name; repeat it to average several."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="timm or transformers configuration, instead of the config.json next to SRC.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    gpu: Annotated[
        int | None,
        typer.Option(help="Number of the GPU to serve on.", show_default="the CPU"),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help='Largest batch to serve, 1..128, until "foveate calibrate" chooses one.',
            show_default=f"{MAX_BATCH}, on a GPU {_MAX_BATCH_ON_GPU}",
        ),
    ] = None,
    decoders: Annotated[
        int | None,
        typer.Option(
            help="Processes that decode files, a CPU each.",
            show_default="by this machine's CPUs, what the model leaves of them",
        ),
    ] = None,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            help="Image to classify with the original implementation and with Foveate, to compare "
            "their top 5; repeatable. Exits with 1 if they differ.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Import a timm, Hugging Face or torchvision checkpoint into the model repository.

    Writes the five folders of NAME, with level 0 only; "foveate calibrate NAME" adds levels.
    """
    from foveate.importers.check import compare
    from foveate.importers.entry import Placement, check_name
    from foveate.importers.importer import Wishes, import_checkpoint
    from foveate.importers.original import find_original
    from foveate.importers.source import find_source

    if check and image_size is not None:
        raise InputError("check: expected no --image-size: the original runs at its own size")
    on_gpu = gpu is not None
    batch = _MAX_BATCH_ON_GPU if on_gpu else MAX_BATCH
    processes = default_decoders(usable_cpus(), on_gpu=on_gpu)
    placement = Placement(
        gpu=gpu,
        max_batch=batch if max_batch is None else max_batch,
        decoders=processes if decoders is None else decoders,
    )
    names = _read_labels(labels) if labels else None
    prompts = prompt or []
    found = find_source(source, config)
    check_name(repository, name)
    # Before anything is written: without an original there is nothing to compare with.
    original = find_original(found, names, prompts) if check else None
    with bars() as progress:
        wishes = Wishes(size=image_size, labels=names, prompts=prompts, placement=placement)
        imported = import_checkpoint(found, repository, name, wishes, progress)
    compared: list[Compared] = []
    if check and original is not None:
        compared = [*compare(repository / name, check, original)]
    if as_json:
        facts = {**_facts(repository / name, imported, compared), "serving": asdict(placement)}
        typer.echo(json.dumps(facts, indent=1))
    else:
        _print(repository / name, imported, compared)
        where = "the CPU" if gpu is None else f"GPU {gpu}"
        typer.echo(
            f"served on {where} in batches of up to {placement.max_batch}; "
            f"decoders: {placement.decoders}"
        )
    if not all(row.same for row in compared):
        raise typer.Exit(1)


def _read_labels(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text().splitlines()]
    if not names or not all(names):
        raise InputError(f"labels={path}: expected a name on every line")
    return names


def _facts(model: Path, imported: Imported, compared: list[Compared]) -> dict[str, Any]:
    return {
        "model": str(model),
        "family": imported.recipe.family,
        "config": asdict(imported.config),
        "mean": imported.recipe.mean,
        "std": imported.recipe.std,
        "preprocess": imported.preprocess.parameters,
        "assumed": imported.recipe.assumed,
        "checked": [{**asdict(row), "image": str(row.image)} for row in compared],
    }


def _print(model: Path, imported: Imported, compared: list[Compared]) -> None:
    config, way = imported.config, imported.preprocess.parameters
    scores = "a sigmoid for each class" if config.sigmoid else "probabilities that sum to 1"
    typer.echo(
        f"{model}: {imported.recipe.family}, {config.dim} x {config.depth} blocks, "
        f"{config.patches} patches, {config.classes} classes\n"
        f"images: resized to {way.get('resize', 'size')} ({way['interpolation']}), centre "
        f"{config.height}x{config.width}; SCORES: {scores}"
    )
    if imported.recipe.assumed:
        typer.echo(f"assumed, as the checkpoint does not say: {imported.recipe.assumed}", err=True)
    if not imported.named:
        typer.echo("labels.txt: numbers, as the checkpoint has no names; set --labels", err=True)
    for row in compared:
        table = Table(
            "original", "", "ours", "", box=None, header_style="bold", title_justify="left"
        )
        for (theirs, score), (ours, own) in zip(row.original, row.ours, strict=True):
            table.add_row(theirs, f"{score:.4f}", ours, f"{own:.4f}")
        verdict = "the same" if row.same else "NOT the same"
        typer.echo(f"\n{row.image}: {verdict}, logits differ by {row.difference:.1e} at most")
        Console().print(table)
