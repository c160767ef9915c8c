"""Part ``tests``: ``pytest tests/gpu``, a row for each test."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.rows import OutOfTime, Rows, table

__all__ = ["measure", "report"]

ROOT = Path(__file__).parents[3]
# Plugins that the machine has for other packages may not import beside our numpy.
OPTIONS = ("-q", "-p", "no:cacheprovider", "--disable-plugin-autoload", f"--rootdir={ROOT}")


def measure(rows: Rows, clock: Clock, asked: Asked) -> None:
    recorder = _Recorder(rows)
    code = pytest.main([*OPTIONS, str(ROOT / "tests" / "gpu")], plugins=[recorder])
    if recorder.late:
        raise OutOfTime
    if code not in (0, 1, pytest.ExitCode.NO_TESTS_COLLECTED):  # where all have their rows
        raise RuntimeError(f"pytest ended with {code!r}")


class _Recorder:
    """Runs each test that has no row yet as a row."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.late = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self._rows]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        try:
            self._rows.run(item.nodeid, partial(_row, item, nextitem))
        except OutOfTime:
            self.late, item.session.shouldstop = True, "out of time"
        return True


def _row(item: pytest.Item, nextitem: pytest.Item | None) -> dict[str, Any]:
    reports = runtestprotocol(item, nextitem=nextitem)
    seconds = sum(report.duration for report in reports)
    outcomes = {report.outcome: report for report in reports}
    if failed := outcomes.get("failed"):
        return {"error": failed.longreprtext[-1000:].strip(), "seconds": seconds}
    if skipped := outcomes.get("skipped"):
        assert isinstance(skipped.longrepr, tuple)
        _, _, reason = skipped.longrepr  # without file and line
        return {"skipped": reason, "seconds": seconds}
    return {"passed": True, "seconds": seconds}


def report(rows: Rows, asked: Asked) -> dict[str, bool]:
    lines = [
        (key, "skipped" if "skipped" in row else "passed", f"{row['seconds']:.1f}")
        for key, row in rows.items()
    ]
    table("tests", ("test", "outcome", "seconds"), lines)
    return {}
