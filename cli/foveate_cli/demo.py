"""``foveate demo``: the same burst of load, adaptive, always exact, always cheapest."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from rich.console import Console

from foveate.errors import ServerError
from foveate.repository import choose_model
from foveate_loadtest.adapter_client import Adapter
from foveate_loadtest.arrivals import Schedule, scenario_schedule
from foveate_loadtest.capacity import measure_capacities
from foveate_loadtest.choices import Scenario
from foveate_loadtest.errors import TargetError
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.progress import Progress
from foveate_loadtest.report import Report
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.table import report_table
from foveate_loadtest.temporary_server import Addresses, running

__all__ = ["demo", "verdict"]

_DRAIN_S = 30.0
_SETTLE_S = 2.0  # after the queue is empty, for the level to settle
_SEED = 1
_HEADER = "  second  offered   served   p99 ms   in SLO rejected    level    queue   margin"


def demo(repository: Path = Path("model_repository"), name: str | None = None) -> int:
    """Serve, send a burst, compare; about three minutes. Returns the exit status.

    It is 0 only if the adaptive run answers more requests in time than level 0 alone, and at a
    higher quality than the cheapest level alone. Raises a :class:`~foveate.errors.FoveateError` if
    the server cannot be started.
    """
    console = Console(highlight=False)
    model = choose_model(repository, name)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cores = sorted(os.sched_getaffinity(0))
    # The server gets the first core for itself, the client the last.
    os.sched_setaffinity(0, {cores[-1]})
    with contextlib.ExitStack() as stack:
        with console.status("starting the server (a first start also measures its levels)"):
            server = stack.enter_context(running(repository, "--no-pin-cap", core=cores[0]))
        assert server.adapter is not None
        adapter = stack.enter_context(Adapter(server.adapter, model))
        stage = _Stage(console, server, adapter, model)
        with console.status("measuring the capacity of the dearest and the cheapest level"):
            capacities = measure_capacities(server.grpc, model, stage.ladder)
        schedule = scenario_schedule(Scenario.BURST, capacities, _SEED)
        console.print(
            f"level 0 serves [bold]{capacities.exact:.0f}[/] images/s, "
            f"{stage.ladder.names[stage.ladder.cheapest]} {capacities.cheapest:.0f}/s; the load is "
            f"{0.4 * capacities.exact:.0f}/s, {1.5 * capacities.exact:.0f}/s for 10 s, then "
            f"{0.4 * capacities.exact:.0f}/s again; the SLO is {stage.slo_ms:g} ms"
        )
        adaptive = stage.play("adaptive", schedule, None)
        exact = stage.play("always exact", schedule, 0)
        cheapest = stage.play("always cheapest", schedule, stage.ladder.cheapest)
    console.print()
    reports = {"adaptive": adaptive, "always exact": exact, "always cheapest": cheapest}
    console.print(report_table(reports))
    for title, report in reports.items():
        if report.problem:
            console.print(f"[yellow]{title}: {report.problem}[/]")
    reason = verdict(adaptive, exact, cheapest)
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


class _Stage:
    """A server, and a console to show its load and answers."""

    def __init__(self, console: Console, server: Addresses, adapter: Adapter, model: str) -> None:
        view = adapter.view()
        self.ladder = LadderFacts.from_adapter(view)
        self.slo_ms = float(view["slo"]["latency_ms"])
        self._console = console
        self._server = server
        self._adapter = adapter
        self._model = model

    def play(self, title: str, schedule: Schedule, pin: int | None) -> Report:
        """One run from an empty queue, with the adapter free (None) or pinned to a level."""
        config = LoadtestConfig(
            server=self._server.grpc,
            schedule=schedule,
            slo_ms=self.slo_ms,
            model=self._model,
            ladder=self.ladder,
        )
        self._wait_for_empty_queue()
        if pin is not None:
            self._adapter.pin(self.ladder.names[pin])
        time.sleep(_SETTLE_S)
        self._print(f"\n[bold]{title}[/] (rates per second)\n[dim]{_HEADER}[/]")
        report = run(config, lambda progress: self._print(self._tick(progress)))
        if pin is not None:
            self._adapter.unpin()
        if report.interrupted:
            raise KeyboardInterrupt
        return report

    def _tick(self, progress: Progress) -> str:
        queue = margin = "–"
        with contextlib.suppress(TargetError):  # a missing tick of the display is no failure
            view = self._adapter.view()
            queue = str((view["observation"] or {}).get("queue_depth", "–"))
            margin = f"{view['policy']['margin']:.2f}" if view["policy"] else "–"
        level = "–" if progress.level is None else self.ladder.names[progress.level]
        cells = (
            f"{progress.seconds:.1f}",
            f"{progress.offered:.0f}",
            f"{progress.served:.0f}",
            "–" if progress.p99_ms is None else f"{progress.p99_ms:.0f}",
            "–" if progress.attainment is None else f"{progress.attainment:.1%}",
            str(progress.rejected),
            level,
            queue,
            margin,
        )
        # One line at a time: drawing a whole table takes the sender's core for 20 ms.
        return " ".join(cell.rjust(8) for cell in cells)

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def _wait_for_empty_queue(self) -> None:
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline:
            observation = self._adapter.view()["observation"]
            if observation is not None and observation["queue_depth"] == 0:
                return
            time.sleep(0.2)
        raise ServerError(f"requests are still queued {_DRAIN_S:g} s after the last answer")
