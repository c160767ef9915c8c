"""The plugin, with the server's module played: no image is known to make the decoder fail."""

from __future__ import annotations

import importlib
import sys
import types
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from foveate.backend.classifier import Answer
from foveate.errors import BadImage


class TritonError:
    INTERNAL, INVALID_ARG, UNAVAILABLE = "internal", "invalid", "unavailable"

    def __init__(self, message: str, code: str) -> None:
        self.message, self._code = message, code

    def code(self) -> str:
        return self._code


class InferenceResponse:
    def __init__(self, tensors: Any = None, error: TritonError | None = None) -> None:
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = types.ModuleType("triton_python_backend_utils")
    file = SimpleNamespace(as_numpy=lambda: np.array([b"file"], dtype=np.object_))
    parts = {
        "TritonError": TritonError,
        "InferenceResponse": InferenceResponse,
        "Logger": SimpleNamespace(log_error=lambda text: None),
        "Tensor": SimpleNamespace(from_dlpack=lambda name, capsule: None),
        "get_input_tensor_by_name": lambda request, name: file,
    }
    for name, part in parts.items():
        setattr(server, name, part)
    monkeypatch.setitem(sys.modules, server.__name__, server)
    monkeypatch.delitem(sys.modules, "foveate.backend.model", raising=False)
    yield importlib.import_module("foveate.backend.model")
    sys.modules.pop("foveate.backend.model")


def test_what_fails_in_the_decoder_is_not_the_clients(plugin: Any) -> None:
    outcomes = [np.zeros((1, 1, 3), np.uint8), BadImage("not this one"), MemoryError(), KeyError()]

    def to_pixels(files: list[bytes]) -> Any:
        assert files == [b"file"] * 4
        return outcomes

    counts: Counter[str] = Counter()
    telemetry = SimpleNamespace(count=lambda name, value: counts.update({name: value}))
    answers = plugin.decode([None] * 4, to_pixels, telemetry)
    codes = [answer.error() and answer.error().code() for answer in answers]
    assert codes == [None, "invalid", "internal", "internal"]
    assert counts == {"foveate_errors_total": 1, "foveate_failures_total": 2}


def test_who_cannot_be_answered_leaves_nobody_else_without_an_answer(
    plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    def request(name: str) -> Any:
        def send(response: Any, flags: int) -> None:
            if name == "gone":
                raise RuntimeError("the response sender has been closed")
            sent[name] = response, flags

        return SimpleNamespace(get_response_sender=lambda: SimpleNamespace(send=send))

    server = plugin.pb_utils
    monkeypatch.setattr(server, "TRITONSERVER_RESPONSE_COMPLETE_FINAL", 1, raising=False)
    images = torch.zeros(plugin.LARGE, 2, 2, 3, dtype=torch.uint8)
    parsed = plugin.Parsed(plugin.Request(images, plugin.Wish(images=len(images))), ["LEVEL"])
    monkeypatch.setattr(plugin, "parse", lambda request, classifier: parsed)
    answer = Answer(torch.ones(len(images), 5), 0, None)
    classifier = SimpleNamespace(launch=lambda requests: lambda: [answer] * len(requests))
    finisher = SimpleNamespace(add=lambda step: step())
    requests = [request(name) for name in ("first", "gone", "last")]
    assert plugin.begin(requests, classifier, None, finisher) is None
    assert [*sent] == ["first", "last"]
    for response, flags in sent.values():
        assert flags == 1
        assert not response.has_error()
