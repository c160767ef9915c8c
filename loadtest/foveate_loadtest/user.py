"""One Locust user that sends on a schedule: an open loop.

It never waits for an answer before the next send, so a stalled server meets the load it would meet
in life, and latency counts from the time a request *should* have been sent. Locust's own pacing
(number of users, wait times) plays no part: however many users and workers, one user sends it all.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gevent
import numpy as np
from locust import User, task
from locust.exception import StopUser
from numpy.typing import NDArray

from foveate_loadtest.arrivals import Schedule
from foveate_loadtest.choices import Protocol, Target
from foveate_loadtest.images import load_images
from foveate_loadtest.limiter import Limiter
from foveate_loadtest.payloads import Parameters, grpc_payload, http_payload, tensors
from foveate_loadtest.progress import measure
from foveate_loadtest.replay import Replay
from foveate_loadtest.rows import DEAD, INTERRUPTED, Outcome, Rows
from foveate_loadtest.senders import GrpcSender, HttpSender, Sender
from foveate_loadtest.wishes import Wish, draw, share_out

__all__ = ["OpenLoopUser"]

_STREAM_SECONDS = 0.5


class OpenLoopUser(User):
    """Replays the arrival file once, then ends the run. Options: see ``locustfile.py``."""

    fixed_count = 1

    @task
    def replay(self) -> None:
        try:
            _replay(self.environment)
        except Exception:
            # Locust would start the task again, for ever.
            logging.exception("the schedule was not replayed")
            self.environment.process_exit_code = 1
        runner = self.environment.runner
        gevent.spawn(runner.quit if self.environment.web_ui is None else runner.stop)
        raise StopUser


def _replay(environment: Any) -> None:
    options = environment.parsed_options
    times = Schedule.load(Path(options.arrivals)).times
    inputs, labels = load_images(options.image_set, options.images, Target(options.target))
    images = np.arange(len(times)) % len(labels)
    rows = Rows.blank(times, labels[images])
    wishes = _wishes(options)
    sender = _sender(options, inputs, [wish.parameters for wish in wishes])
    chosen = draw(wishes, len(times), options.wish_seed)
    # A garbage collection is a late send, and nothing built so far is garbage.
    gc.collect()
    gc.freeze()
    limiter = Limiter() if options.limiter else None
    payloads = (chosen * len(labels) + images).tolist()
    replay = Replay(rows, payloads, sender, _reporter(environment, rows), limiter)
    gevent.signal_handler(signal.SIGUSR1, replay.stop, INTERRUPTED, "interrupted")
    stream = gevent.spawn(_stream, options.live_fd, replay, options.slo_ms / 1000)
    try:
        replay.run(drain=options.timeout)
    except gevent.GreenletExit:  # Locust was told to stop
        replay.stop(INTERRUPTED, "interrupted")
    finally:
        stream.kill()
        sender.close()
        if options.rows:
            rows.save(Path(options.rows))
    _judge(environment, rows)


def _wishes(options: Any) -> list[Wish]:
    if options.level:
        return [Wish({"level": options.level}, 1.0)]
    return share_out([Wish.parse(text) for text in options.wish])


def _sender(
    options: Any, inputs: Sequence[NDArray[np.uint8] | bytes], wishes: Sequence[Parameters]
) -> Sender:
    """Its payloads are all images with the first wish, then all with the second, and so on."""
    model = Target(options.target).model(options.model)
    pairs = [(tensor, wish) for wish in wishes for tensor in tensors(inputs)]
    if options.protocol == Protocol.GRPC:
        return GrpcSender(
            options.host, [grpc_payload(model, *pair) for pair in pairs], options.timeout
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection per request in flight
    requests = [http_payload(options.host, model, *pair) for pair in pairs]
    return HttpSender(options.host, requests, options.timeout)


def _reporter(environment: Any, rows: Rows) -> Callable[[int], None]:
    """Tells Locust's own statistics about a row that ended."""
    options = environment.parsed_options
    name = Target(options.target).model(options.model)

    def report(row: int) -> None:
        outcome = Outcome(rows.outcome[row])
        environment.events.request.fire(
            request_type=options.protocol,
            name=name,
            response_time=(rows.done[row] - rows.intended[row]) * 1000,
            response_length=0,
            exception=None if outcome is Outcome.OK else outcome.name.lower(),
            context={},
        )

    return report


def _stream(descriptor: int | None, replay: Replay, slo: float) -> None:
    """Write the progress as JSON lines."""
    while descriptor is not None:
        gevent.sleep(_STREAM_SECONDS)
        line = json.dumps(asdict(measure(replay.rows, replay.now(), slo)))
        os.write(descriptor, f"{line}\n".encode())


def _judge(environment: Any, rows: Rows) -> None:
    """Fail a run of a dead server, or whose client was late: its latencies are the client's own."""
    if DEAD in rows.messages:
        logging.error(rows.messages[DEAD])
        environment.process_exit_code = 1
    limit = environment.parsed_options.max_send_lag_ms
    sent = rows.lag[~np.isnan(rows.lag)]
    lag = float(np.quantile(sent, 0.99) * 1000) if len(sent) else 0.0
    if lag > limit:
        logging.error("p99 send lag %.1f ms is over --max-send-lag-ms %.1f", lag, limit)
        environment.process_exit_code = 1
