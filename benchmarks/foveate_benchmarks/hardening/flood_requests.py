"""Requests that are wrong in every way a client can be wrong, made at random from right ones."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from PIL import Image
from tritonclient.grpc import service_pb2 as pb

__all__ = ["GRPC_KINDS", "HTTP_KINDS", "Http"]

PIXELS = bytes(96 * 96 * 3)
METHOD = "/inference.GRPCInferenceService/ModelInfer"
Http = tuple[bytes, bool]  # bytes to send, and whether the connection may be kept afterwards


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 96)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()
ODD: list[Any] = [
    *(None, True, -1, 0, 2**31, 2**63, 1e308, "", "x" * 5000, "\0", "../../etc/passwd", "%s%n"),
    *([], {}, [[]], {"a": {"b": []}}, [-1, 96, 96, 3], [2**62, 96, 96, 3], [1] * 200, "digits"),
]


def _post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def _header(binary_size: int = len(PIXELS)) -> dict[str, Any]:
    return {
        "id": "flood",
        "parameters": {"level": "dense"},
        "inputs": [
            {
                "name": "PIXELS",
                "datatype": "UINT8",
                "shape": [1, 96, 96, 3],
                "parameters": {"binary_data_size": binary_size},
            }
        ],
        "outputs": [{"name": "SCORES", "parameters": {"classification": 3}}],
    }


def _infer(header: bytes, tail: bytes, model: str = "digits", size: object = None) -> bytes:
    size = len(header) if size is None else size
    path = f"/v2/models/{model}/infer"
    return _post(path, header + tail, f"Inference-Header-Content-Length: {size}")


def _spoiled(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """With a few bytes changed, removed or repeated."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del out[at : at + rng.randint(1, 16)]
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randint(1, 16))
        else:
            out[at:at] = out[at : at + 16]
    return bytes(out)


def _odd_value(rng: random.Random, data: Any) -> Any:
    """With one value, somewhere, replaced by an odd one."""
    if isinstance(data, dict | list) and data and rng.random() < 0.85:
        copy = data.copy()
        key = rng.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        copy[key] = _odd_value(rng, copy[key])
        return copy
    return rng.choice(ODD)


def http_noise(rng: random.Random) -> Http:
    return rng.randbytes(rng.randint(1, 400)) + b"\r\n\r\n", False


def http_request_line(rng: random.Random) -> Http:
    text = _post("/v2/models/digits/infer", b"{}")
    return _spoiled(rng, text[:40]) + text[40:], False


def http_cut_short(rng: random.Random) -> Http:
    whole = _infer(json.dumps(_header()).encode(), PIXELS)
    return whole[: rng.randrange(1, len(whole))], False


def http_header_length(rng: random.Random) -> Http:
    header = json.dumps(_header()).encode()
    size = rng.choice([-1, 0, 1, len(header) - 1, len(header) + 1, 2**31, 2**64, "ten", "1e3", ""])
    return _infer(header, PIXELS[:512], size=size), False


def http_json(rng: random.Random) -> Http:
    header = json.dumps(_header()).encode()
    return _infer(_spoiled(rng, header), PIXELS), True


def http_values(rng: random.Random) -> Http:
    header = json.dumps(_odd_value(rng, _header())).encode()
    return _infer(header, PIXELS), True


def http_binary_size(rng: random.Random) -> Http:
    size = rng.choice([0, 1, len(PIXELS) - 1, len(PIXELS) + 1, 2**31, 2**62, -1])
    return _infer(json.dumps(_header(size)).encode(), PIXELS), True


def http_nesting(rng: random.Random) -> Http:
    depth = rng.choice([50, 500, 5000])
    return _post(
        "/v2/models/digits/infer", b'{"inputs":' + b"[" * depth + b"]" * depth + b"}"
    ), True


def _image(rng: random.Random) -> tuple[str, bytes]:
    """A model that takes files, and a bad one behind its length, or a wrong one."""
    data = rng.choice([_spoiled(rng, PNG), rng.randbytes(rng.randint(0, 300)), PNG[:50]])
    claimed = rng.choice([len(data), len(data), 0, 2**31, len(data) + 1])
    model = rng.choice(["digits_classify", "digits_explain", "digits_decode"])
    return model, struct.pack("<I", claimed) + data


def http_image(rng: random.Random) -> Http:
    model, body = _image(rng)
    header = {
        "inputs": [
            {
                "name": "IMAGE",
                "datatype": "BYTES",
                "shape": [1, 1],
                "parameters": {"binary_data_size": len(body)},
            }
        ]
    }
    return _infer(json.dumps(header).encode(), body, model), True


def http_path(rng: random.Random) -> Http:
    path = rng.choice(
        [
            *(
                "/v2/models/nobody/infer",
                "/v2/models/digits/versions/99/infer",
                "/v2/" + "a" * 9000,
            ),
            *("/v2/models/..%2f..%2fetc/infer", "/v2/models//infer", "/%00", "/v2/models/digits"),
            *("/v2/repository/models/digits/unload", "/v2/systemsharedmemory/region/x/register"),
            *("/v2/cudasharedmemory/region/x/register", "/v2/logging", "/v2/trace/setting"),
        ]
    )
    return _post(path, b'{"key": "/x", "offset": 0, "byte_size": 1}'), False


