"""Requests to a running server: images as tensors, and many in flight."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tritonclient.grpc
from numpy.typing import NDArray

__all__ = ["answers", "pixels"]

_PATIENCE_S = 60.0


def pixels(image: NDArray[np.uint8], client: Any = tritonclient.grpc) -> Any:
    """The input of a model: [H, W, 3], for a module of tritonclient."""
    tensor = client.InferInput("PIXELS", [1, *image.shape], "UINT8")
    tensor.set_data_from_numpy(image[None])
    return tensor


def answers(
    client: tritonclient.grpc.InferenceServerClient,
    requests: Iterable[tuple[str, Any, Mapping[str, Any] | None]],
    at_once: int,
) -> Iterator[tuple[int, Any, Any]]:
    """Number, result and error of each request, as they come; ``at_once`` are in flight.

    A request is a model, a tensor and its parameters, if any. Raises queue.Empty if no answer comes
    for a minute.
    """
    done: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    waiting = 0
    for number, (model, tensor, parameters) in enumerate(requests):
        if waiting == at_once:
            yield done.get(timeout=_PATIENCE_S)
            waiting -= 1
        client.async_infer(
            model,
            [tensor],
            callback=lambda result, error, number=number: done.put((number, result, error)),
            parameters=parameters,
        )
        waiting += 1
    for _ in range(waiting):
        yield done.get(timeout=_PATIENCE_S)
