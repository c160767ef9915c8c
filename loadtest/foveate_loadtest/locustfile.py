"""The Locust entry point: ``locust -f locustfile.py --arrivals FILE --host HOST:PORT``.

With ``--headless`` it ends after one run; a ``--master`` shares the sending with ``--worker``s.
``foveate loadtest`` writes the arrival file, runs this in its own process and writes the report.
"""

from __future__ import annotations

from typing import Any

import grpc.experimental.gevent
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.runners import MasterRunner, WorkerRunner

from foveate_loadtest.choices import DIGITS, Protocol, Target
from foveate_loadtest.master import Master
from foveate_loadtest.user import OpenLoopUser
from foveate_loadtest.workers import Alone, Worker

__all__ = ["OpenLoopUser"]


@events.init.add_listener  # type: ignore[untyped-decorator]
def _start(environment: Any, **_: Any) -> None:
    grpc.experimental.gevent.init_gevent()  # not earlier: ``--processes`` forks before
    if isinstance(environment.runner, MasterRunner):
        Master(environment, OpenLoopUser)
    else:
        alone = not isinstance(environment.runner, WorkerRunner)
        OpenLoopUser.crew = Alone(environment) if alone else Worker(environment)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Foveate")
    add = group.add_argument
    add(
        "--arrivals",
        env_var="FOVEATE_ARRIVALS",
        default="arrivals.json",
        help="arrival file to replay",
    )
    add("--protocol", env_var="FOVEATE_PROTOCOL", choices=list(Protocol), default=Protocol.GRPC)
    add("--target", env_var="FOVEATE_TARGET", choices=list(Target), default=Target.PIXELS)
    add("--model", env_var="FOVEATE_MODEL", default="digits")
    add("--level", env_var="FOVEATE_LEVEL", help="pin every request to this level")
    add("--limiter", action="store_true", help="limit requests in flight adaptively")
    add("--wish", action="append", default=[], help="NAME=VALUE:SHARE of the requests; repeatable")
    add("--wish-seed", type=int, default=0, help="seed that assigns wishes to requests")
    add("--image-set", default=DIGITS, help="digits, an .npz file of pixels, or a folder")
    add("--images", type=int, default=500, help="number of different images to send")
    add("--timeout", type=float, default=30.0, help="request timeout, seconds")
    add("--slo-ms", type=float, default=200.0, help="latency SLO, for the progress display only")
    add("--max-send-lag-ms", type=float, default=5.0, help="fail the run if p99 lag exceeds this")
    add("--rows", help="write one row per request, as .parquet, .csv or .npz")
    parser.add_argument(
        "--live-fd",
        type=int,
        include_in_web_ui=False,
        help="write progress as JSON lines to this file descriptor",
    )
