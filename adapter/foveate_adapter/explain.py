"""Send one image through ``NAME_explain`` of the Triton server: its top classes, and what happened
to its patches.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx

from foveate.errors import BadImage, BadWish
from foveate.levels.ladder import Ladder
from foveate_adapter.address import shown
from foveate_adapter.errors import Busy, TooLarge, UnknownLevel, UnknownModel, UpstreamError
from foveate_adapter.model import Model
from foveate_adapter.schema import ClassView, Explanation, Fate

__all__ = ["MAX_BYTES", "Explainer", "fates"]

MAX_BYTES = 16 * 2**20  # the model process's limit
_MAX_CONCURRENT = 4  # images held in memory
_DEADLINE_MS = 5000  # a person who looks at one image can wait
_TIMEOUT_S = 10.0  # to wait for a slot, receive the image and get its answer


class Explainer:
    """Sends images to the Triton server at ``url``, a few at a time."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._places = asyncio.Semaphore(_MAX_CONCURRENT)
        # No proxy: the server is local. No keep-alive: open connections delay its shutdown.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S, limits=limits)

    async def explain(
        self, model: Model, image: AsyncIterator[bytes], level: str | None, top: int
    ) -> Explanation:
        """Classify a JPEG or PNG file at ``level`` (name or index; None: the governor's choice).

        Raises :class:`UnknownLevel`, :class:`UnknownModel`, :class:`TooLarge`,
        :class:`~foveate.errors.BadImage`, :class:`Busy` and :class:`UpstreamError`.
        """
        try:
            pin = {} if level is None else {"level": model.ladder.index(level)}
        except BadWish as error:
            raise UnknownLevel(str(error)) from error
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._places:
                reply = await self._ask(model.name, await _whole(image), pin, top)
        except TimeoutError as error:
            raise Busy(f"no answer within {_TIMEOUT_S:g} s") from error
        except httpx.HTTPError as error:
            raise UpstreamError(f"{shown(self._url)}: {type(error).__name__}: {error}") from error
        if reply.is_error:
            raise self._refusal(model.name, reply)
        try:
            outputs = {output["name"]: output["data"] for output in reply.json()["outputs"]}
            return _explanation(model.ladder, outputs)
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise UpstreamError(f"{shown(self._url)}: {error!r} in {reply.text[:200]!r}") from error

    async def _ask(
        self, model: str, image: bytes, pin: Mapping[str, int], top: int
    ) -> httpx.Response:
        """KServe v2: the image as binary data behind the JSON, the answer as JSON."""
        body = struct.pack("<I", len(image)) + image
        binary = {"binary_data_size": len(body)}
        header = {
            "parameters": {"deadline_ms": _DEADLINE_MS, **pin},
            "inputs": [
                {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "parameters": binary}
            ],
            "outputs": [
                {"name": "SCORES", "parameters": {"classification": top}},
                {"name": "LEVEL"},
                {"name": "TOKEN_MAP"},
            ],
        }
        text = json.dumps(header).encode()
        return await self._client.post(
            f"{self._url}/v2/models/{model}_explain/infer",
            content=text + body,
            headers={"Inference-Header-Content-Length": str(len(text))},
        )

    def _refusal(self, model: str, reply: httpx.Response) -> Exception:
        try:
            reason = str(reply.json()["error"])
        except (KeyError, ValueError, TypeError):
            reason = reply.text[:200]
        reason = reason.removeprefix(f"in ensemble '{model}_explain', ")
        match reply.status_code:
            case 400:
                return BadImage(reason)
            case 404:
                return UnknownModel(f"{model}_explain: {reason}")
            case 503:
                return Busy(reason)
            case status:
                return UpstreamError(f"{shown(self._url)}: {status} {reason}")


async def _whole(image: AsyncIterator[bytes]) -> bytes:
    received = bytearray()
    async for part in image:
        received += part
        if len(received) > MAX_BYTES:
            raise TooLarge(f"IMAGE: more than {MAX_BYTES} bytes")
    return bytes(received)


def _explanation(ladder: Ladder, outputs: Mapping[str, Sequence[Any]]) -> Explanation:
    index = int(outputs["LEVEL"][0])
    level, tokens = ladder.levels[index], [int(token) for token in outputs["TOKEN_MAP"]]
    height, width = ladder.image_size
    patch = math.isqrt(height * width // len(tokens))
    words = any(reducer["kind"] == "vwt-inter" for reducer in level.reducers)
    return Explanation(
        level=index,
        level_name=level.name,
        classes=[_class(text) for text in outputs["SCORES"]],
        rows=height // patch,
        columns=width // patch,
        tokens=tokens,
        fates=fates(tokens, words=words),
    )


def _class(text: str) -> ClassView:
    """From ``score:index`` or ``score:index:label``, as the classification extension writes it."""
    score, index, *label = text.split(":", 2)
    return ClassView(index=int(index), label=label[0] if label else None, score=float(score))


def fates(tokens: Sequence[int], *, words: bool) -> list[Fate]:
    """What happened to each patch, by the token it went to: -1 dropped, -2 packaged.

    ``words``: the level groups patches by visual words, so patches that share a token share a word.
    """
    patches = Counter(tokens)

    def fate(token: int) -> Fate:
        if token < 0:
            return Fate.DROPPED if token == -1 else Fate.PACKAGED
        if patches[token] == 1:
            return Fate.KEPT
        return Fate.WORD if words else Fate.MERGED

    return [fate(token) for token in tokens]
