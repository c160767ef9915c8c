"""Measure how many requests per second one level can serve, with a closed loop."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import grpc

from foveate_loadtest.arrivals import Capacities
from foveate_loadtest.choices import DIGITS, Target
from foveate_loadtest.errors import TargetError
from foveate_loadtest.image_sets import load_images
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.payloads import Parameters, grpc_payload, tensors
from foveate_loadtest.senders import infer_method, max_batch

__all__ = ["closed_loop", "measure_capacities", "measure_capacity"]

_IMAGES = 64
_BATCHES = 3  # in flight, of the largest size: one runs, one waits, one is under way
_WARM_UP = 0.5  # seconds, not counted
_TIMEOUT = 30.0
_MAX_REFUSED = 0.05  # share


def measure_capacity(
    grpc_url: str,
    model: str,
    level: str,
    seconds: float = 3.0,
    runs: int = 3,
    image_set: str = DIGITS,
    target: Target = Target.PIXELS,
) -> float:
    """Best requests/s of ``runs`` runs of ``seconds``, every request pinned to ``level``.

    ``grpc_url`` is host:port; ``image_set`` see :func:`load_images`. The server must not cap pinned
    requests (``--no-pin-cap``). Raises :class:`TargetError` if more than 5 % of the requests are
    refused, or the server does not say how large its batches are.
    """
    images, _ = load_images(image_set, _IMAGES, target)
    # The full queue must not be taken for an overload.
    parameters: Parameters = {"level": level, "deadline_ms": int(_TIMEOUT * 1000)}
    payloads = [grpc_payload(target.model(model), x, parameters) for x in tensors(images)]
    with grpc.insecure_channel(grpc_url) as channel:
        try:
            in_flight = _BATCHES * max_batch(channel, target.model(model))
        except grpc.RpcError as error:
            raise TargetError(f"{grpc_url}: {error.code().name}: {error.details()}") from error
        infer = infer_method(channel)
        loops = (closed_loop(infer, payloads, in_flight, seconds) for _ in range(runs))
        return max(len(latencies) for latencies in loops) / seconds


def measure_capacities(
    grpc_url: str,
    model: str,
    ladder: LadderFacts,
    image_set: str = DIGITS,
    target: Target = Target.PIXELS,
) -> Capacities:
    """Capacities of both ends of a ladder; see :func:`measure_capacity`."""
    exact, cheapest = (
        measure_capacity(grpc_url, model, ladder.names[index], image_set=image_set, target=target)
        for index in (0, ladder.cheapest)
    )
    return Capacities(exact=exact, cheapest=cheapest)


def closed_loop(
    infer: Any, payloads: Sequence[bytes], in_flight: int, seconds: float
) -> list[float]:
    """Seconds that each answer took within ``seconds``, after a warm-up of half a second.

    ``infer`` see :func:`infer_method`; ``payloads`` are sent in turn, ``in_flight`` at a time.
    Raises :class:`TargetError` if more than 5 % are refused.
    """
    slots = threading.Semaphore(in_flight)
    start = time.perf_counter() + _WARM_UP
    end = start + seconds
    answers: list[tuple[float, float]] = []  # when it came, what it took
    refusals: list[str] = []

    def done(sent: float, call: Any) -> None:
        slots.release()
        if call.code() is grpc.StatusCode.OK:
            now = time.perf_counter()
            answers.append((now, now - sent))
        else:
            refusals.append(f"{call.code().name}: {call.details()}")

    for payload in itertools.cycle(payloads):
        slots.acquire()
        now = time.perf_counter()
        if now > end:
            break
        infer.future(payload, timeout=_TIMEOUT).add_done_callback(partial(done, now))
    for _ in range(in_flight - 1):
        slots.acquire()
    if len(refusals) > _MAX_REFUSED * (len(refusals) + len(answers)):
        hint = ""
        if "pin-cap" in refusals[0]:
            hint = "; capacity is measured with pinned requests, which the server limits: start it "
            hint += "with --no-pin-cap, or give the rate in requests/s"
        raise TargetError(f"{len(refusals)} requests rejected while measuring: {refusals[0]}{hint}")
    return [took for came, took in answers if start <= came <= end]
