"""``foveate bench serve``, and what is kept of it in ``benchmarks/results/serve.json``.

    python -m foveate_benchmarks.control.serve [--quick] [--seconds 60] [--seeds 3]
        [--output .state/serve]

Seven traces, each adaptively (first and last), at every fixed level, under a threshold controller
and a concurrency limiter: 80 minutes of a quiet machine for the first seed, then two more seeds of
who was within a point. It goes on with the trace that was interrupted. ``--quick`` takes ten
minutes and writes ``serve_quick.json``. All requests are in ``OUTPUT/rows``, the page is
``OUTPUT/index.html``.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import typer

from foveate_benchmarks.results import conclude
from foveate_loadtest.bench.findings import findings, interval, points, promises
from foveate_loadtest.bench.plan import QUICK, TRACES, order

MARGIN = 0.005  # of the right answers, by which adaptive may be behind
_BULKY = ("series", "latency_ms")  # of a run; OUTPUT has them


def judge(data: dict[str, Any], traces: Iterable[str]) -> dict[str, bool]:
    """The bars of a comparison of ``traces``: which were met."""
    wanted = [run.key for name in traces for run in order(name, 1, len(data["levels"]))]
    played = sum(key in data["runs"] for key in wanted)
    checks = {
        f"{played} of {len(wanted)} runs of the first seed were played": played == len(wanted)
    }
    checks |= {
        f"{facts['trace']}, {facts['who']}, seed {facts['seed']}: {facts['problem']}": False
        for facts in data["runs"].values()
        if facts["problem"]
    }
    if data["runs"] and all(checks.values()):
        lag = max(facts["send_lag_p99_ms"] for facts in data["runs"].values())
        checks[f"p99 send lag of every run at most 5 ms: {lag:.1f} ms"] = True
    for seen in promises(data):
        low, high = seen.interval
        checks[
            f"{seen.who}: {seen.measured:.2%} of {seen.answers} answers in time are right, "
            f"promised {seen.promised:.2%} ({low:.2%} to {high:.2%})"
        ] = seen.kept
    for found in findings(data):
        for title, rival in found.rivals.items():
            name = title if title != "best fixed in hindsight" else f"{title} ({rival.who})"
            text = f"{found.name}: {points(rival.ahead)} points of right answers ahead of {name}"
            ahead = mean(rival.ahead) if rival.ahead else -math.inf
            met = ahead >= -MARGIN
            ends = interval(rival.ahead)
            if found.noise is not None and found.noise > max(MARGIN, abs(ahead)):
                text += f"; undecided, as adaptive differs from itself by {100 * found.noise:.2f}"
                met = False
            elif ends is not None and ends[0] < -MARGIN <= ends[1]:
                text += "; undecided, as the interval holds better and worse"
                met = False
            checks[f"{text}, at least {-100 * MARGIN:g}"] = met
    return checks


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code; Ctrl-C reaches it, too, and it ends by itself."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()


def main(
    quick: bool = False,
    seconds: float = 60.0,
    seeds: int = 3,
    output: Path | None = None,
    fresh: bool = False,
    report_only: bool = False,
) -> None:
    name = "serve_quick" if quick else "serve"
    folder = output or Path(".state") / name.replace("_", "-")
    command = [sys.executable, "-m", "foveate_cli.main", "bench", "serve", f"--output={folder}"]
    options = ["--quick"] if quick else [f"--seconds={seconds:g}", f"--seeds={seeds}"]
    options += ["--fresh"] if fresh else []
    options += ["--report-only"] if report_only else []
    code = _wait(subprocess.Popen([*command, *options]))
    if code:
        sys.exit(code)
    data = json.loads((folder / "serve.json").read_text())
    for facts in data["runs"].values():
        for key in _BULKY:
            del facts[key]
    checks = judge(data, QUICK if quick else TRACES)
    conclude(name, checks, **data)


if __name__ == "__main__":
    typer.run(main)
