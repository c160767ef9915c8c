"""The classes of a served model, as the server itself names them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from foveate_loadtest.choices import Protocol
from foveate_loadtest.errors import TargetError

__all__ = ["Classes", "ask_classes"]


class Classes(NamedTuple):
    """Of a model's head."""

    total: int | None  # None: unknown
    names: Sequence[str]  # in the order of the head; empty: the model has none


def ask_classes(host: str, protocol: Protocol, model: str) -> Classes:
    """Ask the server at ``host`` (host:port) how many classes ``model`` has, and their names.

    Sends one black image and asks for all classes, so the answer holds for models whose files are
    on another machine. Raises :class:`TargetError` naming host and model.
    """
    triton = import_module(f"tritonclient.{protocol}")
    as_json = {"as_json": True} if protocol is Protocol.GRPC else {}
    try:
        with triton.InferenceServerClient(host) as client:
            facts = client.get_model_metadata(model, **as_json)
            shape = [1, *(int(side) for side in _tensor(facts["inputs"], "PIXELS")["shape"][1:])]
            count = int(_tensor(facts["outputs"], "SCORES")["shape"][-1])
            image = triton.InferInput("PIXELS", shape, "UINT8")
            image.set_data_from_numpy(np.zeros(shape, np.uint8))
            scores = triton.InferRequestedOutput("SCORES", class_count=count)
            found = client.infer(model, [image], outputs=[scores]).as_numpy("SCORES").ravel()
    except (triton.InferenceServerException, OSError, StopIteration) as error:
        raise TargetError(f"{host}: cannot ask {model!r} for its classes: {error!r}") from error
    # Each is score:index, and :label if there is one.
    parts = [text.decode().split(":", 2) for text in found]
    if any(len(part) < 3 for part in parts):
        return Classes(count, ())
    by_index = {int(index): label for _, index, label in parts}
    return Classes(count, tuple(by_index[index] for index in range(count)))


def _tensor(tensors: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(tensor for tensor in tensors if tensor["name"] == name)
