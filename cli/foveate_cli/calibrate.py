"""``foveate calibrate``. Imports what it runs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foveate.calibration.settings import Settings
from foveate.errors import InputError
from foveate.repository import (
    choose_model,
    device_of,
    precision_of,
    read_max_batch,
    set_max_batch,
)
from foveate_cli.options import (
    REPOSITORY,
    Data,
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

if TYPE_CHECKING:
    from foveate.calibration.result import Calibration

__all__ = ["calibrate"]

_SELECTOR = "selector.safetensors"  # as train-selector calls it
_DEFAULT = Settings()
_BUDGETS = ",".join(map(str, _DEFAULT.budgets))


def calibrate(
    name: Name = None,
    repository: Repository = REPOSITORY,
    data: Data = None,
    images: Annotated[
        int,
        typer.Option(min=8, help="Maximum images to choose levels on, and again to report on."),
    ] = 2000,
    budgets: Annotated[
        str, typer.Option(help="Batch times to find a level for, as shares of level 0's.")
    ] = _BUDGETS,
    batch: Annotated[int, typer.Option(help="Batch size to time levels at.")] = _DEFAULT.batch,
    max_loss: Annotated[
        float, typer.Option(help="Maximum quality loss of a level, 0..1.")
    ] = _DEFAULT.max_loss,
    step: Annotated[
        float, typer.Option(help="Minimum ratio of the batch times of neighbouring levels.")
    ] = _DEFAULT.step,
    multiple: Annotated[
        int, typer.Option(help="Token counts are multiples of this.")
    ] = _DEFAULT.multiple,
    vocabulary: Annotated[
        str | None, typer.Option(help="Visual-word file next to the ladder. Default: learn one.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="Compressed weights next to the ladder; repeatable.")
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option(
            help="Token-selector file next to the ladder.",
            show_default=f"{_SELECTOR}, if there is one",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = _DEFAULT.seed,
    time_limit: Annotated[
        float | None, typer.Option(help="Minutes after which no new search starts.")
    ] = None,
    slo_ms: Annotated[
        float, typer.Option(help="Latency SLO to choose the largest batch by, milliseconds.")
    ] = _DEFAULT.slo_ms,
    max_batch: Annotated[
        int | None,
        typer.Option(
            help="Largest batch to serve, 1..128.",
            show_default="up to 32, on a GPU 64, by measured times: a quarter of the SLO at the "
            "cheapest level",
        ),
    ] = None,
    device: Device = None,
    executor: Executor = ExecutorName.AUTO,
    precision: Precision = None,
    threads: Threads = 1,
    report: Annotated[
        Path | None,
        typer.Option(
            help="HTML report to write, with a PNG next to it.", show_default="in the state folder"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Search for levels, measure them, and write the ladder of those worth having.

    Sets max_batch_size in config.pbtxt of the model, and of those around it.

    An interrupted run resumes when you run the command again.
    """
    settings = Settings(
        budgets=_shares(budgets),
        batch=batch,
        max_loss=max_loss,
        step=step,
        multiple=multiple,
        seed=seed,
        time_limit_s=None if time_limit is None else 60 * time_limit,
        slo_ms=slo_ms,
        max_batch=max_batch,
    )
    if find_spec("matplotlib") is None:
        raise InputError("report: needs matplotlib; pip install 'foveate[calibrate]'")
    model = choose_model(repository, name)
    before = read_max_batch(repository, model)  # or it could not be set after all the work

    from foveate.calibration.calibrate import calibrate as run
    from foveate.calibration.candidate import WEIGHTS
    from foveate.calibration.check import load_models
    from foveate.calibration.report import write_report
    from foveate.devices import choose_device
    from foveate.images.pairs import load_pair
    from foveate.inference.allocator import tune_allocator
    from foveate.inference.fp8 import has_fp8
    from foveate.inference.runtime import Runtime
    from foveate.settings import state_dir

    tune_allocator()
    chosen = choose_device(device_of(repository, model, device))
    asked = precision_of(repository, model, precision)
    runtime = Runtime.choose(executor.value, asked, threads, chosen)
    folder, state = repository / model / "1", state_dir()
    if selector is None and (folder / _SELECTOR).exists():
        selector = _SELECTOR
    with bars() as progress:
        config = load_models(folder, vocabulary, variant or ())[WEIGHTS].config
        choose, judge = load_pair(
            repository / model, config, data, max_images=images, seed=seed, progress=progress
        )
        found = run(
            folder,
            model,
            choose,
            judge,
            settings,
            state=state,
            vocabulary=vocabulary,
            variants=variant or (),
            selector=selector,
            runtime=runtime,
            progress=progress,
            clock=runtime.clock,
            fp8=has_fp8(chosen),
        )
    set_max_batch(repository, model, found.max_batch.images)
    path = report or state / model / "calibration.html"
    write_report(found, path)
    if as_json:
        typer.echo(json.dumps(_facts(found, path), indent=1))
        return
    rows = _levels(found)
    table = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
    largest = found.max_batch
    typer.echo(f"max_batch_size {largest.images}, was {before}: {largest.reason}")
    typer.echo(f"wrote {folder / 'ladder.json'}; report: {path}")
    if found.recalled:
        typer.echo(f"reused {found.recalled} measurements of an earlier run", err=True)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"budgets={text!r}: expected shares of level 0's time in (0, 1), e.g. 0.5,0.25"
        ) from error


def _levels(found: Calibration) -> list[dict[str, Any]]:
    return [
        {
            "level": index,
            "name": level.name,
            "quality": outcome.score,
            "low": outcome.interval[0],
            "high": outcome.interval[1],
            "agreement": outcome.agreeing / outcome.n,
            "kl": outcome.kl,
            "ms_batch_1": 1e3 * found.latency.batch_seconds(index, 1),
            f"ms_batch_{found.settings.batch}": 1e3
            * found.latency.batch_seconds(index, found.settings.batch),
            **({} if found.joules is None else {"mj_per_image": 1e3 * found.joules[index]}),
        }
        for index, (level, outcome) in enumerate(
            zip(found.ladder.levels, found.outcomes, strict=True)
        )
    ]


def _facts(found: Calibration, report: Path) -> dict[str, Any]:
    from foveate.calibration.quality import difference

    contests = []
    for contest in found.contests:
        rivals = {
            family: {
                "schedule": rival.point.name,
                "ms": 1e3 * rival.seconds,
                "quality": rival.outcome.score,
                "ladder_is_better_by": difference(contest.outcome, rival.outcome),
            }
            for family, rival in contest.rivals.items()
        }
        contests.append(
            {
                "budget_ms": 1e3 * contest.budget,
                "level": contest.level,
                "ms": 1e3 * contest.seconds,
                "quality": contest.outcome.score,
                "n": contest.outcome.n,
                "uniform": rivals,
            }
        )
    return {
        "model": found.ladder.model,
        "settings": asdict(found.settings),
        "levels": _levels(found),
        "max_batch": asdict(found.max_batch),
        "contests": contests,
        "recalled": found.recalled,
        "measured": found.measured,
        "report": str(report),
    }
