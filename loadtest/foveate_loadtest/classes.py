"""The classes of a served model, as the server itself names them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from foveate_loadtest.choices import Protocol
from foveate_loadtest.errors import TargetError

__all__ = ["Classes", "ask_classes", "parse_classes"]


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
    except (triton.InferenceServerException, OSError, KeyError) as error:
        raise TargetError(f"{host}: cannot ask {model!r} for its classes: {error}") from error
    return parse_classes(count, [text.decode() for text in found])


def parse_classes(count: int, answers: Sequence[str]) -> Classes:
    """Of ``count`` classes, the names in ``score:index:label``; a class may have no third part.

    As many names as lines in ``labels.txt``, be they too few: who reads them counts them.
    """
    parts = [answer.split(":", 2) for answer in answers]
    labels = {int(index): label[0].strip() for _, index, *label in parts if label}
    return Classes(count, tuple(label for _, label in sorted(labels.items())))


def _tensor(tensors: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Raises :class:`KeyError` if there is none of that name."""
    return {tensor["name"]: tensor for tensor in tensors}[name]
