"""One Locust user that sends on a schedule: an open loop.

It never waits for an answer before the next send, so a stalled server gets the load it would get in
production, and latency counts from the time a request *should* have been sent. Locust's own pacing
(number of users, wait times) is not used: one user sends everything, or one per worker its share.
"""

from __future__ import annotations

import gc
import logging
import resource
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import gevent
import numpy as np
from locust import User, task
from locust.exception import StopUser
from numpy.typing import NDArray

from foveate_loadtest.choices import Protocol, Target
from foveate_loadtest.image_sets import open_images
from foveate_loadtest.limiter import Limiter
from foveate_loadtest.payloads import Parameters, grpc_payload, http_payload, tensors
from foveate_loadtest.progress import measure
from foveate_loadtest.replay import Replay
from foveate_loadtest.rows import INTERRUPTED, Outcome, Rows
from foveate_loadtest.senders import GrpcSender, HttpSender, Sender, address
from foveate_loadtest.wishes import Wish, draw, share_out
from foveate_loadtest.workers import ABANDONED, Crew

__all__ = ["OpenLoopUser"]

_STREAM_SECONDS = 0.5


class OpenLoopUser(User):
    """Replays its share of the arrivals once. Options: see ``locustfile.py``."""

    fixed_count = 1
    crew: ClassVar[Crew]  # known when Locust has started

    @task
    def replay(self) -> None:
        try:
            _replay(self.environment, self.crew)
        except Exception as error:
            # Locust would start the task again, for ever.
            logging.exception("the schedule was not replayed")
            self.crew.failed(error)
        raise StopUser


def _replay(environment: Any, crew: Crew) -> None:
    options = environment.parsed_options
    # In a thread: Locust gives up a worker that does not say for seconds that it lives.
    inputs, labels = gevent.get_hub().threadpool.apply(
        open_images,
        (
            options.image_set,
            options.images,
            Target(options.target),
            address(environment.host),
            Protocol(options.protocol),
            options.model,
        ),
    )
    wishes = _wishes(options)
    sender = _sender(environment, inputs, [wish.parameters for wish in wishes])
    # A garbage collection is a late send, and nothing built so far is garbage.
    gc.collect()
    gc.freeze()
    share = crew.join()
    images = np.arange(len(share.times)) % len(labels)
    payloads = draw(wishes, len(share.times), options.wish_seed) * len(labels) + images
    rows = Rows.blank(share.times[share.part], labels[images[share.part]], share.index)
    replay = Replay(
        rows,
        payloads[share.part].tolist(),
        sender,
        _reporter(environment, rows),
        share.origin,
        Limiter() if options.limiter else None,
    )
    crew.on_stop(replay.stop)
    stream = gevent.spawn(_stream, options, crew, replay)
    try:
        replay.run(drain=options.timeout)
    except gevent.GreenletExit:  # Locust was told to stop
        replay.stop(INTERRUPTED, "interrupted")
    finally:
        crew.on_stop(None)
        stream.kill()
        sender.close()
    crew.ended(rows)


def _wishes(options: Any) -> list[Wish]:
    if options.level:
        return [Wish({"level": options.level}, 1.0)]
    return share_out([Wish.parse(text) for text in options.wish])


def _sender(
    environment: Any, inputs: Sequence[NDArray[np.uint8] | bytes], wishes: Sequence[Parameters]
) -> Sender:
    """Its payloads are all images with the first wish, then all with the second, and so on."""
    options = environment.parsed_options
    host = address(environment.host)  # the master's, on a worker
    model = Target(options.target).model(options.model)
    pairs = [(tensor, wish) for wish in wishes for tensor in tensors(inputs)]
    if options.protocol == Protocol.GRPC:
        return GrpcSender(host, [grpc_payload(model, *pair) for pair in pairs], options.timeout)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection per request in flight
    requests = [http_payload(host, model, *pair) for pair in pairs]
    return HttpSender(host, requests, options.timeout)


def _reporter(environment: Any, rows: Rows) -> Callable[[int], None]:
    """Reports a finished row to Locust's own statistics."""
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


def _stream(options: Any, crew: Crew, replay: Replay) -> None:
    while options.live_fd is not None:
        gevent.sleep(_STREAM_SECONDS)
        try:
            crew.progress(measure(replay.rows, replay.now(), options.slo_ms / 1000))
        except OSError:
            replay.stop(INTERRUPTED, ABANDONED)
            return
