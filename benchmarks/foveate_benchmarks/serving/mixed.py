"""Mean batch size when three public models are asked at random under saturation.

    python -m foveate_benchmarks.serving.mixed [NAME] [--repository model_repository]

``NAME``, ``NAME_pixels`` and ``NAME_classify`` are picked per request; a dedicated client for each
would form convoys and hide what splits batches.
"""

from __future__ import annotations

import io
import queue
import random
import re
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton
import typer
from PIL import Image

from foveate.images.cluttered_digits import test_set
from foveate_benchmarks.results import bars, environment, save
from foveate_loadtest.temporary_server import running

IN_FLIGHT, WARM_UP = 48, 300


def counters(url: str, model: str) -> tuple[float, float]:
    """Requests and executions of a model so far."""
    text = httpx.get(url).text
    values = [
        float(re.search(rf'^{metric}{{model="{model}",version="1"}} (\S+)', text, re.M).group(1))  # type: ignore[union-attr]
        for metric in ("nv_inference_count", "nv_inference_exec_count")
    ]
    return values[0], values[1]


def main(
    name: str = "digits", repository: Path = Path("model_repository"), requests: int = 6000
) -> None:
    pixels, _ = test_set(16)
    tensors: dict[str, list[Any]] = {"": [], "_pixels": [], "_classify": []}
    for image in pixels:
        raw = triton.InferInput("PIXELS", [1, *image.shape], "UINT8")
        raw.set_data_from_numpy(image[None])
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=90)
        file = triton.InferInput("IMAGE", [1, 1], "BYTES")
        file.set_data_from_numpy(np.array([[buffer.getvalue()]], dtype=np.object_))
        tensors[""].append(raw)
        tensors["_pixels"].append(raw)
        tensors["_classify"].append(file)
    rng = random.Random(0)
    done: queue.Queue[Any] = queue.Queue()
    errors = 0
    with running(repository, "--no-admission") as server:
        client = triton.InferenceServerClient(server.grpc)
        before, start = (0.0, 0.0), 0.0
        for step in range(requests):
            if step == WARM_UP:
                before, start = counters(server.metrics, name), time.monotonic()
            if step >= IN_FLIGHT:
                errors += done.get(timeout=60) is not None
            suffix = rng.choice(list(tensors))
            client.async_infer(
                f"{name}{suffix}",
                [rng.choice(tensors[suffix])],
                callback=lambda result, error: done.put(error),
            )
        after, seconds = counters(server.metrics, name), time.monotonic() - start
        for _ in range(IN_FLIGHT):
            errors += done.get(timeout=60) is not None
        client.close()
    batch = (after[0] - before[0]) / (after[1] - before[1])
    rate = (after[0] - before[0]) / seconds
    print(f"mean batch {batch:.2f}, {rate:.0f} requests/s, {errors} errors")
    checks = {"mean batch of at least 7": batch >= 7, "no errors": errors == 0}
    save(
        "mixed",
        {
            "environment": environment(),
            "requests": requests,
            "mean_batch": batch,
            "requests_per_s": rate,
            "errors": errors,
            "bars": checks,
        },
    )
    bars(checks)


if __name__ == "__main__":
    typer.run(main)
