"""The whole comparison: play the missing runs, one after the other, and report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from rich.console import Console
from rich.status import Status

from foveate.levels.ladder import Ladder
from foveate.settings import state_dir
from foveate_adapter.control import Config
from foveate_loadtest.bench.book import Book
from foveate_loadtest.bench.comparison_page import write_page
from foveate_loadtest.bench.findings import close_rivals
from foveate_loadtest.bench.host import Host
from foveate_loadtest.bench.pictures import gather
from foveate_loadtest.bench.plan import Run, order
from foveate_loadtest.bench.play import play, save_rows
from foveate_loadtest.environment import environment
from foveate_loadtest.errors import TargetError
from foveate_loadtest.html import number
from foveate_loadtest.progress import Progress
from foveate_loadtest.simulate.files import load_table

__all__ = ["Session"]

_TRIES = 3  # of a run that is invalid
_OVERHEAD_S = 9.0  # of a run, for what is not load: starting the client, settling


class Session:
    """Results in a folder: ``serve.json``, ``index.html`` and ``rows/*.parquet``."""

    def __init__(
        self,
        *,
        repository: Path,
        model: str,
        output: Path,
        traces: list[str],
        seconds: float,
        seeds: int,
        slo_ms: float,
        image_set: str,
        fresh: bool,
        server_core: int,
        console: Console,
    ) -> None:
        """Raises :class:`ResultsError` if the folder has results of other inputs."""
        here = environment()
        self._repository, self._model, self._output = repository, model, output
        self._traces, self._seeds, self._console = traces, seeds, console
        self._server_core = server_core
        with console.status("gathering images"):
            self._pictures = gather(image_set, output, repository / model)
        self._ladder = Ladder.load(repository / model / "1" / "ladder.json")
        self._book = Book(
            output / "serve.json",
            self._ladder,
            seconds,
            slo_ms,
            {**here, "server_cores": str(server_core)},
            fresh,
            {
                "commit": here["commit"],
                "images": {"set": image_set, "count": self._pictures.count},
            },
        )

    def play(self) -> bool:
        """Play the missing runs; False if interrupted.

        Raises :class:`TargetError` when the server dies.
        """
        core, pictures = self._server_core, self._pictures
        with contextlib.closing(
            Host(self._repository, self._model, core, self._book.slo_ms, pictures)
        ) as host:
            try:
                self._measure(host)
                for run, left in self._missing():
                    self._one(host, run, left)
            except KeyboardInterrupt:
                self._say("interrupted: what was played is kept")
                return False
            except httpx.HTTPError as error:
                raise TargetError(
                    f"the server is gone; completed runs are kept: {error}"
                ) from error
        return True

    def report(self) -> None:
        write_page(self._book.data, self._model, self._output / "index.html")
        self._say(f"{self._output / 'index.html'}, {self._output / 'serve.json'}")

    def _measure(self, host: Host) -> None:
        if self._book.measured:
            return
        with self._console.status("starting the server, measuring what each level carries"):
            levels = host.capacities()
            # The server has measured its table by now, if there was none.
            self._book.measure(load_table(None, self._ladder, state_dir()), levels)
        carried = ", ".join(f"{level['level']} {level['capacity']:.0f}/s" for level in levels)
        self._say(carried)

    def _missing(self) -> Iterator[tuple[Run, int]]:
        """Runs to play, and how many are left after each, as far as is known."""
        levels = len(self._book.data["levels"])
        yield from self._not_played([list(order(name, 1, levels)) for name in self._traces])
        more = [
            list(order(name, seed, levels, rivals))
            for name in self._traces
            if (rivals := close_rivals(self._book.data, name))
            for seed in range(2, self._seeds + 1)
        ]
        yield from self._not_played(more)

    def _not_played(self, groups: list[list[Run]]) -> Iterator[tuple[Run, int]]:
        left = sum(len(group) for group in groups if not self._book.whole(group))
        for group in groups:
            for run in self._book.start(group):
                left -= 1
                yield run, left

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def _one(self, host: Host, run: Run, left: int) -> None:
        book, stage = self._book, host.stage()
        if not book.met(run):
            with self._console.status(f"{run.name}: measuring what the cheapest level carries now"):
                book.meet(run, host.capacity())
            self._say(f"{run.name}, seed {run.trace.seed}: speed {book.speed(run):.2f}")
        slow = Config(
            slo_s=book.slo_ms / 1e3,
            objective=0.99,
            table=book.table,
            floor=len(book.data["levels"]) - 1,
        )
        schedule = book.schedule(run)
        rest = left * (book.seconds + _OVERHEAD_S)
        with self._console.status(run.key, refresh_per_second=2) as status:
            started = time.monotonic()

            def tell(progress: Progress) -> None:
                remaining = rest + max(0.0, schedule.seconds - progress.seconds) + _OVERHEAD_S / 2
                _tell(status, run, progress, remaining)

            for _ in range(_TRIES):
                facts, rows = play(stage, run, schedule, slow, self._pictures.count, tell)
                if facts["problem"] is None:
                    break
        save_rows(rows, self._output / "rows", run)
        book.put(run, facts)
        self._say(
            f"{run.key}: in time {facts['attainment']:.2%}, quality "
            f"{facts['ladder_quality'] or 0:.4f}, p99 {facts['p99_ms'] or 0:.0f} ms, "
            f"{facts['problem'] or 'client on time'}; {time.monotonic() - started:.0f} s, "
            f"{rest / 60:.0f} min left"
        )


def _tell(status: Status, run: Run, progress: Progress, remaining: float) -> None:
    status.update(
        f"{run.key}: {progress.seconds:.0f} s, {progress.offered:.0f}/s offered, "
        f"{number(progress.attainment, '.1%')} in time; {remaining / 60:.0f} min left"
    )
