"""Malformed requests on a real server, with good ones in between: who is wronged, and what leaks?

    python -m foveate_benchmarks.hardening.flood [--requests 100000] [--seed 1] [--no-save]

Half over HTTP, half over gRPC, made at random from right ones (``flood_requests.py``). After
every hundred, a good request over each protocol must give the scores it gave before the flood. No
reply may hold a traceback, a file name or the name of a shared memory file.
"""

from __future__ import annotations

import random
import re
import socket
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.http
import typer
from numpy.typing import NDArray

from foveate.images.cluttered_digits import test_set
from foveate_benchmarks.hardening.flood_requests import GRPC_KINDS, HTTP_KINDS
from foveate_benchmarks.results import conclude
from foveate_benchmarks.serving.requests import pixels
from foveate_loadtest.temporary_server import Addresses, running

EVERY = 100  # malformed requests to two good ones
PATIENCE_S = 5.0
LEAK = re.compile(r"Traceback|File \"|\.py\b|/dev/shm|shm_region|site-packages")
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class HttpClient:
    """Raw bytes out, a status and a text back."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        self._address = host, int(port)
        self._socket: socket.socket | None = None

    def send(self, data: bytes, keep: bool) -> tuple[str, str]:
        """Status, or what happened instead, and the reply. What is not whole is ended, as a client
        that dies ends it.
        """
        try:
            connection = self._socket or socket.create_connection(self._address, PATIENCE_S)
            self._socket = None
            connection.sendall(data)
            if not keep:
                connection.shutdown(socket.SHUT_WR)
            reply = self._receive(connection)
            if keep and reply:
                self._socket = connection
            else:
                connection.close()
        except OSError as error:
            return type(error).__name__, ""
        status = _STATUS.match(reply)
        return status[1].decode() if status else "closed", reply.decode(errors="replace")

    def _receive(self, connection: socket.socket) -> bytes:
        reply = b""
        while part := connection.recv(65536):
            reply += part
            head, found, body = reply.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if found and len(body) >= (int(length[1]) if length else 0):
                break
        return reply


class GrpcClient:
    """Bytes to any method."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)

    def send(self, method: str, data: bytes) -> tuple[str, str]:
        call = self._channel.unary_unary(method)
        try:
            return "OK", call(data, timeout=PATIENCE_S).decode("latin-1")
        except grpc.RpcError as error:
            return error.code().name, str(error.details())


class Judge:
    """Whether good requests are answered as they were before."""

    def __init__(self, server: Addresses) -> None:
        self._images, _ = test_set(16)
        addresses = {
            tritonclient.http: server.http.removeprefix("http://"),
            tritonclient.grpc: server.grpc,
        }
        self._clients = [(m, m.InferenceServerClient(a)) for m, a in addresses.items()]
        self._truth = [self._ask(*self._clients[0], row) for row in range(16)]
        self.asked, self.wrong = 0, 0

    def ask(self) -> None:
        for module, client in self._clients:
            row = self.asked % 16
            self.asked += 1
            try:
                scores = self._ask(module, client, row)
                self.wrong += not np.allclose(scores, self._truth[row], atol=1e-5)
            except Exception as error:  # whatever it is, it is a wrong answer
                self.wrong += 1
                print(f"good request {self.asked}: {error}", flush=True)

    def _ask(self, module: Any, client: Any, row: int) -> NDArray[np.float32]:
        wishes = {"quality": "exact", "deadline_ms": 30_000}
        answer = client.infer("digits", [pixels(self._images[row], module)], parameters=wishes)
        scores: NDArray[np.float32] = answer.as_numpy("SCORES")
        return scores


def answered(server: Addresses) -> float:
    """Falls when the server was restarted."""
    return server.counters("digits", "nv_inference_request_success")[0]


def main(
    requests: int = 100_000,
    seed: int = 1,
    repository: Path = Path("model_repository"),
    keep: Annotated[bool, typer.Option("--save/--no-save")] = True,
) -> None:
    rng = random.Random(seed)
    replies: dict[str, Counter[str]] = defaultdict(Counter)
    examples: dict[str, str] = {}
    leaks: list[str] = []
    restarts = 0
    start = time.monotonic()
    with running(repository, "--no-pin-cap") as server:
        over_http, over_grpc, judge = (
            HttpClient(server.http),
            GrpcClient(server.grpc),
            Judge(server),
        )
        before = answered(server)
        for number in range(requests):
            if number % 2:
                kind = rng.choice(list(HTTP_KINDS))
                status, text = over_http.send(*HTTP_KINDS[kind](rng))
                label = f"HTTP {kind}"
            else:
                kind = rng.choice(list(GRPC_KINDS))
                status, text = over_grpc.send(*GRPC_KINDS[kind](rng))
                label = f"gRPC {kind}"
            replies[label][status] += 1
            if status not in ("200", "OK"):
                examples.setdefault(f"{label}: {status}", text.partition("\r\n\r\n")[2] or text)
            if (leak := LEAK.search(text)) is not None:
                leaks.append(f"{label}: {text[max(0, leak.start() - 200) : leak.end() + 200]}")
            if number % EVERY == EVERY - 1:
                judge.ask()
                now = answered(server)
                restarts, before = restarts + (now < before), now
    seconds = round(time.monotonic() - start, 1)
    for found in leaks[:5]:
        print("leak:", found)
    for kind, counts in sorted(replies.items()):
        print(f"{kind:24} {dict(counts)}")
    conclude(
        "flood",
        {
            f"{judge.asked} good requests answered right": judge.asked > 0 and not judge.wrong,
            "no reply tells of the inside": not leaks,
            "no restart": not restarts,
        },
        keep,
        requests=requests,
        seconds=seconds,
        good_requests=judge.asked,
        wrong_answers=judge.wrong,
        restarts=restarts,
        leaks=len(leaks),
        replies={kind: dict(counts) for kind, counts in sorted(replies.items())},
        examples={key: text.strip()[:160] for key, text in sorted(examples.items())},
    )


if __name__ == "__main__":
    typer.run(main)
