"""What the server adds to the forward pass: batch 1, pixels, median.

    python -m foveate_benchmarks.serving.overhead [NAME] [--repository model_repository]

Two counters of the same requests, one request at a time: Triton's own request duration (from
receipt to response) and the time the model process spent on the batch. That time holds the
governor's decision, which is timed apart and counted as overhead. Medians of requests over HTTP and
over gRPC; server on the first core, client on the last.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import tritonclient.grpc as grpc
import tritonclient.http as http
import typer

from foveate.images.cluttered_digits import test_set
from foveate_benchmarks.control.control_cost import governor_us
from foveate_benchmarks.results import conclude
from foveate_benchmarks.serving.requests import pixels
from foveate_loadtest.temporary_server import cores_apart, running


def main(
    name: str = "digits", repository: Path = Path("model_repository"), requests: int = 120
) -> None:
    images, _ = test_set(1)
    core = cores_apart()
    deciding = governor_us(1, queue_depth=0)
    overhead: dict[str, float] = {}
    with running(repository, "--no-pin-cap", core=core) as server:

        def beside() -> float:
            """Microseconds of all requests so far that were not spent on batches."""
            time.sleep(0.35)  # the model process publishes about seven times a second
            duration_us, batch_s = server.counters(
                name, "nv_inference_request_duration_us", "foveate_batch_seconds_total"
            )
            return duration_us - 1e6 * batch_s

        addresses = {http: server.http.removeprefix("http://"), grpc: server.grpc}
        for protocol, address in addresses.items():
            client = protocol.InferenceServerClient(address)
            tensor = pixels(images[0], protocol)
            outputs = [protocol.InferRequestedOutput(output) for output in ("SCORES", "LEVEL")]
            client.infer(name, [tensor], outputs=outputs)
            seen = [beside()]
            for _ in range(requests):
                client.infer(name, [tensor], outputs=outputs)
                seen.append(beside())
            samples = [after - before for before, after in pairwise(seen)]
            key = protocol.__name__.rsplit(".", 1)[1]
            overhead[key] = median(samples) + deciding
            print(f"{key}: {overhead[key]:.0f} us, of which the governor {deciding:.0f} us")
    checks = {f"at most 1 ms over {key}": value <= 1000 for key, value in overhead.items()}
    conclude("overhead", checks, requests=requests, governor_us=deciding, overhead_us=overhead)


if __name__ == "__main__":
    typer.run(main)
