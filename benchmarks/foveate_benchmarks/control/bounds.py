"""What a run could have been at best, and what the simulation says it should have been."""

from __future__ import annotations

from foveate_benchmarks.control.runs import Run
from foveate_benchmarks.results import SLO_MS
from foveate_loadtest.bench.book import Book
from foveate_loadtest.simulate.bound import best_quality
from foveate_loadtest.simulate.compare import Scene
from foveate_loadtest.simulate.fit import Throughput, fit
from foveate_loadtest.simulate.server import Server, simulate
from foveate_loadtest.simulate.verdict import Verdict, judge, recovered

__all__ = ["bound", "fitted", "simulated"]


def bound(book: Book, run: Run, attainment: float) -> float | None:
    """Share of the quality that who knew the arrivals could have recovered, as often in time.

    None if nobody could have been in time so often. It is remembered in the book.
    """
    known = book.data["bounds"].get(run.key)
    if known is None or known["attainment"] != attainment:
        quality = book.column("quality")
        best = best_quality(
            book.schedule(run).times.tolist(),
            seconds=[1 / capacity for capacity in book.capacities(run)],
            quality=quality,
            slo_s=SLO_MS / 1e3,
            attainment=attainment,
        )
        known = {"attainment": attainment, "recovered": recovered(best, quality)}
        book.data["bounds"][run.key] = known
        book.save()
    share: float | None = known["recovered"]
    return share


def fitted(book: Book, speed: float = 1.0) -> Server:
    """The simulated server of the measured capacities, on a machine ``speed`` times as fast."""
    levels = book.data["levels"]
    return fit(
        book.table,
        {
            level["index"]: Throughput(
                capacity=speed * level["capacity"], batch_s=level["batch_s"] / speed
            )
            for level in levels
        },
    )


def simulated(book: Book, run: Run) -> Verdict:
    """The same arrivals under governor and law, on a simulated server as fast as the real one."""
    server = fitted(book, book.speed(run))
    scene = Scene(ladder=book.ladder, table=book.table, slo_s=SLO_MS / 1e3, server=server)
    played = simulate(
        book.schedule(run).times.tolist(), inner=scene.inner, outer=scene.outer, server=server
    )
    return judge(played, quality=scene.quality, slo_s=scene.slo_s)
