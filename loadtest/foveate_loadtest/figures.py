"""Pictures of runs, as SVG for a page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

__all__ = ["colour", "latency_figure", "svg", "time_figure"]

_COLOURS = {"adaptive": "#0b6e4f", "threshold": "#c8553d", "limiter": "#7d5ba6"}
_GREYS = ("#111111", "#4a4a4a", "#777777", "#9d9d9d", "#c0c0c0", "#d8d8d8")

Runs = Sequence[Mapping[str, Any]]  # of the same arrivals: who, take, and their curves


def latency_figure(runs: Runs, slo_ms: float) -> str:
    """Share of the answers within a latency."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        shares = [
            100 * n / max(1, len(run["latency_ms"]) - 1) for n in range(len(run["latency_ms"]))
        ]
        axes.plot(run["latency_ms"], shares, color=colour(run["who"]), label=_label(run))
    axes.axvline(slo_ms, color="black", linestyle=":", linewidth=1)
    axes.set(xscale="log", xlabel="latency, ms", ylabel="of the answers, %", title="Latencies")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return svg(figure)


def time_figure(runs: Runs, slo_ms: float) -> str:
    """p99 and level of each second under the offered rate."""
    figure = Figure(figsize=(10.6, 6), layout="constrained")
    rate, p99, level = figure.subplots(3, 1, sharex=True)
    rate.step(range(len(runs[0]["series"]["offered"])), runs[0]["series"]["offered"], color="black")
    rate.set_ylabel("offered, 1/s")
    rate.set_ylim(bottom=0)
    for run in runs:
        for axes, key in ((p99, "p99_ms"), (level, "level")):
            values = [float("nan") if v is None else v for v in run["series"][key]]
            axes.plot(values, color=colour(run["who"]), linewidth=1, label=_label(run))
    p99.axhline(slo_ms, color="black", linestyle=":", linewidth=1)
    p99.set(ylabel="p99 of answers, ms", yscale="log")
    p99.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    p99.yaxis.set_major_formatter("{x:g}")
    p99.yaxis.set_minor_formatter(NullFormatter())
    level.set(ylabel="mean level", xlabel="intended send, s")
    for axes in (rate, p99, level):
        axes.grid(alpha=0.3)
    level.legend(fontsize=7)
    return svg(figure)


def colour(who: str) -> str:
    if who.startswith("fixed"):
        return _GREYS[min(int(who.split()[1]), len(_GREYS) - 1)]
    return _COLOURS.get(who, _COLOURS["adaptive"])


def svg(figure: Figure) -> str:
    """The same of the same figure; without the XML declaration, to stand within HTML."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "foveate", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _label(run: Mapping[str, Any]) -> str:
    return str(run["who"]) if run["take"] == 1 else f"{run['who']} again"
