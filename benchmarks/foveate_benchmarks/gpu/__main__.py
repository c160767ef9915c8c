"""Everything a GPU has to show, in four parts of at most eight minutes each.

    python -m foveate_benchmarks.gpu parity | ops | model NAME | peers [--quick]
        [--device cpu] [--out DIR]

parity: every kernel, and whole models, against float64. ops: every kernel against the memory and
the matrix units. model: images a second of every level against dense peers; NAME is deit-s, deit-b
or vit-l-384. peers: attention and selection against what PyTorch offers.

Rows are written as they are measured, to ``gpu-PART.json`` in ``benchmarks/results`` or ``--out``.
Run again, a part goes on where it stopped, unless the code, the GPU or a version changed. Kernels
run in a process of their own: one that hangs or crashes costs its row, and the next goes on.
``--quick`` takes tiny shapes; on a CPU it is a dry run of this script, operators are their
references, and nothing is written but to ``--out``.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from foveate_benchmarks.gpu.rows import CONTEXT_LOST, OutOfTime, Rows
from foveate_benchmarks.results import RESULTS

MODELS = ("deit-s", "deit-b", "vit-l-384")
# Seconds until a row counts as hung. A model is compiled within a row of its own.
PATIENCE = {"parity": 90, "ops": 90, "model": 300, "peers": 90}


class Part(StrEnum):
    PARITY = "parity"
    OPS = "ops"
    MODEL = "model"
    PEERS = "peers"


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
    until: Annotated[float | None, typer.Option(hidden=True)] = None,  # given to the worker
) -> None:
    if name not in (MODELS if part == Part.MODEL else (None,)):
        raise typer.BadParameter(f"name={name}: part model takes one of {', '.join(MODELS)}")
    if device == Device.CPU and not quick:
        raise typer.BadParameter("--device cpu: expected --quick with it")
    if until is not None:
        assert out is not None
        sys.exit(work(part, name, device, quick, out / file_name(part, name), until))
    with tempfile.TemporaryDirectory() as scratch:
        if out is None:
            out = Path(scratch) if quick else RESULTS
        out.mkdir(parents=True, exist_ok=True)
        path = out / file_name(part, name)
        if fresh:
            path.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "foveate_benchmarks.gpu",
            part.value,
            *([name] if name else []),
        ]
        command += ["--device", device.value, "--out", str(out), *(["--quick"] if quick else [])]
        sys.exit(supervise(command, path, time.monotonic() + 60 * minutes, PATIENCE[part.value]))


def file_name(part: Part, name: str | None) -> str:
    return f"gpu-{part.value}-{name}.json" if name else f"gpu-{part.value}.json"


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
                worker.kill()
                worker.wait()
                print("out of time in the middle of a row: run again to go on")
                return 1
            if now > seen + patience:
                hung = True
                worker.kill()
        code = worker.returncode
        if code in (0, 1, 2):
            return code
        reason = f"no end after {patience:g} s" if hung else f"its process ended with {code}"
        if not Rows.blame(path, reason) and code != CONTEXT_LOST:
            print(f"{reason}, outside of any row")
            return 1


def work(
    part: Part, name: str | None, device: Device, quick: bool, path: Path, until: float
) -> int:
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
        module.measure(rows, clock, name)
    except OutOfTime:
        complete = False
    rows.bars = module.report(rows, name)
    print(clock.described(rows.hardware))
    failed = rows.close()
    for error in failed:
        print("FAILED", error)
    for bar, met in rows.bars.items():
        print("met   " if met else "MISSED", bar)
    if not complete:
        print("out of time: run again to go on")
    return 0 if complete and not failed and all(rows.bars.values()) else 1


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
