"""Does the server still answer? Readiness says yes even when a model process is dead.

Tritonserver never restarts a dead model process, and before 26.01 keeps calling the model ready,
so the only proof is an inference. It is made at start, and by the :class:`Watchdog` when a model
has not answered anybody for a while, requests begin to fail, or its heartbeat stops.
"""

from __future__ import annotations

import base64
import enum
import json
import math
import re
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from foveate.control.heartbeat import Heartbeats, Silence

__all__ = ["PATIENCE_S", "REQUEST_ID", "Answer", "Watchdog", "ailments", "infer", "open_client"]

REQUEST_ID = "foveate-probe"
TIMEOUT_S = 5.0
PATIENCE_S = 30.0  # a full batch of the largest images we decode takes half of that
_PROOF_LASTS_S = 5.0
_STRIKES = 2
_COUNTER = re.compile(
    r'^nv_inference_request_(success|failure)\{.*?\bmodel="([^"]+)".*\} (\S+)$', re.MULTILINE
)
_PNG = base64.b64decode(  # one black pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)


class Answer(enum.Enum):
    """What came back."""

    GOOD = "good"
    BUSY = "busy"  # 503: refused by a model process that is alive
    SILENT = "silent"
    BAD = "bad"


def open_client(timeout_s: float = TIMEOUT_S) -> httpx.Client:
    """A client for :func:`infer`, which gives an answer ``timeout_s`` seconds.

    Keeps no connection: each one open delays the server's end.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(timeout=timeout_s, limits=limits, trust_env=False)


def infer(client: httpx.Client, url: str, model: str) -> tuple[Answer, str]:
    """One inference of a blank image, over HTTP as any client would; and what went wrong, if so.

    Works for every model whose inputs are images, encoded (BYTES) or pixels (UINT8), and for those
    that answer to empty BYTES.
    """
    timeout_s = client.timeout.read or TIMEOUT_S
    try:
        inputs = client.get(f"{url}/v2/models/{model}").raise_for_status().json()["inputs"]
        shapes = [[max(size, 1) for size in tensor["shape"]] for tensor in inputs]
        bodies = [
            _blank(tensor["name"], tensor["datatype"], shape)
            for tensor, shape in zip(inputs, shapes, strict=True)
        ]
        header = {
            "id": REQUEST_ID,
            "parameters": {"binary_data_output": True, "deadline_ms": int(timeout_s * 1000)},
            "inputs": [
                {
                    "name": tensor["name"],
                    "datatype": tensor["datatype"],
                    "shape": shape,
                    "parameters": {"binary_data_size": len(body)},
                }
                for tensor, shape, body in zip(inputs, shapes, bodies, strict=True)
            ],
        }
        text = json.dumps(header).encode()
        response = client.post(
            f"{url}/v2/models/{model}/infer",
            content=text + b"".join(bodies),
            headers={"Inference-Header-Content-Length": str(len(text))},
        )
    except httpx.TimeoutException:
        return Answer.SILENT, f"no answer within {timeout_s:g} s"
    except httpx.HTTPError as error:
        return Answer.SILENT, str(error)
    if response.status_code == httpx.codes.OK:
        return Answer.GOOD, ""
    busy = response.status_code == httpx.codes.SERVICE_UNAVAILABLE
    return (Answer.BUSY if busy else Answer.BAD), response.text.strip()


def ailments(url: str, models: Sequence[str], timeout_s: float = TIMEOUT_S) -> list[str]:
    """What keeps each of ``models`` from answering within ``timeout_s`` seconds, one line each; a
    busy one is well.

    All are asked at once.
    """
    with open_client(timeout_s) as client, ThreadPoolExecutor(len(models)) as pool:
        replies = list(pool.map(lambda model: infer(client, url, model), models))
    return [
        f"{model}: {reason}"
        for model, (answer, reason) in zip(models, replies, strict=True)
        if answer in (Answer.SILENT, Answer.BAD)
    ]


@dataclass(frozen=True)
class _Counts:
    answered: float = 0.0
    failed: float = 0.0  # of all models: a failed step is counted under its ensemble only


class Watchdog:
    """Calls for a restart when a model fails twice in a row to answer a blank image.

    Once is enough if its heartbeat has stopped, and none is needed if that lasts: another process
    of the same model may answer. While the heartbeat goes on, a model that says nothing may be
    busy, and is given time.
    """

    def __init__(
        self, client: httpx.Client, http: str, metrics: str, models: Sequence[str]
    ) -> None:
        self._client = client
        self._http = http
        self._metrics = metrics
        self._counts = dict.fromkeys(models, _Counts())
        self._answered_at = dict.fromkeys(models, time.monotonic())
        self._proved_at = dict.fromkeys(models, time.monotonic())
        self._strikes = dict.fromkeys(models, 0)
        self._heartbeats = Heartbeats()

    def trouble(self) -> str | None:
        """What is wrong with the server, None if nothing is known to be. Call about once a second.

        Costs one scrape while requests succeed; blocks for a few seconds if a model hangs.
        """
        for model in self._counts:
            silence, reason = self._look_at(model)
            self._strikes[model] = self._strikes[model] + 1 if reason else 0
            if reason and silence:
                return f"{model}: {silence}, {reason}"
            if silence and silence.seconds >= PATIENCE_S:
                return f"{model}: {silence}"
            if self._strikes[model] == _STRIKES:
                return f"{model}: {reason}"
        return None

    def _look_at(self, model: str) -> tuple[Silence | None, str | None]:
        """Whether its heartbeat has stopped, and what else is wrong with a model."""
        try:
            text = self._client.get(self._metrics).raise_for_status().text
        except httpx.HTTPError as error:
            return None, f"no metrics: {error!r}"
        now = time.monotonic()
        self._heartbeats.see(text, now)
        silent = [one for one in self._heartbeats.silent(now) if one.model == model]
        silence = max(silent, key=lambda one: one.seconds, default=None)
        return silence, self._doubt(model, _counts(text, model), stopped=silence is not None)

    def _doubt(self, model: str, counts: _Counts, *, stopped: bool) -> str | None:
        """Why it seems unable to answer; asks it if nobody else has of late."""
        before = self._counts[model]
        self._counts[model] = counts
        now = time.monotonic()
        if counts.answered > before.answered:
            self._answered_at[model] = now
            if counts.failed == before.failed:
                self._proved_at[model] = now
        doubted = stopped or self._strikes[model]
        if now - self._proved_at[model] < _PROOF_LASTS_S and not doubted:
            return None
        answer, reason = infer(self._client, self._http, model)
        now = time.monotonic()
        if answer in (Answer.GOOD, Answer.BUSY):
            self._answered_at[model] = self._proved_at[model] = now
            return None
        patient = now - self._answered_at[model] < PATIENCE_S
        return None if answer is Answer.SILENT and patient and not stopped else reason


def _counts(text: str, model: str) -> _Counts:
    found = _COUNTER.findall(text)
    return _Counts(
        answered=sum(float(n) for what, name, n in found if (what, name) == ("success", model)),
        failed=sum(float(n) for what, _, n in found if what == "failure"),
    )


def _blank(name: str, datatype: str, shape: Sequence[int]) -> bytes:
    if datatype == "BYTES":
        file = _PNG if name == "IMAGE" else b""
        return (struct.pack("<I", len(file)) + file) * math.prod(shape)
    return bytes(math.prod(shape))
