"""Mean batch size when three public models are asked at random under saturation.

    python -m foveate_benchmarks.serving.mixed [NAME] [--repository model_repository]

``NAME``, ``NAME_pixels`` and ``NAME_classify`` are picked per request; a dedicated client for each
would form convoys and hide what splits batches.
"""

from __future__ import annotations

import io
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import typer
from numpy.typing import NDArray
from PIL import Image

from foveate.images.cluttered_digits import test_set
from foveate.repository import read_max_batch
from foveate_benchmarks.results import conclude
from foveate_benchmarks.serving.requests import answers, pixels
from foveate_loadtest.temporary_server import running

BATCHES, WARM_UP = 6, 300  # in flight, of the largest size; answers
FULL = 7 / 8  # of it: the least mean batch


def jpeg(image: NDArray[np.uint8]) -> Any:
    """The input of ``NAME_classify``."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    tensor = triton.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[buffer.getvalue()]], dtype=np.object_))
    return tensor


def main(
    name: str = "digits", repository: Path = Path("model_repository"), requests: int = 6000
) -> None:
    images, _ = test_set(16)
    raw, files = [pixels(image) for image in images], [jpeg(image) for image in images]
    tensors = {name: raw, f"{name}_pixels": raw, f"{name}_classify": files}
    rng = random.Random(0)
    models = rng.choices([*tensors], k=requests)
    asked = ((model, rng.choice(tensors[model]), None) for model in models)
    largest = read_max_batch(repository, name)
    in_flight, errors = BATCHES * largest, 0
    # Of the time in between all are in flight: seconds, requests and executions.
    marks: list[list[float]] = []
    with running(repository, "--no-admission") as server:
        client = triton.InferenceServerClient(server.grpc)
        for count, (_, _, error) in enumerate(answers(client, asked, in_flight), 1):
            errors += error is not None
            if count in (WARM_UP, requests - in_flight):
                seen = server.counters(name, "nv_inference_count", "nv_inference_exec_count")
                marks.append([time.monotonic(), *seen])
        client.close()
    seconds, served, executions = (after - before for before, after in zip(*marks, strict=True))
    batch, rate = served / executions, served / seconds
    print(f"mean batch {batch:.2f}, {rate:.0f} requests/s, {errors} errors")
    checks = {
        f"mean batch of at least {FULL * largest:g}": batch >= FULL * largest,
        "no errors": errors == 0,
    }
    conclude(
        "mixed",
        checks,
        requests=requests,
        mean_batch=batch,
        requests_per_s=rate,
        errors=errors,
    )


if __name__ == "__main__":
    typer.run(main)
