"""``foveate classify``: send one image to a running server, as any KServe v2 client would."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import httpx

from foveate.errors import FoveateError

__all__ = ["Classified", "Guess", "classify"]

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Guess:
    """One class and its score."""

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class Classified:
    """The top classes of an image, best first, and the level that answered."""

    image: str
    classes: tuple[Guess, ...]
    level: int


def classify(url: str, model: str, image: Path, *, top: int, level: str | None) -> Classified:
    """Send a JPEG or PNG file to ``NAME_classify`` on the server at ``url`` (host:port).

    Raises :class:`FoveateError` with the server's message if it rejects the image, or with the
    reason if it cannot be reached.
    """
    file = image.read_bytes()
    body = struct.pack("<I", len(file)) + file
    header = {
        "parameters": {} if level is None else {"level": level},
        "inputs": [
            {
                "name": "IMAGE",
                "shape": [1, 1],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(body)},
            }
        ],
        "outputs": [
            {"name": "SCORES", "parameters": {"classification": top}},
            {"name": "LEVEL"},
        ],
    }
    text = json.dumps(header).encode()
    address = f"http://{url.removeprefix('http://').rstrip('/')}"
    try:
        reply = httpx.post(
            f"{address}/v2/models/{model}_classify/infer",
            content=text + body,
            headers={"Inference-Header-Content-Length": str(len(text))},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise FoveateError(f"{address}: {error}: is `foveate serve` ready?") from error
    if reply.is_error:
        raise FoveateError(f"{image}: {reply.status_code} {_reason(reply)}")
    outputs = {output["name"]: output["data"] for output in reply.json()["outputs"]}
    return Classified(str(image), tuple(map(_guess, outputs["SCORES"])), outputs["LEVEL"][0])


def _guess(text: str) -> Guess:
    """``score:index:label``; a model without labels has no third part."""
    score, index, *label = text.split(":", 2)
    return Guess(label[0] if label else index, int(index), float(score))


def _reason(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:200]
