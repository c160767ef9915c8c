"""A quarter of an hour on a rented GPU: what is worth most first, and no more than ten minutes.

    python -m foveate_benchmarks.gpu.session pack --out FOLDER [--libpython FILE]
    python -m foveate_benchmarks.gpu.session [--steps a,c] [--out DIR] [--rehearse]

``pack`` writes what a machine without a network lacks (:mod:`foveate_benchmarks.gpu.carried`).
Without it, the steps run, each as a part of ``foveate_benchmarks.gpu`` in a process of its own:

a. ``served``: the real server, its levels, a burst, and what one model process can do
b. ``tests``: ``pytest tests/gpu``
c. ``model``: DeiT-B and ViT-L/384 in large batches, the served route and the best dense peers
d. ``products``: matrix products in 8 bits, and with GELU
e. ``ops``: operators that have few rows of an H100, or none
f. ``races``: racecheck on what matches or merges

A step that does not end in its time is ended with all that it started, and costs no other; all
limits together stay below ten minutes. Rows go to ``DIR/GPU/PART.json`` as they are measured, and
what became of the steps to ``session.json`` there. Run again, it goes on where it stopped.
``--rehearse`` does all of this without a GPU: tiny shapes, and a server on the CPU.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from foveate.atomic_file import replacing
from foveate_benchmarks.gpu import carried
from foveate_benchmarks.gpu.__main__ import Device, results_folder, run_command
from foveate_benchmarks.gpu.processes import end
from foveate_benchmarks.gpu.rows import source_digest

__all__ = ["BUDGET_S", "STEPS", "Step", "longest", "run_steps"]

BUDGET_S = 600.0
START_S = 10.0  # of this script
GRACE_S = 3.0  # for a step that is ended, to end what it started
END_S = 5.0  # until all of it is gone
RESERVE_S = 5.0  # of a step: it starts no row later, so that its report is written
PR_SET_CHILD_SUBREAPER = 36  # prctl: processes whose parent has died become ours


@dataclass(frozen=True)
class Step:
    """A part of ``foveate_benchmarks.gpu``, the seconds it may take, and those of one row."""

    letter: str
    part: tuple[str, ...]
    limit_s: float
    patience_s: float

    @property
    def name(self) -> str:
        return " ".join(word for word in self.part if not word.startswith("-"))


LARGE = ("--routes=served,dense graph,dense flash", "--no-energy")
STEPS = (
    Step("a", ("served",), 185, 90),
    Step("b", ("tests",), 80, 30),
    Step("c", ("model", "deit-b", "--batches=32,128", *LARGE), 55, 25),
    Step("c", ("model", "vit-l-384", "--batches=1,8,32", *LARGE), 60, 30),
    Step("d", ("products",), 35, 15),
    Step("e", ("ops", "--op=varlen_attention", "--op=vwt_assign"), 55, 15),
    Step("f", ("races",), 45, 40),
)


class Action(StrEnum):
    RUN = "run"
    PACK = "pack"


def longest(steps: Sequence[Step] = STEPS) -> float:
    """Seconds until the end at the latest, from laying out what was carried on."""
    limits = (step.limit_s + END_S for step in steps)
    return carried.LIMIT_S + START_S + sum(limits)


def main(
    action: Annotated[Action, typer.Argument()] = Action.RUN,
    out: Annotated[Path, typer.Option(help="Folder of the results, or of the pack")] = Path(
        ".state/gpu"
    ),
    steps: Annotated[str | None, typer.Option(help="Letters, as a,c. Default: all")] = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Without a GPU")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do every step anew")] = False,
    libpython: Annotated[
        Path | None,
        typer.Option(help="Of pack: for machines without their own", exists=True, dir_okay=False),
    ] = None,
) -> None:
    if action == Action.PACK:
        carried.pack(out, libpython)
        return
    chosen: tuple[Step, ...] = STEPS
    if steps is not None:
        letters = steps.split(",")
        if unknown := set(letters) - {step.letter for step in STEPS}:
            raise typer.BadParameter(f"--steps {unknown.pop()}: expected some of a to f")
        chosen = tuple(step for step in STEPS if step.letter in letters)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    device = Device.CPU if rehearse else Device.CUDA
    folder = out / results_folder(device)
    options = [f"--out={out}", f"--device={device.value}"]
    options += ["--quick"] if rehearse else []
    options += ["--fresh"] if fresh else []
    sys.exit(0 if run_steps(chosen, folder, options, fresh) else 1)


def run_steps(
    steps: Sequence[Step], folder: Path, options: Sequence[str], fresh: bool = False
) -> bool:
    """Do the steps that have not come to a good end yet. Have all now?

    ``options`` are those of ``foveate_benchmarks.gpu``; what became of each step is in
    ``session.json`` in ``folder``. Steps of another state of the code are done anew.
    """
    path = folder / "session.json"
    state: dict[str, Any] = {"source": source_digest(), "steps": {}}
    if path.exists() and not fresh:
        before = json.loads(path.read_text())
        state = before if before["source"] == state["source"] else state
    for step in steps:
        if state["steps"].get(step.name, {}).get("outcome") == "done":
            print(f"{step.letter}. {step.name}: done before", flush=True)
            continue
        print(f"{step.letter}. {step.name}: at most {step.limit_s:g} s", flush=True)
        state["steps"][step.name] = _run(step, options)
        print(f"{step.letter}. {step.name}: {state['steps'][step.name]}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(state, indent=1) + "\n")
    return all(state["steps"][step.name]["outcome"] == "done" for step in steps)


def command_of(step: Step, options: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "foveate_benchmarks.gpu", *step.part, *options]
    minutes = (step.limit_s - RESERVE_S) / 60
    return [*command, f"--minutes={minutes:.3f}", f"--patience={step.patience_s:g}"]


def _run(step: Step, options: Sequence[str]) -> dict[str, Any]:
    begin, others = time.monotonic(), {*psutil.Process().children()}
    process = subprocess.Popen(command_of(step, options))
    try:
        code = process.wait(step.limit_s)
        outcome = "done" if code == 0 else f"ended with {code}: a row failed, or is missing"
    except subprocess.TimeoutExpired:
        outcome = f"no end after {step.limit_s:g} s"
    left = {*psutil.Process().children()} - others
    for child in left:
        end(child.pid, GRACE_S)
    psutil.wait_procs(left, END_S - GRACE_S - 1)
    return {"outcome": outcome, "seconds": round(time.monotonic() - begin, 1)}


if __name__ == "__main__":
    run_command(main, __doc__)
