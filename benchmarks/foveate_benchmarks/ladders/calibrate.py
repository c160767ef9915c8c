"""A ladder searched from nothing for the demo model: its span, what it loses, and whom it beats.

    python -m foveate_benchmarks.ladders.calibrate [NAME] [--repository model_repository]

In a copy of the repository, as a user would: ``foveate compress`` with distillation, ``foveate
train-selector`` and ``foveate calibrate``; slim weights and selectors that stand beside the model
already are taken as they are. What is served stays. Interrupted, the calibration goes on where it
stopped. Writes ``results/calibration.json``, and the report beside it if ``--report`` says where.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer

from foveate_benchmarks.results import conclude

SLIM, SELECTOR = "slim50.safetensors", "selector.safetensors"
COMPRESS = ("--target-macs=0.5", "--images=4000", "--distill-epochs=4")


def foveate(command: str, model: str, repository: Path, *options: str) -> dict[str, Any]:
    """What a command says with ``--json``."""
    words = [command, model, f"--repository={repository}", *options, "--json"]
    print("foveate", *words, flush=True)
    process = [sys.executable, "-m", "foveate_cli.main", *words]
    done = subprocess.run(process, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def judge(found: dict[str, Any], batch: int) -> dict[str, bool]:
    """What must hold of a calibration, and what of it does."""
    levels, contests = found["levels"], found["contests"]
    times = [level[f"ms_batch_{batch}"] for level in levels]
    lost = levels[0]["quality"] - levels[-1]["quality"]
    print(f"{len(levels)} levels, {times[0] / times[-1]:.2f} x, {lost:.2%} lost at the cheapest")
    rivals = [
        (contest, family, rival)
        for contest in contests
        for family, rival in contest["uniform"].items()
    ]
    above, better = 0, 0
    for contest, family, rival in rivals:
        value, _, most = rival["ladder_is_better_by"]
        above += value < 0
        better += most < 0
        if value < 0:
            ms = contest["budget_ms"]
            print(f"{ms:.1f} ms: {family} is above the ladder by {-value:.2%}")
    print(f"{len(rivals)} comparisons: the ladder is below in {above}, beyond chance in {better}")
    return {
        "at least 6 levels": len(levels) >= 6,
        "at least 5 x between the dearest and the cheapest": times[0] >= 5 * times[-1],
        "at most 2 points lost at the cheapest": lost <= 0.02,
        "no uniform schedule is better at any budget beyond chance": better == 0,
    }


def main(
    name: str = "digits",
    repository: Path = Path("model_repository"),
    report: Path | None = None,
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "models"
        shutil.copytree(repository / name, copy / name)
        files = copy / name / "1"
        made = {}
        if not (files / SLIM).exists():
            made["compress"] = foveate("compress", name, copy, *COMPRESS, f"--out={SLIM}")
        if not (files / SELECTOR).exists():
            made["selector"] = foveate("train-selector", name, copy, "--budget-ms=30")
        where = () if report is None else (f"--report={report.absolute()}",)
        found = foveate("calibrate", name, copy, f"--variant={SLIM}", *where)
    checks = judge(found, found["settings"]["batch"])
    found.pop("report")
    conclude("calibration", checks, **made, **found)


if __name__ == "__main__":
    typer.run(main)
