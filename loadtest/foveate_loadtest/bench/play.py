"""One run on the real server, and its stored results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from foveate_adapter.control import Config
from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.bench.host import wait_until_idle
from foveate_loadtest.bench.plan import Policy, Run
from foveate_loadtest.bench.threshold import driving
from foveate_loadtest.curves import curves
from foveate_loadtest.progress import Progress
from foveate_loadtest.report import Report
from foveate_loadtest.rows import Outcome, Rows
from foveate_loadtest.stage import Stage, row

__all__ = ["play", "save_rows"]


def play(
    stage: Stage,
    run: Run,
    schedule: Schedule,
    slow: Config,
    images: int,
    on_progress: Callable[[Progress], None],
) -> tuple[dict[str, Any], Rows]:
    """What is kept of the run, and its rows.

    Args:
        slow: what the threshold controller aims at.
        images: how many different ones to send.
    """
    pins = {Policy.FIXED: run.level, Policy.LIMITER: 0}
    started = datetime.now(UTC)
    with driving(stage, slow) if run.policy is Policy.THRESHOLD else contextlib.nullcontext():
        report, rows = stage.play(
            schedule,
            pins.get(run.policy),
            limiter=run.policy is Policy.LIMITER,
            images=images,
            on_progress=on_progress,
        )
    wait_until_idle(stage)
    facts = {
        "trace": run.name,
        "title": run.trace.title,
        "seed": run.trace.seed,
        "who": run.who,
        "take": run.take,
        "started": started.isoformat(timespec="seconds"),
        **row(report),
        **_more(report, rows),
    }
    return facts, rows


def save_rows(rows: Rows, folder: Path, run: Run) -> None:
    """Every request of a run as ``folder/NAME.parquet``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.save(folder / f"{run.key.replace(', ', '-').replace(' ', '-')}.parquet")


def _more(report: Report, rows: Rows) -> dict[str, Any]:
    in_time = (rows.outcome == Outcome.OK) & (rows.latency <= report.slo_ms / 1e3)
    right = (rows.answer == rows.label) & in_time
    return {
        "seconds": report.seconds,
        "commit": report.environment["commit"],
        "goodput": report.goodput,
        "rejection_p99_ms": report.rejection_ms and report.rejection_ms.p99,
        "correct_in_time": int(right.sum()),
        "in_time": int(in_time.sum()),
        "by_level": {  # answers in time, and how many of them were right
            str(level): [int((rows.level[kept] == level).sum()) for kept in (in_time, right)]
            for level in np.unique(rows.level[in_time]).tolist()
        },
        **curves(report, rows),
    }
