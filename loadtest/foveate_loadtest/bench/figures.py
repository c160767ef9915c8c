"""Pictures of a comparison, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveate_loadtest.bench.findings import ADAPTIVE, Finding
from foveate_loadtest.figures import colour, svg

__all__ = ["front_figure", "fronts_figure"]

_COLUMNS = 4


def front_figure(finding: Finding) -> str:
    """Share answered in time against the quality of those answers, a point for each policy."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    _draw(axes, finding)
    axes.set(xlabel="in time, %", ylabel="quality of those answers, %", title="Who is where")
    axes.legend(fontsize=7)
    return svg(figure)


def fronts_figure(found: Sequence[Finding]) -> str:
    """The same of every trace, side by side."""
    rows = len(found) // _COLUMNS + 1  # with a place for the legend
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.6 * rows), layout="constrained")
    cells = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes, finding in zip(cells, found, strict=False):
        _draw(axes, finding)
        axes.set_title(f"{finding.name}: {finding.title}", fontsize=9)
    for axes in cells[len(found) :]:
        axes.axis("off")
    if found:
        named = {
            label: handle
            for axes in cells[: len(found)]
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        legend = cells[len(found)]
        legend.legend(named.values(), named.keys(), loc="center", frameon=False)
    figure.supxlabel("in time, %")
    figure.supylabel("quality of those answers, %")
    return svg(figure)


def _draw(axes: Axes, finding: Finding) -> None:
    for one in finding.contenders:
        if one.quality is not None:
            ours = one.who == ADAPTIVE
            axes.plot(
                100 * one.attainment,
                100 * one.quality,
                "*" if ours else "o",
                markersize=13 if ours else 6,
                zorder=3 if ours else 2,
                color=colour(one.who),
                label=one.who,
            )
    left, _ = axes.get_xlim()
    axes.set_xlim(left, 100 + (100 - left) / 20)
    axes.grid(alpha=0.3)
