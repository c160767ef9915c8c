"""Inputs nobody thought of, for everything that reads what others wrote: no crash and no hang.

    python -m foveate_benchmarks.hardening.fuzz [--inputs 1000000] [--seed 1] [--target decode]

Coverage-guided (atheris, libFuzzer), from seeds that are valid. An input is a find if it raises
anything but the error promised for bad input, takes three seconds of processor time, five minutes
of waiting or 2 GiB of memory; it is then written to ``build/fuzz/``. ``--target`` runs one target
and replaces its part of the result.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate_benchmarks.hardening.fuzz_targets import TARGETS, Target
from foveate_benchmarks.results import bars, save, saved

FINDS = Path(__file__).parents[3] / "build" / "fuzz"
HANG_S, MEMORY_MIB = 300, 2048
_DONE = re.compile(r"^Done (\d+) runs in", re.MULTILINE)
_COVERED = re.compile(r"cov: (\d+)")


def fuzz(name: str, target: Target, inputs: int, seed: int) -> dict[str, Any]:
    """Run one target; ``found`` is the end of what it printed if it did not get through."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:  # a target may write files too
        corpus = Path(scratch) / "corpus"
        corpus.mkdir()
        for index, data in enumerate(target.seeds()):
            (corpus / f"seed{index}").write_bytes(data)
        command = [
            *(sys.executable, "-m", "foveate_benchmarks.hardening.fuzz_one", name),
            *(f"-runs={inputs}", f"-seed={seed}", f"-max_len={target.longest}"),
            *(f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={FINDS}/"),
            str(corpus),
        ]
        start = time.monotonic()
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": scratch},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    finished = _DONE.search(done.stderr)
    covered = _COVERED.findall(done.stderr)
    return {
        "inputs": int(finished[1]) if finished else 0,
        "seconds": round(time.monotonic() - start, 1),
        "covered_edges": int(covered[-1]) if covered else 0,
        "found": None if finished and not done.returncode else done.stderr[-4000:],
    }


def main(
    inputs: Annotated[int, typer.Option(help="Over all targets.")] = 1_000_000,
    seed: int = 1,
    target: str | None = None,
    keep: Annotated[bool, typer.Option("--save/--no-save")] = True,
) -> None:
    FINDS.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = saved("fuzz").get("targets", {}) if target and keep else {}
    names = [target] if target else list(TARGETS)
    for name in names:
        count = round(inputs * TARGETS[name].share)
        results[name] = fuzz(name, TARGETS[name], count, seed)
        print(name, results[name]["found"] or results[name], flush=True)
        if keep:
            total = sum(result["inputs"] for result in results.values())
            save("fuzz", inputs=total, targets=results)
    bars(
        {
            f"{name}: {round(inputs * TARGETS[name].share)} inputs, no find": not results[name][
                "found"
            ]
            for name in names
        }
    )


if __name__ == "__main__":
    typer.run(main)
