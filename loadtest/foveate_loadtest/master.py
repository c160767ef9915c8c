"""The master of several Locust workers that share one schedule.

A worker reports when its requests are built. Once all have, the master sends each one the
schedule, its position, and the start time in that worker's own clock, so host clocks need not
agree. Rows come back the same way. A run that loses a worker is stopped without a result.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import gevent
from gevent.queue import Empty, Queue

from foveate_loadtest.ending import abandon, finish
from foveate_loadtest.progress import Progress, together
from foveate_loadtest.rows import DEAD, INTERRUPTED, Rows
from foveate_loadtest.workers import (
    ABANDONED,
    FAILED,
    PROGRESS,
    READY,
    ROWS,
    START,
    STOP,
    on_control_c,
    schedule_times,
    write_progress,
)

if TYPE_CHECKING:  # importing Locust patches the whole process
    from locust import User

__all__ = ["Master"]

_LEAD_S = 1.0  # from here to the origin of a schedule that has to reach every worker
_CHECK_EVERY_S = 0.5
_STOP_S = 5.0  # for the rows of a run that is stopped
_MISSING = "missing"  # Locust's state of a worker without heartbeat


class Master:
    """Directs the runs of its workers, one user on each."""

    def __init__(self, environment: Any, user: type[User]) -> None:
        self._environment = environment
        self._user = user
        self._run: _Run | None = None
        on_control_c(self._interrupt)
        environment.events.worker_connect.add_listener(self._count)
        environment.events.test_start.add_listener(self._begin)
        environment.events.test_stopping.add_listener(self._stop)
        for kind in (READY, PROGRESS, ROWS, FAILED):
            environment.runner.register_message(kind, self._receive)

    def _count(self, client_id: str, **_: Any) -> None:
        """Set what Locust starts by default: without a web UI, and in its form."""
        options = self._environment.parsed_options
        options.num_users = options.spawn_rate = len({*self._environment.runner.clients, client_id})

    def _begin(self, **_: Any) -> None:
        runner = self._environment.runner
        self._user.fixed_count = runner.worker_count
        self._run = _Run(self._environment)

    def _receive(self, msg: Any, **_: Any) -> None:
        if self._run is not None:
            self._run.inbox.put((msg, time.perf_counter()))

    def _stop(self, **_: Any) -> None:
        """Before Locust kills the users: their rows are still wanted."""
        if self._run is not None and self._interrupt():
            self._run.greenlet.join(_STOP_S)

    def _interrupt(self) -> bool:
        return self._run is not None and self._run.stop(INTERRUPTED, "interrupted")


class _Run:
    """One run as the master sees it."""

    def __init__(self, environment: Any) -> None:
        self.inbox: Queue[tuple[Any, float]] = Queue()  # messages, and when they arrived
        self._environment = environment
        clients = environment.runner.clients
        self._workers = {node for node in clients if clients[node].state != _MISSING}
        self._users = min(environment.runner.target_user_count, len(self._workers))
        self._clocks: dict[str, float] = {}  # of the workers: what to add for our time, seconds
        self._ready: set[str] = set()
        self._started = False
        self._progress: dict[str, Progress] = {}
        self._parts: dict[str, Rows] = {}
        self._stopped: dict[str, str] = {}  # by what, and why
        self._until = math.inf
        self.greenlet = gevent.spawn(self._conduct)

    def stop(self, key: str, why: str) -> bool:
        """See :meth:`Replay.stop`. Was there anything to stop?"""
        if self.greenlet.dead:
            return False
        if not self._stopped:
            self._stopped[key] = why
            self._until = time.perf_counter() + (_STOP_S if self._started else 0.0)
            self._environment.runner.send_message(STOP, {"key": key, "why": why})
        return True

    def _conduct(self) -> None:
        try:
            self._gather()
        except Exception:
            logging.exception("the run was not conducted")
            abandon(self._environment)

    def _gather(self) -> None:
        while self._awaited() and time.perf_counter() < self._until:
            self._look_for_lost()
            try:
                self._receive(*self.inbox.get(timeout=_CHECK_EVERY_S))
            except Empty:
                continue
        if not self._parts:
            logging.error("no worker sent anything: %s", *self._stopped.values())
            abandon(self._environment)
            return
        rows = Rows.merged(list(self._parts.values()))
        for key, why in self._stopped.items():
            rows.messages.setdefault(key, why)
        if silent := self._ready - self._parts.keys():
            rows.messages.setdefault(DEAD, f"no rows of worker {', '.join(sorted(silent))}")
        finish(self._environment, rows)

    def _awaited(self) -> bool:
        return not self._started or bool(self._clocks.keys() - self._parts.keys())

    def _look_for_lost(self) -> None:
        clients = self._environment.runner.clients
        for node in self._workers - self._parts.keys():
            if node not in clients or clients[node].state == _MISSING:
                self._lose(node, "is dead")

    def _lose(self, node: str, why: str) -> None:
        self._workers.discard(node)
        self._clocks.pop(node, None)
        self.stop(DEAD, f"worker {node} {why}")

    def _receive(self, msg: Any, at: float) -> None:
        node, data = msg.node_id, msg.data
        if msg.type == READY and not self._started:
            # Every message took some time to come: the least is nearest to the truth.
            self._clocks[node] = min(self._clocks.get(node, math.inf), at - data["clock"])
            if not data["left"]:
                self._ready.add(node)
            if len(self._ready) == self._users:
                self._start()
        elif msg.type == FAILED:
            self._lose(node, f"failed: {data['why']}")
        elif node not in self._clocks:
            return  # what is left of an earlier run
        elif msg.type == PROGRESS:
            self._progress[node] = Progress(**data)
            if len(self._progress) == len(self._clocks):
                self._tell(together(list(self._progress.values())))
                self._progress.clear()
        elif msg.type == ROWS:
            self._parts[node] = rows = Rows.unpack(data["rows"])
            for key in rows.messages.keys() & {DEAD, INTERRUPTED}:
                self.stop(key, rows.messages[key])

    def _tell(self, progress: Progress) -> None:
        try:
            write_progress(self._environment, progress)
        except OSError:
            self.stop(INTERRUPTED, ABANDONED)

    def _start(self) -> None:
        self._started = True
        runner = self._environment.runner
        times = schedule_times(self._environment).tobytes()
        origin = time.perf_counter() + _LEAD_S
        nodes = sorted(self._clocks, key=runner.get_worker_index)
        for index, node in enumerate(nodes):
            place = {"index": index, "workers": len(nodes), "origin": origin - self._clocks[node]}
            runner.send_message(START, {"times": times, **place}, node)
