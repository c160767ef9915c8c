"""What the server adds to the forward pass: batch 1, pixels, median.

    python -m foveate_benchmarks.serving.overhead [NAME] [--repository model_repository]

Two counters of the same requests, one request at a time: Triton's own request duration (from
receipt to response) and the time the model process spent on the batch. That time holds the
governor's decision, which is timed apart and counted as overhead. Medians of requests over HTTP and
over gRPC; server on the first core, client on the last.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from statistics import median

import httpx
import tritonclient.grpc as grpc
import tritonclient.http as http
import typer

from foveate.control import governor
from foveate.images.cluttered_digits import test_set
from foveate.levels.latency_table import LatencyTable
from foveate_benchmarks.results import bars, environment, save
from foveate_loadtest.temporary_server import running


def decision_us(levels: int) -> float:
    """Median processor time of one decision about one request."""
    table = LatencyTable(
        device="",
        ladder="",
        batches=(1, 8),
        seconds=tuple((0.01 / k, 0.08 / k) for k in range(1, levels + 1)),
    )
    quality = tuple(1 - 0.01 * k for k in range(levels))
    config = governor.Config(latency=table, quality=quality, max_batch=8, slo_ns=200_000_000)
    state, spent = governor.State(), []
    for step in range(2000):
        look = governor.Observation(
            now_ns=step * 20_000_000, wishes=(governor.Wish(),), policy=None
        )
        start = time.process_time()
        state, _ = governor.decide(config, state, look)
        spent.append(time.process_time() - start)
    return median(spent) * 1e6


def main(
    name: str = "digits", repository: Path = Path("model_repository"), requests: int = 120
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    pixels, _ = test_set(1)
    request = re.compile(
        rf'^nv_inference_request_duration_us{{model="{name}",version="1"}} (\S+)', re.M
    )
    batch = re.compile(rf'^foveate_batch_seconds_total{{.*model="{name}"}} (\S+)', re.M)
    os.sched_setaffinity(0, {cores[-1]})
    deciding = decision_us(5)
    overhead: dict[str, float] = {}
    with running(repository, "--no-pin-cap", core=cores[0]) as server:

        def counters() -> tuple[float, float]:
            time.sleep(0.35)  # the model process publishes about seven times a second
            text = httpx.get(server.metrics, trust_env=False).text
            spent = sum(float(value) for value in batch.findall(text))
            return float(request.search(text).group(1)), spent * 1e6  # type: ignore[union-attr]

        addresses = {http: server.http.removeprefix("http://"), grpc: server.grpc}
        for protocol, address in addresses.items():
            client = protocol.InferenceServerClient(address)
            tensor = protocol.InferInput("PIXELS", list(pixels.shape), "UINT8")
            tensor.set_data_from_numpy(pixels)
            outputs = [protocol.InferRequestedOutput(output) for output in ("SCORES", "LEVEL")]
            client.infer(name, [tensor], outputs=outputs)
            samples, before = [], counters()
            for _ in range(requests):
                client.infer(name, [tensor], outputs=outputs)
                after = counters()
                samples.append((after[0] - before[0]) - (after[1] - before[1]))
                before = after
            key = protocol.__name__.rsplit(".", 1)[1]
            overhead[key] = median(samples) + deciding
            print(f"{key}: {overhead[key]:.0f} us, of which the governor {deciding:.0f} us")
    checks = {f"at most 1 ms over {key}": value <= 1000 for key, value in overhead.items()}
    save(
        "overhead",
        {
            "environment": environment(),
            "requests": requests,
            "governor_us": deciding,
            "overhead_us": overhead,
            "bars": checks,
        },
    )
    bars(checks)


if __name__ == "__main__":
    typer.run(main)
