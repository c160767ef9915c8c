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
