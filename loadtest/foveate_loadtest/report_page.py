"""A run as one HTML file."""

from __future__ import annotations

from html import escape
from pathlib import Path

from foveate_loadtest.curves import curves
from foveate_loadtest.figures import latency_figure, time_figure
from foveate_loadtest.html import number, save_page, table
from foveate_loadtest.report import Report
from foveate_loadtest.rows import Rows

__all__ = ["write_page"]


def write_page(report: Report, rows: Rows, path: Path) -> None:
    """Write ``path``: the load, the answers, and whether the run is valid."""
    run = {"who": report.scenario, "take": 1, **curves(report, rows)}
    facts = [
        ("requests", f"{report.requests} in {report.seconds:g} s, {report.offered_rate:.1f}/s"),
        (f"answered within {report.slo_ms:g} ms", f"{report.attainment:.2%}"),
        ("of those admitted", f"{report.attainment_admitted:.2%}"),
        ("rejected", str(report.rejected)),
        *((f"errors: {kind}", str(count)) for kind, count in report.errors.items()),
        ("quality of the answers in time, by their levels", number(report.ladder_quality, ".2%")),
        ("by their labels", number(report.measured_quality, ".2%")),
        ("recovered, from cheapest to exact", number(report.recovered, ".0%")),
        ("arrivals", f"seed {report.seed}, CV² {report.cv2:g}"),
        ("their SHA-256", report.arrivals_sha256),
    ]
    times = [
        ("latency of answers", report.latency_ms),
        ("latency of rejections", report.rejection_ms),
        ("lateness of the client", report.send_lag_ms),
    ]
    lines = [
        *(f'<p class="invalid">invalid: {escape(why)}</p>' for why in [report.problem] if why),
        table(("", ""), facts),
        table(
            ("milliseconds", "p50", "p99", "p99.9", "longest"),
            (
                (name, *(f"{x:.1f}" for x in (seen.p50, seen.p99, seen.p999, seen.longest)))
                for name, seen in times
                if seen is not None
            ),
        ),
        table(
            ("level", "of the answers", "of the time"),
            ((one.name, f"{one.answers:.2%}", f"{one.time:.2%}") for one in report.levels),
        ),
        latency_figure([run], report.slo_ms),
        time_figure([run], report.slo_ms),
        *(f"<p>{escape(f'{kind}: {message}')}</p>" for kind, message in report.messages.items()),
        table(("environment", ""), report.environment.items()),
    ]
    save_page(path, f"Load test: {report.scenario}", "\n".join(lines))
