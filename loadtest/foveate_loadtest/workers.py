"""Who sends a schedule: this process alone, or the workers of a Locust master, a share each.

The master's side is in ``master.py``.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import gevent
import numpy as np
from gevent.event import AsyncResult
from numpy.typing import NDArray

from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.ending import abandon, finish
from foveate_loadtest.progress import Progress
from foveate_loadtest.rows import INTERRUPTED, Rows

__all__ = [
    "FAILED",
    "PROGRESS",
    "READY",
    "ROWS",
    "START",
    "STOP",
    "ABANDONED",
    "Alone",
    "Crew",
    "Share",
    "Worker",
    "on_control_c",
    "schedule_times",
    "write_progress",
]

# Messages between workers and master.
READY, START, STOP = "foveate-ready", "foveate-start", "foveate-stop"
PROGRESS, ROWS, FAILED = "foveate-progress", "foveate-rows", "foveate-failed"
ABANDONED = "the process that started it is gone"  # why a run stops
_CLOCK_SAMPLES = 5  # messages; the fastest gives the best clock estimate
_BETWEEN_S = 0.02
_LEAD_S = 0.2  # from here to the origin of a schedule

Stop = Callable[[str, str], None]  # see Replay.stop


@dataclass(frozen=True, kw_only=True)
class Share:
    """Every ``workers``-th request of the schedule, from number ``index`` on."""

    times: NDArray[np.float64]  # of the whole schedule
    index: int = 0
    workers: int = 1
    origin: float  # of the schedule, by time.perf_counter()

    @property
    def part(self) -> slice:
        return slice(self.index, None, self.workers)


class Crew(Protocol):
    """How a sending user coordinates with the others."""

    def join(self) -> Share:
        """Say that the requests are built; wait for what to send, and when."""

    def on_stop(self, stop: Stop | None) -> None:
        """Call this when the run is to end early; None: it has ended."""

    def progress(self, progress: Progress) -> None:
        """Report progress."""

    def ended(self, rows: Rows) -> None:
        """Hand over the rows of the share."""

    def failed(self, error: Exception) -> None:
        """There are no rows."""


class _Interruptible:
    def __init__(self) -> None:
        self._stop: Stop | None = None  # of the run, if there is one
        on_control_c(lambda: self._interrupt(INTERRUPTED, "interrupted"))

    def on_stop(self, stop: Stop | None) -> None:
        self._stop = stop

    def _interrupt(self, key: str, why: str) -> bool:
        if self._stop is not None:
            self._stop(key, why)
        return self._stop is not None


class Alone(_Interruptible):
    """A process that sends the whole schedule."""

    def __init__(self, environment: Any) -> None:
        super().__init__()
        self._environment = environment

    def join(self) -> Share:
        times = schedule_times(self._environment)
        return Share(times=times, origin=time.perf_counter() + _LEAD_S)

    def progress(self, progress: Progress) -> None:
        write_progress(self._environment, progress)

    def ended(self, rows: Rows) -> None:
        finish(self._environment, rows)

    def failed(self, error: Exception) -> None:
        abandon(self._environment)


class Worker(_Interruptible):
    """A process that sends its share and reports to the master."""

    def __init__(self, environment: Any) -> None:
        super().__init__()
        self._runner = environment.runner
        self._share: AsyncResult[Share] = AsyncResult()
        self._runner.register_message(START, self._start)
        self._runner.register_message(STOP, self._stop_early)

    def join(self) -> Share:
        self._share = AsyncResult()
        for left in reversed(range(_CLOCK_SAMPLES)):
            self._runner.send_message(READY, {"clock": time.perf_counter(), "left": left})
            gevent.sleep(_BETWEEN_S)
        share: Share = self._share.get()
        return share

    def progress(self, progress: Progress) -> None:
        self._runner.send_message(PROGRESS, asdict(progress))

    def ended(self, rows: Rows) -> None:
        self._runner.send_message(ROWS, {"rows": rows.pack()})

    def failed(self, error: Exception) -> None:
        self._runner.send_message(FAILED, {"why": f"{type(error).__name__}: {error}"})

    def _start(self, msg: Any, **_: Any) -> None:
        times = np.frombuffer(msg.data.pop("times"), np.float64)
        self._share.set(Share(times=times, **msg.data))

    def _stop_early(self, msg: Any, **_: Any) -> None:
        self._interrupt(msg.data["key"], msg.data["why"])


def on_control_c(end_run: Callable[[], bool]) -> None:
    """Let Ctrl-C end the run or, if ``end_run`` says that there is none, Locust.

    Otherwise Ctrl-C would interrupt whichever greenlet happens to run.
    """
    hub = gevent.get_hub()

    def interrupt() -> None:
        if not end_run():
            hub.handle_system_error(KeyboardInterrupt, KeyboardInterrupt())

    gevent.signal_handler(signal.SIGINT, interrupt)


def schedule_times(environment: Any) -> NDArray[np.float64]:
    """Of the arrival file that is asked for."""
    return Schedule.load(Path(environment.parsed_options.arrivals)).times


def write_progress(environment: Any, progress: Progress) -> None:
    """Write a JSON line to the process that started us. Raises :class:`OSError` if it is gone."""
    line = json.dumps(asdict(progress))
    os.write(environment.parsed_options.live_fd, f"{line}\n".encode())
