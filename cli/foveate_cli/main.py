"""The ``foveate`` command. Commands import what they run, so that ``--help`` is quick."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foveate.errors import FoveateError
from foveate_cli.accuracy import bench
from foveate_cli.bench_serve import serve as bench_serve
from foveate_cli.calibrate import calibrate
from foveate_cli.compress import compress
from foveate_cli.import_model import import_
from foveate_cli.loadtest import loadtest
from foveate_cli.options import ADMISSION, REPOSITORY, Json, Name, Repository
from foveate_cli.simulate import simulate
from foveate_cli.train_selector import train_selector
from foveate_loadtest.errors import LoadtestError

__all__ = ["app"]


class _App(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Print expected errors in one line; a traceback means a bug."""
        try:
            return super().__call__(*args, **kwargs)
        except (FoveateError, LoadtestError) as error:
            sys.exit(f"error: {error}")


app = _App(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve Vision Transformers within a latency SLO by using fewer tokens under load.",
)

Host = Annotated[str, typer.Option(help="IPv4 address to listen on.")]


def _port(of: str) -> Any:
    return typer.Option(min=1, max=65535, help=f"Port of {of}.")


HttpPort = Annotated[int, _port("Triton's HTTP")]
GrpcPort = Annotated[int, _port("Triton's gRPC")]
MetricsPort = Annotated[int, _port("Triton's metrics")]
AdapterPort = Annotated[int, _port("the adapter's API and console")]
ServerBin = Annotated[
    Path | None,
    typer.Option(help="tritonserver to run instead of the embedded one.", dir_okay=False),
]


@app.command()
def serve(
    repository: Repository = REPOSITORY,
    host: Host = "127.0.0.1",
    http_port: HttpPort = 8000,
    grpc_port: GrpcPort = 8001,
    metrics_port: MetricsPort = 8002,
    adapter_port: AdapterPort = 8080,
    slo_ms: Annotated[
        float | None,
        typer.Option(min=1, max=3_600_000, help="Latency SLO, milliseconds.", show_default="200"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads of each model process, at most the CPUs it may use (affinity, cgroup "
            "quota); by default one of every eight of them, at least one, is left to Triton and "
            "the decoders.",
            show_default="by the CPUs",
        ),
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter/--no-adapter", help="Run the adapter.")
    ] = True,
    pin_cap: Annotated[
        bool | None,
        typer.Option(
            "--pin-cap/--no-pin-cap",
            help="Under pressure, limit exact and pinned requests to 10 % of compute time.",
            show_default="pin-cap",
        ),
    ] = None,
    admission: Annotated[bool | None, ADMISSION] = None,
    server_bin: ServerBin = None,
    control: Annotated[
        Path | None,
        typer.Option(
            help="Accept policies from adapters on other hosts; file with the shared secret.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Run the Triton server and the adapter until SIGTERM. Prints "ready" with the URLs."""
    from foveate_cli.host.serve import ServeOptions, serve

    options = ServeOptions(
        repository=repository,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        adapter_port=adapter_port,
        slo_ms=slo_ms,
        threads=threads,
        adapter=adapter,
        pin_cap=None if pin_cap is None else 0.1 if pin_cap else 1.0,
        admission=admission,
        server_bin=server_bin,
        control=control,
    )
    raise typer.Exit(serve(options))


@app.command()
def classify(
    images: Annotated[
        list[Path], typer.Argument(help="JPEG or PNG files.", exists=True, dir_okay=False)
    ],
    model: Annotated[str, typer.Option(help="Model name.")] = "digits",
    url: Annotated[str, typer.Option(help="HTTP host:port of the server.")] = "127.0.0.1:8000",
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print.")] = 3,
    level: Annotated[str | None, typer.Option(help="Level, by name or index.")] = None,
    as_json: Json = False,
) -> None:
    """Classify your own images on a running server."""
    from foveate_cli.classify import classify

    answers = [classify(url, model, image, top=top, level=level) for image in images]
    if as_json:
        typer.echo(json.dumps([asdict(answer) for answer in answers], indent=1))
        return
    for answer in answers:
        classes = ", ".join(f"{guess.label} ({guess.score:.2f})" for guess in answer.classes)
        typer.echo(f"{answer.image}: {classes}, at level {answer.level}")


@app.command()
def demo(
    name: Name = None,
    repository: Repository = REPOSITORY,
) -> None:
    """Serve the demo model, send it a burst, compare with fixed levels; about three minutes."""
    from foveate_cli.demo import demo

    raise typer.Exit(demo(repository, name))


app.command("import")(import_)
app.command()(loadtest)
app.command()(simulate)
app.command()(calibrate)
app.command()(compress)
app.command()(train_selector)
bench.command("serve")(bench_serve)
app.add_typer(bench, name="bench")


@app.command()
def doctor(
    repository: Repository = REPOSITORY,
    host: Host = "127.0.0.1",
    http_port: HttpPort = 8000,
    grpc_port: GrpcPort = 8001,
    metrics_port: MetricsPort = 8002,
    adapter_port: AdapterPort = 8080,
    server_bin: ServerBin = None,
    as_json: Json = False,
) -> None:
    """Check whether "foveate serve" can run on this machine, and say what is missing."""
    from foveate_cli.doctor import Verdict, examine
    from foveate_cli.host.serve import ServeOptions

    options = ServeOptions(
        repository=repository,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        adapter_port=adapter_port,
        server_bin=server_bin,
    )
    findings = list(examine(options))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        table = Table(box=None, header_style="bold")
        for column in ("", "check", "result"):
            table.add_column(column, overflow="fold")
        colours = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILURE: "red"}
        for finding in findings:
            colour = colours[finding.verdict]
            mark = f"[{colour}]{finding.verdict}[/]"
            table.add_row(mark, finding.subject, finding.detail)
        Console().print(table)
    if any(finding.verdict is Verdict.FAILURE for finding in findings):
        raise typer.Exit(1)


@app.command()
def health(
    repository: Repository = Path("model_repository"),
    url: Annotated[str, typer.Option(help="Triton's HTTP URL.")] = "http://127.0.0.1:8000",
    patience: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds to wait for an answer; use 30 for liveness probes."),
    ] = 5.0,
) -> None:
    """Exit 0 if every model answers a real inference. Triton reports even dead models as ready."""
    from foveate.repository import model_names
    from foveate_cli.host.watchdog import find_failures

    if failures := find_failures(url, model_names(repository), patience):
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    app()