# Very many chunks are left out: Triton before 25.07 does not survive them (CVE-2025-23310), one of
# the reasons why the embedded one only listens on the loopback.
def http_chunks(rng: random.Random) -> Http:
    sizes = [rng.choice(["3", "0", "zz", "-1", "ffffffffffffffff"]) for _ in range(3)]
    chunks = "".join(f"{size}\r\nabc\r\n" for size in sizes)
    head = "POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return (head + chunks).encode(), False


HTTP_KINDS: dict[str, Callable[[random.Random], Http]] = {
    "noise": http_noise,
    "request line": http_request_line,
    "cut short": http_cut_short,
    "header length": http_header_length,
    "json": http_json,
    "values": http_values,
    "binary size": http_binary_size,
    "nesting": http_nesting,
    "image": http_image,
    "path": http_path,
    "chunks": http_chunks,
}


def _message(image: bytes | None = None, model: str | None = None) -> Any:
    request = pb.ModelInferRequest(model_name=model or "digits", id="flood")
    tensor = request.inputs.add(name="PIXELS", datatype="UINT8", shape=[1, 96, 96, 3])
    if image is not None:
        request.model_name = model or "digits_classify"
        tensor.name, tensor.datatype = "IMAGE", "BYTES"
        del tensor.shape[:]
        tensor.shape.extend([1, 1])
    request.raw_input_contents.append(PIXELS if image is None else image)
    return request


def grpc_noise(rng: random.Random) -> tuple[str, bytes]:
    return METHOD, rng.randbytes(rng.randint(0, 400))


def grpc_spoiled(rng: random.Random) -> tuple[str, bytes]:
    whole = _message().SerializeToString()
    return METHOD, _spoiled(rng, whole[:80]) + whole[80:]


def grpc_shape(rng: random.Random) -> tuple[str, bytes]:
    request = _message()
    shape = [rng.choice([-1, 0, 1, 3, 95, 96, 97, 2**31, 2**62]) for _ in range(rng.randint(0, 6))]
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(shape)
    return METHOD, request.SerializeToString()


def grpc_names(rng: random.Random) -> tuple[str, bytes]:
    request = _message()
    odd = rng.choice(["", "x" * 5000, "PIXEL", "../..", "%s%n", "digits_control", "IMAGE"])
    where = rng.randrange(4)
    if where == 0:
        request.model_name = odd
    elif where == 1:
        request.inputs[0].name = odd
    elif where == 2:
        request.inputs[0].datatype = odd
    else:
        request.outputs.add(name=odd)
    return METHOD, request.SerializeToString()


def grpc_contents(rng: random.Random) -> tuple[str, bytes]:
    request = _message()
    del request.raw_input_contents[:]
    for _ in range(rng.randint(0, 3)):
        request.raw_input_contents.append(PIXELS[: rng.choice([0, 1, 27647, 27648])])
    if rng.random() < 0.5:
        request.inputs[0].contents.int_contents.extend([300, -1])
    return METHOD, request.SerializeToString()


def grpc_parameters(rng: random.Random) -> tuple[str, bytes]:
    request = _message()
    name = rng.choice(["level", "quality", "deadline_ms", "timeout", "priority", "sequence_id", ""])
    parameter = request.parameters[name]
    kind = rng.randrange(4)
    if kind == 0:
        parameter.string_param = rng.choice(["", "nan", "dense\0", "9" * 400, "é" * 50])
    elif kind == 1:
        parameter.int64_param = rng.choice([-(2**63), 2**63 - 1, -1])
    elif kind == 2:
        parameter.double_param = rng.choice([float("nan"), float("inf"), -1e308])
    else:
        parameter.bool_param = True
    return METHOD, request.SerializeToString()


def grpc_image(rng: random.Random) -> tuple[str, bytes]:
    model, image = _image(rng)
    return METHOD, _message(image, model).SerializeToString()


def grpc_method(rng: random.Random) -> tuple[str, bytes]:
    service = "/inference.GRPCInferenceService/"
    method = rng.choice(
        [
            *("Nothing", "RepositoryModelUnload", "SystemSharedMemoryRegister", "LogSettings"),
            *("TraceSetting", "CudaSharedMemoryRegister", "RepositoryIndex", "ModelMetadata"),
        ]
    )
    return service + method, rng.randbytes(rng.randint(0, 40))


GRPC_KINDS: dict[str, Callable[[random.Random], tuple[str, bytes]]] = {
    "noise": grpc_noise,
    "spoiled": grpc_spoiled,
    "shape": grpc_shape,
    "names": grpc_names,
    "contents": grpc_contents,
    "parameters": grpc_parameters,
    "image": grpc_image,
    "method": grpc_method,
}
