"""Reports as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from foveate_loadtest.html import number
from foveate_loadtest.report import Report

__all__ = ["report_table"]


def report_table(reports: Mapping[str, Report]) -> Table:
    """One row per report, named by its key."""
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for column in (
        "in SLO",
        "p50 ms",
        "p99 ms",
        "rejected",
        "errors",
        "quality",
        "measured",
        "recovered",
    ):
        table.add_column(column, justify="right")
    for name, report in reports.items():
        latency = report.latency_ms
        table.add_row(
            name,
            f"{report.attainment:.2%}",
            number(latency.p50 if latency else None, ".0f"),
            number(latency.p99 if latency else None, ".0f"),
            str(report.rejected),
            str(sum(report.errors.values())),
            number(report.ladder_quality, ".4f"),
            number(report.measured_quality, ".4f"),
            number(report.recovered, ".0%"),
        )
    return table
