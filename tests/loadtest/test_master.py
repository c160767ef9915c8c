"""What the master makes of its workers' messages, without Locust's network."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import numpy as np
import pytest

from foveate_loadtest.arrivals import Schedule, constant
from foveate_loadtest.master import _Run
from foveate_loadtest.progress import measure
from foveate_loadtest.rows import DEAD, INTERRUPTED, Rows
from foveate_loadtest.workers import PROGRESS, READY, ROWS, START

NODES = ("one", "two")


@pytest.fixture
def locust(tmp_path: Path) -> SimpleNamespace:
    """Locust's environment with two workers; ``sent`` has what the master told them."""
    times = constant(10.0, 1.0)
    path = tmp_path / "arrivals.json"
    Schedule(times=times, seconds=1.0, scenario="", seed=0, cv2=0.0, capacities=None).save(path)
    sent: list[tuple[Any, ...]] = []
    runner = SimpleNamespace(
        clients={node: SimpleNamespace(state="running") for node in NODES},
        target_user_count=2,
        get_worker_index=NODES.index,
        send_message=lambda *message: sent.append(message),
        quit=lambda: None,
    )
    options = SimpleNamespace(
        arrivals=path, rows=tmp_path / "rows.npz", max_send_lag_ms=1e6, live_fd=-1
    )
    return SimpleNamespace(
        runner=runner, parsed_options=options, web_ui=None, process_exit_code=0, sent=sent
    )


def _say(run: _Run, node: str, kind: str, at: float = 0.0, **data: Any) -> None:
    run.inbox.put((SimpleNamespace(node_id=node, type=kind, data=data), at))
    gevent.sleep(0.01)


def _started(locust: SimpleNamespace) -> _Run:
    run = _Run(locust)
    for node in NODES:
        _say(run, node, READY, clock=0.0, left=0)
    return run


def _rows(node: str) -> bytes:
    times = constant(10.0, 1.0)[NODES.index(node) :: 2]
    rows = Rows.blank(times, np.zeros(len(times), np.int16), NODES.index(node))
    rows.sent[:] = times
    return rows.pack()


def test_clocks_are_read_at_the_quickest_message(locust: SimpleNamespace) -> None:
    run = _Run(locust)
    now = time.perf_counter()
    for left, delay in ((2, 0.5), (1, 0.001), (0, 0.2)):
        for node in NODES:
            _say(run, node, READY, at=now + delay, clock=now - 1000.0, left=left)
    run.greenlet.kill()
    assert [kind for kind, *_ in locust.sent] == [START, START]
    assert run._clocks == pytest.approx(dict.fromkeys(NODES, 1000.001))


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_without_the_rows_of_a_worker_is_no_result(
    locust: SimpleNamespace, interrupted: bool
) -> None:
    run = _started(locust)
    if interrupted:
        run.stop(INTERRUPTED, "interrupted")
    locust.runner.clients["two"].state = "missing"
    _say(run, "one", ROWS, rows=_rows("one"))
    run.greenlet.join(20)
    rows = Rows.load(locust.parsed_options.rows)
    assert "two" in rows.messages[DEAD]
    assert (INTERRUPTED in rows.messages) == interrupted
    assert locust.process_exit_code == 1


def test_a_run_that_nobody_follows_stops(locust: SimpleNamespace) -> None:
    run = _started(locust)
    progress = measure(Rows.unpack(_rows("one")), 0.5, 0.1)
    for node in NODES:
        _say(run, node, PROGRESS, **vars(progress))  # to a descriptor that is not open
    for node in NODES:
        _say(run, node, ROWS, rows=_rows(node))
    run.greenlet.join(20)
    assert (
        "the process that started it is gone"
        in Rows.load(locust.parsed_options.rows).messages[INTERRUPTED]
    )
