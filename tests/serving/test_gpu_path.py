"""The path of a GPU on the real server: its GPU is emulated, all else is what serves."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from foveate_benchmarks.gpu.entry import write_entry
from foveate_benchmarks.serving.gpu_host_path import NAME, SHAPE, emulated

pytestmark = pytest.mark.alone
PASS_S, IMAGE_S = 0.02, 0.001


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("gpu") / "models"
    repository.mkdir()
    write_entry(repository, NAME, SHAPE, 64)
    with emulated(repository, True, PASS_S, IMAGE_S, looks=True) as (address, _):
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> tritonclient.grpc.InferenceServerClient:
    return tritonclient.grpc.InferenceServerClient(address)


def pixels(*first: int) -> Any:
    """A request of images, each with its class as the first byte."""
    shape = (len(first), SHAPE.config.height, SHAPE.config.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images[:, 0, 0, 0] = first
    tensor = tritonclient.grpc.InferInput("PIXELS", list(shape), "UINT8")
    tensor.set_data_from_numpy(images)
    return tensor


def classes(answer: Any) -> list[int]:
    return list(answer.as_numpy("SCORES").argmax(1))


def test_every_request_of_many_gets_its_own_answer(client: Any) -> None:
    done: queue.Queue[Any] = queue.Queue()
    # Of one image, and of more: those are answered in the batch, and these behind the next.
    wanted = [
        [(7 * number + i) % 255 for i in range((1, 8, 2, 16, 5)[number % 5])]
        for number in range(60)
    ]
    for number, own in enumerate(wanted):
        client.async_infer(
            NAME,
            [pixels(*own)],
            callback=lambda result, error, number=number: done.put((number, result, error)),
            parameters={"level": number % 4},
        )
    for _ in wanted:
        number, answer, error = done.get(timeout=60)
        assert error is None
        assert classes(answer) == wanted[number]
        assert set(answer.as_numpy("LEVEL")[:, 0]) == {number % 4}


@pytest.mark.parametrize("images", [1, 8])
def test_scores_that_are_no_numbers_are_an_internal_error_of_that_request_alone(
    client: Any, images: int
) -> None:
    done: queue.Queue[Any] = queue.Queue()
    bad = [*[3] * (images - 1), 255]
    for own in ([5] * images, bad, [6] * images):
        client.async_infer(
            NAME, [pixels(*own)], callback=lambda result, error: done.put((result, error))
        )
    found = [done.get(timeout=60) for _ in range(3)]
    assert sorted(classes(result)[0] for result, error in found if error is None) == [5, 6]
    (error,) = (error for _, error in found if error is not None)
    assert error.message() == "internal error: scores are not finite"
    assert error.status() == "StatusCode.INTERNAL"


def test_bad_requests_and_parts_of_an_answer(client: Any) -> None:
    with pytest.raises(tritonclient.grpc.InferenceServerException, match="level='no such'"):
        client.infer(NAME, [pixels(*range(8))], parameters={"level": "no such"})
    outputs = [tritonclient.grpc.InferRequestedOutput("LEVEL")]
    answer = client.infer(NAME, [pixels(*range(8))], outputs=outputs)
    assert answer.as_numpy("SCORES") is None
    assert answer.as_numpy("LEVEL").shape == (8, 1)
