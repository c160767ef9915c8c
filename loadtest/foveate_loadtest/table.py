"""Reports as a table for people."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from foveate_loadtest.report import Report

__all__ = ["report_table"]


def report_table(reports: Mapping[str, Report]) -> Table:
    """One row a report, named by its key."""
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
            _text(latency.p50 if latency else None, ".0f"),
            _text(latency.p99 if latency else None, ".0f"),
            str(report.rejected),
            str(sum(report.errors.values())),
            _text(report.ladder_quality, ".4f"),
            _text(report.measured_quality, ".4f"),
            _text(report.recovered, ".0%"),
        )
    return table


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
