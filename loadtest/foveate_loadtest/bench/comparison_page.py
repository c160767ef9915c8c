"""A comparison as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from foveate_loadtest.bench.figures import front_figure
from foveate_loadtest.bench.findings import Finding, findings, points, promises
from foveate_loadtest.figures import latency_figure, time_figure
from foveate_loadtest.html import number, save_page, table

__all__ = ["write_page"]


def write_page(data: Mapping[str, Any], model: str, path: Path) -> None:
    """Write ``path`` from the data of a book, however little was played."""
    body = Template(Path(__file__).with_suffix(".html").read_text()).substitute(
        seconds=f"{data['seconds']:g}",
        slo_ms=f"{data['slo_ms']:g}",
        promises=table(
            ("", "answers in time", "promised", "95 %", "by their labels", ""),
            (
                (
                    one.who,
                    str(one.answers),
                    f"{one.promised:.2%}",
                    "{:.2%} to {:.2%}".format(*one.interval),
                    f"{one.measured:.2%}",
                    "kept" if one.kept else "NOT kept",
                )
                for one in promises(data)
            ),
        ),
        traces="\n".join(_trace(found, data) for found in findings(data)),
        levels=table(
            ("level", "quality", "carries, 1/s"),
            (
                (
                    f"{one['index']} {one['level']}",
                    f"{one['quality']:.2%}",
                    f"{one['capacity']:.0f}",
                )
                for one in data["levels"] or ()
            ),
        ),
        environment=table(
            ("what", ""), ((key, str(value)) for key, value in data["environment"].items())
        ),
    )
    save_page(path, f"Serving {model}: who wins", body)


def _trace(found: Finding, data: Mapping[str, Any]) -> str:
    runs = [
        facts
        for facts in data["runs"].values()
        if (facts["trace"], facts["seed"]) == (found.name, 1) and facts["problem"] is None
    ]
    rows = (
        (
            f"{one.who}, best fixed" if one.who == found.best_fixed else one.who,
            f"{one.attainment:.2%}",
            number(one.quality, ".2%"),
            number(one.measured, ".2%"),
            f"{one.right:.2%}",
            "" if one.who == "adaptive" else points(one.ahead),
            number(one.p99_ms, ".0f"),
            f"{one.rejected:.2%}",
            str(one.errors),
            str(one.runs),
        )
        for one in found.contenders
    )
    head = (
        "",
        "in time",
        "quality",
        "measured",
        "right",
        "ahead",
        "p99, ms",
        "rejected",
        "errors",
        "runs",
    )
    invalid = "".join(f'<p class="invalid">invalid: {escape(why)}</p>' for why in found.invalid)
    noise = "" if found.noise is None else f"; adaptive differs from itself by {found.noise:.2%}"
    figures = (
        front_figure(found)
        + latency_figure(runs, data["slo_ms"])
        + time_figure(runs, data["slo_ms"])
        if runs
        else ""
    )
    return (
        f"<h2>{escape(found.name)}: {escape(found.title)}</h2>\n"
        f"<p>{found.requests} requests a run, seeds: {found.seeds}{noise}.</p>\n"
        f"{table(head, rows)}\n{invalid}\n{figures}"
    )
