"""What is promised about control, measured on the real server, part by part.

    python -m foveate_benchmarks.control [PART ...] [--seconds 30] [--fresh] [--redo TEXT]
        [--results PATH]

gRPC, PIXELS, one image a request, open loop; the server on the first core, the client on the last;
SLO 200 ms. A rejection or an error is a miss. Loads are multiples of capacities: all levels are
measured at first, the cheapest once more before each trace, as machines drift. Policies of a trace
get the same arrivals, in the order A, B, B, A; fixed levels are pinned through the adapter.

Every run is saved as it ends, in ``benchmarks/results/control.json``. What is there is not played
again, except runs whose key contains the text of ``--redo``; ``--fresh`` starts over. Without PART
all of them, which takes 70 minutes:

calm: nothing is lost when nothing presses. floor: fixed-cheapest is hardly ever in time more often.
quality: what is recovered of it, beside the clairvoyant bound. reaction: ten steps. midpoint: no
hunting between two levels. overload: goodput of 1.3 and 2 times the capacity. admission: what it
does for fixed levels. fidelity: the simulation against the runs.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from foveate.levels.ladder import Ladder
from foveate.settings import state_dir
from foveate_benchmarks.control.bars import judge, table
from foveate_benchmarks.control.parts import PARTS
from foveate_benchmarks.control.runs import Player
from foveate_benchmarks.results import RESULTS, SLO_MS, bars
from foveate_loadtest.bench.book import Book
from foveate_loadtest.environment import environment
from foveate_loadtest.simulate.files import load_table
from foveate_loadtest.temporary_server import cores_apart


def main(
    parts: Annotated[list[str] | None, typer.Argument(metavar="PART")] = None,
    name: str = "digits",
    repository: Path = Path("model_repository"),
    seconds: float = 30.0,
    fresh: bool = False,
    redo: str | None = None,
    results: Path = RESULTS / "control.json",
) -> None:
    wanted = parts or list(PARTS)
    if unknown := [part for part in wanted if part not in PARTS]:
        raise typer.BadParameter(f"PART={unknown[0]!r}: known are {', '.join(PARTS)}")
    ladder = Ladder.load(repository / name / "1" / "ladder.json")
    book = Book(results, ladder, seconds, SLO_MS, environment(), fresh)
    with contextlib.closing(Player(repository, name, cores_apart(), SLO_MS)) as player:
        if not book.measured:
            levels = player.capacities()
            # The server has measured its table by now, if there was none.
            book.measure(load_table(None, ladder, state_dir()), levels)
            print({level["level"]: round(level["capacity"], 1) for level in levels}, flush=True)
        todo = {run.key: run for part in wanted for run in PARTS[part]}
        again = [run for key, run in todo.items() if redo is not None and redo in key]
        missing = {run.key: run for run in (*book.missing(todo.values()), *again)}
        # Runs without admission last: they need another server.
        for run in sorted(missing.values(), key=lambda run: not run.admission):
            if not book.met(run):
                book.meet(run, player.capacity(run.admission))
                print(f"{run.trace.key}: speed {book.speed(run):.2f}", flush=True)
            facts = player.play(run, book.schedule(run), seconds)
            book.put(run, facts)
            print(
                f"{run.key}: in time {facts['attainment']:.2%}, p99 {facts['p99_ms'] or 0:.0f} ms, "
                f"recovered {facts['recovered'] or 0:.2f}, {facts['problem'] or 'client on time'}",
                flush=True,
            )
    judged = judge(book)
    checks = {}
    for part, runs in PARTS.items():
        for bar in judged.get(part, []):
            if bar.met is None:
                print("      ", f"{part}: {bar.text}")
            else:
                checks[f"{part}: {bar.text}"] = bar.met
        if part not in judged:
            print("      ", f"{part}: {len(book.missing(runs))} of {len(runs)} runs to be played")
    book.data["rows"], book.data["bars"] = table(book), checks
    book.save()
    bars(checks)


if __name__ == "__main__":
    typer.run(main)
