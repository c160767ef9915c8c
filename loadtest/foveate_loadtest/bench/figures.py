"""The picture of a comparison, as SVG for a page."""

from __future__ import annotations

from matplotlib.figure import Figure

from foveate_loadtest.bench.findings import Finding
from foveate_loadtest.figures import colour, svg

__all__ = ["front_figure"]


def front_figure(finding: Finding) -> str:
    """Share answered in time against the quality of those answers, a point for each policy."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for one in finding.contenders:
        if one.quality is not None:
            axes.plot(
                100 * one.attainment,
                100 * one.quality,
                "*" if one.who == "adaptive" else "o",
                markersize=13 if one.who == "adaptive" else 6,
                color=colour(one.who),
                label=one.who,
            )
    axes.set(xlabel="in time, %", ylabel="quality of those answers, %", title="Who is where")
    return svg(figure, axes)
