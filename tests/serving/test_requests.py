"""What a client sees, over HTTP and gRPC, on the real server."""

from __future__ import annotations

import functools
import io
import queue
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tritonclient.utils import InferenceServerException

from foveate.images import cluttered_digits as images
from foveate.inference.engine import Engine

Infer = Callable[..., Any]
PIXELS, LABELS = images.test_set(16)


@pytest.fixture(scope="module", params=["http", "grpc"])
def infer(request: pytest.FixtureRequest, server: Any) -> Infer:
    """``infer(model, array, outputs=None, **parameters)`` through a stock client.

    The server may come from an overload of other tests. Then dear wishes have a tenth of the time,
    and who has used it up waits as long as it is told, once, as a client should.
    """
    module = getattr(tritonclient, request.param)
    client = module.InferenceServerClient(getattr(server, request.param))

    def call(model: str, array: np.ndarray, outputs: Any = None, **parameters: Any) -> Any:
        name, kind = ("PIXELS", "UINT8") if array.dtype == np.uint8 else ("IMAGE", "BYTES")
        tensor = module.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array)
        wanted = [module.InferRequestedOutput(o) for o in outputs] if outputs else None
        ask = functools.partial(
            client.infer, model, [tensor], outputs=wanted, parameters=parameters or None
        )
        try:
            return ask()
        except InferenceServerException as refusal:
            told = re.search(r"pin-cap: overloaded, retry after (\d+) ms", str(refusal))
            if told is None:
                raise
        time.sleep(int(told[1]) / 1000)
        return ask()

    call.module = module  # type: ignore[attr-defined]
    call.client = client  # type: ignore[attr-defined]
    return call


@pytest.fixture(scope="module")
def engine(server: Any, as_served: Callable[[Path], Engine]) -> Engine:
    return as_served(Path(server.repository) / "digits" / "1")


def image_file(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def as_input(data: bytes) -> np.ndarray:
    return np.array([[data]], dtype=np.object_)


def test_every_level_answers_as_the_engine_does(infer: Infer, engine: Engine) -> None:
    for level, entry in enumerate(engine.ladder.levels):
        for wish in (level, entry.name):
            answer = infer("digits", PIXELS[:5], level=wish)
            expected = engine.infer(torch.from_numpy(PIXELS[:5]), [level] * 5).scores
            np.testing.assert_allclose(answer.as_numpy("SCORES"), expected, atol=1e-2)
            assert answer.as_numpy("LEVEL").tolist() == [[level]] * 5


def test_sixteen_images_are_answered_in_one_request(infer: Infer, engine: Engine) -> None:
    assert len(PIXELS) == 16  # as many as the model takes
    for level in range(len(engine.levels)):
        answer = infer("digits", PIXELS, level=level)
        expected = engine.infer(torch.from_numpy(PIXELS), [level] * 16).scores
        np.testing.assert_allclose(answer.as_numpy("SCORES"), expected, atol=1e-2)
        assert answer.as_numpy("LEVEL").tolist() == [[level]] * 16
    files = np.array([[image_file(image)] for image in PIXELS], dtype=np.object_)
    answer = infer("digits_classify", files, quality="exact")
    assert answer.as_numpy("SCORES").argmax(1).tolist() == LABELS.tolist()


def test_a_file_is_classified_like_its_pixels(infer: Infer) -> None:
    from_file = infer("digits_classify", as_input(image_file(PIXELS[0])), quality="exact")
    from_pixels = infer("digits", PIXELS[:1], quality="exact")
    assert np.array_equal(from_file.as_numpy("SCORES"), from_pixels.as_numpy("SCORES"))
    assert from_file.as_numpy("LEVEL").tolist() == [[0]]


def test_a_jpeg_of_another_size_is_resized(infer: Infer) -> None:
    large = np.asarray(Image.fromarray(PIXELS[1]).resize((400, 400)))
    answer = infer("digits_classify", as_input(image_file(large, "JPEG")), quality="exact")
    assert answer.as_numpy("SCORES").argmax() == LABELS[1]


def test_pixels_gives_scores_only(infer: Infer) -> None:
    answer = infer("digits_pixels", PIXELS[:1])
    assert answer.as_numpy("SCORES").shape == (1, 10)
    assert answer.as_numpy("LEVEL") is None


def test_explain_tells_where_every_patch_went(infer: Infer, engine: Engine) -> None:
    level = len(engine.ladder.levels) - 1
    answer = infer("digits_explain", as_input(image_file(PIXELS[2])), level=level)
    expected = engine.infer(torch.from_numpy(PIXELS[2:3]), [level], token_map=True).token_map
    assert answer.as_numpy("TOKEN_MAP").tolist() == expected.tolist()  # type: ignore[union-attr]


def test_labels_come_with_the_classification_extension(infer: Infer) -> None:
    module = infer.module  # type: ignore[attr-defined]
    tensor = module.InferInput("PIXELS", [1, 96, 96, 3], "UINT8")
    tensor.set_data_from_numpy(PIXELS[:1])
    output = module.InferRequestedOutput("SCORES", class_count=3)
    answer = infer.client.infer("digits", [tensor], outputs=[output])  # type: ignore[attr-defined]
    best = answer.as_numpy("SCORES")[0][0].decode().split(":")
    assert best[1] == best[2] == str(LABELS[0])


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# 20,000 x 20,000 pixels by its header, a hundred bytes in fact.
BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    + png_chunk(b"IDAT", zlib.compress(bytes(60)))
    + png_chunk(b"IEND", b"")
)


