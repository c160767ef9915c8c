"""Processes that keep a server busy: one cannot send what a GPU answers."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.pool import Pool

import grpc
import numpy as np

from foveate_loadtest.capacity import closed_loop
from foveate_loadtest.payloads import Parameters, Tensor, grpc_payload
from foveate_loadtest.senders import infer_method

__all__ = ["DEADLINE_MS", "Load", "clients", "closed"]

DEADLINE_MS = 30_000  # the full queue must not be taken for an overload
_PAYLOADS = 4  # different requests of each process


@dataclass(frozen=True, kw_only=True)
class Load:
    """What each process asks for."""

    address: str
    model: str
    level: str
    images: int  # of a request
    size: tuple[int, int]  # of an image
    in_flight: int  # requests
    begin: float  # by time.monotonic(), which is one clock for all processes
    seconds: float


@contextmanager
def clients(count: int) -> Iterator[Pool]:
    """Processes that are there and have imported what they need.

    ``pool.map(closed, [load] * count)`` gives what the answers to each took, in seconds.
    """
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        pool.map(time.sleep, [1.0] * count, chunksize=1)  # one each, as all of them are busy
        yield pool


def closed(load: Load) -> list[float]:
    """Seconds of each answer within ``load.seconds``."""
    rng = np.random.default_rng(0)
    parameters: Parameters = {"level": load.level, "deadline_ms": DEADLINE_MS}
    shape = (load.images, *load.size, 3)
    payloads = [
        grpc_payload(
            load.model, Tensor("PIXELS", rng.integers(0, 256, shape, np.uint8)), parameters
        )
        for _ in range(_PAYLOADS)
    ]
    with grpc.insecure_channel(load.address) as channel:
        time.sleep(max(0.0, load.begin - time.monotonic()))
        return closed_loop(infer_method(channel), payloads, load.in_flight, load.seconds)
