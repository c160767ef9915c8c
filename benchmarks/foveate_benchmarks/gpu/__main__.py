"""Everything a GPU has to show, in parts of at most eight minutes each.

    python -m foveate_benchmarks.gpu PART [NAME] [--quick] [--device cpu] [--out DIR]

parity: every kernel, and whole models, against float64. ops: every kernel against the memory and
the matrix units. model: images a second of every level against dense peers; NAME is deit-s, deit-b
or vit-l-384. peers: attention and selection against what PyTorch offers. products: matrix products
in 8 bits, and with GELU. served: DeiT-B behind the real server. tests: ``pytest tests/gpu``. races:
compute-sanitizer on the kernels that match or merge. ``foveate_benchmarks.gpu.session`` runs what
fits into ten minutes.

Rows are written as they are measured, to ``GPU/PART.json`` in ``benchmarks/results/gpu`` or
``--out``: every GPU has a folder of its own. Run again, a part goes on where it stopped; if the
code or a version changed, what is there is set aside, under another name. Each part runs in a
process of its own: a row that hangs or crashes costs itself, and the next goes on. ``--quick``
takes tiny shapes; on a CPU it is a dry run of this script, operators are their references, and
nothing is written but to ``--out``.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.device import device_name, folder_name
from foveate_benchmarks.gpu.processes import end
from foveate_benchmarks.gpu.rows import CONTEXT_LOST, OutOfTime, Rows
from foveate_benchmarks.results import RESULTS

MODELS = ("deit-s", "deit-b", "vit-l-384")


class Part(StrEnum):
    PARITY = "parity"
    OPS = "ops"
    MODEL = "model"
    PEERS = "peers"
    PRODUCTS = "products"
    SERVED = "served"
    TESTS = "tests"
    RACES = "races"


# Seconds until a row counts as hung. A model is compiled within a row of its own, and a server
# starts within one.
PATIENCE = dict.fromkeys(Part, 90.0) | {Part.MODEL: 300.0, Part.SERVED: 150.0}


class Device(StrEnum):
    CUDA = "cuda"
    CPU = "cpu"


def main(
    part: Part,
    name: Annotated[str | None, typer.Argument(help=f"of part model: {', '.join(MODELS)}")] = None,
    device: Device = Device.CUDA,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny shapes")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the results")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure every row anew")] = False,
    minutes: Annotated[float, typer.Option(help="Start no row after this long")] = 8.0,
    patience: Annotated[
        float | None, typer.Option(help="Seconds until a row counts as hung")
    ] = None,
    batches: Annotated[str | None, typer.Option(help="Of part model, as 8,32")] = None,
    routes: Annotated[
        str | None,
        typer.Option(
            help="Of part model: beginnings of ROUTE or LEVEL ROUTE, as 'served,dense graph'; "
            "served is the route that a server takes"
        ),
    ] = None,
    op: Annotated[list[str] | None, typer.Option(help="Of part ops; several times")] = None,
    energy: Annotated[bool, typer.Option("--energy/--no-energy", help="Of part model")] = True,
    until: Annotated[float | None, typer.Option(hidden=True)] = None,  # given to the worker
) -> None:
    if name not in (MODELS if part == Part.MODEL else (None,)):
        raise typer.BadParameter(f"name={name}: part model takes one of {', '.join(MODELS)}")
    if device == Device.CPU and not quick:
        raise typer.BadParameter("--device cpu: expected --quick with it")
    own = {"--batches": batches, "--routes": routes, "--no-energy": not energy or None}
    for option, value in {**own, "--op": op or None}.items():
        whose = Part.OPS if option == "--op" else Part.MODEL
        if value is not None and part != whose:
            raise typer.BadParameter(f"{option}: only part {whose} takes it")
    asked = Asked(
        name=name,
        batches=None if batches is None else _numbers("--batches", batches),
        routes=None if routes is None else tuple(routes.split(",")),
        ops=tuple(op) if op else None,
        energy=energy,
    )
    if until is not None:
        assert out is not None
        sys.exit(work(part, asked, device, quick, out / file_name(part, name), until))
    with tempfile.TemporaryDirectory() as scratch:
        if out is None:
            out = Path(scratch) if quick else RESULTS / "gpu"
        out = out / results_folder(device)
        out.mkdir(parents=True, exist_ok=True)
        path = out / file_name(part, name)
        if fresh:
            path.unlink(missing_ok=True)
        given = sys.argv[1:]  # the last of an option given twice counts
        command = [sys.executable, "-m", "foveate_benchmarks.gpu", *given, f"--out={out}"]
        until = time.monotonic() + 60 * minutes
        sys.exit(supervise(command, path, until, patience or PATIENCE[part]))


def file_name(part: Part, name: str | None) -> str:
    return f"{part.value}-{name}.json" if name else f"{part.value}.json"


def results_folder(device: Device) -> str:
    """The folder of this GPU's results; a dry run's is called cpu."""
    if device == Device.CPU:
        return "cpu"
    try:
        return folder_name(device_name())
    except OSError as error:
        sys.exit(f"no CUDA GPU here ({error}); --device cpu --quick is a dry run")


def supervise(command: list[str], path: Path, until: float, patience: float) -> int:
    """Run workers until one comes to the end; a row that ends its worker has failed."""
    while True:
        worker = subprocess.Popen([*command, f"--until={until}"])
        written, seen, hung = None, time.monotonic(), False
        while worker.poll() is None:
            time.sleep(0.1)
            now = time.monotonic()
            stamp = path.stat().st_mtime_ns if path.exists() else None
            if stamp != written:
                written, seen = stamp, now
            if now > until + 60:
                end(worker.pid)
                worker.wait()
                print("out of time in the middle of a row: run again to go on")
                return 1
            if now > seen + patience:
                hung = True
                end(worker.pid)
        code = worker.returncode
        if code in (0, 1, 2):
            return code
        reason = f"no end after {patience:g} s" if hung else f"its process ended with {code}"
        if not Rows.blame(path, reason) and code != CONTEXT_LOST:
            print(f"{reason}, outside of any row")
            return 1


def work(part: Part, asked: Asked, device: Device, quick: bool, path: Path, until: float) -> int:
    """Measure what is missing, then report all there is: 1 if a row failed or a bar is missed."""
    import torch

    from foveate_benchmarks.gpu.clock import Clock

    if device == Device.CPU:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        sys.exit("no CUDA GPU here; --device cpu --quick is a dry run")
    module = importlib.import_module(f"foveate_benchmarks.gpu.{part.value}")
    clock = Clock(device.value, quick)
    rows = Rows(path, clock.hardware(), until)
    complete = True
    try:
        module.measure(rows, clock, asked)
    except OutOfTime:
        complete = False
    rows.bars = module.report(rows, asked)
    print(clock.described(rows.hardware))
    failed = rows.close()
    for error in failed:
        print("FAILED", error)
    for bar, met in rows.bars.items():
        print("met   " if met else "MISSED", bar)
    if not complete:
        print("out of time: run again to go on")
    return 0 if complete and not failed and all(rows.bars.values()) else 1


def run_command(main: Callable[..., None], text: str) -> None:
    """``main`` as a command line, whose help begins with ``text``, line by line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help="\b\n" + text.replace("\n\n", "\n\n\b\n"))(main)
    app()


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{option}={text}: expected numbers, as 8,32") from error


if __name__ == "__main__":
    run_command(main, __doc__)