def progressive_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


# Its last scan, a few bytes, has the decoder go over every pixel once more.
PROGRESSIVE = progressive_jpeg()
SCAN = PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xc4") : -2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"just some text", "neither JPEG nor PNG"),
        (b"GIF89a" + bytes(100), "neither JPEG nor PNG"),
        (image_file(PIXELS[0], "JPEG")[:700], "cannot be decoded"),
        (BOMB, "400000000 pixels"),
        (image_file(PIXELS[0], "GIF"), "neither JPEG nor PNG"),
        (PROGRESSIVE[:-2] + 200_000 * SCAN, "more than 32 scans"),
        (BOMB[:33] + 1_000_000 * png_chunk(b"tEXt", b""), "more than 20000 chunks"),
    ],
    ids=[
        "empty",
        "text",
        "gif-header",
        "truncated-jpeg",
        "huge-header",
        "gif",
        "many-scans",
        "many-chunks",
    ],
)
def test_a_bad_file_fails_alone_with_the_reason(infer: Infer, data: bytes, reason: str) -> None:
    with pytest.raises(InferenceServerException, match=reason) as failure:
        infer("digits_classify", as_input(data))
    assert failure.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    assert infer("digits_classify", as_input(image_file(PIXELS[0]))).as_numpy("SCORES").size == 10


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"level": "cheap"}, "level='cheap'.*dense"),
        ({"level": 99}, "level='99'"),
        ({"level": -1}, "level='-1'"),
        ({"quality": 1.5}, "quality=1.5"),
        ({"quality": "best"}, "quality='best'"),
        ({"quality": "nan"}, "quality='nan'"),
        ({"quality": 0.9999}, "quality=0.9999"),
        ({"deadline_ms": 0}, "deadline_ms=0"),
        ({"deadline_ms": "soon"}, "deadline_ms='soon'"),
        ({"deadline_ms": "inf"}, "deadline_ms='inf'"),
    ],
    ids=lambda value: str(value),
)
def test_a_bad_wish_is_refused_naming_key_and_value(
    infer: Infer, wish: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=reason) as failure:
        infer("digits", PIXELS[:1], **wish)
    assert failure.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_a_refused_request_is_told_when_to_come_again(infer: Infer) -> None:
    refusal = r"deadline: overloaded, retry after [1-9]\d* ms"
    with pytest.raises(InferenceServerException, match=refusal) as failure:
        infer("digits", PIXELS[:1], deadline_ms=0.001)
    assert failure.value.status() in ("503", "StatusCode.UNAVAILABLE")


@pytest.mark.parametrize(
    "array",
    [PIXELS[:1, :90], np.zeros((1, 96, 96, 4), np.uint8), np.repeat(PIXELS[:1], 17, 0)],
    ids=["height", "channels", "batch of 17"],
)
def test_a_wrong_shape_is_refused(infer: Infer, array: np.ndarray) -> None:
    with pytest.raises(InferenceServerException, match=r"shape|batch-size"):
        infer("digits", np.ascontiguousarray(array))


def test_a_wrong_type_is_refused(infer: Infer) -> None:
    module = infer.module  # type: ignore[attr-defined]
    tensor = module.InferInput("PIXELS", [1, 96, 96, 3], "FP32")
    tensor.set_data_from_numpy(PIXELS[:1].astype(np.float32))
    with pytest.raises(InferenceServerException, match=r"data-type|data type"):
        infer.client.infer("digits", [tensor])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("requests", "bad"), [(16, 0), (64, 3)], ids=["a full batch", "every third bad"]
)
def test_requests_at_once_get_answers_of_their_own(
    server: Any, engine: Engine, requests: int, bad: int
) -> None:
    """Good and bad requests in flight together do not disturb their batch mates."""
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    results: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    pixels = torch.from_numpy(PIXELS)
    expected = [
        engine.infer(pixels, [level] * 16).scores.numpy() for level in range(len(engine.levels))
    ]
    for step in range(requests):
        tensor = tritonclient.grpc.InferInput("PIXELS", [1, 96, 96, 3], "UINT8")
        tensor.set_data_from_numpy(PIXELS[step % 16][None])
        wish = {"level": "nonsense"} if bad and step % bad == 0 else {"deadline_ms": 60_000}
        client.async_infer(
            "digits",
            [tensor],
            callback=lambda result, error, step=step: results.put((step, result, error)),
            parameters=wish,
        )
    for _ in range(requests):
        step, answer, error = results.get(timeout=30)
        if bad and step % bad == 0:
            assert "nonsense" in str(error)
        else:
            assert error is None
            level = int(answer.as_numpy("LEVEL")[0, 0])
            truth = expected[level][step % 16]
            np.testing.assert_allclose(answer.as_numpy("SCORES")[0], truth, atol=1e-2)
