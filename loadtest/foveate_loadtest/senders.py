"""Hand one prebuilt request to the transport now, and report its reply later. Never blocks.

gRPC needs ``grpc.experimental.gevent.init_gevent()`` where gevent has patched the standard library;
without gevent it works as it is. HTTP is gevent's own.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gevent
import gevent.socket
import grpc
import numpy as np
from geventhttpclient.response import HTTPParseError, HTTPSocketResponse
from tritonclient.grpc import service_pb2

from foveate_loadtest.rows import Outcome

__all__ = [
    "GrpcSender",
    "HttpSender",
    "Reply",
    "Sender",
    "address",
    "infer_method",
    "max_batch",
]

_GRPC_OUTCOMES = {
    grpc.StatusCode.UNAVAILABLE: Outcome.REJECTED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Outcome.TIMEOUT,
    grpc.StatusCode.INVALID_ARGUMENT: Outcome.INVALID,
}
# gRPC says UNAVAILABLE whether the server rejects or is not there; only the words differ. These are
# of gRPC's own transport: of its resolver, of its connections, and of its streams.
_LOST = (
    *("errors resolving", "DNS resolution failed", "empty address list"),
    *("failed to connect", "Failed to connect", "Connection re", "connection attempt timed out"),
    *("Socket closed", "Endpoint", "Broken pipe", "No route to host", "unreachable"),
    *("Stream removed", "Transport closed", "GOAWAY", "eepalive", "ping timeout", "recvmsg"),
)
_ALIVE_S = 1.0  # to say so
_CONFIG_S = 30.0
_HTTP_OUTCOMES = {503: Outcome.REJECTED, 400: Outcome.INVALID}


@dataclass(frozen=True)
class Reply:
    """What came back; level and answer are -1 where the reply has none."""

    outcome: Outcome
    level: int = -1
    answer: int = -1
    message: str = ""


class Sender(Protocol):
    """Talks to one server."""

    def send(
        self, image: int, on_sent: Callable[[], None], on_reply: Callable[[Reply], None]
    ) -> None:
        """Send payload ``image``; each callback is called once, in this order."""

    def alive(self) -> bool:
        """Whether the server answers at all, within a second."""

    def close(self) -> None: ...


def address(url: str) -> str:
    """The host:port of a URL, or of what is one already."""
    return url.rpartition("://")[2].rstrip("/")


def infer_method(channel: grpc.Channel) -> Any:
    """The ModelInfer call of a channel, taking a serialised request."""
    return channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )


def max_batch(channel: grpc.Channel, model: str) -> int:
    """The largest batch of a model; 1 if it takes none. Raises :class:`grpc.RpcError`."""
    config = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelConfig",
        request_serializer=service_pb2.ModelConfigRequest.SerializeToString,
        response_deserializer=service_pb2.ModelConfigResponse.FromString,
    )
    told = config(service_pb2.ModelConfigRequest(name=model), timeout=_CONFIG_S)
    return max(int(told.config.max_batch_size), 1)


class GrpcSender:
    def __init__(self, server: str, payloads: Sequence[bytes], timeout: float) -> None:
        """``server`` is host:port, ``timeout`` in seconds."""
        self._channel = grpc.insecure_channel(server)
        self._infer = infer_method(self._channel)
        self._payloads = payloads
        self._timeout = timeout

    def send(
        self, image: int, on_sent: Callable[[], None], on_reply: Callable[[Reply], None]
    ) -> None:
        call = self._infer.future(self._payloads[image], timeout=self._timeout)
        on_sent()
        call.add_done_callback(lambda call: on_reply(_grpc_reply(call)))

    def alive(self) -> bool:
        live = self._channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        try:
            live(b"", timeout=_ALIVE_S)
        except grpc.RpcError as error:  # whatever it says, but that it is gone
            return _grpc_outcome(error) not in (Outcome.LOST, Outcome.TIMEOUT)
        return True

    def close(self) -> None:
        self._channel.close()


class HttpSender:
    """Keeps connections alive and opens another whenever all of them wait for a reply."""

    def __init__(self, server: str, requests: Sequence[bytes], timeout: float) -> None:
        """``server`` is host:port, ``timeout`` in seconds of silence."""
        host, _, port = server.rpartition(":")
        self._address = (host, int(port))
        self._requests = requests
        self._timeout = timeout
        self._idle: list[Any] = []

    def send(
        self, image: int, on_sent: Callable[[], None], on_reply: Callable[[Reply], None]
    ) -> None:
        def exchange() -> None:
            on_sent()
            on_reply(self._exchange(self._requests[image]))

        gevent.spawn(exchange)

    def _exchange(self, request: bytes) -> Reply:
        try:
            connection = self._idle.pop() if self._idle else self._connect()
            connection.sendall(request)
            response = HTTPSocketResponse(connection, method="POST")
            body = bytes(response.read())
        except TimeoutError as error:
            return Reply(Outcome.TIMEOUT, message=str(error))
        except (OSError, HTTPParseError) as error:
            return Reply(Outcome.LOST, message=repr(error))
        if response.should_close():
            connection.close()
        else:
            self._idle.append(connection)
        return _http_reply(response, body)

    def alive(self) -> bool:
        try:
            with gevent.socket.create_connection(self._address, _ALIVE_S) as connection:
                connection.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
                return bool(connection.recv(1))
        except OSError:
            return False

    def _connect(self) -> Any:
        connection = gevent.socket.create_connection(self._address, self._timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def _http_reply(response: HTTPSocketResponse, body: bytes) -> Reply:
    if response.status_code != 200:
        outcome = _HTTP_OUTCOMES.get(response.status_code, Outcome.FAILED)
        return Reply(outcome, message=body.decode(errors="replace"))
    # Numeric outputs follow the JSON head as raw bytes, in its order.
    offset = int(str(response["Inference-Header-Content-Length"]))
    raw = {}
    for output in json.loads(body[:offset])["outputs"]:
        end = offset + output["parameters"]["binary_data_size"]
        raw[output["name"]] = body[offset:end]
        offset = end
    return _answer(raw)


def _grpc_reply(call: Any) -> Reply:
    code = call.code()
    if code is not grpc.StatusCode.OK:
        return Reply(_grpc_outcome(call), message=f"{code.name}: {call.details()}")
    response = call.result()
    names = (output.name for output in response.outputs)
    return _answer(dict(zip(names, response.raw_output_contents, strict=True)))


def _grpc_outcome(call: Any) -> Outcome:
    """Of a call that failed."""
    outcome = _GRPC_OUTCOMES.get(call.code(), Outcome.FAILED)
    said = str(call.details())
    if outcome is Outcome.REJECTED and any(words in said for words in _LOST):
        return Outcome.LOST
    return outcome


def _answer(raw: Mapping[str, bytes]) -> Reply:
    level = int(np.frombuffer(raw["LEVEL"], np.int32)[0]) if "LEVEL" in raw else -1
    return Reply(Outcome.OK, level, int(np.frombuffer(raw["SCORES"], np.float32).argmax()))
