"""``foveate loadtest``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from foveate_loadtest.choices import DIGITS, ROW_FORMATS, Protocol, Scenario, Shape, Target

if TYPE_CHECKING:
    from foveate_loadtest.arrivals import Capacities
    from foveate_loadtest.ladder_facts import LadderFacts
    from foveate_loadtest.progress import Progress

__all__ = ["loadtest"]

_SCENARIO, _LOAD, _SECONDS, _SEED, _CV2 = Scenario.BURST, 0.7, 60.0, 0, 1.0


def loadtest(
    url: Annotated[str, typer.Option(help="HTTP host:port of the server.")] = "127.0.0.1:8000",
    grpc_url: Annotated[
        str | None,
        typer.Option(
            help="gRPC host:port of the server.", show_default="port 8001 of --url's host"
        ),
    ] = None,
    adapter_url: Annotated[
        str, typer.Option(help="URL of the adapter, to read the SLO and the levels from.")
    ] = "http://127.0.0.1:8080",
    protocol: Annotated[Protocol, typer.Option(help="Protocol to send with.")] = Protocol.GRPC,
    model: Annotated[str, typer.Option(help="Model name.")] = "digits",
    target: Annotated[Target, typer.Option(help="Send raw pixels or JPEG files.")] = Target.PIXELS,
    scenario: Annotated[
        Scenario | None,
        typer.Option(
            help="Load, in multiples of the capacities, which are measured first.",
            show_default=_SCENARIO.value,
        ),
    ] = None,
    shape: Annotated[
        Shape | None, typer.Option(help="Shape of the load, instead of a scenario.")
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option(
            help="File of recorded arrival times, seconds, one per line, instead of a scenario.",
            exists=True,
        ),
    ] = None,
    load: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --shape or --recorded: mean load, as a share of the cheapest capacity.",
            show_default=str(_LOAD),
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Mean rate of a shape or recording in requests/s; needs no capacity measurement.",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1, help="With --shape or --recorded: length, seconds.", show_default=str(_SECONDS)
        ),
    ] = None,
    arrivals: Annotated[
        Path | None,
        typer.Option(help="Arrival file to replay, instead of a scenario.", exists=True),
    ] = None,
    save_arrivals: Annotated[
        Path | None, typer.Option(help="Write the arrivals to this file.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed of the arrivals.", show_default=str(_SEED))
    ] = None,
    cv2: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Burstiness, CV² of the gaps: 0 even, 1 Poisson.",
            show_default=str(_CV2),
        ),
    ] = None,
    slo_ms: Annotated[
        float | None,
        typer.Option(min=1, help="Latency SLO, milliseconds.", show_default="the adapter's"),
    ] = None,
    ladder: Annotated[
        Path | None,
        typer.Option(help="ladder.json; with --slo-ms, no adapter is needed.", exists=True),
    ] = None,
    image_set: Annotated[
        str, typer.Option(help="digits, an .npz file with pixels and labels, or a folder of files.")
    ] = DIGITS,
    images: Annotated[int, typer.Option(min=1, help="Different images to send in turn.")] = 500,
    wish: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE:SHARE, a parameter for a share of the requests, e.g. "
            "quality=exact:0.05; repeatable."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the report and its plots as one HTML file.")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Write one row per request, as .parquet, .csv or .npz.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that send requests.")] = 1,
    core: Annotated[
        int | None, typer.Option(min=0, help="Run the client on this CPU core.")
    ] = None,
    max_send_lag_ms: Annotated[
        float, typer.Option(min=0, help="Fail if the client's p99 send lag is longer.")
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Send an open-loop load and check every answer against the SLO."""
    sources = {
        "--arrivals": arrivals,
        "--recorded": recorded,
        "--shape": shape,
        "--scenario": scenario,
    }
    _at_most_one(sources)
    _at_most_one({"--load": load, "--rate": rate})
    if rows is not None and rows.suffix not in ROW_FORMATS:
        raise typer.BadParameter(
            f"--rows {rows}: expected a name ending in {', '.join(ROW_FORMATS)}"
        )
    if page is not None and page.is_dir():
        raise typer.BadParameter(f"--page {page}: is a folder; expected a file")
    if recorded is None and shape is None:
        for name in _given({"--seconds": seconds, "--load": load, "--rate": rate}):
            raise typer.BadParameter(f"{name} needs --shape or --recorded")
    for name in _given({"--seed": seed, "--cv2": cv2}):
        for source in _given({"--arrivals": arrivals, "--recorded": recorded}):
            raise typer.BadParameter(
                f"{name} cannot be combined with {source}, whose times are fixed"
            )

    from foveate_loadtest.adapter_client import Adapter
    from foveate_loadtest.arrivals import Schedule, recorded_schedule, scenario_schedule
    from foveate_loadtest.image_sets import open_images
    from foveate_loadtest.ladder_facts import LadderFacts
    from foveate_loadtest.rows import INTERRUPTED
    from foveate_loadtest.run import LoadtestConfig, run
    from foveate_loadtest.senders import address
    from foveate_loadtest.shapes import shape_schedule
    from foveate_loadtest.table import report_table
    from foveate_loadtest.wishes import Wish, share_out

    share_out([Wish.parse(text) for text in wish or ()])  # report a mistake before measuring
    for path in (output, save_arrivals):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    server = address(url)
    grpc_server = f"{server.rsplit(':', 1)[0]}:8001" if grpc_url is None else address(grpc_url)
    console = Console(stderr=True)
    if core is not None:
        try:
            os.sched_setaffinity(0, {core})
        except OSError as error:
            raise typer.BadParameter(f"--core {core}: {error.strerror}") from error
    if image_set != DIGITS:
        image_set = str(Path(image_set).absolute())  # the sender works in another folder
        host = grpc_server if protocol is Protocol.GRPC else server
        open_images(image_set, 1, target, host, protocol, model)  # report a mistake before sending
    facts = None if ladder is None else LadderFacts.from_file(ladder)
    if facts is None or slo_ms is None:
        with Adapter(adapter_url, model) as adapter:
            view = adapter.view()
        facts = facts or LadderFacts.from_adapter(view)
        slo_ms = slo_ms or float(view["slo"]["latency_ms"])
    measure = partial(_capacities, console, grpc_server, model, facts, image_set, target)
    mean = partial(_mean, rate, _LOAD if load is None else load, measure)
    seconds = _SECONDS if seconds is None else seconds
    seed = _SEED if seed is None else seed
    cv2 = _CV2 if cv2 is None else cv2
    if arrivals is not None:
        schedule = Schedule.load(arrivals)
    elif recorded is not None:
        schedule = recorded_schedule(recorded, mean(), seconds)
    elif shape is not None:
        schedule = shape_schedule(shape, mean(), seconds, cv2, seed)
    else:
        schedule = scenario_schedule(scenario or _SCENARIO, measure(), seed, cv2)
    if save_arrivals is not None:
        schedule.save(save_arrivals)
    config = LoadtestConfig(
        server=grpc_server if protocol is Protocol.GRPC else server,
        schedule=schedule,
        slo_ms=slo_ms,
        protocol=protocol,
        model=model,
        target=target,
        ladder=facts,
        max_send_lag_ms=max_send_lag_ms,
        wishes=tuple(wish or ()),
        image_set=image_set,
        images=images,
        workers=workers,
        rows=rows,
        page=page,
    )
    with console.status("starting") as status:
        report = run(config, lambda progress: status.update(_line(progress, schedule.seconds)))
    if output is not None:
        report.save(output)
    if as_json:
        typer.echo(report.to_json())
    else:
        Console().print(report_table({schedule.scenario: report}))
    if report.interrupted:
        console.print(f"[yellow]{report.messages[INTERRUPTED]}: a partial report[/]")
        raise typer.Exit(130)
    if report.problem:
        console.print(f"[red]{report.problem}[/]")
        raise typer.Exit(1)


def _given(options: Mapping[str, object]) -> list[str]:
    return [name for name, value in options.items() if value is not None]


def _at_most_one(options: Mapping[str, object]) -> None:
    if len(given := _given(options)) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} cannot be combined")


def _capacities(
    console: Console,
    server: str,
    model: str,
    ladder: LadderFacts,
    image_set: str,
    target: Target,
) -> Capacities:
    from foveate_loadtest.capacity import measure_capacities

    with console.status("measuring capacities"):
        return measure_capacities(server, model, ladder, image_set, target)


def _mean(rate: float | None, load: float, measure: Callable[[], Capacities]) -> float:
    """Requests/s of a shape or record."""
    return load * measure().cheapest if rate is None else rate


def _line(progress: Progress, seconds: float) -> str:
    attainment = "–" if progress.attainment is None else f"{progress.attainment:.1%}"
    return (
        f"{progress.seconds:.0f}/{seconds:.0f} s  {progress.offered:.0f}/s offered  "
        f"{progress.served:.0f}/s served  {attainment} in SLO"
    )
