"""A stand-in for a server that stalls, which a real one cannot be asked to do.

It answers the KServe call, says how large its batches are, and is here only to test the *client's*
clock.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

import foveate_loadtest

StartFake = Callable[..., str]
Start = Callable[..., subprocess.Popen[bytes]]

LOCUSTFILE = Path(foveate_loadtest.__file__).with_name("locustfile.py")


@pytest.fixture
def fakes() -> list[grpc.Server]:
    """The servers that ``start_fake`` has started."""
    return []


@pytest.fixture
def start_fake(fakes: list[grpc.Server]) -> Iterator[StartFake]:
    """Start a fake server; returns its host:port.

    ``seconds`` is the time of one request, ``workers`` how many run at once, ``reject`` how many of
    the first requests are answered UNAVAILABLE at once.
    """

    def start(*, seconds: float, workers: int, reject: int = 0) -> str:
        lock = threading.Lock()
        seen = 0

        def infer(
            request: service_pb2.ModelInferRequest, context: grpc.ServicerContext
        ) -> service_pb2.ModelInferResponse:
            nonlocal seen
            with lock:
                seen += 1
                turned_away = seen <= reject
            if turned_away:
                context.abort(grpc.StatusCode.UNAVAILABLE, "deadline cannot be met")
            time.sleep(seconds)
            return _answer(category=3, level=1)

        handler = grpc.unary_unary_rpc_method_handler(
            infer,
            service_pb2.ModelInferRequest.FromString,
            service_pb2.ModelInferResponse.SerializeToString,
        )
        config = grpc.unary_unary_rpc_method_handler(
            lambda *_: service_pb2.ModelConfigResponse(config={"max_batch_size": 8}),
            service_pb2.ModelConfigRequest.FromString,
            service_pb2.ModelConfigResponse.SerializeToString,
        )
        server = grpc.server(ThreadPoolExecutor(workers))
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "inference.GRPCInferenceService",
                    {"ModelInfer": handler, "ModelConfig": config},
                ),
            )
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        fakes.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in fakes:
        server.stop(None).wait()


@pytest.fixture
def locust(tmp_path: Path) -> Iterator[Start]:
    """Start plain Locust on our file, with options."""
    with (tmp_path / "locust.log").open("wb") as log:
        started: list[subprocess.Popen[bytes]] = []

        def start(*options: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "locust", f"--locustfile={LOCUSTFILE}", "--images=4"]
            process = subprocess.Popen(
                [*command, *options],
                cwd=tmp_path,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                pass_fds=pass_fds,
            )
            started.append(process)
            return process

        yield start
        for process in started:
            process.kill()
            process.wait()


def _answer(category: int, level: int) -> service_pb2.ModelInferResponse:
    scores = np.zeros((1, 10), np.float32)
    scores[0, category] = 1.0
    response = service_pb2.ModelInferResponse(model_name="digits")
    outputs = {"SCORES": ("FP32", scores), "LEVEL": ("INT32", np.array([[level]], np.int32))}
    for name, (datatype, data) in outputs.items():
        response.outputs.add(name=name, datatype=datatype, shape=data.shape)
        response.raw_output_contents.append(data.tobytes())
    return response
