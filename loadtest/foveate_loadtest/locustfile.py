"""The Locust entry point: ``locust -f locustfile.py --headless --arrivals FILE --host HOST:PORT``.

``foveate loadtest`` makes the arrival file, runs this in its own process and writes the report.
"""

from __future__ import annotations

import grpc.experimental.gevent
from locust import events
from locust.argument_parser import LocustArgumentParser

from foveate_loadtest.choices import DIGITS, Protocol, Target
from foveate_loadtest.user import OpenLoopUser

__all__ = ["OpenLoopUser"]

grpc.experimental.gevent.init_gevent()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Foveate")
    add = group.add_argument
    add("--arrivals", env_var="FOVEATE_ARRIVALS", required=True, help="arrival file to replay")
    add("--protocol", env_var="FOVEATE_PROTOCOL", choices=list(Protocol), default=Protocol.GRPC)
    add("--target", env_var="FOVEATE_TARGET", choices=list(Target), default=Target.PIXELS)
    add("--model", env_var="FOVEATE_MODEL", default="digits")
    add("--level", env_var="FOVEATE_LEVEL", help="pin every request to this level")
    add("--limiter", action="store_true", help="keep to an adaptive limit of requests in flight")
    add("--wish", action="append", default=[], help="NAME=VALUE:SHARE of the requests; repeatable")
    add("--wish-seed", type=int, default=0, help="of who has a wish")
    add("--image-set", default=DIGITS, help="digits, an .npz file of pixels, or a folder")
    add("--images", type=int, default=500, help="how many different images to send")
    add("--timeout", type=float, default=30.0, help="seconds before a request is given up")
    add("--slo-ms", type=float, default=200.0, help="for the progress only")
    add("--max-send-lag-ms", type=float, default=5.0, help="fail the run above this p99")
    add("--rows", help="write one row a request to this .npz or .csv")
    add("--live-fd", type=int, help="write progress as JSON lines to this file descriptor")
