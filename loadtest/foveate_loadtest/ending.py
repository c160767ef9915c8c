"""End a run: save and check its rows, and stop Locust."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gevent

from foveate_loadtest.rows import DEAD, Rows

__all__ = ["abandon", "finish"]


def finish(environment: Any, rows: Rows) -> None:
    """Save and check all rows of a run, and end it."""
    if environment.parsed_options.rows:
        rows.save(Path(environment.parsed_options.rows))
    _judge(environment, rows)
    _end(environment)


def abandon(environment: Any) -> None:
    """End a run without results."""
    environment.process_exit_code = 1
    _end(environment)


def _judge(environment: Any, rows: Rows) -> None:
    """Fail a run with a dead server, or with a late client, whose latencies are its own fault."""
    if DEAD in rows.messages:
        logging.error(rows.messages[DEAD])
        environment.process_exit_code = 1
    limit = environment.parsed_options.max_send_lag_ms
    lag = rows.send_lag()
    if lag is None:
        logging.error("nothing was sent")
        environment.process_exit_code = 1
    elif lag.p99 > limit:
        logging.error("p99 send lag %.1f ms is over --max-send-lag-ms %.1f", lag.p99, limit)
        environment.process_exit_code = 1


def _end(environment: Any) -> None:
    """Quit Locust; with its web UI, wait for the next run."""
    runner = environment.runner
    gevent.spawn(runner.quit if environment.web_ui is None else runner.stop)
