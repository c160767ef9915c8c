"""Requests built once per image and sent many times, so that sending costs almost nothing.

The bytes are made by tritonclient's own message types; only the sending is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import tritonclient.http as http
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

__all__ = ["Parameters", "Tensor", "grpc_payload", "http_payload", "tensors"]

Parameters = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Tensor:
    """The single input of a request, batch dimension included."""

    name: str
    data: NDArray[np.generic]


def tensors(images: Iterable[NDArray[np.uint8] | bytes]) -> Iterable[Tensor]:
    """Inputs for images [H, W, 3], or the bytes of files, one request each."""
    for image in images:
        if isinstance(image, bytes):
            yield Tensor("IMAGE", np.array([[image]], np.object_))
        else:
            yield Tensor("PIXELS", image[np.newaxis])


def grpc_payload(model: str, tensor: Tensor, parameters: Parameters) -> bytes:
    """A serialised ``ModelInferRequest``."""
    request = service_pb2.ModelInferRequest(model_name=model)
    entry = request.inputs.add()
    entry.name = tensor.name
    entry.datatype = np_to_triton_dtype(tensor.data.dtype)
    entry.shape.extend(tensor.data.shape)
    if tensor.data.dtype == np.object_:
        request.raw_input_contents.append(serialize_byte_tensor(tensor.data).item())
    else:
        request.raw_input_contents.append(tensor.data.tobytes())
    for name, value in parameters.items():
        match value:
            case bool():
                request.parameters[name].bool_param = value
            case int():
                request.parameters[name].int64_param = value
            case float():
                request.parameters[name].double_param = value
            case str():
                request.parameters[name].string_param = value
    return bytes(request.SerializeToString())


def http_payload(server: str, model: str, tensor: Tensor, parameters: Parameters) -> bytes:
    """A whole HTTP/1.1 request, its body as tritonclient itself would post it."""
    entry = http.InferInput(
        tensor.name, list(tensor.data.shape), np_to_triton_dtype(tensor.data.dtype)
    )
    entry.set_data_from_numpy(tensor.data)
    body, head = http.InferenceServerClient.generate_request_body(
        [entry], parameters=dict(parameters)
    )
    start = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\n"
        f"Host: {server}\r\n"
        "Content-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {head}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return start.encode() + bytes(body)
