"""Does the server still answer? Its readiness endpoint says yes even when a model process is dead.

Tritonserver never restarts a dead model process, and before 26.01 still reports the model as ready,
so only an inference proves that it works. We run one at start, and the :class:`Watchdog` runs one
when a model has not answered anyone for a while, requests begin to fail, or its heartbeat stops.
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

__all__ = [
    "PATIENCE_S",
    "REQUEST_ID",
    "Answer",
    "Watchdog",
    "find_failures",
    "infer",
    "open_client",
]

REQUEST_ID = "foveate-probe"
TIMEOUT_S = 5.0
PATIENCE_S = 30.0  # a full batch of the largest images we decode takes half of that
_PROOF_LASTS_S = 5.0
_MAX_FAILURES = 2
_COUNTER = re.compile(
    r'^nv_inference_request_(success|failure)\{.*?\bmodel="([^"]+)".*\} (\S+)$', re.MULTILINE
)
_PNG = base64.b64decode(  # one black pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)


class Answer(enum.Enum):
    """Outcome of one inference."""

    GOOD = "good"
    BUSY = "busy"  # 503: rejected by a live model process
    SILENT = "silent"
    BAD = "bad"


def open_client(timeout_s: float = TIMEOUT_S) -> httpx.Client:
    """A client for :func:`infer` with a timeout of ``timeout_s`` seconds.

    Keeps no connections open: each one delays the server's shutdown.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(timeout=timeout_s, limits=limits, trust_env=False)


def infer(client: httpx.Client, url: str, model: str) -> tuple[Answer, str]:
    """Run one inference of a blank image over HTTP. Returns the outcome, and the error if any.

    Works for every model that takes images, encoded (BYTES) or as pixels (UINT8), and for models
    that accept empty BYTES.
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


def find_failures(url: str, models: Sequence[str], timeout_s: float = TIMEOUT_S) -> list[str]:
    """One line for each of ``models`` that does not answer within ``timeout_s`` seconds.

    A busy model counts as healthy. All models are probed at the same time.
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
    failed: float = 0.0  # by all models: Triton counts a failed step only for its ensemble


class Watchdog:
    """Asks for a restart when a model fails to answer a blank image twice in a row.

    One failure is enough if its heartbeat has stopped. A heartbeat that stays away is enough by
    itself, because another process of the same model may answer. While the heartbeat goes on, a
    silent model may just be busy and gets more time.
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
        """What is wrong with the server, or None. Call about once a second.

        Costs one scrape while requests succeed; blocks for a few seconds if a model hangs.
        """
        for model in self._counts:
            silence, reason = self._look_at(model)
            self._strikes[model] = self._strikes[model] + 1 if reason else 0
            if reason and silence:
                return f"{model}: {silence}, {reason}"
            if silence and silence.seconds >= PATIENCE_S:
                return f"{model}: {silence}"
            if self._strikes[model] == _MAX_FAILURES:
                return f"{model}: {reason}"
        return None

    def _look_at(self, model: str) -> tuple[Silence | None, str | None]:
        """Whether the model's heartbeat has stopped, and what else is wrong with it."""
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
        """Why the model seems unable to answer. Sends it a request if nobody else did lately."""
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
