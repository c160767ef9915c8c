"""``foveate demo``: the same burst of load, adaptive, always exact, always cheapest."""

from __future__ import annotations

import contextlib
import signal
from functools import partial
from pathlib import Path

from rich.console import Console

from foveate.repository import choose_model
from foveate_loadtest.arrivals import scenario_schedule
from foveate_loadtest.choices import Scenario
from foveate_loadtest.errors import TargetError
from foveate_loadtest.html import number
from foveate_loadtest.progress import Progress
from foveate_loadtest.report import Report
from foveate_loadtest.stage import Stage
from foveate_loadtest.table import report_table
from foveate_loadtest.temporary_server import cores_apart, running

__all__ = ["demo", "verdict"]

_SEED = 1
_HEADER = "  second  offered   served   p99 ms   in SLO rejected    level    queue   margin"


def demo(repository: Path = Path("model_repository"), name: str | None = None) -> int:
    """Serve, send a burst, compare; about three minutes. Returns the exit status.

    It is 0 only if the adaptive run answers more requests in time than level 0 alone, and at a
    higher quality than the cheapest level alone. Raises a :class:`~foveate.errors.FoveateError` if
    the server cannot be started.
    """
    console = Console(highlight=False)
    say = partial(console.print, soft_wrap=True)
    model = choose_model(repository, name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    core = cores_apart()
    with contextlib.ExitStack() as stack:
        with console.status("starting the server (a first start also measures its levels)"):
            server = stack.enter_context(running(repository, "--no-pin-cap", core=core))
            stage = Stage(server, model)
        with console.status("measuring the capacity of the dearest and the cheapest level"):
            capacities = stage.capacities()
        schedule = scenario_schedule(Scenario.BURST, capacities, _SEED)
        console.print(
            f"level 0 serves [bold]{capacities.exact:.0f}[/] images/s, "
            f"{stage.ladder.names[stage.ladder.cheapest]} {capacities.cheapest:.0f}/s; the load is "
            f"{0.4 * capacities.exact:.0f}/s, {1.5 * capacities.exact:.0f}/s for 10 s, then "
            f"{0.4 * capacities.exact:.0f}/s again; the SLO is {stage.slo_ms:g} ms"
        )
        reports: dict[str, Report] = {}
        pins = {"adaptive": None, "always exact": 0, "always cheapest": stage.ladder.cheapest}
        for title, pin in pins.items():
            say(f"\n[bold]{title}[/] (rates per second)\n[dim]{_HEADER}[/]")
            reports[title], _ = stage.play(
                schedule, pin, on_progress=lambda progress: say(_tick(stage, progress))
            )
    console.print()
    console.print(report_table(reports))
    for title, report in reports.items():
        if report.problem:
            console.print(f"[yellow]{title}: {report.problem}[/]")
    reason = verdict(*reports.values())
    console.print(f"[red]failed: {reason}[/]" if reason else "[green]adaptive wins[/]")
    return 1 if reason else 0


def verdict(adaptive: Report, exact: Report, cheapest: Report) -> str | None:
    """Why the adaptive run fails the comparison; None if it passes."""
    if adaptive.attainment <= exact.attainment:
        return (
            f"adaptive answered {adaptive.attainment:.2%} in time, level 0 alone "
            f"{exact.attainment:.2%}"
        )
    ours, theirs = adaptive.ladder_quality or 0.0, cheapest.ladder_quality or 0.0
    if ours <= theirs:
        return f"adaptive answers have quality {ours:.4f}, the cheapest level alone {theirs:.4f}"
    return None


def _tick(stage: Stage, progress: Progress) -> str:
    queue = margin = "–"
    with contextlib.suppress(TargetError):  # a missing tick of the display is no failure
        view = stage.adapter.view()
        queue = str((view["observation"] or {}).get("queue_depth", "–"))
        margin = f"{view['policy']['margin']:.2f}" if view["policy"] else "–"
    cells = (
        f"{progress.seconds:.1f}",
        f"{progress.offered:.0f}",
        f"{progress.served:.0f}",
        number(progress.p99_ms, ".0f"),
        number(progress.attainment, ".1%"),
        str(progress.rejected),
        "–" if progress.level is None else stage.ladder.names[progress.level],
        queue,
        margin,
    )
    # One line at a time: drawing a whole table takes the sender's core for 20 ms.
    return " ".join(cell.rjust(8) for cell in cells)
